//! Snapshots, clones, and a prune that somebody takes back.

#[cfg(test)]
mod root {
    use kernel_tests::Shop;

    #[test]
    fn a_bad_change_is_taken_back() {
        let shop = Shop::open();
        shop.write_page("site", "good");
        assert_eq!(shop.type_("volume snapshot create site before"), "before");
        shop.write_page("site", "bad");
        shop.type_("volume clone --snapshot before site preview");
        assert_eq!(shop.page("preview"), "good");
        shop.type_("volume snapshot rollback -f site before");
        assert_eq!(shop.page("site"), "good");
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
        shop.write_page("site", "good");
        let plan = shop.type_("volume prune --dry-run");
        assert!(plan.starts_with("VOLUME NAME"), "{plan}");
        assert!(plan.contains("site"), "{plan}");
        assert_eq!(shop.page("site"), "good");

        let ran = shop.run(&["volume", "prune", "-f"]);
        assert!(ran.stdout.contains("Deleted Volumes:\nsite\n"), "{ran:?}");
        assert!(ran.stderr.contains("hawser volume restore"), "{ran:?}");
        assert_eq!(shop.type_("volume ls -q"), "");
        shop.daemon.kill().unwrap();
        shop.daemon.launch().unwrap();
        let trash = shop.type_("volume restore");
        assert!(trash.contains("site"), "{trash}");
        assert_eq!(shop.type_("volume restore site"), "site");
        assert_eq!(shop.page("site"), "good");
        shop.refuses("volume restore site", 1, "exists");

        shop.type_("volume prune -f --permanent");
        shop.refuses("volume restore site", 1, "no pruned volume site");
    }
}
