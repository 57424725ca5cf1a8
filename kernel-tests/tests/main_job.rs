//! The main job: containers that find each other by name, a published port, a volume that
//! outlives them, a daemon that may die.

#[cfg(test)]
mod root {
    use std::fs;
    use std::process::Stdio;

    use kernel_tests::shop::{SOON, TOOLS};
    use kernel_tests::{Shop, wait};

    #[test]
    fn containers_on_one_network_find_each_other_by_name_and_alias() {
        let shop = Shop::open();
        shop.hawser(&["network", "create", "-d", "bridge", "shop"]);
        shop.serve(
            "web",
            "hello",
            &["--network", "shop", "--network-alias", "www"],
        );
        for name in ["web", "www", "WEB", "web.shop"] {
            assert_eq!(
                shop.fetch("shop", name).success().unwrap(),
                "hello",
                "{name}"
            );
        }
        let resolver = shop.hawser(&[
            "run",
            "--rm",
            "--network",
            "shop",
            TOOLS,
            "cat",
            "/etc/resolv.conf",
        ]);
        assert!(resolver.contains("nameserver 127.0.0.11"), "{resolver}");
    }

    #[test]
    fn a_stopped_container_has_no_name() {
        let shop = Shop::open();
        shop.hawser(&["network", "create", "shop"]);
        shop.serve("web", "hello", &["--network", "shop"]);
        shop.hawser(&["stop", "-t", "1", "web"]);
        assert_ne!(shop.fetch("shop", "web").code, 0);
    }

    #[test]
    fn names_and_packets_stay_on_their_network() {
        let shop = Shop::open();
        shop.hawser(&["network", "create", "shop"]);
        shop.hawser(&["network", "create", "vault"]);
        shop.serve("safe", "secret", &["--network", "vault"]);
        let address = shop.inspect("safe", "{{.NetworkSettings.Networks.vault.IPAddress}}");
        assert_eq!(shop.fetch("vault", &address).success().unwrap(), "secret");
        for target in ["safe", &address] {
            let ran = shop.fetch("shop", target);
            assert_ne!(ran.code, 0, "reached {target}: {}", ran.stdout);
        }
    }

    #[test]
    fn a_container_on_two_networks_reaches_both() {
        let shop = Shop::open();
        for network in ["shop", "vault"] {
            shop.hawser(&["network", "create", network]);
            shop.serve(&format!("on-{network}"), network, &["--network", network]);
        }
        shop.hawser(&[
            "run",
            "-d",
            "--name",
            "both",
            "--network",
            "shop",
            TOOLS,
            "sleep",
            "600",
        ]);
        shop.hawser(&["network", "connect", "vault", "both"]);
        for network in ["shop", "vault"] {
            let page = shop.hawser(&["exec", "both", "fetch", &format!("on-{network}")]);
            assert_eq!(page, network);
        }
        shop.hawser(&["network", "disconnect", "vault", "both"]);
        assert_ne!(shop.run(&["exec", "both", "fetch", "on-vault"]).code, 0);
        assert_eq!(shop.hawser(&["exec", "both", "fetch", "on-shop"]), "shop");
    }

    #[test]
    fn a_published_port_is_reached_from_everywhere_and_shows_the_client() {
        let shop = Shop::open();
        shop.hawser(&["network", "create", "shop"]);
        shop.serve("web", "hello", &["--network", "shop", "-p", "18080:80"]);
        for url in ["http://127.0.0.1:18080", "http://[::1]:18080"] {
            assert_eq!(shop.fetch_on_host(url).unwrap(), "hello", "{url}");
        }
        let outside = &shop.outside;
        let url = format!("http://{}:18080", outside.host_v4);
        assert_eq!(outside.fetch(&url).unwrap(), "hello");
        let log = shop.run(&["logs", "web"]).text();
        assert!(
            log.contains(&outside.v4.to_string()),
            "no {} in: {log}",
            outside.v4
        );

        shop.hawser(&["rm", "-f", "web"]);
        assert!(
            outside.fetch(&url).is_err(),
            "the port is closed with its container"
        );
    }

    #[test]
    fn a_published_port_is_bound_by_nobody_else() {
        let shop = Shop::open();
        shop.serve("web", "hello", &["-p", "18080:80"]);
        let mut listener = shop.host.command("busybox");
        let ran = kernel_tests::program::run(
            listener.args(["timeout", "5", "busybox", "nc", "-l", "-p", "18080"]),
        );
        let ran = ran.unwrap();
        assert!(
            ran.text().contains("bind"),
            "bound a published port: {ran:?}"
        );
    }

    #[test]
    fn a_volume_outlives_its_containers() {
        let shop = Shop::open();
        shop.hawser(&["volume", "create", "site"]);
        shop.hawser(&[
            "run",
            "--rm",
            "-v",
            "site:/data",
            TOOLS,
            "sh",
            "-c",
            "echo kept >/data/a",
        ]);
        let read = [
            "run",
            "--rm",
            "-v",
            "site:/other:ro",
            TOOLS,
            "cat",
            "/other/a",
        ];
        assert_eq!(shop.hawser(&read), "kept");
        shop.daemon.command(&["volume", "ls"]).unwrap();
        shop.hawser(&["volume", "rm", "site"]);
        assert_eq!(shop.hawser(&["volume", "ls", "-q"]), "");
    }

    #[test]
    fn a_new_volume_gets_what_the_image_holds_there() {
        let shop = Shop::open();
        let read = [
            "run",
            "--rm",
            "-v",
            "users:/etc",
            TOOLS,
            "cat",
            "/etc/passwd",
        ];
        let from_image = shop.hawser(&["run", "--rm", TOOLS, "cat", "/etc/passwd"]);
        assert!(from_image.contains("nobody"), "{from_image}");
        assert_eq!(shop.hawser(&read), from_image);
        assert_eq!(
            shop.hawser(&read),
            from_image,
            "the second use changes nothing"
        );
    }

    #[test]
    fn a_download_survives_the_death_of_the_daemon_and_the_next_one_adopts_everything() {
        let mut shop = Shop::open();
        shop.hawser(&["network", "create", "shop"]);
        shop.serve("web", "hello", &["--network", "shop", "-p", "18080:80"]);
        let make = "dd if=/dev/urandom of=/srv/big bs=1M count=16 2>/dev/null; sha256sum </srv/big";
        let sum = shop.hawser(&["exec", "web", "sh", "-c", make]);
        let file = shop.daemon.directories().root().join("download");
        let mut download = shop
            .outside
            .command("curl")
            .args([
                "--silent",
                "--fail",
                "--noproxy",
                "*",
                "--limit-rate",
                "4M",
                "--output",
            ])
            .args([
                file.as_os_str(),
                format!("http://{}:18080/big", shop.outside.host_v4).as_ref(),
            ])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        wait::until(SOON, "the download is under way", || {
            fs::metadata(&file).ok().filter(|file| file.len() > 1 << 20)
        })
        .unwrap();

        shop.daemon.kill().unwrap();
        assert!(
            download.try_wait().unwrap().is_none(),
            "the download ended too early"
        );
        assert_eq!(
            shop.fetch_on_host("http://127.0.0.1:18080").unwrap(),
            "hello"
        );
        shop.daemon.launch().unwrap();

        assert!(download.wait().unwrap().success(), "the download was cut");
        let got = shop
            .host
            .output("sha256sum", &[&file.display().to_string()])
            .unwrap();
        assert_eq!(got.split(' ').next(), sum.split(' ').next());
        assert_eq!(shop.inspect("web", "{{.State.Status}}"), "running");
        assert_eq!(shop.fetch("shop", "web").success().unwrap(), "hello");
        shop.hawser(&["rm", "-f", "web"]);
        shop.hawser(&["network", "rm", "shop"]);
    }

    #[test]
    fn a_container_lives_and_ends_as_told() {
        let shop = Shop::open();
        assert_eq!(
            shop.run(&["run", "--rm", TOOLS, "sh", "-c", "exit 42"])
                .code,
            42
        );
        shop.hawser(&[
            "run",
            "-d",
            "--name",
            "job",
            TOOLS,
            "sh",
            "-c",
            "echo out; exec sleep 600",
        ]);
        shop.soon("the log has the output", || {
            let log = shop.daemon.hawser(&["logs", "job"])?;
            anyhow::ensure!(log == "out", "{log}");
            Ok(())
        });
        assert_eq!(
            shop.hawser(&["exec", "job", "sh", "-c", "echo in; hostname"])
                .lines()
                .count(),
            2
        );
        assert_eq!(shop.run(&["exec", "job", "sh", "-c", "exit 7"]).code, 7);
        shop.hawser(&["kill", "-s", "KILL", "job"]);
        shop.soon("the container has ended", || {
            let state = shop
                .daemon
                .hawser(&["inspect", "--format", "{{.State.Status}}", "job"])?;
            anyhow::ensure!(state == "exited", "{state}");
            Ok(())
        });
        assert_eq!(shop.inspect("job", "{{.State.ExitCode}}"), "137");
        shop.hawser(&["rm", "job"]);
        assert_ne!(shop.run(&["inspect", "job"]).code, 0);
    }
}
