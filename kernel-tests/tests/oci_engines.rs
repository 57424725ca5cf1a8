//! The shim as the runtime of other engines: dockerd and containerd, as Debian has them.

#[cfg(test)]
mod root {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use kernel_tests::containerd::Containerd;
    use kernel_tests::docker::{Docker, TOOLS};
    use kernel_tests::program::{self, Ran};
    use kernel_tests::{Host, image, wait};

    const SOON: Duration = Duration::from_secs(30);

    #[track_caller]
    fn ended(ran: &Ran, code: i32, said: &str) {
        assert_eq!((ran.code, ran.stdout.trim()), (code, said), "{ran:?}");
    }

    #[test]
    fn dockerd_runs_its_containers_with_it() {
        let host = Arc::new(Host::throwaway().unwrap());
        let docker = Docker::start(host).unwrap();
        let type_ = |words: &[&str]| program::run(&mut docker.command(words)).unwrap();
        let run = |flags: &[&str], command: &[&str]| {
            type_(&[&["run", "--runtime", "hawser"], flags, &[TOOLS], command].concat())
        };
        let script = ["sh", "-c", "ip -o -4 address show eth0; exit 3"];
        let networked = run(&["--rm"], &script);
        assert_eq!(networked.code, 3, "{networked:?}");
        assert!(networked.stdout.contains("inet 172.17."), "{networked:?}");
        let none = ["--rm", "--network", "none"];
        ended(
            &run(
                &[&none[..], &["-t"]].concat(),
                &["sh", "-c", "test -t 0 && echo t"],
            ),
            0,
            "t",
        );
        let missing = run(&none, &["nosuch"]);
        assert_eq!(missing.code, 127, "{missing:?}");
        assert!(
            missing
                .stderr
                .contains("executable file not found in $PATH"),
            "{missing:?}"
        );

        let limits = ["-m", "64m", "--pids-limit", "20", "--cap-drop", "ALL"];
        let idle = [&["-d", "--name", "idle", "--network", "none"], &limits[..]].concat();
        assert_eq!(run(&idle, &["sleep", "600"]).code, 0);
        let runtime = [
            "inspect",
            "-f",
            "{{.State.Status}} {{.HostConfig.Runtime}}",
            "idle",
        ];
        ended(&type_(&runtime), 0, "running hawser");
        ended(
            &type_(&["exec", "idle", "sh", "-c", "echo in; exit 4"]),
            4,
            "in",
        );
        ended(
            &type_(&[
                "exec",
                "-t",
                "idle",
                "sh",
                "-c",
                "test -t 1 && echo t; exit 5",
            ]),
            5,
            "t",
        );
        let bounds = type_(&["exec", "idle", "grep", "CapBnd", "/proc/self/status"]);
        assert!(
            bounds.stdout.trim().ends_with("0000000000000000"),
            "{bounds:?}"
        );
        assert!(type_(&["top", "idle"]).stdout.contains("sleep 600"));
        ended(&type_(&["pause", "idle"]), 0, "idle");
        ended(
            &type_(&["inspect", "-f", "{{.State.Status}}", "idle"]),
            0,
            "paused",
        );
        ended(&type_(&["unpause", "idle"]), 0, "idle");
        ended(&type_(&["exec", "idle", "echo", "on"]), 0, "on");
        ended(&type_(&["restart", "-t", "0", "idle"]), 0, "idle");
        ended(&type_(&["kill", "idle"]), 0, "idle");
        let state = [
            "inspect",
            "-f",
            "{{.State.Status}} {{.State.ExitCode}}",
            "idle",
        ];
        wait::until(SOON, "it has ended", || {
            (type_(&state).stdout.trim() == "exited 137").then_some(())
        })
        .unwrap();
        ended(&type_(&["rm", "idle"]), 0, "idle");
    }

    #[test]
    fn containerd_runs_its_containers_with_it() {
        let host = Arc::new(Host::throwaway().unwrap());
        let scratch = tempfile::Builder::new()
            .prefix("hawser-containerd-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let root = scratch.path().join("rootfs");
        image::unpacked(&root).unwrap();
        let containerd = Containerd::start(&host, &scratch.path().join("own")).unwrap();
        let ctr = |words: &[&str]| program::run(containerd.ctr().args(words)).unwrap();
        let shim = program::under_test("hawser-shim").unwrap();
        let run = |flags: &[&str], id: &str, command: &[&str]| {
            let binary = ["--runc-binary", text(&shim), "--rootfs", text(&root), id];
            ctr(&[&["run"], flags, &binary, command].concat())
        };
        ended(
            &run(&["--rm"], "once", &["/bin/sh", "-c", "echo out; exit 3"]),
            3,
            "out",
        );
        ended(&run(&["-d"], "idle", &["/bin/sleep", "600"]), 0, "");
        let exec = [
            "task",
            "exec",
            "--exec-id",
            "e1",
            "idle",
            "/bin/sh",
            "-c",
            "echo in; exit 4",
        ];
        ended(&ctr(&exec), 4, "in");
        let tasks = || ctr(&["task", "ls"]).stdout;
        assert_eq!(ctr(&["task", "ps", "idle"]).stdout.lines().count(), 2);
        ended(&ctr(&["task", "pause", "idle"]), 0, "");
        assert!(tasks().contains("PAUSED"), "{}", tasks());
        ended(&ctr(&["task", "resume", "idle"]), 0, "");
        ended(&ctr(&["task", "kill", "-s", "KILL", "idle"]), 0, "");
        wait::until(SOON, "it has ended", || {
            tasks().contains("STOPPED").then_some(())
        })
        .unwrap();
        let removed = ctr(&["task", "rm", "idle"]);
        assert!(removed.stderr.contains("exit code 137"), "{removed:?}");
        ended(&ctr(&["container", "rm", "idle"]), 0, "");
    }

    fn text(path: &Path) -> &str {
        path.to_str().unwrap()
    }
}
