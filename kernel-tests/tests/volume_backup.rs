//! Volumes with a size, and copies of volumes that leave the host.

#[cfg(test)]
mod root {
    use kernel_tests::Shop;
    use kernel_tests::shop::TOOLS;

    /// The backup of the books: tar of the volume's directory, and back.
    #[test]
    fn a_volume_is_backed_up_by_tar() {
        let shop = Shop::open();
        shop.write_page("site", "good");
        assert!(shop.type_("volume ls").contains("site"));
        let mountpoint = shop.hawser(&["volume", "inspect", "-f", "{{.Mountpoint}}", "site"]);
        let directory = mountpoint
            .strip_suffix("/_data")
            .expect("a volume's directory");
        let backup = shop.daemon.directories().root().join("backup.tar.gz");
        let backup = backup.display().to_string();
        shop.host
            .output("tar", &["-zcPf", &backup, directory])
            .unwrap();
        shop.write_page("site", "bad");
        shop.host.output("tar", &["-xzPf", &backup]).unwrap();
        assert_eq!(shop.page("site"), "good");
    }

    #[test]
    fn a_volume_leaves_and_comes_back_by_export_and_import() {
        let shop = Shop::open();
        shop.write_page("site", "good");
        let file = shop.daemon.directories().root().join("site.tar.zst");
        let file = file.display().to_string();
        shop.type_(&format!("volume export -o {file} site"));
        shop.type_("volume rm site");
        assert_eq!(shop.type_(&format!("volume import site {file}")), "site");
        assert_eq!(shop.page("site"), "good");
        // Into a file of its own on the way.
        let import = "volume import -o backend=loop -o size=32m copy";
        shop.type_(&format!("{import} {file}"));
        assert_eq!(shop.page("copy"), "good");
        // Whole or not at all.
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() - 20]).unwrap();
        shop.refuses(&format!("volume import broken {file}"), 1, "import");
        shop.refuses("volume inspect broken", 1, "broken");
        shop.refuses(
            &format!("volume export -o {file} nothing"),
            1,
            "no such volume",
        );
        shop.idle("web", "-v site:/d");
        shop.refuses(&format!("volume export -o {file} site"), 1, "--live");
        shop.type_(&format!("volume export --live -o {file} site"));
    }

    /// Where the filesystem of this host encrypts; elsewhere the error says what could.
    #[test]
    fn an_encrypted_volume_asks_for_its_key() {
        let shop = Shop::open();
        let file = shop.daemon.directories().root().join("site.key");
        std::fs::write(&file, [7; 64]).unwrap();
        let key = format!("--key-file {}", file.display());
        let create = format!("volume create -o encrypt=on {key} site");
        let made = shop.run(&create.split_whitespace().collect::<Vec<_>>());
        if made.code != 0 {
            assert!(made.stderr.contains("tune2fs -O encrypt"), "{made:?}");
            shop.refuses("volume unlock site", 1, "no such volume");
            return;
        }
        shop.write_page("site", "good");
        shop.type_("volume lock site");
        shop.refuses(
            &format!("run --rm -v site:/d {TOOLS} true"),
            125,
            "volume unlock site",
        );
        shop.type_(&format!("volume unlock {key} site"));
        assert_eq!(shop.page("site"), "good");
    }

    #[test]
    fn a_volume_in_a_file_has_its_size_and_grows() {
        let shop = Shop::open();
        shop.type_("volume create -o backend=loop -o size=16m -o uid=7 db");
        let fill = "dd if=/dev/zero of=/d/big bs=64k; stat -c %s /d/big; stat -c %u /d";
        let fill = ["run", "--rm", "-v", "db:/d", TOOLS, "sh", "-c", fill];
        let full = shop.run(&fill).stdout;
        let (bytes, owner) = full.trim().split_once('\n').expect("two lines");
        let bytes: u64 = bytes.parse().expect("a size");
        assert!((8 << 20..16 << 20).contains(&bytes), "{bytes}");
        assert_eq!(owner, "7");
        shop.type_("volume resize db 64m");
        let more = shop.run(&fill).stdout;
        let more: u64 = more
            .lines()
            .next()
            .unwrap_or_default()
            .parse()
            .expect("a size");
        assert!(more > 32 << 20, "{more}");
        shop.refuses("volume resize db 8m", 1, "not made smaller");
        shop.refuses("volume create -o backend=loop small", 1, "size");
        shop.type_("volume rm db");
    }
}
