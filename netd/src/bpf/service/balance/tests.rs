//! What the programs choose is what the same functions choose here.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use abi::maglev::{FEW, LARGE, SMALL, client_hash, flow_hash, slot};
use abi::{Address, Be16, protocol};

use super::*;
use crate::bpf::{DataPlane, FrontendAddress, Options, Side};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PORT: u16 = 8080;

/// A data plane that goes with the test.
struct Plane(DataPlane, Options);

impl Plane {
    fn open() -> Self {
        let name = format!("test-{}-choice", std::process::id());
        let options = Options {
            pin_dir: PathBuf::from("/sys/fs/bpf/hawser").join(name).join("v1"),
            cgroup: None,
            sizes: BTreeMap::new(),
        };
        let plane = DataPlane::open(&options).expect("root is needed to load programs");
        plane.set_local_addresses(&[HOST.into()].into()).unwrap();
        Self(plane, options)
    }

    /// The backend that the program chooses for a datagram.
    fn chosen(&self, client: Ipv4Addr, port: u16) -> Ipv4Addr {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol::UDP, 0, 0]);
        frame.extend([client.octets(), HOST.octets()].concat());
        frame.extend([port.to_be_bytes(), PORT.to_be_bytes()].concat());
        frame.extend([0, 8, 0, 0]);
        let out = self.0.replay(Side::Ingress, &frame).unwrap().frame;
        let to: [u8; 4] = out[30..34].try_into().unwrap();
        to.into()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        DataPlane::uninstall(&self.1).expect("the pins can be removed");
    }
}

fn address(v4: Ipv4Addr) -> Address {
    Address::v4(u32::from_ne_bytes(v4.octets()))
}

#[test]
fn the_programs_choose_as_the_same_functions_do_here() {
    let plane = Plane::open();
    for (count, affinity) in [(5, false), (5, true), (FEW + 5, false)] {
        let backends: BTreeMap<SocketAddr, u32> = (1u8..)
            .take(count)
            .map(|n| {
                (
                    (Ipv4Addr::new(172, 18, 0, n), 80).into(),
                    1 + u32::from(n % 3),
                )
            })
            .collect();
        let frontend = Frontend {
            address: FrontendAddress::Any4,
            protocol: api::net::Protocol::Udp,
            port: PORT,
            count: 1,
        };
        let service = Balanced {
            frontends: [frontend].into(),
            backends: backends.clone(),
            affinity,
            ..Balanced::default()
        };
        plane.0.balance(7, &service).unwrap();
        let candidates: Vec<Candidate> = backends
            .iter()
            .map(|(backend, weight)| Candidate::new(*backend, *weight))
            .collect();
        let table = maglev::table(&candidates).unwrap();
        let length = if count > FEW { LARGE } else { SMALL };
        assert_eq!(table.len(), length);
        for number in 0..1_000_u16 {
            let [high, low] = number.to_be_bytes();
            let client = Ipv4Addr::new(198, 18 + u8::from(affinity), high, low);
            let port = 20_000 + 17 * number + u16::try_from(count).unwrap();
            let hash = if affinity {
                client_hash(address(client))
            } else {
                let to = (address(HOST), Be16::new(PORT));
                flow_hash(address(client), Be16::new(port), to.0, to.1, protocol::UDP)
            };
            let expected = backends.keys().nth(table[slot(hash, length)]).unwrap();
            assert_eq!(plane.chosen(client, port), expected.ip(), "{client}:{port}");
        }
        plane.0.unbalance(7).unwrap();
    }
}
