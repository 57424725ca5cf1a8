//! podman with its CNI backend.

#[cfg(test)]
mod root {
    use std::fs;
    use std::process::Command;

    use kernel_tests::{Pods, image, program};
    use serde_json::json;

    /// Control groups that podman makes once and never removes.
    struct Parents;

    impl Drop for Parents {
        fn drop(&mut self) {
            for hierarchy in fs::read_dir("/sys/fs/cgroup")
                .into_iter()
                .flatten()
                .flatten()
            {
                let parent = hierarchy.path().join("libpod_parent");
                // Only empty ones go: those in use are those of somebody else's podman.
                for group in [parent.join("conmon"), parent] {
                    drop(fs::remove_dir(group));
                }
            }
        }
    }

    /// podman with storage, state and configuration of this test's own.
    fn podman(pods: &Pods) -> Command {
        let dir = pods.scratch().join("podman");
        fs::create_dir_all(dir.join("net")).unwrap();
        let config = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{:?}]\n\
             network_config_dir = {:?}\n[engine]\ncgroup_manager = \"cgroupfs\"\n\
             events_logger = \"none\"\n",
            pods.plugins(),
            dir.join("net"),
        );
        let file = dir.join("containers.conf");
        fs::write(&file, config).unwrap();
        let mut command = pods.host.command("podman");
        command
            .env("CONTAINERS_CONF", file)
            .args(["--runtime", "runc", "--storage-driver", "vfs"])
            .args(["--log-level", "error"])
            .arg("--root")
            .arg(dir.join("root"))
            .arg("--runroot")
            .arg(dir.join("run"))
            .arg("--tmpdir")
            .arg(dir.join("tmp"));
        command
    }

    #[test]
    fn podman_runs_containers_that_find_each_other() {
        let _parents = Parents;
        let pods = Pods::open();
        let mut plugin = pods.hawser(&json!({"driver": "bridge", "subnet": "10.64.0.0/24"}));
        plugin["network"] = json!("shop");
        let list = json!({"cniVersion": "0.4.0", "name": "shop", "plugins": [plugin]});
        let mut command = podman(&pods);
        let net = pods.scratch().join("podman/net/shop.conflist");
        fs::write(&net, list.to_string()).unwrap();
        let listed = program::output(command.args(["network", "ls"])).unwrap();
        assert!(listed.contains("shop"), "{listed}");

        let root = pods.scratch().join("rootfs");
        image::unpacked(&root).unwrap();
        let run = |flags: &[&str], command: &[&str]| {
            program::output(
                podman(&pods)
                    .args(["run", "--network", "shop"])
                    // Raising limits needs a capability that a host may lack.
                    .args([
                        "--ulimit",
                        "nofile=1024:1024",
                        "--ulimit",
                        "nproc=1024:1024",
                    ])
                    .args(flags)
                    .arg("--rootfs")
                    .arg(&root)
                    .args(command),
            )
        };
        run(
            &[
                "-d",
                "--name",
                "web",
                "--network-alias",
                "www",
                "-p",
                "18080:80",
            ],
            &[
                "sh",
                "-c",
                "mkdir -p /tmp/w; echo pod >/tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w",
            ],
        )
        .unwrap();
        let attachments = pods.attachments();
        let web = &attachments[0];
        assert_eq!(web.name.as_deref(), Some("web"));
        assert!(web.aliases.contains(&"www".to_owned()), "{:?}", web.aliases);
        let owner = web.owner.as_deref().unwrap();
        assert_eq!(owner, "shop@podman");
        let url = format!("http://{}:18080", pods.outside.host_v4);
        let page = kernel_tests::wait::until(kernel_tests::shop::SOON, &url, || {
            pods.outside.fetch(&url).ok()
        });
        assert_eq!(page.unwrap(), "pod");
        for name in ["web", "www"] {
            let page = run(
                &["--rm", "--name", &format!("client-{name}")],
                &["fetch", name],
            );
            assert_eq!(page.unwrap(), "pod", "{name}");
        }
        program::output(podman(&pods).args(["rm", "--force", "--time", "0", "web"])).unwrap();
        assert!(pods.attachments().is_empty());
    }
}
