//! Any datagram at the name server's socket: no panic, and a reply that belongs to it.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use api::id::Id;
use libfuzzer_sys::fuzz_target;
use netd::dns::{Config, DnsServer, NamedEndpoint};
use tokio::runtime::Runtime;

const ASKER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

struct World {
    server: DnsServer,
    network: Id,
    _runtime: Runtime,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    let server = DnsServer::new(Config::default(), runtime.handle().clone()).expect("a server");
    let network = Id::from_bytes([1; 32]);
    let endpoint = |number: u8, names: &[&str]| NamedEndpoint {
        endpoint: Id::from_bytes([number; 32]),
        network: network.clone(),
        network_name: "shop".parse().expect("a name"),
        container_id: format!("c{number}"),
        sandbox: netd::dns::SandboxId {
            device: 0,
            inode: number.into(),
        },
        order: 0,
        names: names.iter().map(ToString::to_string).collect(),
        addresses: vec![IpAddr::from([10, 0, 0, number])],
        ports: Vec::new(),
        links: Vec::new(),
        upstreams: Vec::new(),
        internal: false,
    };
    server.upsert(endpoint(2, &["web", "www"]));
    server.upsert(endpoint(3, &["app", "www"]));
    World {
        server,
        network,
        _runtime: runtime,
    }
});

fuzz_target!(|query: &[u8]| {
    let reply = WORLD.server.answer(&WORLD.network, ASKER, query);
    if let Some(reply) = reply {
        assert!(reply.len() >= 12 && reply[..2] == query[..2] && reply[2] & 0x80 != 0);
    }
});
