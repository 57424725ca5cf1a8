//! containerd's `ctr run --cni`, with what `hawser cni install` wrote where containerd looks.

#[cfg(test)]
mod root {
    use std::time::Duration;

    use kernel_tests::containerd::Containerd;
    use kernel_tests::{Pods, image, program, wait};

    const END: Duration = Duration::from_secs(30);

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
        let own = pods.scratch().join("containerd");
        let containerd = Containerd::start(&pods.host, &own).unwrap();
        let root = pods.scratch().join("rootfs");
        image::unpacked(&root).unwrap();
        let run = |id: &str, command: &[&str]| {
            program::output(
                containerd
                    .ctr()
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
        wait::until(END, "the attachments are gone", || {
            pods.attachments().is_empty().then_some(())
        })
        .unwrap();
        let owners = pods.daemon.log();
        assert!(owners.contains("attached"), "{owners}");
    }
}
