//! The daemon's own upkeep, as its operator does it.

#[cfg(test)]
mod root {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use anyhow::{Result, ensure};
    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Shop, program};

    fn restart(shop: &mut Shop) -> Result<()> {
        shop.daemon.stop()?;
        shop.daemon.launch()
    }

    /// `level = "debug"` in the configuration, and a restart.
    #[test]
    fn a_daemon_that_is_told_to_debug_logs_every_request() {
        let mut shop = Shop::open();
        shop.type_("network ls");
        assert!(
            !shop.daemon.log().contains("DEBUG"),
            "{}",
            shop.daemon.log()
        );

        let file = shop.daemon.directories().config();
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("{text}[log]\nlevel = \"debug\"\n")).unwrap();
        restart(&mut shop).unwrap();
        shop.type_("network ls");
        let log = shop.daemon.log();
        let is_request = |line: &str| line.contains("DEBUG") && line.contains("GET /v1/networks");
        assert!(log.lines().any(is_request), "{log}");
    }

    /// Who asked for what, and what nobody asked for, are in the log.
    #[test]
    fn the_log_says_who_changed_what() {
        let shop = Shop::configured("group = \"nogroup\"\n");
        let socket = shop.daemon.directories().socket();
        let open = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        open(socket.parent().unwrap());
        let ask = |method: &str, route: &str, body: &str| {
            let mut curl = shop.host.command("setpriv");
            curl.args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "curl",
                "-sS",
            ])
            .args([
                "-w",
                "%{http_code}",
                "-o",
                "/dev/null",
                "-X",
                method,
                "-d",
                body,
            ])
            .arg("--unix-socket")
            .arg(&socket)
            .arg(format!("http://hawser/v1/{route}"));
            program::output(&mut curl).unwrap()
        };
        assert_eq!(ask("POST", "networks/create", r#"{"Name": "shop"}"#), "200");
        assert_eq!(ask("DELETE", "networks/nosuch", ""), "404");
        shop.type_("network rm shop");
        let log = shop.daemon.log();
        let is_told = |op: &str, uid: u32| {
            let parts = [
                format!("op={op} peer_uid={uid} peer_pid="),
                "done status=".to_owned(),
            ];
            log.lines()
                .any(|line| parts.iter().all(|part| line.contains(part)))
        };
        assert!(is_told("POST /v1/networks/create", 65534), "{log}");
        assert!(is_told("DELETE /v1/networks/shop", 0), "{log}");
        assert!(!log.contains("nosuch"), "{log}");
    }

    /// Stop the daemon, remove the old version, install the new one, start it.
    #[test]
    fn an_upgrade_leaves_containers_and_services_as_they_were() {
        let mut shop = Shop::open();
        shop.daemon.install().unwrap();
        restart(&mut shop).unwrap();
        let flags = "--name held --restart unless-stopped";
        let script = "echo begun; trap 'exit 0' TERM; while :; do sleep 1 & wait; done";
        let words: Vec<&str> = flags.split(' ').collect();
        shop.hawser(&[&["run", "-d"], &words[..], &[TOOLS, "sh", "-c", script]].concat());
        shop.type_(&format!(
            "service create --name prod-equus1 --restart-delay 100ms {TOOLS} sleep 1d"
        ));
        let look = |shop: &Shop| {
            [
                shop.type_("ps -q --no-trunc"),
                shop.inspect(
                    "held",
                    "{{.State.Status}} {{.State.StartedAt}} {{.State.Pid}}",
                ),
                shop.type_("service ls --format {{.Name}}:{{.Replicas}}"),
            ]
        };
        let before = look(&shop);
        assert_eq!(before[2], "prod-equus1:1/1");

        shop.daemon.stop().unwrap();
        shop.daemon.install().unwrap();
        shop.daemon.launch().unwrap();
        assert_eq!(look(&shop), before);

        // The old version's shims and agent go on, and the new version's commands reach them.
        assert_eq!(shop.type_("logs held"), "begun");
        assert_eq!(shop.inside("held", "echo $((6 * 7))"), "42");
        shop.type_("service scale prod-equus1=2");
        shop.type_("restart held");
        shop.type_("stop held");
        assert_eq!(shop.inspect("held", "{{.State.ExitCode}}"), "0");
        shop.type_("start held");
        shop.type_("service rm prod-equus1");
        shop.soon("the replicas are gone", || {
            let left = shop.type_("ps -aq");
            ensure!(left.lines().count() == 1, "{left}");
            Ok(())
        });
    }
}
