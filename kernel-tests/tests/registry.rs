//! Images by way of a registry: Debian's own, on the loopback interface of a throwaway host.

#[cfg(test)]
mod root {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Arc;

    use kernel_tests::docker::peer;
    use kernel_tests::program::{self, Ran};
    use kernel_tests::registry::{Guard, LOGIN, Registry};
    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Daemon, Shop};

    /// `hawser WORDS` of somebody whose logins are in `home`.
    fn typed(daemon: &Daemon, home: &Path, words: &str) -> Ran {
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut command = daemon.command(&words).unwrap();
        program::run(command.env("DOCKER_CONFIG", home)).unwrap()
    }

    fn home(shop: &Shop) -> PathBuf {
        shop.daemon.directories().root().join("docker")
    }

    #[test]
    fn an_image_goes_to_a_registry_and_runs_at_another_daemon() {
        let shop = Shop::open();
        let registry = Registry::start(&shop.host, 5000, Guard::default()).unwrap();
        let name = format!("{}/team/web", registry.address());
        shop.type_(&format!("tag {TOOLS} {name}:1"));
        let pushed = shop.type_(&format!("push {name}:1"));
        assert!(
            pushed.contains(&format!("The push refers to repository [{name}]")),
            "{pushed}"
        );
        assert!(pushed.contains(": Pushed"), "{pushed}");
        let last = pushed.lines().last().unwrap();
        let digest = last.split_whitespace().nth(2).unwrap().to_owned();
        assert!(last.starts_with("1: digest: sha256:"), "{last}");
        // Nothing is sent twice, neither to the repository nor to another one.
        let again = shop.type_(&format!("push {name}:1"));
        assert!(
            again.contains(": Layer already exists") && again.contains(&digest),
            "{again}"
        );
        let found = shop.type_(&format!(
            "search --format {{{{.Name}}}} {}/we",
            registry.address()
        ));
        assert_eq!(found, name);
        let other = format!("{}/other", registry.address());
        shop.type_(&format!("tag {TOOLS} {other}"));
        let mounted = shop.type_(&format!("push {other}"));
        assert!(
            mounted.contains(": Mounted from another repository"),
            "{mounted}"
        );
        assert!(
            mounted.starts_with("Using default tag: latest"),
            "{mounted}"
        );

        let settings = "[network]\ndefault-bridge = \"hawser1\"\n";
        let second = Daemon::configured(Arc::clone(&shop.host), settings).unwrap();
        let pull = |words: &str| {
            second
                .hawser(&words.split(' ').collect::<Vec<_>>())
                .unwrap()
        };
        let pulled = pull(&format!("pull {name}:1"));
        for line in [
            "1: Pulling from team/web",
            ": Pull complete",
            &format!("Digest: {digest}"),
            &format!("Status: Downloaded newer image for {name}:1"),
        ] {
            assert!(pulled.contains(line), "no {line:?}: {pulled}");
        }
        let described = |daemon: &Daemon, what: &str| {
            let words = ["inspect", "-f", what, &format!("{name}:1")];
            daemon.hawser(&words).unwrap()
        };
        let ids = [&second, &shop.daemon].map(|daemon| described(daemon, "{{.Id}}"));
        assert_eq!(ids[0], ids[1], "the same image to the byte");
        let digests = described(&second, "{{.RepoDigests}}");
        assert_eq!(digests, format!("[{name}@{digest}]"));
        assert_eq!(
            pull(&format!("run --rm --network none {name}:1 echo hello")),
            "hello"
        );
        let again = pull(&format!("pull {name}:1"));
        assert!(again.contains(": Already exists"), "{again}");
        assert!(again.contains("Status: Image is up to date"), "{again}");

        // By digest, and as part of a run.
        pull(&format!("rmi {name}:1"));
        assert!(
            !second
                .run(&["image", "inspect", &name])
                .unwrap()
                .stderr
                .is_empty()
        );
        let by_digest = format!("{name}@{digest}");
        let words = [
            "run",
            "--rm",
            "--network",
            "none",
            &by_digest,
            "echo",
            "found",
        ];
        let ran = second.run(&words).unwrap();
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "found\n"), "{ran:?}");
        let missing = format!("Unable to find image '{by_digest}' locally");
        assert!(ran.stderr.contains(&missing), "{ran:?}");
        let listed = pull("images --digests --format {{.Repository}}|{{.Tag}}|{{.Digest}}");
        assert_eq!(listed, format!("{name}|<none>|{digest}"));
    }

    #[test]
    fn a_service_has_the_image_that_its_tag_meant_when_it_was_made() {
        let shop = Shop::open();
        let registry = Registry::start(&shop.host, 5000, Guard::default()).unwrap();
        let name = format!("{}/web", registry.address());
        // Two images, of which the tag means one after the other.
        shop.type_(&format!("create --name other {TOOLS} true"));
        shop.hawser(&[
            "commit",
            "-c",
            "WORKDIR /tmp",
            "other",
            &format!("{name}:2"),
        ]);
        shop.type_("rm other");
        let mut digests = Vec::new();
        for image in [TOOLS, &format!("{name}:2")] {
            shop.type_(&format!("tag {image} {name}:1"));
            let pushed = shop.type_(&format!("push {name}:1"));
            let last = pushed.lines().last().unwrap();
            digests.push(last.split_whitespace().nth(2).unwrap().to_owned());
            if digests.len() > 1 {
                break;
            }
            shop.type_(&format!("rmi {name}:1"));
            shop.type_(&format!(
                "service create -d --name web --restart-delay 100ms {name}:1 sleep 600"
            ));
        }
        assert_ne!(digests[0], digests[1]);
        let image = || {
            let format = "{{.Spec.TaskTemplate.ContainerSpec.Image}}";
            shop.hawser(&["service", "inspect", "--format", format, "web"])
        };
        assert_eq!(image(), format!("{name}:1@{}", digests[0]));
        let replica = |before: &str| {
            shop.soon("a replica runs", || {
                let running = shop.daemon.hawser(&["ps", "-q"])?;
                anyhow::ensure!(
                    running.lines().count() == 1 && running != before,
                    "{running}"
                );
                Ok(running)
            })
        };
        let directory = |container: &str| shop.inside(container, "pwd");
        let first = replica("");
        assert_eq!(directory(&first), "/");
        shop.type_(&format!("kill {first}"));
        let second = replica(&first);
        assert_eq!(
            directory(&second),
            "/",
            "the tag means another image by now"
        );
        // People see the tag.
        let shown = shop.hawser(&["service", "ls", "--format", "{{.Image}}"]);
        assert_eq!(shown, format!("{name}:1"));
        let shown = shop.hawser(&["ps", "--format", "{{.Image}}"]);
        assert_eq!(shown, format!("{name}:1"));

        let update = |flags: &str| {
            shop.type_(&format!("service update -d {flags} web"));
        };
        update("--env-add A=1");
        let third = replica(&second);
        assert_eq!(directory(&third), "/", "no other image was asked for");
        update(&format!("--image {name}:1"));
        assert_eq!(image(), format!("{name}:1@{}", digests[1]));
        let fourth = replica(&third);
        assert_eq!(directory(&fourth), "/tmp");
        update(&format!("--no-resolve-image --image {name}:2"));
        assert_eq!(image(), format!("{name}:2"));

        // Without the registry, what is here is meant; and what came from none is no registry's.
        drop(registry);
        let said = shop.run(&[
            "service",
            "update",
            "-d",
            "--image",
            &format!("{name}:1"),
            "web",
        ]);
        assert!(said.stderr.contains("that is here"), "{said:?}");
        assert_eq!(image(), format!("{name}:1@{}", digests[1]));
        let gone = format!("{name}:3");
        let said = shop.run(&["service", "update", "-d", "--image", &gone, "web"]);
        assert!(said.stderr.contains("to record its digest"), "{said:?}");
        assert_eq!(image(), gone);
        let said = shop.run(&["service", "update", "-d", "--image", TOOLS, "web"]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""));
        assert_eq!(image(), TOOLS);
        shop.type_("service rm web");
    }

    #[test]
    fn a_registry_with_a_certificate_of_its_own_wants_it_and_a_login() {
        let shop = Shop::open();
        let home = home(&shop);
        let root = shop.daemon.directories().root();
        let (certificate, key) = (root.join("r.crt"), root.join("r.key"));
        let mut openssl = Command::new("openssl");
        openssl
            .args(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
                    .split(' '),
            )
            .args([
                "-subj",
                "/CN=registry.test",
                "-addext",
                "subjectAltName=DNS:registry.test",
            ])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        program::output(&mut openssl).unwrap();
        let guard = Guard {
            login: Some(LOGIN),
            certificate: Some((&certificate, &key)),
            ..Guard::default()
        };
        let registry = Registry::start(&shop.host, 5001, guard).unwrap();
        let name = format!("{}/web:1", registry.address());
        shop.type_(&format!("tag {TOOLS} {name}"));
        let type_ = |words: &str| typed(&shop.daemon, &home, words);

        let refused = type_(&format!("push {name}"));
        assert_eq!(refused.code, 1);
        assert!(
            refused
                .stderr
                .contains("may require hawser login 127.0.0.1:5001"),
            "{refused:?}"
        );
        let wrong = type_("login -u me -p wrong 127.0.0.1:5001");
        assert!(
            wrong.stderr.contains("incorrect username or password"),
            "{wrong:?}"
        );
        assert!(
            !home.join("config.json").exists(),
            "nothing is kept of a refused login"
        );
        let login = type_("login -u me -p pass 127.0.0.1:5001");
        assert!(login.stdout.contains("Login Succeeded"), "{login:?}");
        let kept = fs::read_to_string(home.join("config.json")).unwrap();
        assert!(kept.contains("127.0.0.1:5001"), "{kept}");
        assert_eq!(type_(&format!("push {name}")).code, 0);
        shop.type_(&format!("rmi {name}"));
        assert_eq!(type_(&format!("pull -q {name}")).stdout.trim(), name);
        let out = type_("logout 127.0.0.1:5001").stdout;
        assert_eq!(out.trim(), "Removing login credentials for 127.0.0.1:5001");
        assert_eq!(type_(&format!("pull {name}")).code, 1);
    }

    #[test]
    fn what_a_registry_does_not_have_is_said_in_one_line() {
        let shop = Shop::open();
        let registry = Registry::start(&shop.host, 5002, Guard::default()).unwrap();
        let at = registry.address().to_owned();
        shop.refuses(&format!("pull -q {at}/none:1"), 1, "manifest unknown");
        shop.refuses(
            "pull -q localhost:1/none",
            1,
            "cannot reach registry localhost:1",
        );
        shop.refuses("pull -q UPPER", 1, "must be lowercase");
        shop.refuses(
            &format!("push -q {at}/none:1"),
            1,
            "does not exist locally with the tag",
        );
        shop.refuses("run --pull never none:1 true", 125, "No such image: none:1");
        let ran = shop.run(&["run", "--rm", &format!("{at}/none:1"), "true"]);
        assert_eq!(ran.code, 125, "{ran:?}");
        assert!(ran.stderr.contains("manifest unknown"), "{ran:?}");
        // A layer that was changed on the registry's disk is refused, and nothing of it is kept.
        let name = format!("{at}/web:1");
        shop.type_(&format!("tag {TOOLS} {name}"));
        shop.type_(&format!("push -q {name}"));
        shop.type_(&format!("rmi {name} {TOOLS}"));
        spoil(&registry);
        shop.refuses(&format!("pull -q {name}"), 1, "damaged or forged");
        assert_eq!(shop.type_("images -q"), "");
        assert!(shop.type_("storage check --deep").contains("all is well"));
    }

    /// Changes the largest blob, which is the layer.
    fn spoil(registry: &Registry) {
        let mut blobs = Vec::new();
        for prefix in fs::read_dir(registry.blobs()).unwrap() {
            for blob in fs::read_dir(prefix.unwrap().path()).unwrap() {
                blobs.push(blob.unwrap().path().join("data"));
            }
        }
        blobs.sort_by_key(|blob| fs::metadata(blob).unwrap().len());
        let layer = blobs.last().unwrap();
        let mut bytes = fs::read(layer).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(layer, bytes).unwrap();
    }

    #[test]
    fn images_that_skopeo_and_umoci_made_are_loaded_and_run() {
        let shop = Shop::open();
        let root = shop.daemon.directories().root().to_owned();
        let registry = Registry::start(&shop.host, 5003, Guard::default()).unwrap();
        let name = format!("{}/web:1", registry.address());
        shop.type_(&format!("tag {TOOLS} {name}"));
        shop.type_(&format!("push -q {name}"));
        let run = |command: &mut Command| program::output(command).unwrap();
        let policy = policy(&root);
        let skopeo = |to: &str| {
            let mut skopeo = shop.host.command(peer("usr/bin/skopeo").unwrap());
            skopeo
                .arg("--policy")
                .arg(&policy)
                .args(["copy", "--src-tls-verify=false"]);
            run(skopeo.arg(format!("docker://{name}")).arg(to));
        };
        shop.type_(&format!("rmi {name} {TOOLS}"));
        for (kind, file) in [("docker-archive", "d.tar"), ("oci-archive", "o.tar")] {
            let archive = root.join(file);
            skopeo(&format!("{kind}:{}:by/{kind}:1", archive.display()));
            shop.type_(&format!("load -q -i {}", archive.display()));
            let said = shop.type_(&format!("run --rm --network none by/{kind}:1 echo hello"));
            assert_eq!(said, "hello", "{kind}");
        }
        // umoci adds a layer to a layout, which is then pushed and pulled.
        let layout = root.join("layout");
        skopeo(&format!("oci:{}:1", layout.display()));
        let umoci = |words: &str| {
            let mut umoci = Command::new(peer("usr/bin/umoci").unwrap());
            run(umoci.current_dir(&root).args(words.split(' ')));
        };
        fs::write(root.join("added"), "by umoci").unwrap();
        umoci("insert --image layout:1 added /added");
        umoci("config --image layout:1 --config.cmd /bin/cat --config.cmd /added");
        let made = format!("{}/umoci:1", registry.address());
        let mut skopeo = shop.host.command(peer("usr/bin/skopeo").unwrap());
        skopeo
            .arg("--policy")
            .arg(&policy)
            .args(["copy", "--dest-tls-verify=false"]);
        run(skopeo
            .arg(format!("oci:{}:1", layout.display()))
            .arg(format!("docker://{made}")));
        assert_eq!(
            shop.type_(&format!("run -q --rm --network none {made}")),
            "by umoci"
        );
    }

    /// Has skopeo and buildah take images without signatures.
    fn policy(root: &Path) -> PathBuf {
        let policy = root.join("policy.json");
        let all = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(&policy, all).unwrap();
        policy
    }

    #[test]
    fn images_that_buildah_made_are_loaded_and_run() {
        let shop = Shop::open();
        let root = shop.daemon.directories().root().join("buildah");
        fs::create_dir(&root).unwrap();
        let policy = policy(&root);
        let buildah = |command: &str, words: &[&str]| {
            let mut buildah = shop.host.command(peer("usr/bin/buildah").unwrap());
            buildah.env("HOME", &root);
            for (flag, directory) in [("--root", "root"), ("--runroot", "run")] {
                buildah.arg(flag).arg(root.join(directory));
            }
            buildah.args(["--storage-driver", "vfs", command, "-q"]);
            buildah.arg("--signature-policy").arg(&policy);
            program::output(buildah.args(words)).unwrap()
        };
        // On top of an image of ours.
        shop.type_(&format!("save -o {}/base.tar {TOOLS}", root.display()));
        fs::write(root.join("added"), "by buildah").unwrap();
        let lines = format!(
            "FROM docker-archive:{}/base.tar\nLABEL by=buildah\nENV WHO=buildah\nUSER 12:34\n\
             COPY added /added\nENTRYPOINT [\"/bin/sh\", \"-c\"]\n\
             CMD [\"echo $WHO $(cat /added) $(id -u)\"]\n",
            root.display()
        );
        fs::write(root.join("Containerfile"), lines).unwrap();
        buildah("bud", &["-t", "by/bud:1", &root.display().to_string()]);
        for kind in ["docker-archive", "oci-archive"] {
            let archive = root.join(kind).display().to_string();
            let name = format!("by/{kind}:1");
            buildah("push", &["by/bud:1", &format!("{kind}:{archive}:{name}")]);
            shop.type_(&format!("load -q -i {archive}"));
            let said = shop.type_(&format!("run --rm --network none {name}"));
            assert_eq!(said, "buildah by buildah 12", "{kind}");
            assert_eq!(shop.inspect(&name, "{{.Config.Labels.by}}"), "buildah");
        }
    }
}
