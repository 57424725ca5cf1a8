//! The fixtures hold what they promise, for the other stories rely on them.

#[cfg(test)]
mod root {
    use std::process::{Command, Stdio};
    use std::sync::Arc;
    use std::time::Duration;

    use kernel_tests::load::{Clients, Habit, Member, Tally, at};
    use kernel_tests::{Host, Outside, outside, program, wait};

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_throwaway_host_has_nothing_but_a_loopback() {
        let host = Host::throwaway().unwrap();
        let links = host.output("ip", &["-oneline", "link"]).unwrap();
        assert_eq!(links.lines().count(), 1, "{links}");
        assert_eq!(host.output("nft", &["list", "ruleset"]).unwrap(), "");
        assert!(
            kernel_tests::leftovers::in_namespaces(&host)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn an_outside_host_and_the_host_reach_each_other() {
        let host = Arc::new(Host::throwaway().unwrap());
        let outside = Outside::new(Arc::clone(&host)).unwrap();
        let page = tempfile::tempdir().unwrap();
        std::fs::write(page.path().join("index.html"), "page").unwrap();
        let mut server = host
            .command("busybox")
            .args(["httpd", "-f", "-p", "80", "-h"])
            .arg(page.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        for url in [
            format!("http://{}", outside.host_v4),
            format!("http://[{}]", outside.host_v6),
        ] {
            let got = wait::until(SOON, &url, || outside.fetch(&url).ok()).unwrap();
            assert_eq!(got, "page");
            assert_eq!(outside::fetch_on(&host, &url).unwrap(), "page");
        }
        server.kill().unwrap();
        server.wait().unwrap();
        let interface = outside.interface.clone();
        drop(outside);
        assert!(host.output("ip", &["link", "show", &interface]).is_err());
    }

    #[test]
    fn a_failed_program_says_all_it_said() {
        let error =
            program::output(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]));
        let text = format!("{:#}", error.unwrap_err());
        assert!(
            ["out", "err", "exited 3"]
                .iter()
                .all(|part| text.contains(part)),
            "{text}"
        );
    }

    #[test]
    fn clients_tell_what_became_of_each_connection() {
        let host = Host::throwaway().unwrap();
        let path = host.network_namespace();
        let member = Member::serve(&path, 80, 7).unwrap();
        let mut clients = Clients::default();
        let to = at([127, 0, 0, 1], 80);
        let held = Habit::Held {
            count: 3,
            asks: 1_000_000,
        };
        let soon = |clients: &Clients, what: &str, probe: &dyn Fn(&Tally) -> bool| {
            let probe = || probe(clients.tally()).then_some(());
            wait::until(SOON, what, probe).unwrap();
        };
        clients.start(&path, to, held).unwrap();
        soon(&clients, "each is answered", &|tally| tally.messages() >= 3);
        clients.start(&path, to, Habit::FAST).unwrap();
        soon(&clients, "they are answered", &|tally| {
            tally.messages() > 100
        });
        assert!(clients.tally().failures().is_empty());
        drop(member);
        soon(&clients, "all of them notice its end", &|tally| {
            let failures = tally.failures();
            let held = failures.iter().filter(|failure| failure.member == Some(7));
            held.count() == 3 && failures.iter().any(|failure| failure.member.is_none())
        });
        let opened = clients.finish().opened();
        assert!(opened > 50, "{opened}");
    }
}
