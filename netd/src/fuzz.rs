//! What the fuzz targets of `fuzz/` run, and the replay of their corpora.
//!
//! A body is either refused in one line, or means an object that holds the model's invariants.

use std::collections::{BTreeMap, BTreeSet};

use api::id::Id;
use api::net::{AttachRequest, NetworkCreate};

use crate::model::address::Holders;
use crate::model::endpoint::{self, Endpoint, EndpointError, NewEndpoint, Sandbox};
use crate::model::endpoints::Endpoints;
use crate::model::ipam::{Pool, Walks};
use crate::model::network::{Network, NewNetwork};
use crate::model::port::{self, BoundSocket, HolderNames, PortHolder, PortTable};
use crate::model::services::Services;

/// The body of a request to create a network, or to attach a sandbox.
pub fn api_request(body: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<NetworkCreate>(body) {
        match network(request) {
            Ok(network) => check_network(&network),
            Err(refusal) => check_refusal(&refusal),
        }
    }
    if let Ok(request) = serde_json::from_slice::<AttachRequest>(body) {
        match endpoint(&request) {
            Ok(endpoint) => check_endpoint(&endpoint),
            Err(refusal) => check_refusal(&refusal),
        }
    }
}

fn network(request: NetworkCreate) -> Result<Network, String> {
    let new = NewNetwork {
        id: Id::from_bytes([7; 32]),
        created: "2026-01-02T03:04:05.000000006Z".to_owned(),
        random: [1, 2, 3, 4, 5],
        mtu: 1500,
        links: &BTreeMap::new(),
        parents: &[],
        vnis: &BTreeSet::new(),
        pools: &Pool::defaults(),
        taken: &[],
    };
    Network::create(request, new).map_err(|error| error.to_string())
}

fn check_network(network: &Network) {
    for subnet in &network.subnets {
        assert!(subnet.subnet.contains(&subnet.gateway), "{subnet:?}");
        assert!(subnet.subnet.contains(&subnet.range), "{subnet:?}");
        let others = network.subnets.iter().filter(|o| o.subnet != subnet.subnet);
        for other in others {
            assert!(!other.subnet.contains(&subnet.subnet), "{network:?}");
        }
        let chosen = Walks::default().next(&network.id, subnet, |_| false);
        if let Some(address) = chosen {
            assert_eq!(subnet.reserved(address), None, "{address} of {subnet:?}");
        }
    }
    let record = serde_json::to_string(network).expect("a record serialises");
    let again: Network = serde_json::from_str(&record).expect("and comes back");
    assert_eq!(*network, again);
}

/// On a network of both families where nobody is yet.
fn endpoint(request: &AttachRequest) -> Result<Endpoint, String> {
    let words = |error: EndpointError| error.to_string();
    endpoint::check(request).map_err(words)?;
    let create =
        r#"{"Name":"shop","EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"10.9.0.0/24"}]}}"#;
    let network = network(serde_json::from_str(create).map_err(|error| error.to_string())?)?;
    let ports = port::resolve(&request.ports, &PortTable::default(), &[], &Nobody);
    let new = NewEndpoint {
        id: Id::from_bytes([9; 32]),
        order: 0,
        sandbox: Sandbox {
            path: request.netns.clone(),
            device: 4,
            inode: 10,
            cookie: None,
        },
        ports: ports.map_err(|error| error.to_string())?,
        dns: request.dns.clone(),
        parent_mac: None,
        holders: Holders {
            endpoints: &Endpoints::default(),
            services: &Services::default(),
            peers: &BTreeMap::new(),
        },
        memberships: Vec::new(),
        walks: &Walks::default(),
    };
    Endpoint::create(request, &network, new).map_err(words)
}

fn check_endpoint(endpoint: &Endpoint) {
    let addresses: BTreeSet<_> = endpoint.addresses().collect();
    assert_eq!(addresses.len(), endpoint.addresses().count(), "twice");
    for (frontend, backend) in endpoint.frontends() {
        assert_ne!((frontend.port, frontend.count, backend.port()), (0, 0, 0));
        assert!(u32::from(frontend.port) + u32::from(frontend.count) <= 1 << 16);
        assert!(u32::from(backend.port()) + u32::from(frontend.count) <= 1 << 16);
        assert!(addresses.contains(&backend.ip()), "{frontend}");
    }
    let record = serde_json::to_string(endpoint).expect("a record serialises");
    let again: Endpoint = serde_json::from_str(&record).expect("and comes back");
    assert_eq!(*endpoint, again);
}

/// One line with something in it, and not as long as what a stranger sent.
fn check_refusal(refusal: &str) {
    assert!(!refusal.is_empty());
    assert!(!refusal.contains('\n'), "{refusal:?}");
}

struct Nobody;

impl HolderNames for Nobody {
    fn holder(&self, holder: &PortHolder) -> String {
        format!("{holder:?}")
    }

    fn process(&self, socket: &BoundSocket) -> String {
        socket.inode.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_api_requests_is_refused_or_valid() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/api_request");
        let mut files = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let body = std::fs::read(entry.unwrap().path()).unwrap();
            for length in 0..=body.len() {
                api_request(&body[..length]);
            }
            // Every byte once something else: mostly no JSON any more, sometimes another request.
            for at in 0..body.len() {
                let mut body = body.clone();
                for byte in [b'9', b'0', b'/', b'"', b'\\', 0xff] {
                    body[at] = byte;
                    api_request(&body);
                }
            }
            files += 1;
        }
        assert!(files >= 8, "only {files} files in {corpus}");
    }
}
