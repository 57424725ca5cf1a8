//! Bad input gets one clear line that names the thing, Docker's exit code, and changes nothing.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use kernel_tests::program::{self, Ran};
    use kernel_tests::shop::{SOON, TOOLS};
    use kernel_tests::{Shop, leftovers, wait};

    /// A command, the exit code it must have, and what its one line must name.
    struct Row {
        arguments: Vec<String>,
        code: i32,
        names: Vec<String>,
    }

    fn row(arguments: &[&str], code: i32, names: &[&str]) -> Row {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Row {
            arguments: owned(arguments),
            code,
            names: owned(names),
        }
    }

    /// Everything a user can see of the daemon and of the host.
    fn state(shop: &Shop) -> BTreeSet<String> {
        let listings: [&[&str]; 4] = [
            &["network", "ls", "-q", "--no-trunc"],
            &["volume", "ls", "-q"],
            &["image", "ls", "-q", "--no-trunc"],
            &["ps", "-a", "-q", "--no-trunc"],
        ];
        let mut state = leftovers::in_namespaces(&shop.host).unwrap();
        for listing in listings {
            state.extend(
                shop.hawser(listing)
                    .lines()
                    .map(|id| format!("{} {id}", listing[0])),
            );
        }
        state
    }

    fn is_one_line(ran: &Ran, row: &Row) -> Result<(), String> {
        let said = ran.stderr.trim();
        if ran.code != row.code {
            return Err(format!("exit code {}, not {}: {said}", ran.code, row.code));
        }
        if let Some(missing) = row.names.iter().find(|name| !said.contains(*name)) {
            return Err(format!("does not name {missing:?}: {said}"));
        }
        // A usage hint may follow the line, as with Docker.
        if said.lines().count() > 3 || said.contains("panicked") {
            return Err(format!("not one clear line: {said}"));
        }
        Ok(())
    }

    #[track_caller]
    fn check(shop: &Shop, rows: &[Row]) {
        let before = state(shop);
        let mut wrong = Vec::new();
        for row in rows {
            let arguments: Vec<&str> = row.arguments.iter().map(String::as_str).collect();
            let ran = shop.run(&arguments);
            if let Err(why) = is_one_line(&ran, row) {
                wrong.push(format!("{}\n    {why}", ran.line));
            }
            let after = state(shop);
            if after != before {
                let changes: Vec<&String> = before.symmetric_difference(&after).collect();
                wrong.push(format!("{}\n    changed {changes:?}", ran.line));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn unknown_objects_are_named() {
        let shop = Shop::open();
        check(
            &shop,
            &[
                row(
                    &["run", "--network", "nowhere", TOOLS, "true"],
                    125,
                    &["nowhere"],
                ),
                row(&["run", "no-image", "true"], 125, &["no-image"]),
                row(&["network", "inspect", "nowhere"], 1, &["nowhere"]),
                row(&["network", "rm", "nowhere"], 1, &["nowhere"]),
                row(&["network", "connect", "nowhere", "nobody"], 1, &["no"]),
                row(&["volume", "inspect", "no-volume"], 1, &["no-volume"]),
                row(&["volume", "rm", "no-volume"], 1, &["no-volume"]),
                row(&["inspect", "nothing"], 1, &["nothing"]),
                row(&["rm", "nobody"], 1, &["nobody"]),
                row(&["stop", "nobody"], 1, &["nobody"]),
                row(&["kill", "nobody"], 1, &["nobody"]),
                row(&["logs", "nobody"], 1, &["nobody"]),
                row(&["exec", "nobody", "true"], 1, &["nobody"]),
                row(
                    &["image", "import", "/no/such.tar", "x"],
                    1,
                    &["/no/such.tar"],
                ),
            ],
        );
    }

    #[test]
    fn names_are_unique_and_harmless() {
        let shop = Shop::open();
        shop.hawser(&["network", "create", "shop"]);
        shop.hawser(&["run", "-d", "--name", "web", TOOLS, "sleep", "600"]);
        let long = "n".repeat(300);
        let mut rows = vec![
            row(&["run", "--name", "web", TOOLS, "true"], 125, &["web"]),
            row(&["network", "create", "shop"], 1, &["shop"]),
        ];
        for name in ["a/b", "..", "x y", &long] {
            let shown = &name[..name.len().min(20)];
            let container = format!("--name={name}");
            rows.push(row(&["run", &container, TOOLS, "true"], 125, &[shown]));
            rows.push(row(&["network", "create", name], 1, &[shown]));
            rows.push(row(&["volume", "create", name], 1, &[shown]));
        }
        check(&shop, &rows);
    }

    #[test]
    fn a_subnet_that_overlaps_is_refused_with_what_it_overlaps() {
        let shop = Shop::open();
        shop.hawser(&["network", "create", "--subnet", "10.77.1.0/24", "shop"]);
        let uplink = format!("{}/30", shop.outside.host_v4);
        let wide = format!("{}/24", shop.outside.host_v4);
        let create = |subnet| ["network", "create", "--subnet", subnet, "other"];
        let interface = shop.outside.interface.as_str();
        check(
            &shop,
            &[
                row(&create("10.77.1.128/25"), 1, &["10.77.1.128/25", "shop"]),
                row(&create("10.77.0.0/16"), 1, &["10.77.0.0/16", "shop"]),
                row(&create(&wide), 1, &[interface]),
                row(&create(&uplink), 1, &["198.18."]),
                row(&create("10.88.0.0/33"), 1, &["10.88.0.0/33"]),
                row(&create("nonsense"), 1, &["nonsense"]),
            ],
        );
    }

    #[test]
    fn a_taken_port_is_refused_with_its_holder() {
        let shop = Shop::open();
        shop.hawser(&[
            "run", "-d", "--name", "web", "-p", "18080:80", TOOLS, "sleep", "600",
        ]);
        let mut listener = shop
            .host
            .command("busybox")
            .args(["nc", "-l", "-p", "18081"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        shop.soon("nc listens", || {
            let table = shop
                .host
                .output("cat", &["/proc/net/tcp", "/proc/net/tcp6"])?;
            anyhow::ensure!(table.contains(":46A1 "), "{table}");
            Ok(())
        });
        let pid = listener.id().to_string();
        let publish = |port| ["run", "-p", port, TOOLS, "true"];
        check(
            &shop,
            &[
                row(&publish("18080:80"), 125, &["18080", "web"]),
                row(&publish("18081:80"), 125, &["18081", "busybox", &pid]),
                row(&publish("99999:80"), 125, &["99999"]),
                row(&publish("x:80"), 125, &["x:80"]),
            ],
        );
        listener.kill().unwrap();
        listener.wait().unwrap();
    }

    #[test]
    fn a_command_that_cannot_run_has_dockers_exit_code() {
        let shop = Shop::open();
        check(
            &shop,
            &[
                row(
                    &["run", "--rm", TOOLS, "no-such-program"],
                    127,
                    &["no-such-program"],
                ),
                row(
                    &["run", "--rm", TOOLS, "/etc/passwd"],
                    126,
                    &["/etc/passwd"],
                ),
                row(&["run", "--rm", TOOLS, "/etc"], 126, &["/etc"]),
            ],
        );
    }

    #[test]
    fn an_unknown_flag_is_named() {
        let shop = Shop::open();
        for (arguments, code) in [
            (["run", "--no-such-flag"], 125),
            (["ps", "--no-such-flag"], 125),
        ] {
            let ran = shop.run(&arguments);
            assert_eq!(ran.code, code, "{ran:?}");
            assert!(ran.stderr.contains("--no-such-flag"), "{ran:?}");
        }
    }

    #[test]
    fn a_hostile_archive_is_refused() {
        let shop = Shop::open();
        let scratch = tempfile::tempdir().unwrap();
        let archives = hostile_archives(scratch.path());
        for (archive, names) in &archives {
            let path = archive.display().to_string();
            check(&shop, &[row(&["image", "import", &path, "evil"], 1, names)]);
        }
        assert!(!Path::new("/var/tmp/hawser-escaped").exists());
    }

    /// Archives made with tar(1), each with what the refusal names.
    fn hostile_archives(dir: &Path) -> Vec<(PathBuf, Vec<&'static str>)> {
        let tree = dir.join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("file"), "x".repeat(100_000)).unwrap();
        std::os::unix::fs::symlink("/var/tmp", tree.join("link")).unwrap();
        let pack = |name: &str, options: &[&str], members: &[&str]| {
            let archive = dir.join(name);
            let mut tar = Command::new("tar");
            tar.arg("--create")
                .arg("--file")
                .arg(&archive)
                .arg("--directory")
                .arg(&tree);
            program::output(tar.arg("--absolute-names").args(options).args(members)).unwrap();
            archive
        };
        let up = "--transform=s,^file,../../hawser-escaped,";
        let absolute = "--transform=s,^file,/var/tmp/hawser-escaped,";
        let through = "--transform=s,^file,link/hawser-escaped,";
        let whole = pack("whole.tar", &[], &["file"]);
        let truncated = dir.join("truncated.tar");
        fs::write(&truncated, &fs::read(&whole).unwrap()[..50_000]).unwrap();
        vec![
            (
                pack("up.tar", &[up], &["file"]),
                vec!["../../hawser-escaped"],
            ),
            (
                pack("absolute.tar", &[absolute], &["file"]),
                vec!["/var/tmp/hawser-escaped"],
            ),
            (
                pack("through.tar", &[through], &["link", "file"]),
                vec!["link/hawser-escaped"],
            ),
            (truncated, vec!["truncated.tar", "ends before"]),
        ]
    }

    #[test]
    fn a_daemon_that_is_not_there_is_named() {
        let shop = Shop::open();
        for (arguments, code) in [(vec!["ps"], 1), (vec!["run", TOOLS, "true"], 125)] {
            let mut command = shop.daemon.command(&arguments).unwrap();
            let ran =
                program::run(command.env(api::path::HOST_ENV, "unix:///no/hawserd.sock")).unwrap();
            let row = row(&[], code, &["/no/hawserd.sock", "running"]);
            is_one_line(&ran, &row).unwrap();
        }
    }

    #[test]
    fn a_user_without_rights_is_told_so() {
        let shop = Shop::open();
        // The build directory may be closed to other users, and so is a scratch directory.
        let dir = tempfile::Builder::new()
            .prefix("hawser-test-")
            .tempdir_in("/var/tmp")
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = dir.path().join("hawser");
        fs::copy(program::under_test("hawser").unwrap(), &program).unwrap();
        let root = shop.daemon.directories().root();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        let socket = shop.daemon.directories().socket();
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .arg("ps");
        command.env(api::path::HOST_ENV, format!("unix://{}", socket.display()));
        let ran = program::run(&mut command).unwrap();
        is_one_line(&ran, &row(&[], 1, &["ermission"])).unwrap();
    }

    #[test]
    fn a_malformed_configuration_is_refused_with_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("hawserd.toml");
        for (text, names) in [
            ("no-such-key = 1\n", vec!["no-such-key", "hawserd.toml:1:"]),
            ("\n[network\n", vec!["hawserd.toml:2:"]),
        ] {
            fs::write(&config, text).unwrap();
            let mut hawserd = Command::new(program::under_test("hawserd").unwrap());
            let ran = program::run(hawserd.arg("--check-config").arg("--config").arg(&config));
            let ran = ran.unwrap();
            assert_ne!(ran.code, 0, "{text:?} was accepted");
            for name in names {
                assert!(ran.stderr.contains(name), "no {name:?} in: {}", ran.stderr);
            }
        }
    }

    #[test]
    fn a_second_daemon_on_the_same_directories_is_refused() {
        let shop = Shop::open();
        let words = shop.daemon.command_line().unwrap();
        let mut second = shop.host.command(&words[0]);
        let ran = program::run(second.args(&words[1..])).unwrap();
        assert_ne!(ran.code, 0);
        let pid = shop.daemon.pid().unwrap().to_string();
        assert!(
            ran.stderr.contains(&pid),
            "the first daemon is {pid}: {}",
            ran.stderr
        );
        wait::until(SOON, "the first daemon still answers", || {
            shop.daemon.client().get_text(api::path::PING).ok()
        })
        .unwrap();
    }
}
