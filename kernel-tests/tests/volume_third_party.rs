//! Volumes of somebody else's plugin, which is well, slow, silent or mad.

#[cfg(test)]
mod root {
    use std::collections::BTreeSet;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    use kernel_tests::Shop;
    use kernel_tests::program;
    use kernel_tests::shop::TOOLS;
    use serde_json::{Value, json};

    /// How the plugin takes the next mount.
    #[derive(Clone, Copy, PartialEq)]
    enum Mood {
        Well,
        Late,
        Silent,
        Mad,
    }

    const LATE: Duration = Duration::from_secs(2);

    struct State {
        mood: Mood,
        /// Verbs in the order in which they came.
        calls: Vec<String>,
        /// Ids that have mounted and not unmounted.
        mounts: BTreeSet<String>,
    }

    /// Keeps each volume as a directory, and says what it was asked.
    #[derive(Clone)]
    struct Plugin {
        volumes: PathBuf,
        state: Arc<Mutex<State>>,
    }

    impl Plugin {
        /// Listens at `socket` until the test's process ends.
        fn start(socket: &Path, volumes: PathBuf) -> Self {
            std::fs::create_dir_all(&volumes).unwrap();
            let listener = UnixListener::bind(socket).unwrap();
            let plugin = Self {
                volumes,
                state: Arc::new(Mutex::new(State {
                    mood: Mood::Well,
                    calls: Vec::new(),
                    mounts: BTreeSet::new(),
                })),
            };
            let own = plugin.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let (plugin, stream) = (own.clone(), stream.unwrap());
                    thread::spawn(move || plugin.serve(stream));
                }
            });
            plugin
        }

        fn be(&self, mood: Mood) {
            self.state.lock().unwrap().mood = mood;
        }

        fn calls(&self) -> Vec<String> {
            std::mem::take(&mut self.state.lock().unwrap().calls)
        }

        fn mounts(&self) -> usize {
            self.state.lock().unwrap().mounts.len()
        }

        fn serve(&self, stream: UnixStream) {
            let (verb, body) = read_request(&stream);
            let mood = {
                let mut state = self.state.lock().unwrap();
                state.calls.push(verb.clone());
                if verb == "VolumeDriver.Mount" {
                    state.mood
                } else {
                    Mood::Well
                }
            };
            match mood {
                Mood::Well => {}
                Mood::Late => {
                    let begun = Instant::now();
                    while begun.elapsed() < LATE {
                        thread::park_timeout(LATE);
                    }
                }
                // Until the client gives up.
                Mood::Silent => return drop((&stream).read(&mut [0])),
                Mood::Mad => return reply(&stream, "<h1>It works!</h1>"),
            }
            reply(&stream, &self.answer(&verb, &body).to_string());
        }

        fn answer(&self, verb: &str, body: &Value) -> Value {
            let name = body["Name"].as_str().unwrap_or_default();
            let id = body["ID"].as_str().unwrap_or_default().to_owned();
            let directory = self.volumes.join(name);
            let mut state = self.state.lock().unwrap();
            match verb.strip_prefix("VolumeDriver.").unwrap_or(verb) {
                "Plugin.Activate" => json!({"Implements": ["VolumeDriver"]}),
                "Create" => {
                    std::fs::create_dir_all(&directory).unwrap();
                    std::fs::write(directory.join("options"), body["Opts"].to_string()).unwrap();
                    json!({"Err": ""})
                }
                "List" => {
                    let names = std::fs::read_dir(&self.volumes).unwrap();
                    let named =
                        |entry: std::fs::DirEntry| json!({"Name": entry.file_name().to_str()});
                    let found: Vec<Value> = names.map(|entry| named(entry.unwrap())).collect();
                    json!({"Volumes": found, "Err": ""})
                }
                "Capabilities" => json!({"Capabilities": {"Scope": "global"}, "Err": ""}),
                _ if !directory.exists() => json!({"Err": format!("no volume {name} here")}),
                "Get" => {
                    json!({"Volume": {"Name": name, "Status": {"health": "good"}}, "Err": ""})
                }
                "Mount" => {
                    state.mounts.insert(id);
                    json!({"Mountpoint": directory, "Err": ""})
                }
                "Unmount" => {
                    state.mounts.remove(&id);
                    json!({"Err": ""})
                }
                "Path" => json!({"Mountpoint": directory, "Err": ""}),
                "Remove" => {
                    std::fs::remove_dir_all(directory).unwrap();
                    json!({"Err": ""})
                }
                other => json!({"Err": format!("{other} is unknown")}),
            }
        }
    }

    fn read_request(stream: &UnixStream) -> (String, Value) {
        let mut reader = BufReader::new(stream);
        let (mut line, mut verb, mut length) = (String::new(), String::new(), 0);
        while reader.read_line(&mut line).unwrap() > 0 && line != "\r\n" {
            if verb.is_empty() {
                let path = line.split(' ').nth(1).unwrap_or_default();
                verb = path.trim_start_matches('/').to_owned();
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        (verb, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn reply(mut stream: &UnixStream, body: &str) {
        let length = body.len();
        let message = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
        // A client that has given up hears nothing.
        drop(stream.write_all(message.as_bytes()));
    }

    fn open(name: &str) -> (Shop, Plugin) {
        let shop = Shop::open();
        let root = shop.daemon.directories().root().to_owned();
        let socket = root.join("plugins").join(format!("{name}.sock"));
        let plugin = Plugin::start(&socket, root.join("elsewhere"));
        (shop, plugin)
    }

    const RUN: [&str; 6] = ["run", "--rm", "--volume-driver", "third", "-v", "site:/d"];

    fn script(text: &str) -> Vec<&str> {
        [&RUN[..], &[TOOLS, "sh", "-c", text]].concat()
    }

    #[test]
    fn a_container_uses_the_volume_of_a_plugin_and_gives_it_back() {
        let (shop, plugin) = open("third");
        shop.type_("volume create -d third -o server=filer site");
        let options = plugin.volumes.join("site/options");
        assert_eq!(
            std::fs::read_to_string(options).unwrap(),
            r#"{"server":"filer"}"#
        );
        plugin.calls();
        shop.hawser(&script("echo kept >/d/f"));
        assert_eq!(
            std::fs::read_to_string(plugin.volumes.join("site/f")).unwrap(),
            "kept\n"
        );
        assert_eq!(plugin.mounts(), 0, "every mount ends with its container");
        let calls = plugin.calls();
        let of = |verb: &str| calls.iter().filter(|call| call.ends_with(verb)).count();
        assert_eq!(
            (of(".Mount"), of(".Unmount"), of(".Create")),
            (1, 1, 0),
            "{calls:?}"
        );
        assert_eq!(calls[0], "Plugin.Activate");
        // A volume that is not there is made.
        let made = [
            "run",
            "--rm",
            "--mount",
            "volume-driver=third,source=new,target=/d,volume-opt=a=b",
        ];
        shop.hawser(&[&made[..], &[TOOLS, "true"]].concat());
        assert!(plugin.volumes.join("new").exists());
    }

    #[test]
    fn the_volumes_of_a_plugin_are_among_all_volumes() {
        let (shop, plugin) = open("third");
        shop.type_("volume create -d third -o server=filer --label tier=web site");
        shop.type_("volume create ours");
        let drivers = "volume ls --format {{.Driver}}/{{.Name}}";
        assert_eq!(shop.type_(drivers), "local/ours\nthird/site");
        assert_eq!(shop.type_("volume ls -q -f label=tier=web"), "site");
        let shown =
            "{{.Driver}} {{.Scope}} {{.Options.server}} {{.Labels.tier}} {{.Status.health}}";
        assert_eq!(
            shop.hawser(&["volume", "inspect", "-f", shown, "site"]),
            "third global filer web good"
        );
        // Its name says whose it is, as does that of one that was made elsewhere.
        std::fs::create_dir(plugin.volumes.join("abroad")).unwrap();
        for name in ["site", "abroad"] {
            let volume = format!("{name}:/d");
            shop.hawser(&["run", "--rm", "-v", &volume, TOOLS, "touch", "/d/here"]);
            assert!(plugin.volumes.join(name).join("here").exists(), "{name}");
        }
        assert_eq!(shop.type_("volume ls -q -f driver=local"), "ours");
        // A name is one volume.
        shop.refuses("volume create site", 1, "of driver third");
        shop.refuses("volume create -d third ours", 1, "of driver local");
        let local = format!("run --volume-driver local -v abroad:/d {TOOLS} true");
        shop.refuses(&local, 125, "of driver third");
        // It is in use, and then is not.
        shop.idle("user", "-v site:/d");
        let id = shop.inspect("user", "{{.Id}}");
        let held = format!("remove site: volume is in use - [{id}]");
        shop.refuses("volume rm site", 1, &held);
        assert_eq!(shop.type_("volume ls -q -f dangling=true"), "abroad\nours");
        shop.type_("rm -f user");
        assert_eq!(shop.type_("volume rm site"), "site");
        assert!(!plugin.volumes.join("site").exists());
        assert_eq!(shop.type_("volume ls -q"), "abroad\nours");
        // One that its plugin has lost is a new one of ours.
        shop.type_("volume create -d third lost");
        std::fs::remove_dir_all(plugin.volumes.join("lost")).unwrap();
        assert_eq!(shop.type_("volume ls -q"), "abroad\nours");
        shop.hawser(&["run", "--rm", "-v", "lost:/d", TOOLS, "true"]);
        assert_eq!(shop.type_("volume ls -q -f driver=local"), "lost\nours");
    }

    #[test]
    fn the_volumes_of_a_plugin_that_is_away_are_known() {
        let (shop, plugin) = open("third");
        shop.type_("volume create -d third site");
        let root = shop.daemon.directories().root().to_owned();
        let socket = root.join("plugins/third.sock");
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(shop.type_("volume ls -q"), "site");
        // Not a volume of ours with nothing in it.
        shop.refuses(&format!("run -v site:/d {TOOLS} true"), 125, "third.sock");
        assert_eq!(shop.type_("volume ls -q"), "site");
        drop(plugin);
    }

    #[test]
    fn a_plugin_that_is_late_is_waited_for() {
        let (shop, plugin) = open("third");
        plugin.be(Mood::Late);
        let begun = Instant::now();
        shop.hawser(&script("echo late >/d/f"));
        assert!(begun.elapsed() >= LATE);
        assert_eq!(plugin.mounts(), 0);
    }

    #[test]
    fn a_plugin_that_never_answers_or_answers_nonsense_fails_one_container() {
        let (shop, plugin) = open("third");
        for (mood, words) in [(Mood::Silent, "third"), (Mood::Mad, "It works!")] {
            plugin.be(mood);
            let mut command = shop.daemon.command(&script("true")).unwrap();
            let ran = program::run(command.env("HAWSER_PLUGIN_TIMEOUT", "1")).unwrap();
            assert_ne!(ran.code, 0, "{ran:?}");
            assert!(ran.stderr.contains(words), "{ran:?}");
            // Nothing of it is left, and nobody else is held up.
            assert_eq!(shop.type_("ps -aq"), "");
            shop.hawser(&["run", "--rm", "-v", "ours:/d", TOOLS, "true"]);
        }
        plugin.be(Mood::Well);
        shop.hawser(&script("echo well >/d/f"));
        shop.refuses("volume create -d nobody none", 1, "nobody.sock");
    }

    #[test]
    fn a_file_names_the_socket_of_a_plugin() {
        let (shop, _) = open("unused");
        let root = shop.daemon.directories().root().to_owned();
        let socket = root.join("third-party.sock");
        let plugin = Plugin::start(&socket, root.join("there"));
        // Nothing of it is seen elsewhere.
        let layers = "lowerdir=/etc,upperdir=/run/etc,workdir=/run/work";
        shop.host
            .output("mkdir", &["/run/etc", "/run/work"])
            .unwrap();
        let overlay = ["-t", "overlay", "-o", layers, "overlay", "/etc"];
        shop.host.output("mount", &overlay).unwrap();
        shop.host
            .output("mkdir", &["-p", "/etc/docker/plugins"])
            .unwrap();
        let spec = shop.host.path(Path::new("/etc/docker/plugins/third.spec"));
        std::fs::write(spec, format!("unix://{}\n", socket.display())).unwrap();
        shop.hawser(&script("echo found >/d/f"));
        assert_eq!(
            std::fs::read_to_string(plugin.volumes.join("site/f")).unwrap(),
            "found\n"
        );
    }
}
