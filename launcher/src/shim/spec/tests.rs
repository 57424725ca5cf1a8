use api::id::{ContainerName, Digest, Id};
use expect_test::{ExpectFile, expect_file};
use libcontainer::oci_spec::runtime::Spec;

use super::*;
use crate::container::{Config, HostConfig, Mount, MountKind, Recursion};

fn record() -> Record {
    Record {
        schema: 1,
        id: Id::from_bytes([0xab; 32]),
        name: ContainerName::parse("web").unwrap(),
        created: "2026-01-01T00:00:00Z".to_owned(),
        image: "busybox".to_owned(),
        image_id: Digest::from_sha256([1; 32]),
        config: Config {
            env: vec!["A=1".to_owned()],
            cmd: Some(vec!["sh".to_owned()]),
            ..Config::default()
        },
        host_config: HostConfig::default(),
        driver: String::new(),
        mounts: Vec::new(),
        networks: Vec::new(),
        links: Vec::new(),
        id_maps: None,
        runtime_program: None,
    }
}

fn made<'a>(
    record: &'a Record,
    security: &'a Security,
    change: impl FnOnce(&mut Input<'_>),
) -> Result<Value, SpecError> {
    let user = User {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home: "/root".to_owned(),
    };
    let volumes = BTreeMap::from([("/srv".to_owned(), PathBuf::from("/volumes/site/_data"))]);
    let mut input = Input {
        record,
        rootfs: Some(Path::new("/merged")),
        user: &user,
        network: NetworkNamespace::New,
        volumes: &volumes,
        link_env: &[],
        etc: &EtcFiles::of(Path::new("/containers/c1")),
        available: Mask::MAX,
        limits: &HardLimits::from([("nofile", 4096)]),
        security,
        cgroups: &Cgroups::Split(vec!["devices".to_owned()]),
        devices: &[],
        shared: &Shared::default(),
        read_only_below: false,
    };
    change(&mut input);
    let (config, _warnings) = config(&input)?;
    // What the runtime will make of it.
    serde_json::from_value::<Spec>(config.clone()).unwrap();
    Ok(config)
}

/// The filter has tests of its own, and would drown the rest.
fn check(mut config: Value, expected: ExpectFile) {
    if let Some(linux) = config["linux"].as_object_mut() {
        let rules = linux
            .get("seccomp")
            .map(|seccomp| seccomp["syscalls"].is_array());
        if let Some(has_rules) = rules {
            linux.insert("seccomp".to_owned(), json!({ "has rules": has_rules }));
        }
    }
    expected.assert_eq(&format!("{config:#}\n"));
}

#[test]
fn a_plain_container_gets_dockers_defaults() {
    check(
        made(&record(), &Security::default(), |_| {}).unwrap(),
        expect_file!["golden/plain.json"],
    );
}

fn mount(kind: MountKind, destination: &str, source: &str, rw: bool) -> Mount {
    Mount {
        kind,
        name: String::new(),
        source: source.to_owned(),
        destination: destination.to_owned(),
        driver: String::new(),
        mode: String::new(),
        rw,
        propagation: String::new(),
        anonymous: false,
        subpath: String::new(),
        recursion: Recursion::default(),
    }
}

#[test]
fn mounts_limits_and_terminal_are_as_asked() {
    let mut record = record();
    record.config.tty = true;
    record.config.hostname = "h1".to_owned();
    record.config.working_dir = "/srv".to_owned();
    record.host_config.readonly_rootfs = true;
    record.host_config.shm_size = 1 << 20;
    record.host_config.tmpfs = Some(BTreeMap::from([(
        "/run".to_owned(),
        "size=1m,exec".to_owned(),
    )]));
    record.mounts = vec![
        mount(MountKind::Bind, "/srv/deep/er", "/host/dir", false),
        mount(MountKind::Volume, "/srv", "", true),
        mount(MountKind::Bind, "/etc/hosts", "/host/hosts", true),
    ];
    let config = made(&record, &Security::default(), |input| {
        input.network = NetworkNamespace::At("/proc/7/ns/net".into());
        input.cgroups = &Cgroups::Unified;
    });
    check(config.unwrap(), expect_file!["golden/chosen.json"]);
}

#[test]
fn what_is_below_a_read_only_mount_is_as_asked() {
    use Recursion::{Disabled, Enabled, ReadOnly, Writable};
    for (recursion, rw, can, expected) in [
        (Enabled, true, true, "rbind rprivate rw"),
        (Enabled, false, true, "rbind rprivate ro rro"),
        (Enabled, false, false, "rbind rprivate ro"),
        (Writable, false, true, "rbind rprivate ro"),
        (ReadOnly, false, false, "rbind rprivate ro rro"),
        (Disabled, false, true, "bind rprivate ro"),
    ] {
        let mut record = record();
        record.mounts = vec![Mount {
            recursion,
            ..mount(MountKind::Bind, "/m", "/host", rw)
        }];
        let config = made(&record, &Security::default(), |input| {
            input.read_only_below = can;
        })
        .unwrap();
        let mounts = config["mounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["destination"] == "/m");
        let options: Vec<&str> = mount.unwrap()["options"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(options.join(" "), expected, "{recursion:?}");
    }
}

#[test]
fn privilege_lifts_every_confinement() {
    let mut record = record();
    record.host_config.privileged = true;
    let config = made(&record, &Security::default(), |input| {
        input.network = NetworkNamespace::Host
    })
    .unwrap();
    check(config, expect_file!["golden/privileged.json"]);
}

#[test]
fn security_options_are_understood_or_named() {
    let parse = |options: &[&str]| {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        Security::parse(&options, Modules::default(), |path| {
            if path == Path::new("/good") {
                Ok(br#"{"defaultAction":"SCMP_ACT_ALLOW"}"#.to_vec())
            } else {
                Err(std::io::ErrorKind::NotFound.into())
            }
        })
    };
    assert!(parse(&["no-new-privileges"]).unwrap().no_new_privileges);
    assert!(
        parse(&["no-new-privileges:true"])
            .unwrap()
            .no_new_privileges
    );
    let unconfined = parse(&["seccomp=unconfined", "apparmor=unconfined"]).unwrap();
    assert_eq!(unconfined.seccomp, SeccompChoice::Unconfined);
    assert!(matches!(
        parse(&["seccomp=/good"]).unwrap().seccomp,
        SeccompChoice::Profile(_)
    ));
    for bad in ["seccomp=/missing", "apparmor=mine", "magic"] {
        assert!(parse(&[bad]).is_err(), "{bad}");
    }
}

#[test]
fn a_profile_of_apparmor_is_the_usual_one_where_it_is_loaded() {
    let loaded = "man_groff (enforce)\nhawser-default (enforce)\nhawser-default//x (enforce)\n";
    assert!(has_default(loaded));
    assert!(!has_default(
        "hawser-default-old (enforce)\nhawser-default//x (enforce)\n"
    ));
    let modules = |apparmor_default| Modules {
        apparmor: true,
        apparmor_default,
        selinux: false,
    };
    let profile = |options: &[&str], modules: Modules, privileged: bool| {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let security = Security::parse(&options, modules, |_| unreachable!()).unwrap();
        let mut record = record();
        record.host_config.privileged = privileged;
        let config = made(&record, &security, |_| {}).unwrap();
        config["process"]["apparmorProfile"].clone()
    };
    assert_eq!(profile(&[], modules(true), false), "hawser-default");
    assert_eq!(profile(&[], modules(false), false), Value::Null);
    assert_eq!(profile(&[], modules(true), true), Value::Null);
    assert_eq!(profile(&["apparmor=mine"], modules(true), true), "mine");
    let off = ["apparmor=unconfined"];
    assert_eq!(profile(&off, modules(true), false), Value::Null);
}

#[test]
fn new_privileges_are_denied_only_when_asked() {
    let security = Security {
        no_new_privileges: true,
        ..Security::default()
    };
    let config = made(&record(), &security, |_| {}).unwrap();
    assert_eq!(config["process"]["noNewPrivileges"], true);
    // libcontainer loads the filter too late for an unprivileged process if the member is there.
    assert_eq!(
        made(&record(), &Security::default(), |_| {}).unwrap()["process"].get("noNewPrivileges"),
        None
    );
}
