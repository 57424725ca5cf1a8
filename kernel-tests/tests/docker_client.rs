//! `hawser api` under Debian's docker command.

#[cfg(test)]
mod root {
    use std::path::PathBuf;
    use std::process::{Child, Command};

    use kernel_tests::docker::peer;
    use kernel_tests::program::{self, Ran};
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
            program::run(command.args(["--host", &host]).args(words)).unwrap()
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
        docker.ok(&["stop", "-t", "0", "web"]);
        assert_eq!(docker.ok(&["wait", "web"]), "137");
        docker.ok(&["rm", "web"]);
        let gone = docker.run(&["inspect", "web"]);
        assert_ne!(gone.code, 0, "{gone:?}");
        assert!(docker.ok(&["images", "-q", TOOLS]).len() == 12);
    }
}
