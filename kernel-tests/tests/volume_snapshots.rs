//! Snapshots, clones, and a prune that somebody takes back.

#[cfg(test)]
mod root {
    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;

    fn write(shop: &Shop, volume: &str, text: &str) {
        let script = format!("echo {text} >/d/page");
        let mount = format!("{volume}:/d");
        shop.hawser(&["run", "--rm", "-v", &mount, TOOLS, "sh", "-c", &script]);
    }

    fn read(shop: &Shop, volume: &str) -> String {
        shop.type_(&format!("run --rm -v {volume}:/d {TOOLS} cat /d/page"))
    }

    #[test]
    fn a_bad_change_is_taken_back() {
        let shop = Shop::open();
        write(&shop, "site", "good");
        assert_eq!(shop.type_("volume snapshot create site before"), "before");
        write(&shop, "site", "bad");
        shop.type_("volume clone --snapshot before site preview");
        assert_eq!(read(&shop, "preview"), "good");
        shop.type_("volume snapshot rollback -f site before");
        assert_eq!(read(&shop, "site"), "good");
        let listed = shop.type_("volume snapshot ls site");
        assert!(listed.starts_with("VOLUME NAME"), "{listed}");
        assert!(listed.contains("before"), "{listed}");
        let names = shop.hawser(&["inspect", "-f", "{{json .Snapshots}}", "site"]);
        assert_eq!(names, r#"["before"]"#);

        // Somebody has it open.
        shop.idle("web", "-v site:/d");
        shop.refuses("volume snapshot create site now", 1, "--live");
        shop.refuses(
            "volume snapshot rollback -f site before",
            1,
            "stop it first",
        );
        shop.type_("volume snapshot create --live site now");
        shop.type_("rm -f web");
        shop.refuses("volume rm site", 1, "snapshots - [before, now]");
        shop.type_("volume snapshot rm site before now");
        shop.type_("volume rm site preview");
    }

    #[test]
    fn a_prune_shows_its_plan_and_can_be_undone() {
        let mut shop = Shop::open();
        write(&shop, "site", "good");
        let plan = shop.type_("volume prune --dry-run");
        assert!(plan.starts_with("VOLUME NAME"), "{plan}");
        assert!(plan.contains("site"), "{plan}");
        assert_eq!(read(&shop, "site"), "good");

        let ran = shop.run(&["volume", "prune", "-f"]);
        assert!(ran.stdout.contains("Deleted Volumes:\nsite\n"), "{ran:?}");
        assert!(ran.stderr.contains("hawser volume restore"), "{ran:?}");
        assert_eq!(shop.type_("volume ls -q"), "");
        shop.daemon.kill().unwrap();
        shop.daemon.launch().unwrap();
        let trash = shop.type_("volume restore");
        assert!(trash.contains("site"), "{trash}");
        assert_eq!(shop.type_("volume restore site"), "site");
        assert_eq!(read(&shop, "site"), "good");
        shop.refuses("volume restore site", 1, "exists");

        shop.type_("volume prune -f --permanent");
        shop.refuses("volume restore site", 1, "no pruned volume site");
    }
}
