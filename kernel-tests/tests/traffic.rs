//! What goes through published ports, as the command line shows it.

#[cfg(test)]
mod root {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Stdio};
    use std::time::{Duration, Instant};

    use api::path::METRICS;
    use kernel_tests::Shop;
    use rustix::process::{Pid, Signal, kill_process};
    use serde_json::Value;

    fn shop() -> Shop {
        let shop = Shop::open();
        shop.serve("web", "hello", &["-p", "18080:80"]);
        shop
    }

    fn fetch(shop: &Shop) {
        let url = format!("http://{}:18080", shop.outside.host_v4);
        assert_eq!(shop.outside.fetch(&url).unwrap(), "hello");
    }

    fn top(shop: &Shop) -> Value {
        let json = shop.type_("service top --no-stream --format json web");
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn service_top_counts_what_goes_through_a_published_port() {
        let mut shop = shop();
        for _ in 0..5 {
            fetch(&shop);
        }
        shop.fetch_on_host("http://127.0.0.1:18080").unwrap();
        let web = top(&shop);
        assert_eq!(
            (&web["Connections"], &web["Backends"]),
            (&6.into(), &"1/1".into())
        );
        assert_eq!(
            (&web["Published"], &web["Active"]),
            (&"18080/tcp".into(), &0.into())
        );
        assert!(web["PacketsIn"].as_u64().unwrap() >= 5 * 4, "{web}");
        shop.daemon.kill().unwrap();
        fetch(&shop);
        shop.daemon.launch().unwrap();
        assert_eq!(top(&shop)["Connections"], 7, "without a daemon too");

        let table = shop.type_("service top --no-stream --backends");
        let lines: Vec<&str> = table.lines().collect();
        assert!(
            lines[0].starts_with("NAME") && lines[0].contains("NET I/O"),
            "{table}"
        );
        assert!(
            lines[1].starts_with("web") && lines[2].starts_with("└ web"),
            "{table}"
        );
        shop.refuses("service top --no-stream nobody", 1, "nobody");
        let metrics = shop.daemon.client().get_text(METRICS).unwrap();
        for series in [
            r#"hawser_published_flows_total{kind="container",name="web"} 6"#,
            r#"hawser_published_connects_total{kind="container",name="web"} 1"#,
            r#"hawser_table_entries{table="frontends"} 2"#,
        ] {
            assert!(
                metrics.lines().any(|line| line == series),
                "{series}\n{metrics}"
            );
        }
    }

    /// A client that traces. It is refused where whoever looks for it was the first to trace, and
    /// begins again.
    fn trace(shop: &Shop, flags: &[&str]) -> Child {
        let arguments = [&["trace", "--json"], flags].concat();
        loop {
            let mut command = shop.daemon.command(&arguments).unwrap();
            let mut client = command.stdout(Stdio::piped()).spawn().unwrap();
            let is_on = shop.soon("the trace is on", || {
                if client.try_wait()?.is_some() {
                    return Ok(false);
                }
                let ran = shop.run(&["trace", "--for", "1ms"]);
                anyhow::ensure!(ran.code == 1, "{ran:?}");
                assert!(ran.stderr.contains("somebody else is tracing"), "{ran:?}");
                Ok(true)
            });
            if is_on {
                return client;
            }
        }
    }

    #[test]
    fn a_trace_shows_decisions_and_goes_with_its_client() {
        let mut shop = shop();
        let mut traced = trace(&shop, &["--service", "web"]);
        let mut lines = BufReader::new(traced.stdout.take().unwrap()).lines();
        let mut next =
            || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
        fetch(&shop);
        let found = loop {
            let line = next();
            if line["decision"] == "new" {
                break line;
            }
        };
        assert_eq!(
            (&found["service"], &found["kind"]),
            (&"web".into(), &"container".into())
        );
        let source = found["source"].as_str().unwrap();
        assert!(source.starts_with(&shop.outside.v4.to_string()), "{found}");
        let to = format!("{}:80", shop.address("web", "bridge"));
        assert_eq!(found["to"], to.as_str());

        let pid = Pid::from_raw(traced.id().cast_signed()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        traced.wait().unwrap();
        shop.soon("another may trace", || {
            shop.daemon.hawser(&["trace", "--for", "1ms"])
        });

        // One that is on keeps no daemon from stopping.
        let mut traced = trace(&shop, &[]);
        let begin = Instant::now();
        shop.daemon.stop().unwrap();
        assert!(
            begin.elapsed() < Duration::from_secs(8),
            "{:?}",
            begin.elapsed()
        );
        traced.wait().unwrap();
        shop.daemon.launch().unwrap();
    }

    #[test]
    fn a_trace_ends_when_it_was_told_to() {
        let shop = shop();
        shop.refuses("trace --service nobody", 1, "nobody");
        let ran = shop.run(&["trace", "--for", "50ms", "--port", "1"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{ran:?}");
        shop.refuses("trace --for soon", 125, "10s");
    }
}
