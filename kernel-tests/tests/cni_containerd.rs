//! containerd's `ctr run --cni`, with what `hawser cni install` wrote where containerd looks.

#[cfg(test)]
mod root {
    use std::fs;
    use std::path::PathBuf;
    use std::process::{Child, Stdio};
    use std::time::Duration;

    use kernel_tests::{Pods, image, program, wait};

    const START: Duration = Duration::from_secs(30);

    /// Ended when the test is over.
    struct Containerd {
        process: Child,
        address: PathBuf,
    }

    impl Containerd {
        fn start(pods: &Pods) -> Self {
            let dir = pods.scratch().join("containerd");
            fs::create_dir_all(&dir).unwrap();
            let address = dir.join("containerd.sock");
            let config = format!(
                "version = 2\nroot = {root:?}\nstate = {state:?}\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\", \
                 \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
                 \"io.containerd.snapshotter.v1.aufs\", \
                 \"io.containerd.snapshotter.v1.devmapper\"]\n\
                 [grpc]\naddress = {address:?}\n[ttrpc]\naddress = {ttrpc:?}\n",
                root = dir.join("root"),
                state = dir.join("state"),
                ttrpc = dir.join("containerd.sock.ttrpc"),
            );
            fs::write(dir.join("config.toml"), config).unwrap();
            let log = fs::File::create(dir.join("log")).unwrap();
            let process = pods
                .host
                .command("containerd")
                .arg("--config")
                .arg(dir.join("config.toml"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            let containerd = Self { process, address };
            wait::until(START, "containerd answers", || {
                program::output(containerd.ctr(pods).arg("version")).ok()
            })
            .unwrap_or_else(|late| {
                panic!("{late:#}: {}", fs::read_to_string(dir.join("log")).unwrap())
            });
            containerd
        }

        fn ctr(&self, pods: &Pods) -> std::process::Command {
            let mut command = pods.host.command("ctr");
            command.arg("--address").arg(&self.address);
            command
        }
    }

    impl Drop for Containerd {
        fn drop(&mut self) {
            // It may have ended already; waiting for it is what matters.
            drop(self.process.kill());
            drop(self.process.wait());
        }
    }

    /// `ctr` knows its directories only: this host gets its own of both.
    fn own_directories(pods: &Pods) {
        let script = "mkdir -p /run/etc/upper /run/etc/work && \
            mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work etc /etc && \
            mount -t tmpfs tmpfs /opt && rm -rf /etc/cni";
        pods.host.output("sh", &["-c", script]).unwrap();
    }

    #[test]
    fn ctr_runs_a_container_on_an_installed_network() {
        let pods = Pods::open();
        own_directories(&pods);
        let written = pods
            .daemon
            .hawser(&["cni", "install", "--network", "pods"])
            .unwrap();
        assert_eq!(written.lines().count(), 3, "{written}");
        let containerd = Containerd::start(&pods);
        let root = pods.scratch().join("rootfs");
        image::unpacked(&root).unwrap();
        let run = |id: &str, command: &[&str]| {
            program::output(
                containerd
                    .ctr(&pods)
                    .args(["run", "--rm", "--cni", "--rootfs"])
                    .arg(&root)
                    .arg(id)
                    .args(command),
            )
        };
        let shown = run("c1", &["/bin/ip", "-o", "address", "show", "eth0"]).unwrap();
        assert!(shown.contains("inet 172.18.0.2/16"), "{shown}");
        let routes = run("c2", &["/bin/ip", "route"]).unwrap();
        assert!(routes.contains("default via 172.18.0.1"), "{routes}");
        wait::until(START, "the attachments are gone", || {
            pods.attachments().is_empty().then_some(())
        })
        .unwrap();
        let owners = pods.daemon.log();
        assert!(owners.contains("attached"), "{owners}");
    }
}
