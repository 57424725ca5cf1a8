//! What was acknowledged outlives whoever acknowledged it: here a process that is killed, and in guests
//! of `cargo xtask test vm --cuts` a host whose power is cut, by the same words in the environment.

mod support;

#[cfg(test)]
mod cut {
    use std::collections::BTreeSet;
    use std::env;
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use api::storage::SnapshotCreate;
    use redb::Database;
    use storaged::{DriverName, Options, StorageConfig, Storaged};

    use super::support::{Entry, State, create, file, image, is_well, mounted, read, with_options};

    const NAME: &str = "cut::what_was_acknowledged_outlives_its_process";
    /// Where the store is; `STORE/acks` has a line for each operation.
    const STORE: &str = "HAWSER_CUT_STORE";
    const DRIVER: &str = "HAWSER_CUT_DRIVER";
    /// Options of the driver, with blanks between.
    const OPTS: &str = "HAWSER_CUT_OPTS";
    /// Goes on for ever, once this file is there to say that it has begun.
    const WORKING: &str = "HAWSER_CUT_WORKING";

    const FILES: usize = 40;
    const KEPT: u32 = 3;

    fn open(store: &Path) -> Storaged {
        let driver = env::var(DRIVER).unwrap_or_default();
        let opts = env::var(OPTS).unwrap_or_default();
        let is_it = |name: &DriverName| name.name() == driver;
        let config = StorageConfig {
            driver: DriverName::ALL.into_iter().find(is_it),
            opts: opts.split_whitespace().map(str::to_owned).collect(),
            prune_undo_hours: 0,
            ..StorageConfig::default()
        };
        let database = Database::create(store.join("meta.redb")).unwrap();
        Storaged::open(Options {
            state_dir: store.to_owned(),
            database: Arc::new(database),
            config,
            adopt: false,
        })
        .unwrap()
    }

    /// The operations that are known to have succeeded, or may have.
    struct Acks(PathBuf);

    impl Acks {
        fn say(&self, line: &str) {
            let file = OpenOptions::new().create(true).append(true).open(&self.0);
            let mut file = file.unwrap();
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
            file.sync_all().unwrap();
        }

        fn lines(&self) -> Vec<String> {
            let text = std::fs::read_to_string(&self.0).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        }

        /// What follows `word` in lines.
        fn of(&self, word: &str) -> BTreeSet<String> {
            let lines = self.lines();
            let names = lines.iter().filter_map(|line| line.strip_prefix(word));
            names.map(|name| name.trim().to_owned()).collect()
        }
    }

    fn content(name: &str, number: usize) -> String {
        format!("{name} {number} ").repeat(200)
    }

    fn layers(name: &str) -> [Vec<Entry>; 2] {
        let layer = |numbers: std::ops::Range<usize>| {
            let entries = numbers.map(|number| file(format!("f{number}"), content(name, number)));
            entries.collect()
        };
        [layer(0..FILES), layer(FILES..2 * FILES)]
    }

    fn make(storaged: &Storaged, acks: &Acks, name: &str) {
        let [below, above] = layers(name);
        let image = image(storaged, name, &[&below, &above]);
        create(storaged, name, &image, false);
        acks.say(&format!("made {name}"));
        storaged.create_volume(with_options(name, &[])).unwrap();
        let data = PathBuf::from(storaged.volume(name).unwrap().mountpoint);
        let mut file = File::create(data.join("f")).unwrap();
        file.write_all(content(name, 0).as_bytes()).unwrap();
        file.sync_all().unwrap();
        File::open(&data).unwrap().sync_all().unwrap();
        let request = SnapshotCreate {
            name: "then".to_owned(),
            live: false,
        };
        storaged.create_snapshot(name, &request).unwrap();
        acks.say(&format!("volume {name}"));
    }

    fn remove(storaged: &Storaged, acks: &Acks, name: &str) {
        acks.say(&format!("removing {name}"));
        storaged.remove_rootfs(name).unwrap();
        if storaged.image(name).is_ok() {
            storaged.remove_image(name, false).unwrap();
        }
        if storaged.volume(name).is_ok() {
            if !storaged.snapshots(Some(name)).unwrap().is_empty() {
                storaged.remove_snapshot(name, "then").unwrap();
            }
            storaged.remove_volume(name).unwrap();
        }
        acks.say(&format!("removed {name}"));
    }

    fn verify(storaged: &Storaged, acks: &Acks) {
        is_well(storaged);
        let gone = acks.of("removing ");
        for name in acks.of("made ").difference(&gone) {
            let image = storaged.image(name).expect("an image is lost");
            let root = mounted(storaged, name, &image);
            for number in 0..2 * FILES {
                let found = read(root.join(format!("f{number}")));
                assert_eq!(found, content(name, number), "{name}: file {number}");
            }
            storaged.unmount_rootfs(name).unwrap();
        }
        for name in acks.of("volume ").difference(&gone) {
            let data = PathBuf::from(storaged.volume(name).expect("a volume is lost").mountpoint);
            assert_eq!(read(data.join("f")), content(name, 0), "{name}");
            assert_eq!(storaged.snapshots(Some(name)).unwrap().len(), 1, "{name}");
        }
        for name in acks.of("removed ") {
            assert!(storaged.image(&name).is_err(), "{name} is back");
            assert!(storaged.rootfs(&name).is_err(), "{name} is back");
            assert!(storaged.volume(&name).is_err(), "{name} is back");
        }
    }

    /// One life: what earlier ones have acknowledged is there, and goes; then there is more.
    fn live(store: &Path) {
        let acks = Acks(store.join("acks"));
        let storaged = open(store);
        verify(&storaged, &acks);
        println!("{} operations are as they were", acks.lines().len());
        let Some(working) = env::var_os(WORKING) else {
            return;
        };
        let life = acks.of("life ").len();
        acks.say(&format!("life {life}"));
        let gone = acks.of("removed ");
        let begun: Vec<String> = acks.of("begun ").difference(&gone).cloned().collect();
        File::create(working).unwrap();
        for name in begun {
            remove(&storaged, &acks, &name);
        }
        let name = |number: u32| format!("life{life}-{number}");
        for number in 0.. {
            acks.say(&format!("begun {}", name(number)));
            make(&storaged, &acks, &name(number));
            if number >= KEPT {
                remove(&storaged, &acks, &name(number - KEPT));
            }
        }
    }

    #[test]
    fn what_was_acknowledged_outlives_its_process() {
        if let Some(store) = env::var_os(STORE) {
            return live(Path::new(&store));
        }
        let state = State::on_disk();
        let store = state.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let acks = Acks(store.join("acks"));
        let working = state.path().join("working");
        for life in 0..6_u32 {
            let mut child = Command::new(env::current_exe().unwrap())
                .args(["--exact", NAME, "--nocapture"])
                .env(STORE, &store)
                .env(WORKING, &working)
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            let before = acks.lines().len();
            // At some line, and somewhere behind it.
            let wanted = before + 3 + 5 * life as usize;
            while acks.lines().len() < wanted {
                assert!(child.try_wait().unwrap().is_none(), "it has ended");
                assert!(Instant::now() < deadline, "it does not get on");
                std::thread::yield_now();
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
        verify(&open(&store), &acks);
        assert!(acks.of("life ").len() == 6 && !acks.of("removed ").is_empty());
    }
}
