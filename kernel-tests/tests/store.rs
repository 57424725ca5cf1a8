//! The image store as its user meets it: archives, commits, flattened images, another driver, and a
//! database that is damaged.

#[cfg(test)]
mod root {
    use std::fs;
    use std::fs::File;

    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Shop, program};

    #[test]
    fn a_committed_container_travels_as_an_archive_and_flattens_to_one_layer() {
        let shop = Shop::open();
        let file = |name: &str| {
            shop.daemon
                .directories()
                .root()
                .join(name)
                .display()
                .to_string()
        };
        shop.hawser(&[
            "run",
            "--name",
            "made",
            TOOLS,
            "sh",
            "-c",
            "echo kept >/note; rm /bin/ls",
        ]);
        assert!(shop.type_("diff made").contains("A /note"));
        let id = shop.type_("commit -m why made note:1");
        assert_eq!(shop.type_("image history -q note:1").lines().count(), 2);
        shop.type_(&format!("save -o {} note:1", file("a.tar")));
        shop.type_("rm made");
        shop.type_("rmi note:1");
        shop.refuses("image inspect note:1", 1, "No such image");
        shop.type_(&format!("load -q -i {}", file("a.tar")));
        assert_eq!(shop.inspect("note:1", "{{.Id}}"), id, "the same image");
        shop.type_(&format!("save -o {} note:1", file("b.tar")));
        let archives = ["a.tar", "b.tar"].map(|name| fs::read(file(name)).unwrap());
        assert!(archives[0] == archives[1], "to the byte");

        shop.type_("create --name flat note:1 cat /note");
        shop.type_(&format!("export -o {} flat", file("flat.tar")));
        shop.type_(&format!("import {} flat:1", file("flat.tar")));
        assert_eq!(shop.inspect("flat:1", "{{len .RootFS.Layers}}"), "1");
        assert_eq!(shop.type_("run --rm flat:1 cat /note"), "kept");
        assert_ne!(shop.run(&["run", "--rm", "flat:1", "ls"]).code, 0);
        assert!(shop.type_("storage check --deep").contains("all is well"));
    }

    #[test]
    fn another_driver_has_images_of_its_own_and_leaves_the_others_alone() {
        let mut shop = Shop::open();
        let config = shop.daemon.directories().config();
        let settings = fs::read_to_string(&config).unwrap();
        let ended = shop.run(&["run", "--name", "hidden", TOOLS, "sh", "-c", "exit 3"]);
        assert_eq!(ended.code, 3, "{ended:?}");
        shop.daemon.stop().unwrap();
        fs::write(
            &config,
            format!("{settings}\n[storage]\ndriver = \"vfs\"\n"),
        )
        .unwrap();
        shop.daemon.launch().unwrap();
        assert!(shop.type_("info").contains("Storage Driver: vfs"));
        assert_eq!(shop.type_("images -q"), "");
        let archive = shop.daemon.directories().root().join("tools.tar");
        shop.type_(&format!("import {} copy", archive.display()));
        assert_eq!(
            shop.type_("run --rm --network none copy echo hello"),
            "hello"
        );
        // A container of the other driver is left as it is, and says whose it is.
        assert_eq!(shop.type_("ps -aq"), "");
        let places = [
            "start hidden",
            "diff hidden",
            "commit hidden",
            "export hidden",
            "rm hidden",
        ];
        for words in places.into_iter().chain(["cp hidden:/etc -"]) {
            shop.refuses(words, 1, "hidden is kept by the storage driver overlay2");
        }
        let taken = "by a container that the storage driver overlay2 keeps";
        shop.refuses("create --name hidden copy true", 125, taken);
        shop.daemon.stop().unwrap();
        fs::write(&config, settings).unwrap();
        shop.daemon.launch().unwrap();
        assert_eq!(
            shop.inspect("hidden", "{{.State.ExitCode}} {{.State.Error}}"),
            "3"
        );
        assert!(shop.type_("info").contains("Storage Driver: overlay2"));
        assert_eq!(shop.type_("images --format {{.Repository}}"), TOOLS);
        shop.refuses("image inspect copy", 1, "No such image");
    }

    /// Cut short, and then beyond what the copy of the last start can mend.
    #[test]
    fn a_damaged_database_costs_no_image_no_volume_and_no_container() {
        let mut shop = Shop::open();
        let state = shop.daemon.directories().state();
        let cut = |name: &str| {
            let file = File::options().write(true).open(state.join(name)).unwrap();
            file.set_len(5000).unwrap();
        };
        // The copy is of the start; all of this came after it.
        shop.hawser(&[
            "run",
            "--name",
            "made",
            "-v",
            "data:/data",
            TOOLS,
            "sh",
            "-c",
            "echo v >/data/f; echo c >/own",
        ]);
        shop.daemon.kill().unwrap();
        cut("meta.redb");
        shop.daemon.launch().unwrap();
        assert!(shop.daemon.log().contains("the database is damaged"));
        let intact = |shop: &Shop| {
            assert_eq!(shop.type_("volume ls -q"), "data");
            assert!(shop.type_("diff made").contains("A /own"));
            assert!(shop.type_("storage check --deep").contains("all is well"));
        };
        intact(&shop);

        shop.daemon.kill().unwrap();
        cut("meta.redb");
        cut("meta.redb.prev");
        let error = format!("{:#}", shop.daemon.launch().unwrap_err());
        shop.daemon.kill().unwrap();
        assert!(error.contains("hawserd --rebuild-database"), "{error}");
        let mut command = shop.host.command(program::under_test("hawserd").unwrap());
        let line = shop.daemon.command_line().unwrap();
        let rebuilt = program::output(command.args(&line[1..]).arg("--rebuild-database")).unwrap();
        assert!(
            rebuilt.contains("1 layers, 1 images, 1 volumes"),
            "{rebuilt}"
        );
        shop.daemon.launch().unwrap();
        intact(&shop);
    }

    #[test]
    fn a_damaged_layer_is_found_by_reading_and_mended_by_loading_it_again() {
        let shop = Shop::open();
        let state = shop.daemon.directories().state();
        let layers = fs::read_dir(state.join("overlay2")).unwrap();
        let file = layers
            .map(|entry| entry.unwrap().path().join("diff/bin/busybox"))
            .find(|path| path.exists())
            .expect("the layer of the image");
        let mut rotten = fs::read(&file).unwrap();
        rotten[5000] ^= 1;
        fs::write(&file, rotten).unwrap();

        // Nothing but the bytes tells.
        assert!(shop.type_("storage check").contains("all is well"));
        let check = ["storage", "check", "--deep", "--repair"];
        for words in [&check[..3], &check] {
            let ran = shop.run(words);
            assert_eq!(ran.code, 1, "{ran:?}");
            assert!(
                ran.stdout.contains("\"bin/busybox\" has other content now"),
                "{ran:?}"
            );
            assert!(ran.stdout.contains("1 difference"), "{ran:?}");
        }
        let archive = shop.daemon.directories().root().join("tools.tar");
        shop.type_(&format!("import {} again", archive.display()));
        assert!(shop.type_("storage check --deep").contains("all is well"));
        assert_eq!(
            shop.type_(&format!("run --rm {TOOLS} echo mended")),
            "mended"
        );
    }
}
