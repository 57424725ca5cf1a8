//! Containers come and go without a trace.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Shop, leftovers};

    const CYCLES: usize = 50;
    /// How much the daemon may grow over all cycles: caches fill, a leak goes on.
    const MAX_GROWTH_KB: u64 = 4096;

    /// What a leak would show in.
    #[derive(Debug, PartialEq, Eq)]
    struct Traces {
        objects: BTreeSet<String>,
        layers: usize,
        containers: usize,
        daemon_fds: usize,
    }

    fn entries(dir: &Path) -> usize {
        fs::read_dir(dir).map(Iterator::count).unwrap_or(0)
    }

    fn traces(shop: &Shop) -> Traces {
        let state = shop.daemon.directories().state();
        let pid = shop.daemon.pid().unwrap();
        Traces {
            objects: leftovers::in_namespaces(&shop.host).unwrap(),
            layers: entries(&state.join("overlay2")),
            containers: entries(&state.join("containers")),
            daemon_fds: entries(Path::new(&format!("/proc/{pid}/fd"))),
        }
    }

    fn resident_kb(shop: &Shop) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", shop.daemon.pid().unwrap()));
        let status = status.unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn cycle(shop: &Shop, number: usize) {
        let name = format!("c{number}");
        #[rustfmt::skip]
        shop.hawser(&[
            "run", "--name", &name, "--network", "shop", "-p", "18080:80", "-v", "/scratch",
            TOOLS, "true",
        ]);
        shop.hawser(&["rm", "-v", &name]);
    }

    #[test]
    fn many_containers_leave_nothing() {
        let shop = Shop::open();
        shop.hawser(&["network", "create", "shop"]);
        cycle(&shop, 0);
        let before = traces(&shop);
        let memory = resident_kb(&shop);
        for number in 1..=CYCLES {
            cycle(&shop, number);
        }
        shop.soon("what is left equals what was there", || {
            let now = traces(&shop);
            anyhow::ensure!(now == before, "{now:#?}\nbefore: {before:#?}");
            Ok(())
        });
        assert_eq!(shop.hawser(&["volume", "ls", "-q"]), "");
        let growth = resident_kb(&shop).saturating_sub(memory);
        assert!(
            growth <= MAX_GROWTH_KB,
            "hawserd grew by {growth} kB in {CYCLES} cycles"
        );
    }

    #[test]
    fn a_removed_installation_leaves_nothing() {
        let mut shop = Shop::open();
        let before = BTreeSet::from([format!("interface {}", shop.outside.interface)]);
        shop.hawser(&["network", "create", "shop"]);
        shop.serve(
            "web",
            "hello",
            &["--network", "shop", "-p", "18080:80", "-v", "site:/data"],
        );
        shop.daemon.clean().unwrap();
        shop.soon("nothing is left", || {
            let now = leftovers::in_namespaces(&shop.host)?;
            anyhow::ensure!(now.is_subset(&before), "{now:?}");
            Ok(())
        });
    }
}
