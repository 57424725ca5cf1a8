//! The commands of a container's life that no other story needs.

#[cfg(test)]
mod root {
    use std::collections::HashMap;

    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;

    #[test]
    fn a_restart_stops_as_asked_and_starts_again_with_what_was_written() {
        let shop = Shop::open();
        let script = "trap 'echo hung up; exit 5' HUP; echo begun; touch /file; \
                      while :; do sleep 0.1; done";
        let flags = ["run", "-d", "--name", "web", "--stop-signal", "HUP"];
        shop.hawser(&[&flags[..], &[TOOLS, "sh", "-c", script]].concat());
        let logs = |wanted: &str| {
            shop.soon("the log", || {
                let logs = shop.daemon.hawser(&["logs", "web"])?;
                anyhow::ensure!(logs == wanted, "{logs}");
                Ok(())
            });
        };
        logs("begun");
        assert_eq!(shop.hawser(&["restart", "web"]), "web");
        logs("begun\nhung up\nbegun");
        assert_eq!(
            shop.inspect("web", "{{.RestartCount}} {{.State.Status}}"),
            "0 running"
        );
        assert_eq!(shop.hawser(&["diff", "web"]), "A /file");
        shop.hawser(&["stop", "web"]);
        assert_eq!(shop.inspect("web", "{{.State.ExitCode}}"), "5");
        assert_eq!(shop.hawser(&["wait", "web"]), "5");
        // One that does not listen.
        shop.type_(&format!(
            "run -d --name deaf --stop-timeout 0 {TOOLS} sleep 600"
        ));
        shop.hawser(&["restart", "deaf"]);
        shop.hawser(&["stop", "deaf"]);
        assert_eq!(shop.inspect("deaf", "{{.State.ExitCode}}"), "137");
        let listed = shop.type_(&format!("create -a stdout --name quiet {TOOLS} true"));
        let streams = "{{.Config.AttachStdin}} {{.Config.AttachStdout}} {{.Config.AttachStderr}}";
        assert_eq!(shop.inspect(&listed, streams), "false true false");
        shop.refuses(&format!("create -a nonsense {TOOLS} true"), 125, "--attach");
        shop.refuses("restart nobody", 1, "No such container");
    }

    #[test]
    fn lines_of_a_log_have_their_times_and_are_told_apart_by_them() {
        let shop = Shop::open();
        shop.hawser(&[
            "run",
            "--name",
            "talk",
            TOOLS,
            "sh",
            "-c",
            "echo one; sleep 0.2; echo two",
        ]);
        let lines = shop.hawser(&["logs", "--timestamps", "talk"]);
        let moments: Vec<(&str, &str)> = lines
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .collect();
        let [(first, "one"), (second, "two")] = moments[..] else {
            panic!("{lines}");
        };
        assert!(
            first < second && first.ends_with('Z') && first.contains('T'),
            "{lines}"
        );
        assert_eq!(shop.hawser(&["logs", "--since", second, "talk"]), "two");
        assert_eq!(shop.hawser(&["logs", "--until", first, "talk"]), "one");
        assert_eq!(shop.hawser(&["logs", "-n", "1", "talk"]), "two");
    }

    #[test]
    fn sizes_and_prefixes_of_containers_are_told() {
        let shop = Shop::open();
        let write = "dd if=/dev/zero of=/file bs=1000 count=2000 2>/dev/null";
        shop.hawser(&["run", "--name", "large", TOOLS, "sh", "-c", write]);
        let listed = shop.hawser(&["ps", "-as", "--format", "{{.Names}} {{.Size}}"]);
        assert!(listed.starts_with("large 2MB (virtual "), "{listed}");
        let seen = shop.hawser(&["inspect", "--size", "--format", "{{.SizeRw}}", "large"]);
        assert!(seen.parse::<u64>().unwrap() >= 2_000_000, "{seen}");

        // Of seventeen ids, two begin alike.
        let ids: Vec<String> = (0..17)
            .map(|_| shop.type_(&format!("create {TOOLS} true")))
            .collect();
        let mut beginnings: HashMap<&str, &str> = HashMap::new();
        let alike = ids
            .iter()
            .find(|id| beginnings.insert(&id[..1], id).is_some());
        let prefix = &alike.unwrap()[..1];
        shop.refuses(&format!("rm {prefix}"), 1, "ambiguous");
        assert_eq!(shop.hawser(&["rm", &ids[0][..20]]), &ids[0][..20]);
    }
}
