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
        names: names
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        addresses: addresses
            .split(',')
            .map(|address| address.parse().unwrap())
            .collect(),
        upstreams: Vec::new(),
        internal: false,
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
    let network = id(network);
    let view = View::new(&registry.directory, &network, source.parse().unwrap());
    let mut key = name::encode(name).unwrap();
    key.make_ascii_lowercase();
    let found = match view.addresses(&key).next() {
        None => "none".to_owned(),
        Some(found) => {
            let v4 = found.v4.iter().map(ToString::to_string);
            v4.chain(found.v6.iter().map(ToString::to_string))
                .collect::<Vec<_>>()
                .join(" ")
        }
    };
    assert_eq!(found, expected, "{name} asked by {source}");
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
fn a_container_answers_to_its_short_id() {
    check(&world(), 'a', "10.0.0.2", "222222222222", "10.0.0.3");
    check(&world(), 'a', "10.0.0.2", "222222222222.alpha", "10.0.0.3");
}

#[test]
fn an_endpoint_without_names_asks_and_is_not_found() {
    let mut world = world();
    world.upsert(Endpoint::new(endpoint('5', "@alpha 5 10.0.0.5")).0);
    check(&world, 'a', "10.0.0.2", "555555555555", "none");
    let network = id('a');
    let view = View::new(&world.directory, &network, "10.0.0.5".parse().unwrap());
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
    let network = id('a');
    let view = View::new(&world.directory, &network, "10.0.0.3".parse().unwrap());
    let pointer = view.pointer("10.0.0.2".parse().unwrap()).unwrap();
    assert_eq!(pointer.to_string(), "next.alpha");
}

#[test]
fn removing_everything_leaves_nothing() {
    let mut world = world();
    for digit in ['1', '2', '3', '4', '4'] {
        world.remove(&id(digit));
    }
    assert!(world.directory.zones.is_empty() && world.directory.containers.is_empty());
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
        View::new(&registry.directory, &id('a'), source.parse().unwrap()).outside()
    };
    assert_eq!(outside(&registry, "10.0.0.2"), Outside::Nothing);
    assert_eq!(outside(&registry, "10.0.0.3"), Outside::Stranger);
    registry.upsert(Endpoint::new(endpoint('2', "web@beta 1 10.1.0.2")).0);
    let servers = Arc::from(["192.0.2.53:53".parse().unwrap()]);
    assert_eq!(
        outside(&registry, "10.0.0.2"),
        Outside::Forward(Some(servers))
    );
}
