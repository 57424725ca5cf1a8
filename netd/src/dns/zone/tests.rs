use super::*;
use api::id::NetworkName;

fn id(digit: char) -> Id {
    Id::parse(&digit.to_string().repeat(64)).unwrap()
}

/// An endpoint described as `name,alias@network container address,address`.
fn endpoint(digit: char, text: &str) -> NamedEndpoint {
    let (names, rest) = text.split_once('@').unwrap();
    let [network, container, addresses] = rest.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    NamedEndpoint {
        endpoint: id(digit),
        network: id(network.chars().next().unwrap()),
        network_name: NetworkName::parse(network).unwrap(),
        container_id: container.repeat(64),
        sandbox: sandbox(container),
        order: u64::from(digit.to_digit(16).unwrap()),
        names: names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        addresses: addresses
            .split(',')
            .map(|address| address.parse().unwrap())
            .collect(),
        ports: Vec::new(),
        links: Vec::new(),
        upstreams: Vec::new(),
        internal: false,
    }
}

fn sandbox(container: &str) -> NsId {
    NsId {
        device: 4,
        inode: container.parse().unwrap(),
    }
}

/// Three containers; c1 is on both networks.
fn world() -> Registry {
    let mut registry = Registry::default();
    for (digit, text) in [
        ('1', "web,www@alpha 1 10.0.0.2,fd00::2"),
        ('2', "app,www@alpha 2 10.0.0.3"),
        ('3', "web@beta 1 10.1.0.2"),
        ('4', "db@beta 3 10.1.0.3"),
    ] {
        registry.upsert(Endpoint::new(endpoint(digit, text)).0);
    }
    registry
}

/// The addresses that `source`, asking on `network`, gets for `name`.
#[track_caller]
fn check(registry: &Registry, network: char, source: &str, name: &str, expected: &str) {
    let seat = Seat::Network(id(network));
    check_at(registry, &seat, source, name, expected);
}

/// What the socket inside the sandbox of `container` gives.
#[track_caller]
fn check_inside(registry: &Registry, container: &str, name: &str, expected: &str) {
    let seat = Seat::Sandbox(sandbox(container));
    check_at(registry, &seat, "127.0.0.1", name, expected);
}

#[track_caller]
fn check_at(registry: &Registry, seat: &Seat, source: &str, name: &str, expected: &str) {
    let view = View::new(&registry.directory, seat, source.parse().unwrap());
    let found = match view.addresses(&key(name).unwrap()).next() {
        None => "none".to_owned(),
        Some(found) => {
            let v4 = found.v4.iter().map(ToString::to_string);
            v4.chain(found.v6.iter().map(ToString::to_string))
                .collect::<Vec<_>>()
                .join(" ")
        }
    };
    assert_eq!(found, expected, "{name} asked by {source} at {seat:?}");
}

#[test]
fn inside_a_sandbox_the_socket_tells_who_asks() {
    let world = world();
    check_inside(&world, "2", "web", "10.0.0.2 fd00::2");
    check_inside(&world, "2", "db", "none");
    check_inside(&world, "1", "db", "10.1.0.3");
    check_inside(&world, "1", "app", "10.0.0.3");
    check_inside(&world, "9", "web", "none");
    let outside = |container| {
        let seat = Seat::Sandbox(sandbox(container));
        View::new(&world.directory, &seat, STUB).outside()
    };
    assert_eq!(outside("1"), Outside::Forward(None));
    assert_eq!(outside("9"), Outside::Stranger);
}

#[test]
fn a_link_is_a_name_for_its_owner_alone_and_follows_the_container() {
    let mut world = world();
    let mut linked = endpoint('5', "@alpha 5 10.0.0.5");
    let link = |container: &str, alias: &str| api::net::Link {
        container: container.to_owned(),
        alias: alias.to_owned(),
    };
    linked.links = vec![
        link(&"2".repeat(64), "Foo"),
        link("web", "site"),
        // Hides what others mean by it.
        link(&"2".repeat(64), "web"),
        link(&"3".repeat(64), "base"),
    ];
    world.upsert(Endpoint::new(linked).0);
    check(&world, 'a', "10.0.0.5", "foo", "10.0.0.3");
    check(&world, 'a', "10.0.0.5", "foo.alpha", "10.0.0.3");
    check(&world, 'a', "10.0.0.5", "site", "10.0.0.2 fd00::2");
    check(&world, 'a', "10.0.0.5", "web", "10.0.0.3");
    check_inside(&world, "5", "foo", "10.0.0.3");
    check(&world, 'a', "10.0.0.3", "foo", "none");
    check(&world, 'a', "10.0.0.3", "web", "10.0.0.2 fd00::2");
    check(&world, 'a', "10.0.0.5", "base", "none");
    world.remove(&id('2'));
    check(&world, 'a', "10.0.0.5", "foo", "none");
    world.upsert(Endpoint::new(endpoint('6', "other@alpha 2 10.0.0.6")).0);
    check(&world, 'a', "10.0.0.5", "foo", "10.0.0.6");
}

#[test]
fn names_are_visible_on_all_networks_of_the_asker_and_no_other() {
    let world = world();
    check(&world, 'a', "10.0.0.3", "web", "10.0.0.2 fd00::2");
    check(&world, 'a', "10.0.0.3", "WEB.Alpha", "10.0.0.2 fd00::2");
    check(&world, 'a', "10.0.0.3", "db", "none");
    check(&world, 'a', "10.0.0.3", "web.beta", "none");
    // c1 is on both networks, whichever socket it asks at; the one it asks at comes first.
    check(&world, 'a', "10.0.0.2", "db", "10.1.0.3");
    check(&world, 'a', "10.0.0.2", "web", "10.0.0.2 fd00::2");
    check(&world, 'b', "10.1.0.2", "web", "10.1.0.2");
    check(&world, 'b', "10.1.0.2", "app", "10.0.0.3");
    // A stranger gets the names of the network whose socket it found.
    check(&world, 'a', "192.0.2.1", "web", "10.0.0.2 fd00::2");
    check(&world, 'a', "192.0.2.1", "db", "none");
    check(&world, 'f', "10.0.0.2", "web", "none");
}

#[test]
fn an_endpoint_without_names_asks_and_is_not_found() {
    let mut world = world();
    world.upsert(Endpoint::new(endpoint('5', "@alpha 5 10.0.0.5")).0);
    let seat = Seat::Network(id('a'));
    let view = View::new(&world.directory, &seat, "10.0.0.5".parse().unwrap());
    assert_eq!(view.outside(), Outside::Forward(None));
    assert!(view.pointer("10.0.0.5".parse().unwrap()).is_none());
}

#[test]
fn an_alias_outlives_one_of_its_owners() {
    let mut world = world();
    check(&world, 'a', "10.0.0.2", "www", "10.0.0.2 10.0.0.3 fd00::2");
    world.remove(&id('1'));
    check(&world, 'a', "10.0.0.3", "www", "10.0.0.3");
    check(&world, 'a', "10.0.0.3", "web", "none");
    world.remove(&id('2'));
    check(&world, 'a', "10.0.0.3", "www", "none");
}

#[test]
fn replacing_an_endpoint_leaves_nothing_of_the_old_one() {
    let mut world = world();
    world.upsert(Endpoint::new(endpoint('1', "new@alpha 1 10.0.0.9")).0);
    check(&world, 'a', "10.0.0.3", "new", "10.0.0.9");
    check(&world, 'a', "10.0.0.3", "web", "none");
    check(&world, 'a', "10.0.0.9", "db", "10.1.0.3");
    check(&world, 'a', "10.0.0.2", "db", "none");
}

#[test]
fn an_address_that_moved_on_survives_the_removal_of_its_old_owner() {
    let mut world = world();
    world.upsert(Endpoint::new(endpoint('5', "next@alpha 5 10.0.0.2")).0);
    world.remove(&id('1'));
    let seat = Seat::Network(id('a'));
    let view = View::new(&world.directory, &seat, "10.0.0.3".parse().unwrap());
    let pointer = view.pointer("10.0.0.2".parse().unwrap()).unwrap();
    assert_eq!(pointer.to_string(), "next.alpha");
}

#[test]
fn removing_everything_leaves_nothing() {
    let mut world = world();
    for digit in ['1', '2', '3', '4', '4'] {
        world.remove(&id(digit));
    }
    assert!(world.directory.zones.is_empty() && world.directory.sandboxes.is_empty());
    assert_eq!((world.endpoints(), world.directory.names()), (0, 0));
}

#[test]
fn names_that_cannot_be_in_dns_are_reported_and_the_others_work() {
    let (endpoint, rejected) = Endpoint::new(endpoint('1', "a..b,web@alpha 1 10.0.0.2"));
    assert_eq!(rejected, ["a..b"]);
    assert_eq!(endpoint.pointer.unwrap().to_string(), "web.alpha");
}

#[test]
fn the_outside_is_open_unless_all_networks_are_internal() {
    let mut registry = Registry::default();
    let mut inner = endpoint('1', "web@alpha 1 10.0.0.2");
    inner.internal = true;
    inner.upstreams = vec!["192.0.2.53".parse().unwrap(), STUB];
    registry.upsert(Endpoint::new(inner).0);
    let outside = |registry: &Registry, source: &str| {
        let seat = Seat::Network(id('a'));
        View::new(&registry.directory, &seat, source.parse().unwrap()).outside()
    };
    assert_eq!(outside(&registry, "10.0.0.2"), Outside::Nothing);
    assert_eq!(outside(&registry, "10.0.0.3"), Outside::Stranger);
    registry.upsert(Endpoint::new(endpoint('2', "web@beta 1 10.1.0.2")).0);
    let servers = Servers {
        origin: Origin::Sandbox(sandbox("1")),
        addresses: Arc::from(["192.0.2.53:53".parse().unwrap()]),
    };
    assert_eq!(
        outside(&registry, "10.0.0.2"),
        Outside::Forward(Some(servers))
    );
}
