//! Published ports as they are asked for on the command line.

#[cfg(test)]
mod root {
    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;

    const SERVE: &str =
        "mkdir -p /srv; echo It works! >/srv/index.html; exec httpd -f -p 80 -h /srv";

    fn port_of(shop: &Shop, container: &str, port: &str) -> u16 {
        let lines = shop.type_(&format!("port {container} {port}"));
        let first = lines.lines().next().unwrap();
        first.rsplit(':').next().unwrap().parse().unwrap()
    }

    fn answers(shop: &Shop, url: &str, page: &str) {
        shop.soon(url, || {
            let found = shop.fetch_on_host(url)?;
            anyhow::ensure!(found == page, "{found}");
            Ok(())
        });
    }

    #[test]
    fn a_port_of_a_user_network_is_reached_from_outside_and_taken_once() {
        let shop = Shop::open();
        shop.type_("network create -d bridge localnet");
        shop.serve(
            "web",
            "hello",
            &["--network", "localnet", "--publish", "5000:80"],
        );
        let lines = shop.type_("port web");
        assert_eq!(lines, "80/tcp -> 0.0.0.0:5000\n80/tcp -> [::]:5000");
        assert_eq!(shop.type_("port web 80"), "0.0.0.0:5000\n[::]:5000");
        let url = format!("http://{}:5000", shop.outside.host_v4);
        assert_eq!(shop.outside.fetch(&url).unwrap(), "hello");
        let second = format!("run --name second -p 5000:80 {TOOLS} true");
        shop.refuses(&second, 125, "port 5000/tcp is already allocated");
        assert_eq!(shop.type_("ps -aq --filter name=second"), "");
        let ports = shop.inspect("web", "{{json .NetworkSettings.Ports}}");
        assert_eq!(
            ports,
            r#"{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"5000"},{"HostIp":"::","HostPort":"5000"}]}"#
        );
    }

    #[test]
    fn publish_all_takes_what_the_image_exposes() {
        let shop = Shop::open();
        let archive = shop.daemon.directories().root().join("tools.tar");
        #[rustfmt::skip]
        shop.hawser(&[
            "image", "import", "-c", "EXPOSE 80 443", "-c", &format!("CMD {SERVE}"),
            &archive.display().to_string(), "myapache",
        ]);
        shop.type_("run -d --name web --hostname web.otomato.link -P myapache");
        let (http, https) = (
            port_of(&shop, "web", "80"),
            port_of(&shop, "web", "443/tcp"),
        );
        assert_ne!(http, https);
        let column = shop.hawser(&["ps", "--filter", "name=web", "--format", "{{.Ports}}"]);
        for expected in [
            format!("0.0.0.0:{http}->80/tcp"),
            format!("0.0.0.0:{https}->443/tcp"),
        ] {
            assert!(column.contains(&expected), "{column}");
        }
        answers(&shop, &format!("http://0.0.0.0:{http}"), "It works!");
        assert_eq!(shop.inside("web", "hostname"), "web.otomato.link");

        shop.type_("run -d --name exposed myapache");
        let column = shop.hawser(&["ps", "--filter", "name=exposed", "--format", "{{.Ports}}"]);
        assert_eq!(column, "443/tcp, 80/tcp");
        assert_eq!(shop.type_("port exposed"), "");
        shop.refuses(
            "port exposed 80",
            1,
            "no public port 80/tcp published for exposed",
        );
    }

    #[test]
    fn a_port_may_be_fixed_chosen_from_a_range_or_bound_to_an_address() {
        let shop = Shop::open();
        shop.serve("fixed", "fixed", &["-p", "8000:80"]);
        answers(&shop, "http://127.0.0.1:8000", "fixed");
        shop.serve("range", "range", &["-p", "8000-9000:80"]);
        let chosen = port_of(&shop, "range", "80");
        assert_eq!(chosen, 8001, "8000 is taken");
        answers(&shop, &format!("http://127.0.0.1:{chosen}"), "range");
        let full = format!("run -p 8000-8001:80 {TOOLS} true");
        shop.refuses(
            &full,
            125,
            "no run of 1 free tcp ports is left between 8000 and 8001",
        );

        shop.serve("local", "local", &["-p", "127.0.0.1::80"]);
        let local = shop.type_("port local");
        let port = port_of(&shop, "local", "80");
        assert_eq!(local, format!("80/tcp -> 127.0.0.1:{port}"));
        answers(&shop, &format!("http://127.0.0.1:{port}"), "local");
        let url = format!("http://{}:{port}", shop.outside.host_v4);
        assert!(
            shop.outside.fetch(&url).is_err(),
            "it is bound to 127.0.0.1 only"
        );

        shop.serve(
            "six",
            "six",
            &["-p", "[::1]:8600:80", "-p", "8700-8701:80-81/tcp"],
        );
        assert_eq!(
            shop.type_("port six"),
            "80/tcp -> 0.0.0.0:8700\n80/tcp -> [::1]:8600\n80/tcp -> [::]:8700\n\
             81/tcp -> 0.0.0.0:8701\n81/tcp -> [::]:8701"
        );
        answers(&shop, "http://[::1]:8600", "six");
    }

    /// The container is there before: the launcher needs what else may be mounted there.
    #[test]
    fn a_host_that_has_not_mounted_cgroup2_reaches_its_published_ports() {
        let mut shop = Shop::open();
        shop.serve("web", "hello", &["-p", "8080:80"]);
        answers(&shop, "http://127.0.0.1:8080", "hello");
        shop.daemon.kill().unwrap();
        let hide = "awk '$0 ~ / - cgroup2 / {print $5}' /proc/self/mountinfo | xargs -r umount -l; \
                    find /sys/fs/bpf -name 'hook_*' -delete";
        shop.host.output("sh", &["-c", hide]).unwrap();
        assert!(shop.fetch_on_host("http://127.0.0.1:8080").is_err());

        shop.daemon.launch().unwrap();
        answers(&shop, "http://127.0.0.1:8080", "hello");
        answers(&shop, "http://[::1]:8080", "hello");
        let mounts = shop.host.output("cat", &["/proc/self/mountinfo"]).unwrap();
        assert!(!mounts.contains(" - cgroup2 "), "{mounts}");
        // The hooks stay when the daemon that mounted the hierarchy is gone.
        shop.daemon.kill().unwrap();
        assert_eq!(
            shop.fetch_on_host("http://127.0.0.1:8080").unwrap(),
            "hello"
        );
        shop.daemon.launch().unwrap();
        let info = shop.type_("info");
        assert!(info.contains("10 of them adopted"), "{info}");
    }

    #[test]
    fn a_stopped_container_keeps_its_data_and_gets_its_port_again() {
        let shop = Shop::open();
        #[rustfmt::skip]
        let id = shop.hawser(&[
            "container", "run", "-d", "--name", "webserver", "-p", "80:8080", TOOLS, "sh", "-c",
            "mkdir -p /srv; [ -e /srv/index.html ] || echo first >/srv/index.html; \
             exec httpd -f -p 8080 -h /srv",
        ]);
        assert_eq!(id.len(), 64);
        let row = shop.hawser(&["container", "ls", "--format", "{{.Ports}} {{.State}}"]);
        assert_eq!(row, "0.0.0.0:80->8080/tcp, [::]:80->8080/tcp running");
        let url = format!("http://{}", shop.outside.host_v4);
        shop.soon("the page is there", || shop.outside.fetch(&url));
        shop.inside("webserver", "echo second >/srv/index.html");
        shop.type_("container stop -t 0 webserver");
        assert!(shop.outside.fetch(&url).is_err());
        shop.type_("container start webserver");
        shop.soon("the page is there again", || {
            let page = shop.outside.fetch(&url)?;
            anyhow::ensure!(page == "second", "{page}");
            Ok(())
        });
    }

    #[test]
    fn ports_move_to_the_network_that_is_left() {
        let shop = Shop::open();
        shop.type_("network create one");
        shop.type_("network create two");
        shop.serve("web", "hello", &["--network", "one", "-p", "18080:80"]);
        shop.type_("network disconnect one web");
        assert!(shop.fetch_on_host("http://127.0.0.1:18080").is_err());
        shop.type_("network connect two web");
        answers(&shop, "http://127.0.0.1:18080", "hello");
    }
}
