//! `hawser cni install` and `uninstall`.

#[cfg(test)]
mod root {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use kernel_tests::{Daemon, Host};

    #[test]
    fn installing_is_repeatable_and_spares_what_belongs_to_others() {
        let host = Arc::new(Host::throwaway().unwrap());
        let daemon = Daemon::start(host).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let (bin, conf) = (scratch.path().join("bin"), scratch.path().join("net.d"));
        let dirs = [
            format!("--bin-dir={}", bin.display()),
            format!("--conf-dir={}", conf.display()),
        ];
        let run = |command: &str, flags: &[&str]| {
            let dirs = dirs.iter().map(String::as_str);
            let words: Vec<&str> = ["cni", command]
                .into_iter()
                .chain(dirs)
                .chain(flags.iter().copied())
                .collect();
            daemon.run(&words).unwrap()
        };
        let shown = run("install", &["--network", "shop", "--print"]).success();
        let list: serde_json::Value = serde_json::from_str(&shown.unwrap()).unwrap();
        assert_eq!(list["plugins"][0]["network"], "shop");
        assert!(!bin.exists() && !conf.exists(), "--print writes nothing");

        let written = run("install", &["--network", "shop"]).success().unwrap();
        assert_eq!(written.lines().count(), 3, "{written}");
        let mode = fs::metadata(bin.join("hawser-ipam")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o755);
        let again = run("install", &["--network", "shop"]).success().unwrap();
        assert_eq!(again, "", "nothing is left to do");

        // An older version of ours is replaced, also while it runs.
        let plugin = bin.join("hawser");
        let mut older = fs::read(&plugin).unwrap();
        older.push(0);
        fs::write(&plugin, older).unwrap();
        let upgraded = run("install", &["--network", "shop"]).success().unwrap();
        assert_eq!(upgraded, plugin.display().to_string());

        fs::write(&plugin, "somebody's").unwrap();
        let list = conf.join("10-hawser-shop.conflist");
        fs::remove_file(&list).unwrap();
        let refused = run("install", &["--network", "shop"]);
        assert_eq!(refused.code, 1);
        let words = format!("{} is not Hawser's", plugin.display());
        assert!(refused.stderr.contains(&words), "{}", refused.stderr);
        assert!(!list.exists(), "nothing is written then");
        run("install", &["--network", "shop", "--force"])
            .success()
            .unwrap();
        assert!(list.exists());

        let theirs = conf.join("10-hawser-mine.conflist");
        fs::write(&theirs, r#"{"plugins":[{"type":"bridge"}]}"#).unwrap();
        fs::write(bin.join("bridge"), "").unwrap();
        run("uninstall", &[]).success().unwrap();
        assert_eq!(run("uninstall", &[]).success().unwrap(), "");
        let left = |dir| fs::read_dir(dir).unwrap().count();
        assert_eq!((left(&bin), left(&conf)), (1, 1));
        assert!(theirs.exists());
    }
}
