//! What of volumes and directories a container sees, and from whom it has them.

#[cfg(test)]
mod root {
    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;

    const ANONYMOUS: &str = "{{range .Mounts}}{{.Name}}{{end}}";

    /// Two web servers on the content of a container that never runs.
    #[test]
    fn containers_share_the_volumes_of_one_that_only_keeps_them() {
        let shop = Shop::open();
        shop.type_(&format!("create -v /srv --name static {TOOLS} true"));
        let volume = shop.inspect("static", ANONYMOUS);
        assert_eq!(volume.len(), 64, "{volume}");
        let from = ["--volumes-from", "static", "-p"];
        shop.serve("web1", "one", &[&from[..], &["18081:80"]].concat());
        shop.serve("web2", "two", &[&from[..], &["18082:80"]].concat());
        for port in [18081, 18082] {
            let page = shop.fetch_on_host(&format!("http://127.0.0.1:{port}/"));
            assert_eq!(page.unwrap().trim(), "two");
        }

        // It is nobody's to remove while others have it, and the last one's then.
        shop.type_("rm -v static");
        shop.type_("rm -f web1");
        let page = shop.inside("web2", "cat /srv/index.html");
        assert_eq!(page, "two");
        shop.refuses(&format!("volume rm {volume}"), 1, "volume is in use - [");
        shop.type_("rm -f web2");
        shop.type_(&format!("volume rm {volume}"));
    }

    #[test]
    fn what_comes_from_another_container_is_as_it_has_it_or_as_asked() {
        let shop = Shop::open();
        shop.host.output("mkdir", &["-p", "/run/d"]).unwrap();
        shop.write_page("site", "good");
        shop.type_(&format!(
            "create --name first -v site:/d -v /run/d:/h:ro --tmpfs /t {TOOLS} true"
        ));
        let mounts = "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}} {{end}}";
        for (name, suffix, expected) in [
            ("as", "", "volume /d true bind /h false "),
            ("ro", ":ro", "volume /d false bind /h false "),
            ("rw", ":rw", "volume /d true bind /h true "),
        ] {
            shop.idle(name, &format!("--volumes-from first{suffix}"));
            let shown = shop.inspect(name, mounts);
            assert_eq!(shown.trim(), expected.trim());
            assert_eq!(shop.inside(name, "cat /d/page"), "good");
            let ran = shop.try_inside(name, "touch /d/f");
            assert_eq!(ran.code == 0, suffix != ":ro", "{ran:?}");
            let ran = shop.try_inside(name, "touch /h/f");
            assert_eq!(ran.code == 0, suffix == ":rw", "{ran:?}");
        }
        // Flags of one's own go before, and what others have at a place after the first.
        shop.type_("volume create own");
        shop.idle("mixed", "-v own:/d --volumes-from first --volumes-from rw");
        let shown = shop.inspect("mixed", "{{range .Mounts}}{{.Destination}} {{.RW}} {{end}}");
        assert_eq!(shown.trim(), "/d true /h false");
        shop.inside("mixed", "test ! -e /d/page");
        let run = |flag: &str| format!("run --volumes-from {flag} {TOOLS} true");
        shop.refuses(&run("nobody"), 125, "No such container: nobody");
        shop.refuses(&run("first:rx"), 125, "expected CONTAINER[:ro|rw]");
    }

    #[test]
    fn a_part_of_a_volume_is_all_that_is_seen() {
        let shop = Shop::open();
        let mount = |options: &str| format!("--mount source=site,target=/m,{options}");
        let script = "mkdir -p /v/a/b && echo one >/v/a/b/f && echo secret >/v/top && \
                      ln -s ../.. /v/a/up && ln -s /a/b /v/link && ln -s /etc /v/out";
        shop.hawser(&["run", "--rm", "-v", "site:/v", TOOLS, "sh", "-c", script]);

        shop.idle("part", &mount("volume-subpath=a/b"));
        assert_eq!(shop.inside("part", "ls -A /m && cat /m/f"), "f\none");
        shop.inside("part", "echo two >/m/f && test ! -e /m/../top");
        shop.idle("file", &mount("volume-subpath=a/b/f,readonly"));
        assert_eq!(shop.inside("file", "cat /m"), "two");
        assert_ne!(shop.try_inside("file", "echo three >/m").code, 0);
        shop.idle("heir", "--volumes-from part");
        assert_eq!(shop.inside("heir", "ls -A /m"), "f");

        // Links stay in the volume, whoever made them.
        shop.idle("link", &mount("volume-subpath=link"));
        assert_eq!(shop.inside("link", "ls -A /m"), "f");
        shop.idle("up", &mount("volume-subpath=a/up"));
        assert_eq!(shop.inside("up", "cat /m/top"), "secret");
        for missing in ["none", "out", "a/b/f/x"] {
            let run = format!(
                "run --name gone {} {TOOLS} true",
                mount(&format!("volume-subpath={missing}"))
            );
            let ran = shop.run(&run.split_whitespace().collect::<Vec<_>>());
            assert_eq!(ran.code, 125, "{ran:?}");
            assert!(
                ran.stderr
                    .contains(&format!("there is no {missing} in the volume")),
                "{ran:?}"
            );
            shop.type_("rm -f gone");
        }
        // It starts once the part is there.
        shop.type_(&format!(
            "create --name later {} {TOOLS} ls /m",
            mount("volume-subpath=later")
        ));
        shop.inside("up", "mkdir /m/later && touch /m/later/now");
        assert_eq!(shop.type_("start -a later"), "now");
    }

    #[test]
    fn what_is_mounted_below_a_directory_is_shown_as_asked() {
        let shop = Shop::open();
        let script =
            "mkdir -p /run/d/below && mount -t tmpfs t /run/d/below && touch /run/d/below/f";
        shop.host.output("sh", &["-ec", script]).expect("a mount");
        let can = sys::owner::sets_attributes();
        let bind = |more: &str| format!("--mount type=bind,source=/run/d,target=/m{more}");
        for (name, flags, is_seen, is_writable) in [
            ("plain", bind(""), true, true),
            ("off", bind(",bind-recursive=disabled"), false, true),
            ("ro", bind(",readonly"), true, !can),
            ("short", "-v /run/d:/m:ro".to_owned(), true, !can),
            ("rw", bind(",readonly,bind-recursive=writable"), true, true),
            (
                "none",
                bind(",readonly,bind-recursive=disabled"),
                false,
                false,
            ),
        ] {
            shop.idle(name, &flags);
            let seen = shop.try_inside(name, "test -e /m/below/f").code == 0;
            assert_eq!(seen, is_seen, "{name}");
            let written = shop.try_inside(name, "touch /m/below/g").code == 0;
            assert_eq!(written, is_writable, "{name}");
            let top = shop.try_inside(name, "touch /m/g").code == 0;
            assert_eq!(
                top,
                !["ro", "short", "rw", "none"].contains(&name),
                "{name}"
            );
        }
        let forced = bind(",readonly,bind-recursive=readonly");
        if can {
            shop.idle("forced", &forced);
            assert_ne!(shop.try_inside("forced", "touch /m/below/g").code, 0);
        } else {
            shop.refuses(
                &format!("run {forced} {TOOLS} true"),
                125,
                "needs Linux 5.12",
            );
        }
        // On the host it is as it was.
        shop.host
            .output("touch", &["/run/d/below/host", "/run/d/host"])
            .unwrap();
    }
}
