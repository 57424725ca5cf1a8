//! The ways to a registry: certificates, mirrors, helpers, and what happens on the way.

#[cfg(test)]
mod root {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use kernel_tests::between::Between;
    use kernel_tests::program::{self, Ran};
    use kernel_tests::registry::{Guard, Registry};
    use kernel_tests::shop::TOOLS;
    use kernel_tests::{Host, Shop};

    /// `me` with the password `pass`, by bcrypt at its least cost.
    const LOGIN: &str = "me:$2b$04$abcdefghijklmnopqrstuufznL8bkzdtHwLhca4To/v9Lo9bA7fR6";

    /// A shop on a host whose `/etc` is its own.
    fn with_own_etc(settings: &str) -> Shop {
        let host = Arc::new(Host::throwaway().unwrap());
        let script = "mount -t tmpfs etc /mnt && cp -a /etc/. /mnt/ && mount --move /mnt /etc && \
                      echo 127.0.0.1 registry.test >>/etc/hosts";
        host.output("sh", &["-ec", script]).unwrap();
        Shop::on(host, settings)
    }

    fn openssl(dir: &Path, words: &str) {
        let mut command = Command::new("openssl");
        program::output(command.current_dir(dir).args(words.split_whitespace())).unwrap();
    }

    /// An authority `ca`, and certificates `server` and `client` that it has signed.
    fn certificates(dir: &Path) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(
            dir,
            &format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.crt"),
        );
        fs::write(dir.join("server.ext"), "subjectAltName=DNS:registry.test\n").unwrap();
        fs::write(dir.join("client.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
        for name in ["server", "client"] {
            openssl(
                dir,
                &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"),
            );
            openssl(
                dir,
                &format!(
                    "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
                 -extfile {name}.ext -out {name}.crt"
                ),
            );
        }
    }

    #[test]
    fn a_private_authority_and_a_client_certificate_open_a_registry() {
        let shop = with_own_etc("");
        let dir = shop.daemon.directories().root().join("pki");
        fs::create_dir(&dir).unwrap();
        certificates(&dir);
        let (certificate, key, authority) = (
            dir.join("server.crt"),
            dir.join("server.key"),
            dir.join("ca.crt"),
        );
        let guard = Guard {
            certificate: Some((&certificate, &key)),
            clients: Some(&authority),
            ..Guard::default()
        };
        let _registry = Registry::start(&shop.host, 5010, guard).unwrap();
        let name = "registry.test:5010/web:1";
        shop.type_(&format!("tag {TOOLS} {name}"));
        let push = format!("push -q {name}");
        shop.refuses(&push, 1, "cannot reach registry registry.test:5010");
        let trusted = shop
            .host
            .path(Path::new("/etc/hawser/certs.d/registry.test:5010"));
        fs::create_dir_all(&trusted).unwrap();
        fs::copy(&authority, trusted.join("ca.crt")).unwrap();
        // The server is known now, and knows nobody.
        shop.refuses(&push, 1, "registry.test:5010");
        fs::copy(dir.join("client.crt"), trusted.join("me.cert")).unwrap();
        fs::copy(dir.join("client.key"), trusted.join("me.key")).unwrap();
        shop.type_(&push);
        shop.type_(&format!("rmi {name}"));
        assert_eq!(shop.type_(&format!("pull -q {name}")), name);
        let ran = shop.type_(&format!("run --rm --network none {name} echo here"));
        assert_eq!(ran, "here");
    }

    #[test]
    fn a_mirror_is_asked_before_the_hub_and_its_absence_is_said() {
        let shop = Shop::configured("[registry]\nmirrors = [\"http://127.0.0.1:5011\"]\n");
        let mirror = Registry::start(&shop.host, 5011, Guard::default()).unwrap();
        let there = "127.0.0.1:5011/library/web:1";
        shop.type_(&format!("tag {TOOLS} {there}"));
        shop.type_(&format!("push -q {there}"));
        shop.type_(&format!("rmi {there}"));
        assert_eq!(shop.type_("pull -q web:1"), "docker.io/library/web:1");
        assert_eq!(
            shop.type_("run --rm --network none web:1 echo here"),
            "here"
        );
        shop.type_("rmi web:1");
        drop(mirror);
        let refused = shop.run(&["pull", "-q", "web:1"]);
        assert_eq!(refused.code, 1, "{refused:?}");
        let lines: Vec<&str> = refused.stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{refused:?}");
        assert!(
            lines[0].contains("mirror http://127.0.0.1:5011: cannot reach"),
            "{refused:?}"
        );
        assert!(
            lines[1].contains("cannot reach registry docker.io"),
            "{refused:?}"
        );
    }

    /// Keeps one login in a file beside itself.
    const HELPER: &str = "#!/bin/sh\nkept=$(dirname \"$0\")/kept\ncase $1 in\n\
        store) cat >$kept;;\n\
        get) [ -e $kept ] && cat $kept || { echo credentials not found in native keychain; exit 1; };;\n\
        erase) rm -f $kept;;\nesac\n";

    fn helped(shop: &Shop, home: &Path, words: &str) -> Ran {
        let words: Vec<&str> = words.split_whitespace().collect();
        let mut command = shop.daemon.command(&words).unwrap();
        let path = std::env::var("PATH").unwrap();
        command
            .env("DOCKER_CONFIG", home)
            .env("PATH", format!("{}:{path}", home.display()));
        program::run(&mut command).unwrap()
    }

    fn helper(shop: &Shop) -> PathBuf {
        let home = shop.daemon.directories().root().join("docker");
        fs::create_dir(&home).unwrap();
        let program = home.join("docker-credential-file");
        fs::write(&program, HELPER).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let config = r#"{"credHelpers": {"127.0.0.1:5012": "file"}}"#;
        fs::write(home.join("config.json"), config).unwrap();
        home
    }

    #[test]
    fn a_helper_keeps_the_login_and_nobody_else_does() {
        let shop = Shop::open();
        let home = helper(&shop);
        let guard = Guard {
            login: Some(LOGIN),
            ..Guard::default()
        };
        let registry = Registry::start(&shop.host, 5012, guard).unwrap();
        let name = format!("{}/web:1", registry.address());
        shop.type_(&format!("tag {TOOLS} {name}"));
        let type_ = |words: &str| helped(&shop, &home, words);
        assert_eq!(type_(&format!("push -q {name}")).code, 1);
        let login = type_("login -u me -p pass 127.0.0.1:5012");
        assert_eq!(login.code, 0, "{login:?}");
        let kept: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(home.join("kept")).unwrap()).unwrap();
        assert_eq!(
            (&kept["Username"], &kept["Secret"]),
            (&"me".into(), &"pass".into())
        );
        let config = fs::read_to_string(home.join("config.json")).unwrap();
        assert!(!config.contains("\"auth\":"), "{config}");
        let pushed = type_(&format!("push -q {name}"));
        assert_eq!(pushed.code, 0, "{pushed:?}");
        shop.type_(&format!("rmi {name}"));
        assert_eq!(type_(&format!("pull -q {name}")).code, 0);
        assert_eq!(type_("logout 127.0.0.1:5012").code, 0);
        assert!(!home.join("kept").exists());
        assert_eq!(type_(&format!("pull -q {name}")).code, 1);
    }

    #[test]
    fn a_busy_registry_is_left_alone_for_as_long_as_it_asks() {
        let shop = Shop::open();
        let registry = Registry::start(&shop.host, 5013, Guard::default()).unwrap();
        let pushed = format!("{}/web:1", registry.address());
        shop.type_(&format!("tag {TOOLS} {pushed}"));
        shop.type_(&format!("push -q {pushed}"));
        let mut busy = 0;
        let busy = Between::start(
            &shop.host.network_namespace(),
            5014,
            registry.address(),
            move |asked| {
                busy += u32::from(asked.contains("/manifests/"));
                (asked.contains("/manifests/") && busy == 1).then(|| {
                    "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 0\r\n\
                     Connection: close\r\n\r\n"
                        .to_owned()
                })
            },
        )
        .unwrap();
        let begin = Instant::now();
        shop.type_(&format!("pull -q {}/web:1", busy.address()));
        assert!(begin.elapsed() >= Duration::from_secs(2));
    }

    #[test]
    fn a_pull_gets_again_what_a_removal_takes_from_under_it() {
        let shop = Shop::open();
        let registry = Registry::start(&shop.host, 5015, Guard::default()).unwrap();
        let script = "echo added >/added";
        shop.hawser(&[
            "run",
            "--network",
            "none",
            "--name",
            "more",
            TOOLS,
            "sh",
            "-c",
            script,
        ]);
        let pushed = format!("{}/web:1", registry.address());
        shop.type_(&format!("commit more {pushed}"));
        shop.type_("rm more");
        shop.type_(&format!("push -q {pushed}"));
        shop.type_(&format!("rmi {pushed}"));
        // The layer below is here, as long as this image is.
        let words = ["rmi", TOOLS];
        let mut removal = Some(shop.daemon.command(&words).unwrap());
        let mut blobs = 0;
        let between = Between::start(
            &shop.host.network_namespace(),
            5016,
            registry.address(),
            move |asked| {
                blobs += u32::from(asked.contains("/blobs/"));
                // The first is the configuration, and then layers are looked for.
                if blobs == 2
                    && let Some(mut removal) = removal.take()
                {
                    program::output(&mut removal).unwrap();
                }
                None
            },
        )
        .unwrap();
        let name = format!("{}/web:1", between.address());
        let pulled = shop.type_(&format!("pull {name}"));
        assert!(pulled.contains(": Already exists"), "{pulled}");
        assert!(
            pulled.contains("Status: Downloaded newer image"),
            "{pulled}"
        );
        assert_eq!(shop.type_("images -q").lines().count(), 1);
        let said = shop.type_(&format!("run --rm --network none {name} cat /added"));
        assert_eq!(said, "added");
        assert!(shop.type_("storage check --deep").contains("all is well"));
    }
}
