//! The same questions to another name server: what both know, both answer alike.

use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use domain::base::iana::Rtype;
use netd::dns::Config;

use crate::topology::{Topology, eventually, query, receive, render};

/// dnsmasq with the names of the topology; ended when dropped.
struct Dnsmasq {
    process: Child,
    socket: SocketAddr,
}

impl Dnsmasq {
    /// In the calling thread's namespace.
    fn start(topology: &Topology) -> Self {
        let socket = SocketAddr::new(topology.address(200), 5353);
        let [web, app, inner] = [2, 3, 4].map(|number| topology.address(number));
        let arguments = [
            "--keep-in-foreground".to_owned(),
            "--conf-file=/dev/null".to_owned(),
            "--user=root".to_owned(),
            "--pid-file=".to_owned(),
            "--no-resolv".to_owned(),
            "--no-hosts".to_owned(),
            "--bind-interfaces".to_owned(),
            format!("--listen-address={}", socket.ip()),
            format!("--port={}", socket.port()),
            // The first name of an address is the one that a reverse lookup gives.
            format!("--host-record=web.shop,web,www,www.shop,{web}"),
            format!("--host-record=app.shop,app,{app}"),
            format!("--host-record=inner.shop,inner,{inner},fd00::4"),
            "--srv-host=_80._tcp.app,app.shop,80,0,1".to_owned(),
            // What is not here does not exist.
            "--local=/#/".to_owned(),
        ];
        let process = Command::new("dnsmasq")
            .args(arguments)
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq is installed: cargo xtask setup test");
        let dnsmasq = Self { process, socket };
        let client = dnsmasq.client();
        client
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        eventually("dnsmasq answers", || {
            let asked = client.send(&query("web", Rtype::A));
            asked.is_ok() && client.recv(&mut [0; 512]).is_ok()
        });
        dnsmasq
    }

    fn client(&self) -> UdpSocket {
        let client = UdpSocket::bind((self.socket.ip(), 0)).unwrap();
        client.connect(self.socket).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        client
    }

    fn ask(&self, name: &str, rtype: Rtype) -> String {
        let client = self.client();
        client.send(&query(name, rtype)).unwrap();
        render(&receive(&client))
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        if self.process.kill().is_ok() {
            drop(self.process.wait());
        }
    }
}

#[test]
fn dnsmasq_gives_the_same_answers() {
    let topology = Topology::new(90, Config::default());
    let mut app = topology.endpoint('3', &["app"]);
    app.ports =
        serde_json::from_str(r#"[{"protocol":"tcp","container_port":80,"host_port":8080}]"#)
            .unwrap();
    app.internal = true;
    topology.server.upsert(app);
    let mut inner = topology.endpoint('4', &["inner"]);
    inner.addresses.push("fd00::4".parse().unwrap());
    topology.server.upsert(inner);
    let dnsmasq = Dnsmasq::start(&topology);
    let v6 = format!("4.{}d.f.ip6.arpa", "0.".repeat(29));
    let hosts = [
        "web",
        "WEB",
        "web.shop",
        "www",
        "app",
        "app.shop",
        "inner",
        "inner.shop",
        "nobody",
        "nobody.shop",
        "example.com",
    ];
    for name in hosts {
        for rtype in [
            Rtype::A,
            Rtype::AAAA,
            Rtype::MX,
            Rtype::TXT,
            Rtype::SRV,
            Rtype::PTR,
        ] {
            same(&topology, &dnsmasq, name, rtype);
        }
    }
    // It denies the names of addresses and services for other types, which do exist (RFC 8020 §2).
    for name in ["2.90.53.127", "4.90.53.127", "9.90.53.127"] {
        same(
            &topology,
            &dnsmasq,
            &format!("{name}.in-addr.arpa"),
            Rtype::PTR,
        );
    }
    same(&topology, &dnsmasq, &v6, Rtype::PTR);
    for name in ["_80._tcp.app", "_81._tcp.app"] {
        same(&topology, &dnsmasq, name, Rtype::SRV);
    }
}

#[track_caller]
fn same(topology: &Topology, dnsmasq: &Dnsmasq, name: &str, rtype: Rtype) {
    let (ours, theirs) = (topology.ask(name, rtype), dnsmasq.ask(name, rtype));
    assert_eq!(ours, theirs, "{name} {rtype}");
}
