use super::*;

fn flags(network: &[&str]) -> CreateFlags {
    CreateFlags {
        network: network.iter().map(|name| (*name).to_owned()).collect(),
        ..CreateFlags::default()
    }
}

#[test]
fn the_first_network_is_the_mode() {
    let bridged = connection(&flags(&[])).unwrap();
    assert_eq!(
        (bridged.mode.as_str(), bridged.networks.len()),
        ("bridge", 1)
    );
    let mut two = flags(&[
        "front",
        "name=back,alias=db,ip=10.0.0.9,mac-address=02:00:00:00:00:01",
    ]);
    two.network_alias = vec!["www".to_owned()];
    let two = connection(&two).unwrap();
    assert_eq!(two.mode, "front");
    assert_eq!(two.networks[0].aliases, ["www"]);
    assert_eq!(two.networks[1].aliases, ["db"]);
    assert_eq!(two.networks[1].ipv4, Some(Ipv4Addr::new(10, 0, 0, 9)));
    assert!(two.networks[1].mac.is_some());
    let first = connection(&flags(&["name=front,gw-priority=-3"])).unwrap();
    assert_eq!(first.networks[0].gw_priority, -3);
}

#[test]
fn flags_without_a_network_are_about_the_first_one() {
    let mut two = flags(&["front", "back"]);
    two.ip = Some("10.0.0.9".to_owned());
    two.link = vec!["db:store".to_owned(), "cache".to_owned()];
    let two = connection(&two).unwrap();
    assert_eq!(two.networks[0].ipv4, Some(Ipv4Addr::new(10, 0, 0, 9)));
    assert_eq!(two.networks[0].links, ["db:store", "cache:cache"]);
    assert_eq!(two.networks[1], request("back"));
    assert!(two.links.is_empty());
}

#[test]
fn links_of_the_default_network_are_the_containers_own() {
    let mut linked = flags(&["default"]);
    linked.link = vec!["db:store".to_owned()];
    let linked = connection(&linked).unwrap();
    assert_eq!(linked.mode, "bridge");
    assert_eq!(linked.links, [("db".to_owned(), "store".to_owned())]);
    assert!(linked.networks[0].links.is_empty());
}

#[test]
fn an_interface_may_be_named() {
    let spec = format!("name=a,driver-opt={IFNAME_OPTION}=lan0");
    let named = connection(&flags(&[&spec])).unwrap();
    assert_eq!(named.networks[0].ifname(), Some("lan0"));
    let spec = format!("name=a,driver-opt={IFNAME_OPTION}=a/b");
    assert!(connection(&flags(&[&spec])).is_err());
}

#[test]
fn ports_are_of_no_use_on_the_hosts_own_network() {
    let mut host = flags(&["host"]);
    host.publish = vec!["80:80".to_owned()];
    let warnings = connection(&host).unwrap().warnings;
    assert_eq!(
        warnings,
        ["Published ports are discarded when using host network mode"]
    );
}

#[test]
fn modes_without_an_endpoint_have_no_networks() {
    for mode in ["host", "none", "container:web"] {
        let connection = connection(&flags(&[mode])).unwrap();
        assert_eq!(
            (connection.mode.as_str(), connection.networks.len()),
            (mode, 0)
        );
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    type Change = fn(&mut CreateFlags);
    let rows: [(&[&str], Change, &str); 19] = [
        (
            &["name=a,gw-priority=high"],
            |_| {},
            "invalid gw-priority \"high\"",
        ),
        (
            &["host", "n1"],
            |_| {},
            "host does not go with other networks",
        ),
        (
            &["container:a"],
            |f| f.publish = vec!["80".into()],
            "port publishing",
        ),
        (
            &["container:a"],
            |f| f.hostname = Some("h".into()),
            "--hostname",
        ),
        (
            &["host"],
            |f| f.ip = Some("10.0.0.1".into()),
            "--ip does not go",
        ),
        (
            &["name=a,ip=10.0.0.1"],
            |f| f.ip = Some("10.0.0.1".into()),
            "cannot specify both --ip and ip",
        ),
        (
            &["name=a,alias=x"],
            |f| f.network_alias = vec!["y".into()],
            "both --network-alias and alias",
        ),
        (
            &[],
            |f| f.ip = Some("10.0.0.1".into()),
            "user defined networks only",
        ),
        (
            &["host"],
            |f| f.link = vec!["x".into()],
            "--link does not go with --network host",
        ),
        (
            &["container:a"],
            |f| f.dns_search = vec!["x".into()],
            "--dns does not go",
        ),
        (&["container:"], |_| {}, "expected container:NAME"),
        (
            &["a"],
            |f| f.link = vec!["a:b:c".into()],
            "expected CONTAINER[:ALIAS]",
        ),
        (
            &["name=a,driver-opt=x=1"],
            |_| {},
            "unknown endpoint option \"x\"",
        ),
        (
            &["a"],
            |f| f.link_local_ip = vec!["169.254.1.1".into()],
            "link-local addresses cannot",
        ),
        (&["a"], |f| f.ip = Some("::1".into()), "an IPv4 address"),
        (
            &["a"],
            |f| f.mac_address = Some("x".into()),
            "invalid MAC address",
        ),
        (
            &[],
            |f| f.network_alias = vec!["x".into()],
            "user-defined networks",
        ),
        (&["a", "a"], |_| {}, "network a is given twice"),
        (&["name=a,bogus=1"], |_| {}, "unexpected field \"bogus=1\""),
    ];
    for (networks, change, part) in rows {
        let mut flags = flags(networks);
        change(&mut flags);
        let message = connection(&flags).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}
