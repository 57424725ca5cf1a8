//! `hawser api` under Debian's docker command.

#[cfg(test)]
mod root {
    use std::io::Write;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use kernel_tests::docker::peer;
    use kernel_tests::program::{self, Ran};
    use kernel_tests::registry::{Guard, LOGIN, Registry};
    use kernel_tests::shop::{SOON, Shop, TOOLS};
    use kernel_tests::wait;

    struct Client<'s> {
        shop: &'s Shop,
        program: PathBuf,
        socket: PathBuf,
        engine: Child,
    }

    impl<'s> Client<'s> {
        fn of(shop: &'s Shop) -> Self {
            let socket = shop.daemon.directories().root().join("docker.sock");
            let listen = format!("--listen={}", socket.display());
            let mut engine = shop.daemon.command(&["api", &listen]).unwrap();
            let client = Self {
                shop,
                program: peer("usr/bin/docker").unwrap(),
                engine: engine.spawn().unwrap(),
                socket,
            };
            let answers = || client.socket.exists().then_some(());
            wait::until(SOON, "the API answers", answers).unwrap();
            client
        }

        fn run(&self, words: &[&str]) -> Ran {
            let mut command = Command::new("timeout");
            let host = format!("unix://{}", self.socket.display());
            command.args(["--signal=KILL", "60"]).arg(&self.program);
            // Where this client keeps its logins.
            let home = self.socket.with_file_name("client");
            command.env("DOCKER_CONFIG", home);
            program::run(command.args(["--host", &host]).args(words)).unwrap()
        }

        #[track_caller]
        fn refuses(&self, words: &[&str], part: &str) {
            let ran = self.run(words);
            assert_ne!(ran.code, 0, "{words:?}: {ran:?}");
            assert!(ran.stderr.contains(part), "no {part:?}: {ran:?}");
        }

        /// What is seen on a terminal, or without one on standard output, when `input` is typed.
        fn typed(&self, line: &str, input: &str) -> String {
            let docker = format!(
                "{} --host unix://{} {line}",
                self.program.display(),
                self.socket.display()
            );
            let mut command = Command::new("timeout");
            command.args(["--signal=KILL", "60"]);
            if line.contains(" -it ") {
                let sized = format!("stty rows 33 cols 99; {docker}");
                command.args(["script", "-qec", &sized, "/dev/null"]);
            } else {
                command.args(["sh", "-c", &docker]);
            }
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(input.as_bytes())
                .unwrap();
            let output = child.wait_with_output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        }

        #[track_caller]
        fn ok(&self, words: &[&str]) -> String {
            let ran = self.run(words);
            assert_eq!(ran.code, 0, "{words:?}: {ran:?}");
            ran.stdout.trim().to_owned()
        }
    }

    impl Drop for Client<'_> {
        fn drop(&mut self) {
            self.engine.kill().unwrap_or_default();
            drop(self.engine.wait());
        }
    }

    #[test]
    fn the_docker_command_runs_containers_on_a_network() {
        let shop = Shop::open();
        let docker = Client::of(&shop);
        let script = "ip -o -4 address show eth0; echo err >&2; exit 3";
        let ran = docker.run(&["run", "--rm", TOOLS, "sh", "-c", script]);
        assert_eq!((ran.code, ran.stderr.trim()), (3, "err"), "{ran:?}");
        assert!(ran.stdout.contains("inet 172."), "{ran:?}");
        let missing = docker.run(&["run", "--rm", TOOLS, "nosuch"]);
        assert_eq!(missing.code, 127, "{missing:?}");
        assert_eq!(docker.ok(&["ps", "-aq", "--filter", "status=exited"]), "");

        let flags = ["-m", "64m", "-e", "GREETING=hello", "-l", "tier=front"];
        let head = ["run", "-d", "--name", "web"];
        let tail = [TOOLS, "sh", "-c", "echo $GREETING; exec sleep 600"];
        let id = docker.ok(&[&head[..], &flags, &tail].concat());
        assert_eq!(
            docker.ok(&["ps", "-q", "--no-trunc", "-f", "label=tier"]),
            id
        );
        let format = "{{.State.Status}} {{.HostConfig.Memory}}";
        let seen = docker.ok(&["inspect", "-f", format, "web"]);
        assert_eq!(seen, "running 67108864");
        // One container, whoever asks.
        assert_eq!(docker.shop.hawser(&["ps", "-q", "--no-trunc"]).trim(), id);
        wait::until(SOON, "its log", || {
            (docker.ok(&["logs", "web"]) == "hello").then_some(())
        })
        .unwrap();
        let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.PIDs}}", "web"]);
        assert_eq!(stats, "1");
        let said = docker.ok(&["info"]);
        for line in [
            "  Running: 1",
            " Storage Driver: overlay2",
            " Swarm: inactive",
        ] {
            assert!(said.lines().any(|said| said == line), "{line}: {said}");
        }
        docker.ok(&["stop", "-t", "0", "web"]);
        assert_eq!(docker.ok(&["wait", "web"]), "137");
        docker.ok(&["rm", "web"]);
        let gone = docker.run(&["inspect", "web"]);
        assert_ne!(gone.code, 0, "{gone:?}");
        assert!(docker.ok(&["images", "-q", TOOLS]).len() == 12);
    }

    #[test]
    fn the_docker_command_runs_commands_inside() {
        let shop = Shop::open();
        let docker = Client::of(&shop);
        docker.ok(&["run", "-d", "--name", "web", TOOLS, "sleep", "600"]);
        let script = "echo out; echo err >&2; echo $A $(id -u) $(pwd); exit 7";
        let flags = ["exec", "-e", "A=b", "-u", "33", "-w", "/tmp", "web"];
        let ran = docker.run(&[&flags[..], &["sh", "-c", script]].concat());
        let said = (ran.code, ran.stdout.as_str(), ran.stderr.as_str());
        assert_eq!(said, (7, "out\nb 33 /tmp\n", "err\n"), "{ran:?}");
        assert_eq!(docker.run(&["exec", "web", "nosuch"]).code, 127);
        assert_eq!(
            docker.typed("exec -i web cat", "some words\n"),
            "some words\n"
        );
        // More than any buffer on the way holds.
        let much = docker.ok(&["exec", "web", "sh", "-c", "seq 200000"]);
        assert_eq!(much.lines().count(), 200_000);

        let terminal = docker.typed(
            "exec -it web sh",
            "until test \"$(stty size)\" = '33 99'; do :; done; echo is-$((40+2)); exit 4\n",
        );
        assert!(terminal.contains("is-42\r\n"), "{terminal:?}");
        docker.ok(&["exec", "-d", "web", "sh", "-c", "echo done >/tmp/done"]);
        shop.soon("the command in the background", || {
            shop.daemon.hawser(&["exec", "web", "cat", "/tmp/done"])
        });
        let titles = docker.ok(&["top", "web", "-o", "pid,args"]);
        assert!(
            titles.lines().any(|line| line.ends_with("sleep 600")),
            "{titles}"
        );
        let diff = docker.ok(&["diff", "web"]);
        assert!(diff.contains("A /tmp/done"), "{diff}");
        docker.ok(&[
            "update",
            "-m",
            "64m",
            "--memory-swap",
            "-1",
            "--restart",
            "always",
            "web",
        ]);
        let format = "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}}";
        let seen = docker.ok(&["inspect", "-f", format, "web"]);
        assert_eq!(seen, "67108864 always");
        let missing = docker.run(&["exec", "nobody", "true"]);
        assert!(missing.stderr.contains("No such container"), "{missing:?}");
        docker.ok(&["stop", "-t", "0", "web"]);
        let stopped = docker.run(&["exec", "web", "true"]);
        assert!(stopped.stderr.contains("is not running"), "{stopped:?}");
    }

    #[test]
    fn the_docker_command_makes_networks_and_volumes_and_prunes_them() {
        let shop = Shop::open();
        let docker = Client::of(&shop);
        let since = docker.ok(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "--format",
            "{{.Time}}",
        ]);
        let since = since.lines().last().unwrap_or("0").to_owned();
        let subnet = [
            "network",
            "create",
            "--subnet",
            "10.87.0.0/24",
            "-o",
            "com.docker.network.bridge.enable_icc=true",
            "shop",
        ];
        assert_eq!(docker.ok(&subnet).len(), 64);
        docker.ok(&["volume", "create", "--label", "tier=back", "data"]);
        docker.ok(&[
            "run", "-d", "--name", "web", "-v", "data:/d", TOOLS, "sleep", "600",
        ]);
        docker.ok(&[
            "network",
            "connect",
            "--alias",
            "www",
            "--ip",
            "10.87.0.9",
            "shop",
            "web",
        ]);
        let format = "{{.NetworkSettings.Networks.shop.IPAddress}}";
        assert_eq!(docker.ok(&["inspect", "-f", format, "web"]), "10.87.0.9");
        let taken = docker.run(&["network", "rm", "shop"]);
        assert!(taken.code != 0 && taken.stderr.contains("web"), "{taken:?}");
        docker.ok(&["network", "disconnect", "shop", "web"]);
        let held = docker.run(&["volume", "rm", "data"]);
        assert!(held.stderr.contains("volume is in use"), "{held:?}");

        docker.ok(&["tag", TOOLS, "again:2"]);
        assert!(docker.ok(&["images", "-q", "again:2"]).len() == 12);
        docker.ok(&["stop", "-t", "0", "web"]);
        assert_eq!(docker.ok(&["container", "prune", "-f"]).lines().count(), 4);
        let pruned = docker.ok(&["network", "prune", "-f"]);
        assert!(pruned.contains("shop"), "{pruned}");
        let pruned = docker.ok(&["volume", "prune", "-f"]);
        assert!(pruned.contains("data"), "{pruned}");
        docker.ok(&["image", "prune", "-f"]);

        let filters = ["--filter", "type=network", "--filter", "network=shop"];
        let head = [
            "events",
            "--since",
            &since,
            "--until",
            "0s",
            "--format",
            "{{.Action}}",
        ];
        wait::until(SOON, "all that was done is told", || {
            let heard = docker.ok(&[&head[..], &filters].concat());
            (heard == "create\nconnect\ndisconnect\ndestroy").then_some(())
        })
        .unwrap();
    }

    #[test]
    fn the_docker_command_copies_files() {
        let shop = Shop::open();
        let docker = Client::of(&shop);
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name).display().to_string();
        docker.ok(&[
            "run",
            "-d",
            "--name",
            "web",
            "-v",
            "data:/data",
            TOOLS,
            "sleep",
            "600",
        ]);
        std::fs::create_dir_all(scratch.path().join("tree/below")).unwrap();
        std::fs::write(scratch.path().join("tree/below/page"), "good").unwrap();
        // More than a request that is kept may have.
        std::fs::write(scratch.path().join("large"), vec![7; 6 << 20]).unwrap();
        docker.ok(&["cp", &at("tree"), "web:/data"]);
        docker.ok(&["cp", &at("large"), "web:/tmp/renamed"]);
        assert_eq!(shop.inside("web", "cat /data/tree/below/page"), "good");
        assert_eq!(
            shop.inside("web", "wc -c </tmp/renamed"),
            (6 << 20).to_string()
        );

        shop.inside("web", "ln -s /data/tree /link; chmod 4711 /tmp/renamed");
        docker.ok(&["cp", "web:/data/tree/.", &at("out")]);
        docker.ok(&["cp", "web:/tmp/renamed", &at("back")]);
        docker.ok(&["cp", "-L", "web:/link", &at("followed")]);
        for copy in ["out/below/page", "followed/below/page"] {
            let text = std::fs::read_to_string(scratch.path().join(copy)).unwrap();
            assert_eq!(text, "good", "{copy}");
        }
        let back = std::fs::read(scratch.path().join("back")).unwrap();
        assert!(back == vec![7; 6 << 20]);

        docker.ok(&["stop", "-t", "0", "web"]);
        docker.ok(&["cp", "web:/data/tree/below/page", &at("stopped")]);
        let missing = docker.run(&["cp", "web:/nothing", &at("x")]);
        assert!(
            missing.code != 0 && missing.stderr.contains("nothing"),
            "{missing:?}"
        );
        let nowhere = docker.run(&["cp", &at("large"), "web:/no/such/place"]);
        assert!(
            nowhere.code != 0 && nowhere.stderr.contains("such"),
            "{nowhere:?}"
        );
    }

    #[test]
    fn the_docker_command_makes_images_and_moves_them_by_archives() {
        let shop = Shop::open();
        let docker = Client::of(&shop);
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name).display().to_string();
        docker.ok(&[
            "run", "-d", "--name", "web", "-e", "A=a", TOOLS, "sleep", "600",
        ]);
        shop.inside("web", "echo good >/page");
        let said = ["-a", "me", "-m", "with a page", "-c", "CMD cat /page"];
        let tagged = [&["commit"], &said[..], &["web", "made:1"]].concat();
        let id = docker.ok(&tagged);
        let format = "{{.Id}} {{.Author}} {{.Comment}} {{.Config.Env}}";
        let seen = docker.ok(&["image", "inspect", "-f", format, "made:1"]);
        assert_eq!(seen, format!("{id} me with a page [A=a]"));
        assert_eq!(docker.ok(&["run", "--rm", "made:1"]), "good");
        assert_eq!(docker.ok(&["diff", "web"]), "A /page");
        let size = docker.ok(&["ps", "-s", "--format", "{{.Size}}"]);
        assert!(size.starts_with("5B (virtual "), "{size}");
        let steps = docker.ok(&["history", "--format", "{{.Comment}}", "made:1"]);
        assert!(steps.starts_with("with a page\nImported from"), "{steps}");
        docker.refuses(&["commit", "nobody"], "No such container: nobody");
        docker.refuses(&["commit", "-c", "RUN x", "web"], "unknown change");

        docker.ok(&["save", "-o", &at("saved"), "made:1", TOOLS]);
        docker.ok(&["rmi", "made:1"]);
        docker.refuses(
            &["save", "-o", &at("none"), "made:1"],
            "no such image: made:1",
        );
        let loaded = docker.ok(&["load", "-i", &at("saved")]);
        assert_eq!(loaded, "Loaded image: made:1\nLoaded image: tools:latest");
        assert_eq!(docker.ok(&["run", "--rm", "made:1"]), "good");
        std::fs::write(at("junk"), vec![7; 6 << 20]).unwrap();
        docker.refuses(&["load", "-i", &at("junk")], "archive");

        docker.ok(&["export", "-o", &at("tree"), "web"]);
        let from = ["import", "-c", "CMD cat /page", &at("tree"), "flat:1"];
        assert!(docker.ok(&from).starts_with("sha256:"));
        let platform = [
            "import",
            "--platform",
            "linux/s390x",
            &at("tree"),
            "other:1",
        ];
        docker.ok(&platform);
        let format = "{{.Os}}/{{.Architecture}}";
        let seen = docker.ok(&["image", "inspect", "-f", format, "other:1"]);
        assert_eq!(seen, "linux/s390x");
        assert_eq!(docker.ok(&["run", "--rm", "flat:1"]), "good");

        std::fs::create_dir(at("context")).unwrap();
        std::fs::write(at("context/Dockerfile"), "FROM tools\n").unwrap();
        std::fs::write(at("context/large"), vec![7; 6 << 20]).unwrap();
        docker.refuses(
            &["build", &at("context")],
            "podman save IMAGE | hawser load",
        );
    }

    #[test]
    fn the_docker_command_moves_images_by_a_registry_with_its_own_login() {
        let shop = Shop::open();
        let guard = Guard {
            login: Some(LOGIN),
            ..Guard::default()
        };
        let registry = Registry::start(&shop.host, 5008, guard).unwrap();
        let docker = Client::of(&shop);
        let name = format!("{}/team/web", registry.address());
        let tag = |tag: &str| format!("{name}:{tag}");
        docker.ok(&["tag", TOOLS, &tag("1")]);
        docker.ok(&["tag", TOOLS, &tag("2")]);
        docker.refuses(&["push", &tag("1")], "denied");
        let login = |password| ["login", "-u", "me", "-p", password, registry.address()];
        docker.refuses(&login("wrong"), "incorrect username or password");
        assert!(docker.ok(&login("pass")).contains("Login Succeeded"));

        let pushed = docker.ok(&["push", &tag("1")]);
        for part in [
            &format!("The push refers to repository [{name}]"),
            ": Pushed",
            "1: digest: sha256:",
        ] {
            assert!(pushed.contains(part), "{pushed}");
        }
        let pushed = docker.ok(&["push", "-a", &name]);
        assert!(pushed.contains("2: digest: sha256:"), "{pushed}");
        docker.refuses(&["push", &tag("3")], "does not exist");

        docker.ok(&["rmi", &tag("1"), &tag("2"), TOOLS]);
        assert_eq!(docker.ok(&["images", "-q"]), "");
        let pulled = docker.ok(&["pull", &tag("1")]);
        for part in [
            "1: Pulling from team/web",
            ": Pull complete",
            &format!("Status: Downloaded newer image for {}", tag("1")),
        ] {
            assert!(pulled.contains(part), "{pulled}");
        }
        docker.ok(&["pull", "-a", &name]);
        let tags = docker.ok(&["images", "--format", "{{.Tag}}", &name]);
        assert_eq!(tags, "1\n2");
        docker.refuses(&["pull", &tag("3")], "manifest unknown");
        // Nobody else has been given it.
        shop.refuses(&format!("pull {}", tag("1")), 1, "denied");
    }
}
