//! What a container may do and what it sees of the host, as its flags say.

#[cfg(test)]
mod root {
    use std::fs;

    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;

    /// What `hawser run FLAGS IMAGE sh -c SCRIPT` prints, which must succeed.
    #[track_caller]
    fn seen(shop: &Shop, flags: &str, script: &str) -> String {
        let head: Vec<&str> = flags.split_whitespace().collect();
        shop.hawser(&[&["run", "--rm"], &head[..], &[TOOLS, "sh", "-c", script]].concat())
    }

    /// A line of `/proc/self/status`.
    #[track_caller]
    fn status(shop: &Shop, flags: &str, name: &str) -> String {
        let script = format!("sed -n 's/^{name}:.//p' /proc/self/status");
        seen(shop, flags, &script)
    }

    #[test]
    fn capabilities_are_added_dropped_and_all_there_when_privileged() {
        let shop = Shop::open();
        let effective = |flags: &str| {
            let text = status(&shop, flags, "CapEff");
            u64::from_str_radix(&text, 16).unwrap()
        };
        let (chown, bind_service, admin) = (1 << 0, 1 << 10, 1 << 21);
        let default = effective("");
        assert_eq!(default, 0xa804_25fb, "Docker's fourteen");
        assert_eq!(effective("--cap-drop CHOWN"), default & !chown);
        assert_eq!(effective("--cap-add CAP_SYS_ADMIN"), default | admin);
        assert_eq!(
            effective("--cap-drop ALL --cap-add net_bind_service"),
            bind_service
        );
        // Nobody but root has any unless a file gives them.
        assert_eq!(effective("--user 33"), 0);
        let all = shop
            .host
            .output("sh", &["-c", "sed -n 's/^CapBnd:.//p' /proc/self/status"]);
        let all = u64::from_str_radix(all.unwrap().trim(), 16).unwrap();
        assert_eq!(effective("--privileged"), all);
        assert_eq!(effective("--cap-add ALL"), all);

        let chowns = [
            "run",
            "--rm",
            "--cap-drop",
            "CHOWN",
            TOOLS,
            "chown",
            "33",
            "/tmp",
        ];
        let refused = shop.run(&chowns);
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(
            refused.stderr.contains("Operation not permitted"),
            "{refused:?}"
        );
        shop.refuses(
            &format!("run --cap-add NONSENSE {TOOLS} true"),
            125,
            "NONSENSE",
        );
    }

    #[test]
    fn system_calls_are_filtered_as_asked() {
        let shop = Shop::open();
        assert_eq!(status(&shop, "", "Seccomp"), "2");
        assert_eq!(status(&shop, "", "NoNewPrivs"), "0");
        assert_eq!(
            status(&shop, "--security-opt seccomp=unconfined", "Seccomp"),
            "0"
        );
        assert_eq!(status(&shop, "--privileged", "Seccomp"), "0");
        assert_eq!(
            status(&shop, "--security-opt no-new-privileges", "NoNewPrivs"),
            "1"
        );
        let profile = shop.daemon.directories().root().join("profile.json");
        let rule = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 12}]}"#;
        fs::write(&profile, rule).unwrap();
        let flags = format!("--security-opt seccomp={}", profile.display());
        let said = seen(&shop, &flags, "mkdir /x 2>&1; touch /y && echo made");
        assert_eq!(
            said,
            "mkdir: can't create directory '/x': Cannot allocate memory\nmade"
        );
        fs::write(&profile, "{").unwrap();
        shop.refuses(&format!("run {flags} {TOOLS} true"), 125, "profile.json");
        shop.refuses(
            &format!("run --security-opt nonsense=1 {TOOLS} true"),
            125,
            "nonsense",
        );
        assert_eq!(shop.hawser(&["ps", "-aq"]), "", "nothing was made");
    }

    #[test]
    fn the_kernels_files_are_masked_and_read_only_unless_asked() {
        let shop = Shop::open();
        // The host's own numbers are not for a test to change: what is there already is written.
        let write = "cat /proc/sys/vm/swappiness >/proc/sys/vm/swappiness 2>/dev/null && echo written; \
                     wc -c </proc/interrupts";
        assert_eq!(seen(&shop, "", write), "0");
        for flags in ["--privileged", "--security-opt systempaths=unconfined"] {
            let said = seen(&shop, flags, write);
            let (written, size) = said.split_once('\n').unwrap_or_default();
            assert_eq!(written, "written", "{flags}: {said}");
            assert_ne!(size, "0", "{flags}: {said}");
        }
        let tree = "touch /x 2>/dev/null || echo refused; touch /t/x /d/x && echo made";
        let said = seen(&shop, "--read-only --tmpfs /t -v data:/d", tree);
        assert_eq!(said, "refused\nmade");
        let group = "cd /sys/fs/cgroup; test ! -e memory || cd memory; mkdir x 2>&1; echo $?";
        assert!(seen(&shop, "", group).contains("Read-only file system"));
        assert_eq!(
            seen(&shop, "--privileged", &format!("{group}; rmdir x")),
            "0"
        );
        let devices = "test -e /dev/kmsg && echo there; ls /dev | wc -l";
        assert!(seen(&shop, "--privileged", devices).starts_with("there\n"));
    }

    #[test]
    fn file_systems_in_memory_are_as_their_options_say() {
        let shop = Shop::open();
        let options = |flags: &str| {
            let said = seen(
                &shop,
                flags,
                "sed -n 's,^[^ ]* /m tmpfs \\([^ ]*\\) .*,\\1,p' /proc/mounts",
            );
            said.split(',').map(str::to_owned).collect::<Vec<_>>()
        };
        let has = |found: &[String], wanted: &[&str]| {
            let missing = wanted
                .iter()
                .find(|word| !found.iter().any(|own| own == *word));
            assert_eq!(missing, None, "{found:?}");
        };
        has(&options("--tmpfs /m"), &["rw", "nosuid", "nodev", "noexec"]);
        let found = options("--tmpfs /m:ro,size=64k,mode=710,uid=12,gid=34,noatime");
        has(
            &found,
            &["ro", "size=64k", "mode=710", "uid=12", "gid=34", "noatime"],
        );
        let found = options("--tmpfs /m:exec,suid,dev");
        let denied = found
            .iter()
            .find(|own| matches!(&***own, "noexec" | "nosuid" | "nodev"));
        assert_eq!(denied, None, "{found:?}");

        // What they say is so, and what the image has there is hidden.
        let script = "stat -c '%a %u:%g' /m; cp /bin/busybox /m/x 2>/dev/null || echo full; rm /m/x;                       printf '#!/bin/sh\necho ran' >/m/x; chmod +x /m/x; /m/x;                       cp /m/x /n/x; /n/x 2>/dev/null || echo refused; ls /etc/passwd 2>/dev/null ||                       echo hidden";
        let said = seen(
            &shop,
            "--tmpfs /m:exec,size=64k,mode=1750,uid=12,gid=34 --tmpfs /n --tmpfs /etc",
            script,
        );
        assert_eq!(
            said,
            "1750 12:34
full
ran
refused
hidden"
        );

        // Nothing is left of it, and nothing of it in what is made of the container.
        let write = "ls /m; echo 1 >/m/file; echo 2 >/kept";
        shop.hawser(&[
            "create", "--name", "mem", "--tmpfs", "/m", TOOLS, "sh", "-c", write,
        ]);
        for _ in 0..2 {
            assert_eq!(shop.type_("start -a mem"), "");
        }
        let changed = shop.type_("diff mem");
        assert!(
            changed.contains("A /kept") && !changed.contains("file"),
            "{changed}"
        );

        for options in ["size=lots", "mode=9", "uid=nobody", "size=", "loud", "ro=1"] {
            let words = format!("run --tmpfs /m:{options} {TOOLS} true");
            shop.refuses(&words, 125, "invalid tmpfs option");
        }
        assert_eq!(shop.type_("ps -aq").lines().count(), 1);
    }

    #[test]
    fn users_limits_and_settings_of_the_kernel_are_the_containers_own() {
        let shop = Shop::open();
        assert_eq!(
            seen(&shop, "--user 33:44 --group-add 55", "id -u; id -g; id -G"),
            "33\n44\n44 55"
        );
        assert_eq!(
            seen(&shop, "--user nobody:nogroup", "id -un; id -gn"),
            "nobody\nnogroup"
        );
        shop.refuses(&format!("run --user nosuch {TOOLS} true"), 125, "nosuch");
        assert_eq!(
            seen(
                &shop,
                "--ulimit nofile=100:200 --ulimit core=0",
                "ulimit -Sn; ulimit -Hn; ulimit -c"
            ),
            "100\n200\n0"
        );
        shop.refuses(
            &format!("run --ulimit nofile=2:1 {TOOLS} true"),
            125,
            "nofile",
        );
        assert_eq!(
            seen(
                &shop,
                "--sysctl net.ipv4.ip_unprivileged_port_start=80 --sysctl kernel.msgmax=7000",
                "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax"
            ),
            "80\n7000"
        );
        shop.refuses(
            &format!("run --sysctl vm.swappiness=1 {TOOLS} true"),
            125,
            "vm.swappiness",
        );
        shop.refuses(
            &format!("run --network host --sysctl net.ipv4.ip_forward=1 {TOOLS} true"),
            125,
            "net.ipv4.ip_forward",
        );
        let shm = "df -k /dev/shm | awk 'END {print $2}'";
        assert_eq!(seen(&shop, "", shm), "65536");
        assert_eq!(seen(&shop, "--shm-size 1m", shm), "1024");
        assert_eq!(
            seen(&shop, "--oom-score-adj 500", "cat /proc/self/oom_score_adj"),
            "500"
        );
    }

    #[test]
    fn control_groups_are_seen_from_inside_and_placed_as_asked() {
        let shop = Shop::open();
        // Some controller, whatever the version.
        let group = "sed -n 's/.*\\(pids\\|^0:\\):*//p' /proc/self/cgroup | sort | tail -n 1";
        let of = |flags: &str| seen(&shop, flags, group);
        assert!(
            of("--cgroupns host").len() > 64,
            "{}",
            of("--cgroupns host")
        );
        assert_eq!(of("--cgroupns private"), "/");
        let parent = format!("/hawser-test-{}", std::process::id());
        let placed = of(&format!("--cgroupns host --cgroup-parent {parent}"));
        // As with other engines, the parent is whoever's that named it.
        for root in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            drop(fs::remove_dir(root.path().join(&parent[1..])));
        }
        drop(fs::remove_dir(format!("/sys/fs/cgroup{parent}")));
        assert!(placed.starts_with(&format!("{parent}/")), "{placed}");
        shop.refuses(
            &format!("run --cgroupns nonsense {TOOLS} true"),
            125,
            "nonsense",
        );
    }
}
