//! Images and containers that try to get at the host while a container is made or joined. Each
//! pattern has been a hole of some runtime.

#[cfg(test)]
mod root {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use anyhow::{Result, ensure};
    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Shop, image, program};

    /// A file of the host that nobody inside may see or change.
    struct Canary {
        directory: tempfile::TempDir,
    }

    const SONG: &str = "all is well\n";

    impl Canary {
        fn new() -> Self {
            let directory = tempfile::tempdir_in("/var/tmp").unwrap();
            for name in ["hosts", "resolv.conf", "hostname", "null", "kcore", "song"] {
                fs::write(directory.path().join(name), SONG).unwrap();
            }
            Self { directory }
        }

        fn path(&self) -> &Path {
            self.directory.path()
        }

        fn song(&self) -> String {
            self.path().join("song").display().to_string()
        }

        /// Nothing of it has changed, and nothing is mounted over it.
        #[track_caller]
        fn is_well(&self, shop: &Shop, after: &str) {
            let files: Vec<_> = fs::read_dir(self.path()).unwrap().flatten().collect();
            assert_eq!(files.len(), 6, "{after}: {files:?}");
            for file in files {
                let text = fs::read_to_string(file.path()).unwrap();
                assert_eq!(text, SONG, "{after}: {}", file.path().display());
            }
            let mounts = shop.host.output("cat", &["/proc/self/mountinfo"]).unwrap();
            let here = self.path().display().to_string();
            assert!(!mounts.contains(&here), "{after}: {mounts}");
        }
    }

    /// An image of busybox's tree after `change`.
    fn build(shop: &Shop, name: &str, change: impl FnOnce(&Path)) {
        let archive = pack(shop, name, change).display().to_string();
        shop.hawser(&["image", "import", &archive, name]);
    }

    fn pack(shop: &Shop, name: &str, change: impl FnOnce(&Path)) -> PathBuf {
        let tree = tempfile::tempdir().unwrap();
        image::unpacked(tree.path()).unwrap();
        change(tree.path());
        let archive = shop.daemon.directories().root().join(format!("{name}.tar"));
        let (from, to) = (tree.path().display(), archive.display());
        let pack = format!("tar -C {from} -cf {to} .");
        shop.host.output("sh", &["-c", &pack]).unwrap();
        archive
    }

    fn replace(place: &Path, target: &Path) {
        if place.is_dir() {
            fs::remove_dir_all(place).unwrap();
        } else if place.symlink_metadata().is_ok() {
            fs::remove_file(place).unwrap();
        }
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        symlink(target, place).unwrap();
    }

    /// CVE-2019-16884, CVE-2021-30465, CVE-2023-27561, CVE-2025-31133, CVE-2025-52565,
    /// CVE-2025-52881, CVE-2026-41579: what the runtime mounts, masks or makes is a link in the image.
    #[test]
    fn mount_points_that_are_links_lead_nowhere_on_the_host() {
        let shop = Shop::open();
        let canary = Canary::new();
        let up: PathBuf = ["..", "..", "..", "..", "..", "..", ".."].iter().collect();
        let climbing = up.join(canary.path().strip_prefix("/").unwrap());
        let refused = pack(&shop, "climbing", |tree| {
            replace(&tree.join("proc"), &climbing)
        });
        shop.refuses(
            &format!("import {} x", refused.display()),
            1,
            "leads out of the layer",
        );
        for place in [
            "proc",
            "sys",
            "dev",
            "dev/null",
            "dev/console",
            "dev/pts",
            "dev/shm",
            "etc",
            "etc/hosts",
            "etc/resolv.conf",
            "etc/hostname",
            "sys/fs/cgroup",
            "data",
        ] {
            let name = format!("trick-{}", place.replace(['/', '.'], "-"));
            let last = place.rsplit('/').next().unwrap();
            let is_file = last.contains("host") || ["resolv.conf", "null"].contains(&last);
            let target = match is_file {
                true => canary.path().join(last),
                false => canary.path().to_owned(),
            };
            build(&shop, &name, |tree| replace(&tree.join(place), &target));
            let script = "echo no >/dev/null; echo no >>/etc/hosts; echo no >/data/new; \
                          echo no >/proc/hosts; echo no >/sys/hosts; cat /data/song";
            for flags in [&["-t"][..], &["--privileged"]] {
                let run = ["run", "--rm", "-v", "volume:/data/below"];
                let ran = shop.run(&[&run, flags, &[&name, "sh", "-c", script]].concat());
                let about = format!("{name} {flags:?}: {ran:?}");
                assert!(!ran.stdout.contains(SONG.trim()), "{about}");
                canary.is_well(&shop, &about);
            }
        }
        assert_eq!(shop.type_("ps -aq"), "");
    }

    /// CVE-2024-21626: a working directory by a descriptor that the runtime has open.
    #[test]
    fn a_working_directory_is_never_the_hosts() {
        let shop = Shop::open();
        let canary = Canary::new();
        let song = canary.song();
        let up = "../../../../../../../../../..";
        let script = format!("cat {up}{song} || cat {song}");
        build(&shop, "linked", |tree| {
            for number in 3..9 {
                let target = format!("/proc/self/fd/{number}");
                symlink(target, tree.join(format!("cwd{number}"))).unwrap();
            }
        });
        shop.hawser(&["run", "-d", "--name", "held", "linked", "sleep", "600"]);
        for number in 3..9 {
            for place in [format!("/proc/self/fd/{number}"), format!("/cwd{number}")] {
                for head in [
                    &["run", "--rm", "-w", &place, "linked"][..],
                    &["exec", "-w", &place, "held"],
                ] {
                    let ran = shop.run(&[head, &["sh", "-c", &script]].concat());
                    assert!(!ran.stdout.contains(SONG.trim()), "{head:?}: {ran:?}");
                    assert_ne!(ran.code, 0, "{head:?}: {ran:?}");
                }
            }
        }
        canary.is_well(&shop, "working directories");
    }

    /// CVE-2019-5736, CVE-2016-9962: the runtime's own program, seen from inside when it joins.
    #[test]
    fn the_runtimes_program_is_out_of_reach() {
        let shop = Shop::open();
        let shim = program::under_test("hawser-shim").unwrap();
        let before = fs::metadata(&shim).unwrap();
        build(&shop, "self", |tree| {
            replace(&tree.join("bin/joined"), Path::new("/proc/self/exe"));
        });
        // Takes hold of the program of everybody who comes, and writes to it when that one has gone.
        let script = "while :; do for p in /proc/[0-9]*; do (exec 9<$p/exe; \
                      case $(readlink $p/exe) in *hawser*) echo reached >>/reached; \
                      echo no >/proc/self/fd/9;; esac) 2>/dev/null; done; done";
        shop.hawser(&["run", "-d", "--name", "trap", "self", "sh", "-c", script]);
        for _ in 0..10 {
            // Executed as itself, and as what a link leads to.
            shop.run(&["exec", "trap", "true"]);
            shop.run(&["exec", "trap", "joined"]);
        }
        let seen = shop.run(&["exec", "trap", "cat", "/reached"]);
        assert_ne!(seen.code, 0, "{seen:?}");
        let started = shop.run(&["run", "--rm", "self", "joined"]);
        assert_ne!(started.code, 0, "{started:?}");
        let after = fs::metadata(&shim).unwrap();
        assert_eq!(
            (before.len(), before.modified().unwrap()),
            (after.len(), after.modified().unwrap())
        );
    }

    /// CVE-2021-30465, CVE-2025-31133, CVE-2025-52565: a directory of a shared volume becomes a link
    /// and back while another container mounts below it and has its paths masked.
    #[test]
    fn a_link_that_comes_and_goes_leads_nowhere() {
        let shop = Shop::open();
        let canary = Canary::new();
        let target = canary.path().display();
        let script = format!(
            "cd /v; mkdir -p a/b; ln -s {target} link; echo ready >/v/ready; \
             while :; do mv a c; mv link a; mv a link; mv c a; done"
        );
        shop.hawser(&[
            "run",
            "-d",
            "--name",
            "racer",
            "-v",
            "shared:/v",
            TOOLS,
            "sh",
            "-c",
            &script,
        ]);
        let ready = || -> Result<()> {
            let seen = shop.run(&["exec", "racer", "cat", "/v/ready"]);
            ensure!(seen.code == 0, "{seen:?}");
            Ok(())
        };
        shop.soon("the race is on", ready);
        for _ in 0..15 {
            let script = "echo no >/v/a/b/new; echo no >/v/a/song; cat /v/a/b/song";
            let flags = [
                "run",
                "--rm",
                "-v",
                "shared:/v",
                "-v",
                "other:/v/a/b",
                "-w",
                "/v/a",
            ];
            let ran = shop.run(&[&flags[..], &[TOOLS, "sh", "-c", script]].concat());
            assert!(!ran.stdout.contains(SONG.trim()), "{ran:?}");
            canary.is_well(&shop, &format!("{ran:?}"));
        }
    }
}
