//! What is stored, and how it goes: usage, prunes, and the life of a volume as the books tell it.

#[cfg(test)]
mod root {
    use std::path::Path;

    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Shop, program};
    use sys::loop_device::LoopDevice;

    /// Types `hawser WORDS` and answers what it asks; all that it says.
    #[track_caller]
    fn answered(shop: &Shop, words: &str, answer: &str) -> String {
        let hawser = program::under_test("hawser").unwrap();
        let socket = shop.daemon.directories().socket();
        let line = format!(
            "echo {answer} | HAWSER_HOST=unix://{} {} {words} 2>&1",
            socket.display(),
            hawser.display()
        );
        shop.host.output("sh", &["-c", &line]).unwrap()
    }

    /// The columns of the line that begins with `kind`.
    #[track_caller]
    fn row<'a>(table: &'a str, kind: &str) -> Vec<&'a str> {
        let line = table.lines().find_map(|line| line.strip_prefix(kind));
        let line = line.unwrap_or_else(|| panic!("no {kind} in {table}"));
        line.split_whitespace().collect()
    }

    #[test]
    fn a_volume_lives_and_goes_as_in_the_book() {
        let shop = Shop::open();
        assert_eq!(shop.type_("volume create myvol"), "myvol");
        let listed = shop.type_("volume ls");
        assert_eq!(row(&listed, "DRIVER"), ["VOLUME", "NAME"]);
        assert_eq!(row(&listed, "local"), ["myvol"]);
        let format = "{{.Driver}} {{.Scope}} {{json .Labels}} {{json .Options}} {{.Name}}";
        let shown = shop.hawser(&["volume", "inspect", "-f", format, "myvol"]);
        assert_eq!(shown, "local local {} {} myvol");
        let made = shop.hawser(&["volume", "inspect", "-f", "{{.CreatedAt}}", "myvol"]);
        assert_eq!((made.len(), &made[19..]), (20, "Z"), "{made}");
        let data = shop
            .daemon
            .directories()
            .state()
            .join("volumes/myvol/_data");
        let place = shop.hawser(&["volume", "inspect", "-f", "{{.Mountpoint}}", "myvol"]);
        assert_eq!(place, data.display().to_string());

        let asked = "WARNING! This will remove all volumes not used by at least one container.\n\
                     Are you sure you want to continue? [y/N]";
        let said = answered(&shop, "volume prune", "n");
        assert!(said.contains(asked), "{said}");
        assert!(
            said.starts_with("VOLUME NAME"),
            "the plan comes first: {said}"
        );
        assert_eq!(shop.type_("volume ls -q"), "myvol");
        let said = answered(&shop, "volume prune", "y");
        let gone = "Deleted Volumes:\nmyvol\n\nTotal reclaimed space: 0B";
        assert!(said.contains(gone), "{said}");
        assert_eq!(shop.type_("volume ls -q"), "");
    }

    #[test]
    fn a_volume_made_by_its_first_user_outlives_it() {
        let shop = Shop::open();
        shop.idle("voltainer", "--mount source=bizvol,target=/vol");
        let id = shop.inspect("voltainer", "{{.Id}}");
        let held = format!("unable to remove volume: remove bizvol: volume is in use - [{id}]");
        shop.refuses("volume rm bizvol", 1, &held);
        let text = "I promise to write a review of the book on Amazon";
        shop.inside("voltainer", &format!("echo \"{text}\" >/vol/file1"));
        assert_eq!(shop.inside("voltainer", "stat -c %s /vol/file1"), "50");
        // Stopped, it has it still.
        shop.type_("stop -t 0 voltainer");
        shop.refuses("volume rm bizvol", 1, &held);
        assert_eq!(shop.type_("rm voltainer -f"), "voltainer");
        assert_eq!(shop.type_("ps -aq"), "");
        assert_eq!(shop.type_("volume ls -q"), "bizvol");
        let data = shop
            .daemon
            .directories()
            .state()
            .join("volumes/bizvol/_data");
        let file = std::fs::read_to_string(data.join("file1")).unwrap();
        assert_eq!(file.trim(), text);
        // What the host writes is there at once.
        shop.idle("reader", "-v bizvol:/vol");
        std::fs::write(data.join("file1"), "edited").unwrap();
        assert_eq!(shop.inside("reader", "cat /vol/file1"), "edited");
    }

    #[test]
    fn what_takes_space_is_told_and_goes_by_kind() {
        let shop = Shop::open();
        shop.type_(&format!("run --name base {TOOLS} sh -c true"));
        shop.type_("commit base app");
        // Another one of that name: the first has none then.
        shop.type_(&format!("run --name more {TOOLS} touch /f"));
        let dangling = shop.inspect("app", "{{.Id}}");
        shop.type_("commit more app");
        shop.idle("user", "-v data:/d");
        shop.inside(
            "user",
            "dd if=/dev/zero of=/d/big bs=1M count=3 2>/dev/null",
        );
        shop.write_page("idle", "good");
        shop.type_(&format!("run --name anon -v /a {TOOLS} true"));
        shop.type_("rm anon base more");

        let table = shop.type_("system df");
        assert_eq!(row(&table, "TYPE")[..2], ["TOTAL", "ACTIVE"], "{table}");
        assert_eq!(row(&table, "Images")[..2], ["3", "1"], "{table}");
        assert_eq!(row(&table, "Containers")[..2], ["1", "1"], "{table}");
        assert_eq!(row(&table, "Local Volumes")[..2], ["3", "1"], "{table}");
        let format = "{{.Type}}={{.Size}}";
        shop.soon("the volume's size is known", || {
            let sizes = shop.daemon.hawser(&["system", "df", "--format", format])?;
            anyhow::ensure!(sizes.contains("Local Volumes=3.15MB"), "{sizes}");
            Ok(())
        });
        let table = shop.type_("system df -v");
        for part in [
            "Images space usage:",
            "Containers space usage:",
            "Local Volumes space usage:",
        ] {
            assert!(table.contains(part), "{table}");
        }
        assert_eq!(row(&table, "data ")[0], "1", "{table}");
        assert_eq!(row(&table, "idle ")[0], "0", "{table}");

        let said = shop.type_("image prune -f");
        assert!(said.contains(&dangling), "{said}");
        assert!(said.contains("Total reclaimed space: "), "{said}");
        shop.type_("image inspect app");
        shop.type_("image prune -af");
        shop.refuses("image inspect app", 1, "app");
        shop.type_(&format!("image inspect {TOOLS}"));

        let said = shop.type_("volume prune -f --anonymous");
        assert_eq!(
            said.lines().filter(|line| line.len() == 64).count(),
            1,
            "{said}"
        );
        assert_eq!(shop.type_("volume ls -q"), "data\nidle");
        shop.type_("volume prune -f");
        assert_eq!(shop.type_("volume ls -q"), "data");
    }

    #[test]
    fn volumes_are_told_apart_and_all_that_are_free_can_go() {
        let shop = Shop::open();
        for words in [
            "--label tier=db --label keep one",
            "--label tier=web two",
            "-o type=tmpfs -o device=tmpfs -o o=size=1m three",
        ] {
            shop.type_(&format!("volume create {words}"));
        }
        shop.idle("user", "-v two:/d");
        let listed = |filters: &str| {
            shop.type_(&format!("volume ls -q {filters}"))
                .replace('\n', " ")
        };
        for (filters, names) in [
            ("", "one three two"),
            ("--filter dangling=true", "one three"),
            ("--filter dangling=false", "two"),
            ("--filter label=tier", "one two"),
            ("--filter label=tier=db", "one"),
            ("--filter label=tier --filter label=keep", "one"),
            ("--filter label!=tier", "three"),
            ("--filter name=t", "three two"),
            ("--filter name=one --filter name=two", "one two"),
            ("--filter driver=local", "one three two"),
            ("--filter driver=other", ""),
        ] {
            assert_eq!(listed(filters), names, "{filters}");
        }
        shop.refuses("volume ls --filter bogus=1", 1, "bogus");
        shop.refuses("volume ls --filter dangling=perhaps", 1, "dangling");

        let ran = shop.run(&["volume", "rm", "one", "three", "two"]);
        assert_eq!((ran.code, &*ran.stdout), (1, "one\nthree\n"), "{ran:?}");
        assert!(ran.stderr.contains("volume is in use - ["), "{ran:?}");
        assert_eq!(listed(""), "two");
    }

    /// What containers have written to a volume's filesystem themselves.
    fn written(shop: &Shop, volume: &str) -> u64 {
        let format = "{{.Io.Scope}} {{.Io.Write.Bytes}}";
        let shown = shop.hawser(&["volume", "inspect", "-f", format, volume]);
        let bytes = shown.strip_prefix("cgroup ").expect(&shown);
        bytes.parse().unwrap()
    }

    #[test]
    fn what_containers_write_to_a_shared_filesystem_is_told_apart() {
        const SIZE: u64 = 4 << 20;
        let mut shop = Shop::open();
        let image = shop.daemon.directories().root().join("disk");
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(64 << 20))
            .unwrap();
        let image = image.display().to_string();
        shop.host.output("mkfs.ext4", &["-q", &image]).unwrap();
        let disk = LoopDevice::attach(Path::new(&image)).unwrap();
        let node = disk.path().display().to_string();
        shop.type_(&format!("volume create -o type=ext4 -o device={node} data"));
        let write = "dd if=/dev/zero of=/d/$0 bs=1M count=4 conv=fsync";
        let run = |shop: &Shop, flags: &[&str], script: &[&str]| {
            let head = ["run", "-v", "data:/d"];
            shop.hawser(&[&head, flags, &[TOOLS, "sh", "-c"], script].concat());
        };
        run(&shop, &["--rm"], &[write, "one"]);
        let first = written(&shop, "data");
        assert!((SIZE..2 * SIZE).contains(&first), "{first}");
        let table = shop.type_("volume stats --no-stream data");
        assert!(
            table.contains("I/O OF") && table.contains("cgroup"),
            "{table}"
        );

        // A daemon that comes back counts for whom it finds.
        let wait =
            format!("until test -e /d/go; do sleep 0.1; done; {write}; touch /d/done; sleep 600");
        run(&shop, &["-d", "--name", "writer"], &[&wait, "two"]);
        shop.daemon.kill().unwrap();
        shop.daemon.launch().unwrap();
        assert_eq!(written(&shop, "data"), 0);
        shop.inside(
            "writer",
            "touch /d/go && until test -e /d/done; do sleep 0.1; done",
        );
        let second = written(&shop, "data");
        assert!((SIZE..2 * SIZE).contains(&second), "{second}");
        shop.type_("rm -f writer");
        assert_eq!(written(&shop, "data"), second);
        shop.type_("volume rm data");
    }

    #[test]
    fn volumes_without_a_name_go_with_their_container_if_asked() {
        let shop = Shop::open();
        // The image has files there.
        let run = |flags: &str| {
            shop.type_(&format!("run {flags} -v /bin -v named:/n {TOOLS} true"));
        };
        let anonymous = || {
            let all = shop.type_("volume ls -q");
            all.lines().filter(|name| name.len() == 64).count()
        };
        run("--name kept");
        assert_eq!(anonymous(), 1);
        run("--rm");
        assert_eq!(anonymous(), 1);
        shop.type_("rm kept");
        assert_eq!(anonymous(), 1, "as ever, unless asked");
        run("--name gone");
        assert_eq!(anonymous(), 2);
        shop.type_("rm -v gone");
        assert_eq!(anonymous(), 1);
        assert!(shop.type_("volume ls -q").contains("named"));

        for (flags, files) in [("", true), (",nocopy", false)] {
            let name = format!("bin{}", flags.len());
            shop.type_(&format!(
                "create --name {name} -v {name}:/bin:rw{flags} {TOOLS} true"
            ));
            let place = shop.type_(&format!("volume inspect -f {{{{.Mountpoint}}}} {name}"));
            let is_there = Path::new(&place).join("busybox").exists();
            assert_eq!(is_there, files, "{flags}");
        }
    }

    /// There is no server to be had here: what is known of it is told, and its password is not.
    #[test]
    fn a_share_that_cannot_be_mounted_is_named_without_its_password() {
        let shop = Shop::open();
        let secret = "geheim";
        for (name, kind, device, options) in [
            (
                "share",
                "cifs",
                "//127.0.0.1/s",
                "username=u,password=geheim,vers=3.0",
            ),
            (
                "export",
                "nfs",
                ":/srv",
                "addr=127.0.0.1,ro,vers=4.2,proto=tcp,port=1,retrans=1,timeo=5,soft",
            ),
        ] {
            shop.type_(&format!(
                "volume create -o type={kind} -o device={device} -o o={options} {name}"
            ));
            let shown = shop.type_(&format!("volume inspect {name}"));
            assert!(shown.contains(device) && !shown.contains(secret), "{shown}");
            let run = format!("run --name gone -v {name}:/v {TOOLS} true");
            let ran = shop.run(&run.split_whitespace().collect::<Vec<_>>());
            assert_eq!(ran.code, 125, "{ran:?}");
            for part in [name, kind, device] {
                assert!(ran.stderr.contains(part), "no {part}: {ran:?}");
            }
            assert!(!ran.text().contains(secret), "{ran:?}");
            assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
            shop.type_("rm -f gone");
            shop.type_(&format!("volume rm {name}"));
        }
        shop.type_("volume create -o type=nfs -o device=:/srv -o o=addr=filer.invalid lost");
        shop.refuses(
            &format!("run --rm -v lost:/v {TOOLS} true"),
            125,
            "filer.invalid",
        );
        assert!(!shop.daemon.log().contains(secret));
    }
}
