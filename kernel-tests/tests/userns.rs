//! User namespaces: who is root in a container is nobody on the host.

#[cfg(test)]
mod root {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::path::PathBuf;
    use std::sync::Arc;

    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Host, Shop};

    /// The first ids that containers have, and how many there are for all.
    const FIRST: u32 = 300_000;
    const COUNT: u32 = 3 * 65_536;

    /// A shop on a host where `hawsremap` has subordinate ids. Nothing where owners cannot be mapped,
    /// and that is what whoever asks for it is told there.
    fn shop(settings: &str) -> Option<Shop> {
        let host = Arc::new(Host::throwaway().expect("a host"));
        let line = format!("hawsremap:{FIRST}:{COUNT}");
        // Of the throwaway host alone.
        let script = format!(
            "mount -t tmpfs etc /mnt && cp -a /etc/. /mnt/ && mount --move /mnt /etc && \
             echo {line} >/etc/subuid && echo {line} >/etc/subgid"
        );
        host.output("sh", &["-ec", &script])
            .expect("subordinate ids");
        let shop = Shop::on(host, settings);
        // A directory for temporary files is closed to others, unlike /run.
        let socket = shop.daemon.directories().socket();
        let run = socket.parent().expect("a run directory");
        fs::set_permissions(run, fs::Permissions::from_mode(0o711)).expect("an open run directory");
        if sys::kernel::is_linux(5, 19) {
            return Some(shop);
        }
        let refused = format!("run --rm --userns auto {TOOLS} true");
        shop.refuses(&refused, 125, "ext4, xfs or btrfs of Linux 5.19");
        shop.type_(&format!("run --rm --userns host {TOOLS} true"));
        None
    }

    fn remapped() -> Option<Shop> {
        shop("[containers]\nuserns-remap = \"default\"\n")
    }

    fn owner(path: PathBuf) -> (u32, u32) {
        let stat = fs::symlink_metadata(path).expect("a file");
        (stat.uid(), stat.gid())
    }

    /// Runs a shell command in a container that goes; its output.
    fn sh(shop: &Shop, flags: &str, script: &str) -> String {
        let flags = flags.split_whitespace();
        let mut words = vec!["run", "--rm"];
        words.extend(flags);
        words.extend([TOOLS, "sh", "-c", script]);
        shop.hawser(&words).trim().to_owned()
    }

    fn inspect(shop: &Shop, name: &str, what: &str) -> String {
        shop.hawser(&["inspect", "-f", what, name])
            .trim()
            .to_owned()
    }

    #[test]
    fn root_in_a_container_is_nobody_on_the_host() {
        let Some(shop) = remapped() else {
            return;
        };
        assert!(shop.type_("info").contains("hawsremap"));
        let ids = sh(&shop, "", "cat /proc/self/uid_map; id -u");
        let words: Vec<&str> = ids.split_whitespace().collect();
        assert_eq!(words, ["0", "300000", "65536", "0"]);
        // A file that only the host's root may read.
        let secret = shop.daemon.directories().root().join("secret");
        fs::write(&secret, "x").expect("a file");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("a file");
        let bind = format!("-v {}:/secret", secret.display());
        let touched = sh(
            &shop,
            &bind,
            "cat /secret 2>&1; echo y 2>/dev/null >/secret; chown 0 /secret 2>&1; stat -c %u /secret",
        );
        assert!(touched.contains("Permission denied"), "{touched}");
        assert!(touched.contains("not permitted"), "{touched}");
        assert!(touched.ends_with("65534"), "{touched}");
        assert_eq!(fs::read_to_string(&secret).expect("a file"), "x");
        // And one that is the container's root's.
        chown(&secret, Some(FIRST), Some(FIRST)).expect("a file");
        assert_eq!(sh(&shop, &bind, "cat /secret; stat -c %u /secret"), "x0");
        // Whoever wants the host's users says so.
        let everybody = sh(&shop, "--userns host", "cat /proc/self/uid_map");
        assert!(everybody.contains("4294967295"), "{everybody}");
        let tools = ["run", "--rm", "--privileged", TOOLS, "true"];
        let refused = shop.run(&tools);
        assert_eq!(refused.code, 125, "{refused:?}");
        assert!(
            refused.stderr.contains("privileged mode is incompatible"),
            "{refused:?}"
        );
        shop.type_(&format!("run --rm --privileged --userns host {TOOLS} true"));
        for host in ["--network host", "--pid host"] {
            shop.refuses(
                &format!("run --rm {host} {TOOLS} true"),
                125,
                "cannot share",
            );
        }
        shop.refuses(
            &format!("run --rm --userns nobodys {TOOLS} true"),
            125,
            "nobodys has no subordinate ids",
        );
    }

    #[test]
    fn ids_on_disk_are_those_in_the_container() {
        let Some(shop) = remapped() else {
            return;
        };
        let made = "touch /root/a /v/b; chown 7:8 /root/a /v/b; mkdir /d; echo n >/etc/hostname; \
                    chmod 4755 /bin/busybox; rm -rf /home";
        let container = shop.hawser(&[
            "run",
            "-d",
            "--name",
            "made",
            "-v",
            "data:/v",
            TOOLS,
            "sh",
            "-c",
            &format!("{made}; touch /done; exec sleep 1000"),
        ]);
        shop.soon("it is done", || {
            shop.daemon.hawser(&["exec", "made", "test", "-e", "/done"])
        });
        assert!(!container.is_empty());
        let mounts = shop.host.output("cat", &["/proc/self/mountinfo"]);
        let mounts = mounts.expect("a table of mounts");
        let state = shop.daemon.directories().state().display().to_string();
        let ours = |line: &str| line.contains(" - overlay ") && line.contains(&state);
        assert!(!mounts.lines().any(ours), "{mounts}");
        let upper = PathBuf::from(inspect(&shop, "made", "{{.GraphDriver.Data.UpperDir}}"));
        assert_eq!(owner(upper.join("root/a")), (7, 8));
        assert_eq!(owner(upper.join("d")), (0, 0));
        let volume = PathBuf::from(
            shop.hawser(&["volume", "inspect", "-f", "{{.Mountpoint}}", "data"])
                .trim(),
        );
        assert_eq!(owner(volume.join("b")), (7, 8));
        let check = |shop: &Shop| {
            let diff = shop.type_("diff made");
            assert!(
                diff.contains("A /root/a") && diff.contains("A /d"),
                "{diff}"
            );
            assert!(
                !diff.contains("/bin/cat") && !diff.contains("C /usr"),
                "{diff}"
            );
            let image = "copy";
            shop.type_(&format!("commit made {image}"));
            let script = "stat -c %u:%g /root/a /d /bin/sh";
            let run = ["run", "--rm", "--userns", "host", image, "sh", "-c", script];
            assert_eq!(shop.hawser(&run).trim(), "7:8\n0:0\n0:0");
        };
        // Running and not.
        check(&shop);
        assert_eq!(shop.type_("exec made stat -c %u:%g /root/a"), "7:8");
        assert_eq!(shop.type_("exec -u 9 made id -u"), "9");
        let capabilities = |flags: &str| {
            let status = shop.type_(&format!("exec {flags} made cat /proc/self/status"));
            let mut lines = status
                .lines()
                .filter_map(|line| line.strip_prefix("CapEff:"));
            u64::from_str_radix(lines.next().expect("a line").trim(), 16).expect("a mask")
        };
        // CAP_SYS_ADMIN is not Docker's, and nobody's but root's.
        assert_eq!(capabilities("") >> 21 & 1, 0);
        assert_eq!(capabilities("-u 9"), 0);
        assert_eq!(shop.type_("exec -t made tty"), "/dev/pts/0");
        let here = shop.daemon.directories().root().join("here");
        fs::create_dir(&here).expect("a directory");
        fs::write(here.join("f"), "f").expect("a file");
        chown(here.join("f"), Some(5), Some(6)).expect("a file");
        let copies = |shop: &Shop, name: &str| {
            let from = here.join("f");
            shop.hawser(&[
                "cp",
                &from.display().to_string(),
                &format!("made:/d/{name}"),
            ]);
            shop.hawser(&[
                "cp",
                &from.display().to_string(),
                &format!("made:/v/{name}"),
            ]);
            assert_eq!(owner(upper.join("d").join(name)), (5, 6));
            assert_eq!(owner(volume.join(name)), (5, 6));
            let back = here.join(format!("{name}-back"));
            shop.hawser(&["cp", "-a", "made:/root/a", &back.display().to_string()]);
            assert_eq!(owner(back), (7, 8));
        };
        copies(&shop, "running");
        assert_eq!(shop.type_("exec made stat -c %u:%g /d/running"), "5:6");
        shop.type_("stop -t 0 made");
        check(&shop);
        copies(&shop, "stopped");
        shop.type_("start made");
        assert_eq!(shop.type_("exec made stat -c %u:%g /d/stopped"), "5:6");
        shop.type_("rm -f made");
    }

    #[test]
    fn containers_with_ids_of_their_own_share_images_and_volumes() {
        let Some(mut shop) = shop("") else {
            return;
        };
        for name in ["one", "two"] {
            shop.idle(name, "--userns auto -v data:/v");
            shop.type_(&format!("exec {name} touch /v/{name}"));
            let own = shop.type_(&format!("exec {name} cat /proc/1/uid_map"));
            assert_eq!(
                own,
                shop.type_(&format!("exec {name} cat /proc/self/uid_map"))
            );
        }
        let root = |name: &str| {
            let map = shop.hawser(&["exec", name, "cat", "/proc/self/uid_map"]);
            let mut words = map.split_whitespace().map(str::to_owned);
            words.nth(1).expect("a map").parse::<u32>().expect("an id")
        };
        assert_eq!(
            (root("one"), root("two")),
            (FIRST + 65_536, FIRST + 2 * 65_536)
        );
        // To each other, the files are their own.
        for name in ["one", "two"] {
            let owners = shop.type_(&format!(
                "exec {name} stat -c %u /v/one /v/two /bin/busybox"
            ));
            assert_eq!(owners, "0\n0\n0");
        }
        shop.refuses(
            &format!("run --rm --userns auto {TOOLS} true"),
            125,
            "block of ids",
        );
        assert_eq!(
            sh(&shop, "--userns private -v data:/v", "stat -c %u /v/one"),
            "0"
        );
        // What is shared with a container is so with its users.
        let joined = sh(&shop, "--network container:one", "cat /proc/self/uid_map");
        assert!(joined.contains(&root("one").to_string()), "{joined}");
        shop.refuses(
            &format!("run --rm --userns host --network container:one {TOOLS} true"),
            125,
            "--userns",
        );
        shop.type_("rm -f two");
        assert_eq!(sh(&shop, "--userns auto", "id -u"), "0");
        // The daemon's death is nothing to them.
        shop.daemon.kill().expect("a daemon to kill");
        shop.daemon.launch().expect("a daemon");
        assert_eq!(shop.type_("exec one stat -c %u /v/one"), "0");
        shop.type_("rm -f one");
    }

    #[test]
    fn bound_directories_are_mapped_when_asked() {
        let Some(shop) = remapped() else {
            return;
        };
        let shared = shop.daemon.directories().root().join("shared");
        fs::create_dir(&shared).expect("a directory");
        fs::write(shared.join("mine"), "x").expect("a file");
        chown(shared.join("mine"), Some(5), Some(6)).expect("an owner");
        let flags = format!(
            "-v {path}:/plain --mount type=bind,src={path},dst=/mapped,idmap",
            path = shared.display()
        );
        let script = "touch /mapped/new; touch /plain/refused 2>/dev/null; \
                      stat -c %u:%g /plain/mine /mapped/mine /mapped/new";
        assert_eq!(sh(&shop, &flags, script), "65534:65534\n5:6\n0:0");
        assert_eq!(owner(shared.join("new")), (0, 0));
        assert!(!shared.join("refused").exists());
        // Where the ids are the host's, it is a word without a meaning.
        let flags = format!("--userns host -v {}:/m:idmap,ro", shared.display());
        assert_eq!(sh(&shop, &flags, "stat -c %u /m/mine"), "5");
        shop.refuses(
            &format!("run --rm -v /sys/kernel:/m:idmap {TOOLS} true"),
            125,
            "cannot show mapped owners of /sys/kernel",
        );
    }

    #[test]
    fn networks_terminals_and_limits_work() {
        let Some(shop) = remapped() else {
            return;
        };
        shop.type_("network create n1");
        shop.idle("web", "--network n1 --sysctl net.ipv4.ip_default_ttl=42");
        assert_eq!(
            shop.type_("exec web cat /proc/sys/net/ipv4/ip_default_ttl"),
            "42"
        );
        let named = sh(
            &shop,
            "--network n1",
            "ping -c 1 -W 5 web >/dev/null && echo there",
        );
        assert_eq!(named, "there");
        assert_eq!(sh(&shop, "-t -u 0", "tty"), "/dev/pts/0");
        let limits = sh(
            &shop,
            "--ulimit nofile=64:64 --tmpfs /t --read-only --init",
            "ulimit -n; touch /t/x && stat -c %u /t/x",
        );
        assert_eq!(limits, "64\n0");
        let shown = sh(&shop, "--user 33", "echo hello >/dev/stdout; id -u");
        assert_eq!(shown, "hello\n33");
        let mounts = sh(
            &shop,
            "",
            "ls /dev/shm /dev/mqueue /sys/class/net >/dev/null && echo fine",
        );
        assert_eq!(mounts, "fine");
    }
}
