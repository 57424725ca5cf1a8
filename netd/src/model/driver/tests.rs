use super::option::MTU;
use super::*;

struct Host {
    links: BTreeMap<IfName, Link>,
    parents: Vec<ParentUse>,
}

impl Host {
    /// lo, eth0 and eth1, which is a port of br9.
    fn new() -> Self {
        let link = |index, loopback, master| Link {
            index,
            up: true,
            mac: None,
            mtu: if index == 2 { 1400 } else { 1500 },
            loopback,
            master,
            addresses: Vec::new(),
            isolated: false,
            limited: false,
            vxlan: None,
            wireguard: None,
        };
        let links = [
            ("lo", link(1, true, None)),
            ("eth0", link(2, false, None)),
            ("eth1", link(3, false, Some(4))),
            ("br9", link(4, false, None)),
        ];
        let links = links.map(|(name, link)| (IfName::parse(name).unwrap(), link));
        Self {
            links: links.into(),
            parents: Vec::new(),
        }
    }

    fn parse(&self, driver: &str, options: &[(&str, &str)]) -> Result<Driver, DriverError> {
        let options = options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let around = Surroundings {
            id: &Id::from_bytes([0xab; 32]),
            mtu: 1500,
            links: &self.links,
            parents: &self.parents,
            vnis: &BTreeSet::from([4096]),
            internal: false,
            segments: 1,
        };
        Driver::parse(driver, &Options(&options), &around)
    }

    fn used(mut self, driver: &str, options: &[(&str, &str)]) -> Self {
        let parsed = self.parse(driver, options).unwrap();
        let sharing = match &parsed {
            Driver::Macvlan(macvlan) => Sharing::Macvlan { mode: macvlan.mode },
            Driver::Ipvlan(ipvlan) => Sharing::Ipvlan {
                mode: ipvlan.mode,
                flag: ipvlan.flag,
            },
            _ => panic!("{driver} has no parent"),
        };
        self.parents.push(ParentUse {
            network: api::id::NetworkName::parse("other").unwrap(),
            parent: parsed.parent().unwrap().clone(),
            sharing,
        });
        self
    }

    fn parent(&self, options: &[(&str, &str)]) -> Parent {
        let driver = self.parse("macvlan", options).unwrap();
        driver.parent().unwrap().clone()
    }

    #[track_caller]
    fn refuses(&self, driver: &str, options: &[(&str, &str)], part: &str) {
        let message = self.parse(driver, options).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

fn name(text: &str) -> IfName {
    IfName::parse(text).unwrap()
}

#[test]
fn dockers_bridge_options_are_understood() {
    let host = Host::new();
    let parsed = host.parse(
        "bridge",
        &[
            (BRIDGE_NAME, "lan0"),
            ("com.docker.network.bridge.enable_icc", "false"),
            ("hawser.spoof-check", "false"),
            ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
            ("com.docker.network.bridge.gateway_mode_ipv6", "nat"),
            ("com.docker.network.container_iface_prefix", "lan"),
            (MTU, "1400"),
        ],
    );
    let Ok(Driver::Bridge(bridge)) = parsed else {
        panic!("{parsed:?}");
    };
    assert_eq!(bridge.link, name("lan0"));
    let mtu = Mtu {
        bytes: 1400,
        fixed: true,
    };
    assert_eq!(bridge.mtu, mtu);
    assert!(bridge.masquerades(false) && bridge.masquerades(true));
    assert!(!bridge.icc && !bridge.spoof_check);
    assert_eq!(bridge.host_binding, Some([127, 0, 0, 1].into()));
    let listed = bridge.default_options();
    let pairs: Vec<_> = listed
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert!(
        host.parse("bridge", &pairs).is_ok(),
        "what is listed can be given"
    );
}

#[test]
fn each_gateway_mode_hides_and_guards_as_its_name_says() {
    let host = Host::new();
    for (mode, masquerades, is_guarded) in [
        ("nat", true, true),
        ("nat-unprotected", true, false),
        ("routed", false, true),
    ] {
        for v6 in [false, true] {
            let family = if v6 { 6 } else { 4 };
            let key = format!("com.docker.network.bridge.gateway_mode_ipv{family}");
            let parsed = host.parse("bridge", &[(&key, mode)]).unwrap();
            let bridge = parsed.bridge().unwrap();
            let seen = (bridge.masquerades(v6), bridge.is_guarded(v6));
            assert_eq!(seen, (masquerades, is_guarded), "{mode} {v6}");
            assert_eq!(bridge.gateway_mode(!v6), GatewayMode::Nat);
            assert!(bridge.is_gateway(v6));
        }
    }
}

#[test]
fn refusals_name_the_option() {
    let host = Host::new();
    host.refuses(
        "bridge",
        &[("parent", "eth0")],
        "unknown option \"parent\" of the bridge",
    );
    let icc = "com.docker.network.bridge.enable_icc";
    host.refuses(
        "bridge",
        &[(icc, "maybe")],
        "enable_icc: expected true or false",
    );
    host.refuses("bridge", &[(MTU, "10")], "from 68 to 65535");
    host.refuses(
        "bridge",
        &[(BRIDGE_NAME, "a/b")],
        "bridge.name: invalid interface",
    );
    let mode = "com.docker.network.bridge.gateway_mode_ipv4";
    host.refuses(
        "bridge",
        &[(mode, "isolated")],
        "needs an --internal network",
    );
    host.refuses(
        "bridge",
        &[(mode, "open")],
        "expected nat, nat-unprotected, routed or isolated",
    );
    host.refuses(
        "macvlan",
        &[(icc, "true")],
        "known are parent, macvlan_mode, com.docker",
    );
    host.refuses(
        "macvlan",
        &[("macvlan_mode", "x")],
        "bridge, private, vepa or passthru",
    );
    host.refuses("ipvlan", &[("ipvlan_mode", "l4")], "l2, l3 or l3s");
    host.refuses("ipvlan", &[("ipvlan_flag", "x")], "bridge, private or vepa");
    host.refuses(
        "overlay",
        &[("encrypted", "perhaps")],
        "invalid value \"perhaps\" of option encrypted: expected true or false",
    );
    let vnis = "com.docker.network.driver.overlay.vxlanid_list";
    for value in ["", "0", "15728640", "7;8"] {
        host.refuses("overlay", &[(vnis, value)], "numbers from 1 to 15728639");
    }
    host.refuses(
        "overlay",
        &[(vnis, "7,8")],
        "2 VXLAN network numbers for 1 subnets",
    );
    host.refuses(
        "overlay",
        &[(vnis, "4096")],
        "number 4096 is that of another network",
    );
    host.refuses("host", &[], "only one host network is allowed");
    host.refuses("frobnicate", &[], "unknown network driver \"frobnicate\"");
    let prefix = "com.docker.network.container_iface_prefix";
    host.refuses(
        "bridge",
        &[(prefix, "a/b")],
        "1 to 12 bytes of an interface name",
    );
}

#[test]
fn an_overlay_is_encrypted_when_its_option_is_there() {
    let host = Host::new();
    for (value, encrypted) in [("", true), ("yes", true), ("1", true), ("false", false)] {
        let driver = host.parse("overlay", &[("encrypted", value)]).unwrap();
        assert_eq!(driver.overlay().unwrap().encrypted, encrypted, "{value:?}");
        let needs = driver.link_kinds().any(|kind| kind == LinkKind::WireGuard);
        assert_eq!(needs, encrypted);
    }
    // Without this node's address among the nodes, it could only send in clear text.
    let driver = host.parse("overlay", &[("encrypted", "")]).unwrap();
    let mut overlay = driver.overlay().unwrap().clone();
    overlay.tunnel = Some(Tunnel {
        local: [192, 0, 2, 1].into(),
        port: 4789,
    });
    assert_eq!(overlay.end(), None);
    overlay.inner = Some("fe80::1".parse().unwrap());
    assert_eq!(overlay.end().unwrap().local.to_string(), "fe80::1");
}

#[test]
fn a_parent_is_somebodys_or_made_for_the_network() {
    let host = Host::new();
    let parent = host.parent(&[("parent", "eth0")]);
    assert_eq!((parent.link, parent.made), (name("eth0"), None));
    let parent = host.parent(&[("parent", "eth0.100")]);
    let made = Made::Vlan {
        base: name("eth0"),
        id: 100,
    };
    assert_eq!(
        (parent.link, parent.made),
        (name("eth0.100"), Some(made.clone()))
    );
    let parent = host.parent(&[]);
    assert_eq!(
        (parent.link, parent.made),
        (name("dm-abababababab"), Some(Made::Dummy))
    );

    // Made for another network: it is the last one's to remove.
    let mut host = Host::new().used("macvlan", &[("parent", "eth0.100")]);
    let eth0 = host.links[&name("eth0")].clone();
    host.links.insert(name("eth0.100"), eth0);
    assert_eq!(host.parent(&[("parent", "eth0.100")]).made, Some(made));
    // There before us.
    host.parents.clear();
    assert_eq!(host.parent(&[("parent", "eth0.100")]).made, None);
}

#[test]
fn parents_that_cannot_be_are_refused() {
    let host = Host::new();
    host.refuses(
        "macvlan",
        &[("parent", "eth7")],
        "parent interface eth7 not found",
    );
    host.refuses(
        "macvlan",
        &[("parent", "eth7.5")],
        "eth7.5 cannot be made: eth7 not found",
    );
    for id in ["0", "4095", "x", ""] {
        let parent = format!("eth0.{id}");
        host.refuses("macvlan", &[("parent", &parent)], "from 1 to 4094");
    }
    host.refuses(
        "ipvlan",
        &[("parent", "lo")],
        "lo is the loopback interface",
    );
    host.refuses("macvlan", &[("parent", "eth1")], "eth1 is a port of br9");
    let mtu = [("parent", "eth0"), (MTU, "1500")];
    host.refuses(
        "macvlan",
        &mtu,
        "mtu=1500 exceeds the MTU 1400 of parent interface eth0",
    );
}

#[test]
fn networks_share_a_parent_if_they_agree() {
    let eth0 = ("parent", "eth0");
    let passthru = ("macvlan_mode", "passthru");
    let macvlan = Host::new().used("macvlan", &[eth0]);
    let private = [eth0, ("macvlan_mode", "private")];
    assert!(macvlan.parse("macvlan", &private).is_ok());
    macvlan.refuses(
        "macvlan",
        &[eth0, passthru],
        "is used by network other as macvlan",
    );
    macvlan.refuses("ipvlan", &[eth0], "is used by network other as macvlan");
    let passthru = Host::new().used("macvlan", &[eth0, passthru]);
    passthru.refuses("macvlan", &[eth0], "mode passthru, which takes all of it");
    let ipvlan = Host::new().used("ipvlan", &[eth0]);
    assert!(ipvlan.parse("ipvlan", &[eth0]).is_ok());
    ipvlan.refuses(
        "ipvlan",
        &[eth0, ("ipvlan_mode", "l3")],
        "ipvlan mode l2 flag bridge",
    );
}

#[test]
fn links_follow_the_parent_unless_told_otherwise() {
    let host = Host::new();
    let mtu = |options: &[_]| host.parse("macvlan", options).unwrap().mtu().unwrap();
    let inherited = mtu(&[("parent", "eth0.7")]);
    assert_eq!((inherited.bytes, inherited.fixed), (1400, false));
    let given = mtu(&[("parent", "eth0"), ("mtu", "1300")]);
    assert_eq!((given.bytes, given.fixed), (1300, true));
}
