use super::*;

struct Names;

impl HolderNames for Names {
    fn holder(&self, holder: &PortHolder) -> String {
        match holder {
            PortHolder::Endpoint(key) => format!("container {}", key.container),
            PortHolder::Service(id) => format!("service {id}"),
        }
    }
    fn process(&self, socket: &BoundSocket) -> String {
        format!("process {}", socket.inode)
    }
}

fn binding(text: &str) -> PortBinding {
    let (ip, rest) = match text.split_once('@') {
        Some((ip, rest)) => (Some(ip.parse().unwrap()), rest),
        None => (None, text),
    };
    let (host, count) = rest.split_once('+').unwrap_or((rest, "1"));
    let (host, last) = match host.split_once('-') {
        Some((first, last)) => (first, Some(last.parse().unwrap())),
        None => (host, None),
    };
    PortBinding {
        protocol: Protocol::Tcp,
        container_port: 80,
        host_port: host.parse().unwrap(),
        host_port_last: last,
        count: count.parse().unwrap(),
        host_ip: ip,
    }
}

fn bound(address: &str, listens: bool) -> BoundSocket {
    let address: SocketAddr = address.parse().unwrap();
    BoundSocket {
        protocol: Protocol::Tcp,
        address: address.ip(),
        port: address.port(),
        listens,
        inode: 7,
    }
}

fn table(held: &str) -> PortTable {
    let mut table = PortTable::default();
    table.insert(&EndpointKey::new("c1", "eth0").into(), &[binding(held)]);
    table
}

#[test]
fn published_ports_clash_where_their_addresses_overlap() {
    let check = |held: &str, wanted: &str, clash: bool| {
        let result = resolve(&[binding(wanted)], &table(held), &[], &Names);
        assert_eq!(result.is_err(), clash, "{held} and {wanted}: {result:?}");
    };
    check("80", "80", true);
    check("80", "127.0.0.1@80", true);
    check("127.0.0.1@80", "80", true);
    check("127.0.0.1@80", "127.0.0.2@80", false);
    check("0.0.0.0@80", "127.0.0.2@80", true);
    check("0.0.0.0@80", "::1@80", false);
    check("8000+100", "8099", true);
    check("8000+100", "8100", false);
    check("8050", "8000+100", true);
    let error = resolve(&[binding("80")], &table("80"), &[], &Names).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port 80/tcp is already allocated: published by container c1"
    );
}

#[test]
fn bound_sockets_clash_where_their_addresses_overlap() {
    let check = |held: &str, wanted: &str, clash: bool| {
        let held = [bound(held, true)];
        let result = resolve(&[binding(wanted)], &PortTable::default(), &held, &Names);
        assert_eq!(result.is_err(), clash, "{held:?} and {wanted}: {result:?}");
    };
    check("0.0.0.0:80", "80", true);
    check("127.0.0.1:80", "80", true);
    check("127.0.0.1:80", "10.0.0.1@80", false);
    check("[::]:80", "10.0.0.1@80", true);
    check("[::ffff:10.0.0.1]:80", "10.0.0.1@80", true);
    check("[::1]:80", "0.0.0.0@80", false);
    let idle = [bound("10.0.0.1:80", false)];
    assert!(resolve(&[binding("80")], &PortTable::default(), &idle, &Names).is_ok());
}

#[test]
fn chosen_ports_avoid_everything_in_use() {
    let wanted = [binding("0"), binding("32770"), binding("0+2")];
    let busy = [bound("10.0.0.1:32769", false)];
    let result = resolve(&wanted, &table("32768"), &busy, &Names).unwrap();
    let ports: Vec<u16> = result.iter().map(|b| b.host_port).collect();
    assert_eq!(ports, [32770, 32771, 32772]);
}

#[test]
fn a_port_is_chosen_from_the_range_that_was_asked_for() {
    let busy = [bound("127.0.0.1:8001", true)];
    let choose = |wanted: &str| {
        let result = resolve(&[binding(wanted)], &table("8000"), &busy, &Names);
        result.map(|chosen| (chosen[0].host_port, chosen[0].host_port_last))
    };
    assert_eq!(choose("8000-8009"), Ok((8002, None)));
    assert_eq!(
        choose("8000-8001").unwrap_err().to_string(),
        "no run of 1 free tcp ports is left between 8000 and 8001"
    );
}

#[test]
fn a_removed_holder_frees_its_ports() {
    let mut table = table("8000+3");
    table.remove(&EndpointKey::new("c1", "eth0").into(), &[binding("8000+3")]);
    assert!(table.held.is_empty());
}

#[test]
fn a_container_cannot_have_a_port_twice() {
    let wanted = [binding("8000+10"), binding("8005")];
    let error = resolve(&wanted, &PortTable::default(), &[], &Names).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port 8005/tcp is already allocated: published by this request itself"
    );
    let apart = [binding("127.0.0.1@8000"), binding("127.0.0.2@8000")];
    assert!(resolve(&apart, &PortTable::default(), &[], &Names).is_ok());
}

#[test]
fn impossible_bindings_are_refused() {
    let check = |edit: fn(&mut PortBinding), part: &str| {
        let mut given = binding("8000");
        edit(&mut given);
        let message = check(&given).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    check(|b| b.count = 0, "it has no ports");
    check(|b| b.host_port_last = Some(7999), "ends before it starts");
    check(|b| b.container_port = 0, "the container port is 0");
    check(|b| (b.host_port, b.count) = (65535, 2), "past port 65535");
}
