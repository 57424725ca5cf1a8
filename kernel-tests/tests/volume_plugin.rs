//! Real clients of the volume-plugin socket: dockerd and podman.

#[cfg(test)]
mod root {
    use std::sync::Arc;
    use std::thread;

    use api::Client;
    use kernel_tests::docker::{self, Docker};
    use kernel_tests::{Podman, Shop, image, program};
    use serde_json::{Value, json};

    const PLUGINS: &str = "/run/docker/plugins";

    /// A daemon whose plugin socket is where dockerd looks for it, and dockerd.
    fn open() -> (Docker, Shop) {
        let shop = Shop::open();
        let ours = shop.daemon.directories().root().join("plugins");
        let ours = ours.display().to_string();
        shop.host.output("mkdir", &["-p", PLUGINS]).unwrap();
        let bind = ["--bind", &ours, PLUGINS];
        shop.host.output("mount", &bind).unwrap();
        let docker = Docker::start(Arc::clone(&shop.host)).unwrap();
        (docker, shop)
    }

    fn say(docker: &Docker, words: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        docker.output(&words).unwrap()
    }

    fn write(docker: &Docker, volume: &str, text: &str) {
        let (mount, script) = (format!("{volume}:/d"), format!("echo {text} >/d/f"));
        let tools = docker::TOOLS;
        let run = ["run", "--rm", "-v", &mount, tools, "sh", "-c", &script];
        docker.output(&run).unwrap();
    }

    fn read(docker: &Docker, volume: &str) -> String {
        say(
            docker,
            &format!("run --rm -v {volume}:/d {} cat /d/f", docker::TOOLS),
        )
    }

    #[test]
    fn dockerd_keeps_its_volumes_here() {
        let (mut docker, mut shop) = open();
        let tools = docker::TOOLS;
        assert_eq!(say(&docker, "volume create -d hawser data"), "data");
        let listed = say(&docker, "volume ls");
        assert!(listed.contains("hawser    data"), "{listed}");
        let inspected: Value = serde_json::from_str(&say(&docker, "volume inspect data")).unwrap();
        let ours: Value = serde_json::from_str(&shop.type_("volume inspect data")).unwrap();
        assert_eq!(inspected[0]["Driver"], "hawser");
        for member in ["Name", "CreatedAt", "Mountpoint"] {
            assert_eq!(inspected[0][member], ours[0][member], "{member}");
        }

        // What one side writes the other one reads.
        write(&docker, "data", "one");
        let theirs = shop.type_(&format!("run --rm -v data:/d {tools} cat /d/f"));
        assert_eq!(theirs, "one");

        // Ours ends without a warning while a container of theirs has the volume.
        say(
            &docker,
            &format!("run -d --name web -v data:/d {tools} sleep 600"),
        );
        shop.refuses("volume rm data", 1, "volume is in use");
        shop.daemon.kill().unwrap();
        assert_eq!(say(&docker, "exec web cat /d/f"), "one");
        shop.daemon.launch().unwrap();
        shop.refuses("volume rm data", 1, "volume is in use");
        assert_eq!(say(&docker, "exec web cat /d/f"), "one");

        // Theirs ends, and finds the volume again.
        docker.restart().unwrap();
        say(&docker, "start web");
        assert_eq!(say(&docker, "exec web cat /d/f"), "one");
        say(&docker, "rm -f web");
        assert_eq!(read(&docker, "data"), "one");
        assert_eq!(say(&docker, "volume rm data"), "data");
        assert_eq!(shop.type_("volume ls -q"), "");

        // An error of ours is theirs, word for word.
        let refused = docker.output(&["volume", "create", "-d", "hawser", "-o", "x=y", "bad"]);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("invalid option"), "{refused}");
    }

    #[test]
    fn dockerd_mounts_many_at_once() {
        const CONTAINERS: usize = 12;
        let (docker, shop) = open();
        let run = |number: usize| {
            let (mount, script) = ("shared:/d", format!("echo {number} >/d/{number}"));
            let own = format!("own{number}:/own");
            let tools = docker::TOOLS;
            let flags = [
                "run",
                "--rm",
                "--volume-driver",
                "hawser",
                "--network",
                "none",
            ];
            let rest = ["-v", mount, "-v", &own, tools, "sh", "-c", &script];
            docker.output(&[&flags[..], &rest[..]].concat()).unwrap();
        };
        thread::scope(|scope| {
            for number in 0..CONTAINERS {
                scope.spawn(move || run(number));
            }
        });
        let seen = shop.type_(&format!("run --rm -v shared:/d {} ls /d", docker::TOOLS));
        assert_eq!(seen.lines().count(), CONTAINERS, "{seen}");
        // Nobody holds anything any more.
        shop.type_("volume prune -f --permanent");
        assert_eq!(shop.type_("volume ls -q"), "");
    }

    #[test]
    fn two_hundred_mounts_at_once_are_two_hundred_holders() {
        const MOUNTS: usize = 200;
        let mut shop = Shop::open();
        shop.type_("volume create data");
        let socket = shop.daemon.directories().root().join("plugins/hawser.sock");
        let each = |verb: &str| {
            thread::scope(|scope| {
                let call = |number: usize| {
                    let client = Client::new(&socket);
                    let body = json!({"Name": "data", "ID": format!("m{number}")});
                    // Twice, as after a lost reply.
                    for _ in 0..2 {
                        let path = format!("/VolumeDriver.{verb}");
                        let reply = client.post_raw(&path, &body).unwrap();
                        assert_eq!(reply.status, 200, "{reply:?}");
                    }
                };
                for number in 0..MOUNTS {
                    scope.spawn(move || call(number));
                }
            });
        };
        each("Mount");
        shop.daemon.kill().unwrap();
        shop.daemon.launch().unwrap();
        let ours: Value = serde_json::from_str(&shop.type_("volume inspect data")).unwrap();
        assert_eq!(ours[0]["Holders"].as_array().unwrap().len(), MOUNTS);
        shop.refuses("volume rm data", 1, "volume is in use");
        each("Unmount");
        shop.type_("volume rm data");
    }

    #[test]
    fn podman_keeps_its_volumes_here() {
        let mut shop = Shop::open();
        let root = shop.daemon.directories().root().to_owned();
        let plugin = root.join("plugins/hawser.sock");
        let settings = format!("[engine.volume_plugins]\nhawser = {plugin:?}\n");
        let podman = Podman::new(Arc::clone(&shop.host), root.join("podman"), &settings).unwrap();
        let say = |words: &str| podman.say(words).unwrap();
        assert_eq!(say("volume create --driver hawser data"), "data");
        assert!(say("volume ls").contains("hawser"));
        let files = root.join("rootfs");
        image::unpacked(&files).unwrap();
        let run = |script: &str| {
            let mut command = podman.run(&["--rm", "--network", "none", "-v", "data:/d"]);
            let command = command.arg("--rootfs").arg(&files);
            program::output(command.args(["sh", "-c", script])).unwrap()
        };
        run("echo one >/d/f");
        shop.daemon.kill().unwrap();
        shop.daemon.launch().unwrap();
        assert_eq!(run("cat /d/f"), "one");
        let inspected = say("volume inspect data");
        assert!(inspected.contains("\"Driver\": \"hawser\""), "{inspected}");
        assert_eq!(say("volume rm data"), "data");
        assert_eq!(shop.type_("volume ls -q"), "");
    }
}
