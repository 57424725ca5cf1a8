//! Many endpoints that come and go while plugins and the daemon are killed: nothing is left.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::Write;
    use std::os::fd::{AsFd, AsRawFd};
    use std::path::PathBuf;
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Condvar, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    use api::net::{AttachRequest, Attachment};
    use api::path;
    use kernel_tests::{Daemon, Dice, Host, leftovers, program, wait};
    use serde_json::{Value, json};
    use sys::netns::NetNs;

    const CONTAINERS: usize = 500;
    /// How often the daemon dies in the storm.
    const KILLS: usize = 3;
    /// For a machine under load; alone it takes less than half a minute.
    const LIMIT: Duration = Duration::from_secs(180);

    /// How long a plugin may live: one in three is killed.
    fn patience(dice: &mut Dice) -> Option<Duration> {
        (dice.roll(3) == 0).then(|| Duration::from_millis(dice.roll(60)))
    }

    /// Closed while there is no daemon: a runtime that tries all the time would take the processor
    /// from the daemon that starts.
    #[derive(Default)]
    struct Gate {
        closed: Mutex<bool>,
        opened: Condvar,
    }

    impl Gate {
        fn set(&self, closed: bool) {
            *self.closed.lock().unwrap() = closed;
            self.opened.notify_all();
        }

        fn pass(&self) {
            let closed = self.closed.lock().unwrap();
            drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
        }
    }

    /// The plugin as a runtime starts it.
    struct Plugin {
        program: PathBuf,
        socket: PathBuf,
    }

    impl Plugin {
        fn of(daemon: &Daemon) -> Self {
            Self {
                program: program::under_test("hawser-cni").unwrap(),
                socket: daemon.directories().socket(),
            }
        }

        fn configuration(&self) -> Value {
            json!({
                "cniVersion": "1.1.0",
                "name": "storm",
                "type": "hawser",
                "network": "storm",
                "socket": self.socket,
            })
        }

        /// Whether the plugin succeeded; it is killed after `patience`, if there is one.
        fn call(&self, verb: &str, container: &Container, patience: Option<Duration>) -> bool {
            let mut configuration = self.configuration();
            configuration["runtimeConfig"] = json!({ "portMappings": [
                { "hostPort": 20_000 + container.number, "containerPort": 80, "protocol": "tcp" },
            ] });
            let mut command = Command::new(&self.program);
            command
                .env("CNI_CONTAINERID", format!("storm{}", container.number))
                .env("CNI_NETNS", &container.path)
                .env("CNI_IFNAME", "eth0");
            self.run(command, verb, &configuration, patience)
        }

        /// Says that no container is left.
        fn collect(&self) -> bool {
            let mut configuration = self.configuration();
            configuration["cni.dev/valid-attachments"] = json!([]);
            self.run(Command::new(&self.program), "GC", &configuration, None)
        }

        fn run(
            &self,
            mut command: Command,
            verb: &str,
            configuration: &Value,
            patience: Option<Duration>,
        ) -> bool {
            let mut child = command
                .env("CNI_COMMAND", verb)
                .env("CNI_PATH", "/nowhere")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            // One that is killed may not have read all of it.
            let written = stdin.write_all(configuration.to_string().as_bytes());
            drop(stdin);
            if let Some(patience) = patience
                && wait::until(patience, "the plugin ends", || child.try_wait().unwrap()).is_err()
            {
                child.kill().unwrap();
            }
            child.wait().unwrap().success() && written.is_ok()
        }
    }

    struct Container {
        number: usize,
        path: String,
        _namespace: NetNs,
    }

    impl Container {
        fn new(number: usize) -> Self {
            let namespace = NetNs::create().expect("root is needed");
            let descriptor = namespace.as_fd().as_raw_fd();
            Self {
                number,
                path: format!("/proc/{}/fd/{descriptor}", std::process::id()),
                _namespace: namespace,
            }
        }
    }

    /// What a leak would show in, but for the daemon's memory.
    fn traces(host: &Host, daemon: &Daemon) -> BTreeSet<String> {
        let mut traces = leftovers::in_namespaces(host).unwrap();
        let table = ["list", "table", "inet", "hawser"];
        traces.insert(host.output("nft", &table).unwrap());
        let reserved = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        let reserved = host.output("cat", &[reserved]).unwrap();
        traces.insert(format!("reserved ports {reserved}"));
        for map in [
            "frontends",
            "ranges",
            "services",
            "sandboxes",
            "endpoints",
            "balanced",
            "members",
            "traffic",
            "service_drops",
            "places",
            "peers",
        ] {
            traces.insert(format!("map {map}: {}", entries(host, map)));
        }
        let endpoints: Vec<Attachment> = daemon.client().get(path::ENDPOINTS).unwrap();
        let names = endpoints.iter().map(|e| &e.container_id);
        traces.extend(names.map(|name| format!("endpoint {name}")));
        let metrics = daemon.client().get_text(path::METRICS).unwrap();
        let departing = metrics
            .lines()
            .filter(|line| line.starts_with("hawser_departing_interfaces "));
        traces.extend(departing.map(str::to_owned));
        traces
    }

    /// How many entries a map of the daemon's has.
    fn entries(host: &Host, map: &str) -> usize {
        let find = ["/sys/fs/bpf/hawser", "-name", map];
        let pin = host.output("find", &find).unwrap();
        let dump = ["map", "dump", "pinned", &pin, "-j"];
        let dump = host.output("bpftool", &dump).unwrap();
        let entries: Vec<Value> = serde_json::from_str(&dump).unwrap();
        entries.len()
    }

    fn same(host: &Host, daemon: &Daemon, before: &BTreeSet<String>) {
        let mut differs = Vec::new();
        let settled = wait::until(LIMIT, "nothing is left", || {
            let now = traces(host, daemon);
            differs = now.symmetric_difference(before).cloned().collect();
            differs.is_empty().then_some(())
        });
        settled.unwrap_or_else(|error| panic!("{error}; left or missing: {differs:#?}"));
    }

    /// How a container ends.
    enum End {
        /// Its runtime does not give up: ADD until it works, DEL until it works.
        Del,
        /// Its runtime dies with it.
        Gone,
        /// Its runtime forgets it, and says later what it remembers.
        Forgotten,
    }

    /// One container's life. Each call of a plugin may be killed.
    fn live(
        plugin: &Plugin,
        gate: &Gate,
        container: &Container,
        mut dice: Dice,
        deadline: Instant,
    ) -> End {
        let end = match dice.roll(10) {
            0 => End::Gone,
            1 => End::Forgotten,
            _ => End::Del,
        };
        let verbs: &[&str] = match end {
            End::Del => &["ADD", "DEL"],
            End::Gone | End::Forgotten => &["ADD"],
        };
        for verb in verbs {
            let left = deadline.saturating_duration_since(Instant::now());
            let what = format!("{verb} of container {}", container.number);
            let done = wait::until(left, &what, || {
                gate.pass();
                let done = plugin.call(verb, container, patience(&mut dice));
                if !done && *verb == "ADD" {
                    // It may be half done: DEL comes before the next ADD.
                    plugin.call("DEL", container, patience(&mut dice));
                }
                done.then_some(())
            });
            done.unwrap();
        }
        end
    }

    #[test]
    fn a_storm_of_kills_leaves_nothing() {
        let host = Arc::new(Host::throwaway().unwrap());
        let mut daemon = Daemon::start(Arc::clone(&host)).unwrap();
        daemon.hawser(&["network", "create", "storm"]).unwrap();
        let plugin = Plugin::of(&daemon);
        let before = traces(&host, &daemon);
        let containers = wait::in_time(CONTAINERS);
        let deadline = Instant::now() + LIMIT;
        let (done, gate, forgotten) = (AtomicUsize::new(0), Gate::default(), Mutex::default());
        let (done, gate, plugin) = (&done, &gate, &plugin);
        thread::scope(|scope| {
            for number in 0..containers {
                let forgotten: &Mutex<Vec<Container>> = &forgotten;
                scope.spawn(move || {
                    let container = Container::new(number);
                    let dice = Dice::new(number as u64);
                    match live(plugin, gate, &container, dice, deadline) {
                        End::Del | End::Gone => drop(container),
                        End::Forgotten => forgotten.lock().unwrap().push(container),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
            for kill in 1..=KILLS {
                let enough = containers * kill / (KILLS + 1);
                let is_enough = || (done.load(Ordering::Relaxed) >= enough).then_some(());
                wait::until(LIMIT, "containers come and go", is_enough).unwrap();
                gate.set(true);
                daemon.kill().unwrap();
                let launched = daemon.launch();
                // Whatever happened: a thread that waits would never end.
                gate.set(false);
                launched.unwrap();
            }
        });
        let forgotten = forgotten.into_inner().unwrap();
        assert!(forgotten.len() > containers / 20);
        assert!(plugin.collect());
        same(&host, &daemon, &before);
        drop(forgotten);
        // Nor is anything on record that the next daemon would bring back.
        daemon.kill().unwrap();
        daemon.launch().unwrap();
        same(&host, &daemon, &before);
    }

    const CYCLES: usize = 1_000;
    const ROUNDS: usize = 2;
    const WARM_UP: usize = 200;
    /// Caches fill, a leak goes on: 2 kB a cycle would show.
    const MAX_GROWTH_KB: u64 = 2_048;

    fn resident_kb(daemon: &Daemon) -> u64 {
        let status = format!("/proc/{}/status", daemon.pid().unwrap());
        let status = fs::read_to_string(status).unwrap();
        let mut lines = status.lines();
        let line = lines.find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn descriptors(daemon: &Daemon) -> usize {
        let descriptors = format!("/proc/{}/fd", daemon.pid().unwrap());
        fs::read_dir(descriptors).unwrap().count()
    }

    fn request(container: &Container, cycle: usize) -> AttachRequest {
        let port = 20_000 + container.number;
        let request = json!({
            "network": "storm",
            "container_id": format!("c{}x{cycle}", container.number),
            "ifname": "eth0",
            "netns": container.path,
            "name": format!("c{}", container.number),
            "ports": [{ "protocol": "tcp", "container_port": 80, "host_port": port }],
        });
        serde_json::from_value(request).unwrap()
    }

    /// In each of the namespaces, one endpoint after the other.
    fn cycles(daemon: &Daemon, containers: &[Container], count: usize) {
        thread::scope(|scope| {
            for container in containers {
                let client = daemon.client();
                scope.spawn(move || {
                    for cycle in 0..count / containers.len() {
                        let request = request(container, cycle);
                        let attached: Attachment = client.post(path::ENDPOINTS, &request).unwrap();
                        assert_eq!(attached.addresses.len(), 1);
                        let id = request.container_id;
                        let endpoint = format!("{}/{id}/eth0", path::ENDPOINTS);
                        client.delete(&endpoint).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn a_thousand_cycles_leave_nothing_and_take_no_memory() {
        let host = Arc::new(Host::throwaway().unwrap());
        let daemon = Daemon::start(Arc::clone(&host)).unwrap();
        // The smallest network for them: every address is used again and again.
        let network = ["network", "create", "--subnet", "10.9.0.0/29", "storm"];
        daemon.hawser(&network).unwrap();
        let containers: Vec<Container> = (0..4).map(Container::new).collect();
        let before = traces(&host, &daemon);
        let count = wait::in_time(CYCLES);
        cycles(&daemon, &containers, wait::in_time(WARM_UP));
        same(&host, &daemon, &before);
        let open = descriptors(&daemon);
        let round = |_| {
            let memory = resident_kb(&daemon);
            cycles(&daemon, &containers, count);
            same(&host, &daemon, &before);
            resident_kb(&daemon).saturating_sub(memory)
        };
        // The allocator may still take its share of each thread in the first of them.
        let growth: Vec<u64> = (0..ROUNDS).map(round).collect();
        let least = growth.iter().min().unwrap();
        assert!(*least <= MAX_GROWTH_KB, "{growth:?} kB in {count} cycles");
        let closed = wait::until(LIMIT, "descriptors are closed", || {
            (descriptors(&daemon) <= open).then_some(())
        });
        closed.unwrap();
    }
}
