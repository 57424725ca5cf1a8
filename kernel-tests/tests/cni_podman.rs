//! podman with its CNI backend.

#[cfg(test)]
mod root {
    use std::fs;
    use std::sync::Arc;

    use kernel_tests::{Podman, Pods, image, program};
    use serde_json::json;

    fn podman(pods: &Pods) -> Podman {
        let dir = pods.scratch().join("podman");
        let net = dir.join("net");
        fs::create_dir_all(&net).unwrap();
        let config = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{:?}]\n\
             network_config_dir = {net:?}\n",
            pods.plugins(),
        );
        Podman::new(Arc::clone(&pods.host), dir, &config).unwrap()
    }

    #[test]
    fn podman_runs_containers_that_find_each_other() {
        let pods = Pods::open();
        let mut plugin = pods.hawser(&json!({"driver": "bridge", "subnet": "10.64.0.0/24"}));
        plugin["network"] = json!("shop");
        let list = json!({"cniVersion": "0.4.0", "name": "shop", "plugins": [plugin]});
        let podman = podman(&pods);
        let net = pods.scratch().join("podman/net/shop.conflist");
        fs::write(&net, list.to_string()).unwrap();
        let listed = podman.say("network ls").unwrap();
        assert!(listed.contains("shop"), "{listed}");

        let root = pods.scratch().join("rootfs");
        image::unpacked(&root).unwrap();
        let run = |flags: &[&str], command: &[&str]| {
            program::output(
                podman
                    .run(flags)
                    .args(["--network", "shop", "--rootfs"])
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
        podman.say("rm --force --time 0 web").unwrap();
        assert!(pods.attachments().is_empty());
    }
}
