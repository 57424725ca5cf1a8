//! Root file systems of running containers: nothing of them is mounted on the host, and everything
//! that reads them finds them, also after the daemon was killed.

#[cfg(test)]
mod root {
    use std::fs;
    use std::path::PathBuf;

    use anyhow::ensure;
    use api::storage::RootfsMount;
    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;
    use rustix::process::{Pid, Signal, kill_process};

    /// What of the daemon's layers is mounted on the host.
    fn mounted(shop: &Shop) -> Vec<String> {
        let table = shop.host.output("cat", &["/proc/self/mountinfo"]);
        let state = shop.daemon.directories().state().display().to_string();
        let table = table.expect("a table of mounts");
        let of_ours = |line: &&str| line.contains(" - overlay ") && line.contains(&state);
        table.lines().filter(of_ours).map(str::to_owned).collect()
    }

    fn restart(shop: &mut Shop) {
        shop.daemon.kill().expect("a daemon to kill");
        shop.daemon.launch().expect("a daemon");
    }

    fn pid(shop: &Shop, container: &str) -> u32 {
        let pid = shop.inspect(container, "{{.State.Pid}}");
        pid.trim().parse().expect("a pid")
    }

    /// A file that a container writes is in everything that shows the container.
    fn shows(shop: &Shop, container: &str, name: &str) {
        shop.inside(container, &format!("echo {name} >/{name}; touch /v/volume"));
        let here = shop.daemon.directories().root();
        let back = here.join(format!("{name}-back"));
        let (to, back_text) = (format!("{container}:/{name}"), back.display().to_string());
        shop.hawser(&["cp", &to, &back_text]);
        assert_eq!(
            fs::read_to_string(&back).expect("a copy"),
            format!("{name}\n")
        );
        shop.hawser(&["cp", &back_text, &format!("{container}:/{name}-in")]);
        assert_eq!(shop.inside(container, &format!("cat /{name}-in")), name);
        let diff = shop.type_(&format!("diff {container}"));
        for path in [format!("A /{name}"), format!("A /{name}-in")] {
            assert!(diff.lines().any(|line| line == path), "{diff}");
        }
        assert!(!diff.contains("/v/"), "what is in a volume: {diff}");
        let archive = here.join(format!("{name}.tar")).display().to_string();
        shop.hawser(&["export", "-o", &archive, container]);
        let names = shop
            .host
            .output("tar", &["-tf", &archive])
            .expect("an archive");
        assert!(
            names
                .lines()
                .any(|line| line.trim_start_matches("./") == name),
            "{names}"
        );
        assert!(!names.contains("v/volume"), "{names}");
        let image = format!("copy-{name}");
        shop.type_(&format!("commit {container} {image}"));
        let copy = format!("run --rm {image} cat /{name}");
        assert_eq!(shop.type_(&copy), name);
        shop.type_("storage check");
        assert_eq!(mounted(shop), [""; 0]);
    }

    #[test]
    fn nothing_of_a_running_container_is_mounted_on_the_host() {
        let mut shop = Shop::open();
        shop.idle("web", "-v data:/v");
        assert_eq!(mounted(&shop), [""; 0]);
        shows(&shop, "web", "one");
        restart(&mut shop);
        shows(&shop, "web", "two");
        shop.type_("stop -t 0 web");
        shop.daemon
            .hawser(&["exec", "web", "true"])
            .expect_err("it has stopped");
        assert!(shop.type_("diff web").contains("A /two"));
        for verb in ["start", "restart -t 0"] {
            shop.type_(&format!("{verb} web"));
            assert_eq!(shop.inside("web", "cat /one /two"), "one\ntwo");
        }
        shows(&shop, "web", "three");
        let upper = PathBuf::from(shop.inspect("web", "{{.GraphDriver.Data.UpperDir}}").trim());
        assert!(upper.exists());
        shop.type_("rm -f web");
        assert!(!upper.exists());
    }

    #[test]
    fn a_shim_that_is_killed_leaves_a_container_that_starts_again() {
        let mut shop = Shop::open();
        for (name, daemon_dies) in [("one", false), ("two", true)] {
            shop.idle(name, "-v data:/v --pid host");
            shop.inside(name, "touch /kept");
            let id = shop.inspect(name, "{{.Id}}");
            let state = shop.daemon.directories().state();
            let state = state.join("containers").join(id.trim()).join("state.json");
            let state = fs::read(state).expect("a state");
            let state: serde_json::Value = serde_json::from_slice(&state).expect("a state");
            let shim = state["shim"]["pid"].as_i64().expect("a shim");
            let shim = i32::try_from(shim).ok().and_then(Pid::from_raw);
            kill_process(shim.expect("a shim"), Signal::KILL).expect("a shim to kill");
            if daemon_dies {
                restart(&mut shop);
            }
            shop.soon("it has ended", || {
                let status = shop.inspect(name, "{{.State.Running}}");
                ensure!(status.trim() == "false", "{status}");
                Ok(())
            });
            shop.type_(&format!("start {name}"));
            shop.inside(name, "test -e /kept");
            shows(&shop, name, name);
            shop.type_(&format!("rm -f {name}"));
        }
    }

    #[test]
    fn a_throw_away_container_outlives_the_daemon_and_no_more() {
        let mut shop = Shop::open();
        shop.idle("web", "--rm -v data:/v");
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", pid(&shop, "web")));
        let table = table.expect("a table of mounts");
        assert!(
            table.lines().any(|line| line.contains("volatile")),
            "{table}"
        );
        let upper = PathBuf::from(shop.inspect("web", "{{.GraphDriver.Data.UpperDir}}").trim());
        let mark = upper.with_file_name("work").join("work/incompat/volatile");
        restart(&mut shop);
        assert!(mark.exists(), "it is still in use");
        shows(&shop, "web", "one");
        shop.type_("stop -t 0 web");
        shop.soon("it has gone", || {
            ensure!(!upper.exists(), "{}", upper.display());
            Ok(())
        });
    }

    #[test]
    fn forty_layers_are_handed_over() {
        let mut shop = Shop::open();
        let mut image = TOOLS.to_owned();
        for n in 0..40 {
            shop.type_(&format!("run --name c{n} {image} touch /f{n}"));
            image = format!("deep{n}");
            shop.type_(&format!("commit c{n} {image}"));
            shop.type_(&format!("rm c{n}"));
        }
        shop.type_(&format!("run -d --name web -v data:/v {image} sleep 600"));
        let files = shop.inside("web", "ls -d /f? /f??");
        assert_eq!(files.lines().count(), 40, "{files}");
        restart(&mut shop);
        shows(&shop, "web", "one");
    }

    /// As containers of versions are that mounted them on the host.
    #[test]
    fn a_container_that_is_mounted_on_the_host_goes_on() {
        let mut shop = Shop::open();
        shop.type_(&format!("create --name web -v data:/v {TOOLS} sleep 600"));
        let id = shop.inspect("web", "{{.Id}}");
        let client = shop.daemon.client();
        let route = format!("{}/{}/mount", api::path::ROOTFS, id.trim());
        let mount: RootfsMount = client.post(&route, &()).expect("a mount");
        assert_eq!(mounted(&shop).len(), 1);
        shop.type_("start web");
        shop.inside("web", "touch /before");
        let path = shop.host.path(mount.path.as_ref());
        assert!(path.join("before").exists());
        restart(&mut shop);
        assert!(shop.type_("diff web").contains("A /before"));
        shop.type_("stop -t 0 web");
        assert_eq!(mounted(&shop), [""; 0]);
        shop.type_("start web");
        shop.inside("web", "test -e /before");
        shows(&shop, "web", "one");
    }

    #[test]
    fn mounts_pass_between_a_container_and_the_host_if_asked() {
        let shop = Shop::open();
        let script = "mkdir /run/s && mount -t tmpfs t /run/s && mount --make-shared /run/s && \
                      mkdir /run/s/in /run/s/out";
        shop.host
            .output("sh", &["-ec", script])
            .expect("a shared mount");
        shop.idle("both", "--privileged -v /run/s:/s:rshared -v /run/s:/own");
        shop.idle("down", "-v /run/s:/s:rslave");
        shop.idle("none", "-v /run/s:/s");
        shop.inside("both", "mount -t tmpfs t /s/out && touch /s/out/f");
        shop.host
            .output("test", &["-e", "/run/s/out/f"])
            .expect("a mount");
        let script = "mount -t tmpfs t /run/s/in && touch /run/s/in/f";
        shop.host.output("sh", &["-ec", script]).expect("a mount");
        for name in ["both", "down"] {
            shop.inside(name, "test -e /s/in/f && test -e /s/out/f");
        }
        shop.inside("none", "test ! -e /s/in/f && test ! -e /s/out/f");
        shop.inside("both", "mount -t tmpfs t /own/in && touch /own/in/own");
        let seen = shop.host.output("test", &["-e", "/run/s/in/own"]);
        seen.expect_err("it is the container's own");
        shop.type_("rm -f both down none");
        shop.host
            .output("umount", &["/run/s/out"])
            .expect("it is still there");
    }
}
