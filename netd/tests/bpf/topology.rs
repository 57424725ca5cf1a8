//! A client, a host and a container, each a network namespace of its own:
//!
//! ```text
//! client  eth0 ──── eth0  host  c0 ──── eth0  container
//! 192.0.2.7         192.0.2.1   172.18.0.1     172.18.0.2
//! 2001:db8::7       2001:db8::1 fd00:18::1     fd00:18::2
//! ```
//!
//! The client has a route to the host's network only.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use api::id::IfName;
use netd::bpf::DataPlane;
use sys::netns::NetNs;

/// Long enough for a loaded machine; a test that works does not wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Topology {
    pub(crate) client: NetNs,
    pub(crate) host: NetNs,
    pub(crate) container: NetNs,
}

impl Topology {
    pub(crate) fn new() -> Self {
        let create = || NetNs::create().expect("root is needed to create a network namespace");
        let topology = Self {
            client: create(),
            host: create(),
            container: create(),
        };
        let Self {
            client,
            host,
            container,
        } = &topology;
        ip(
            host,
            &format!(
                "link add eth0 type veth peer name eth0 netns {}",
                path(client)
            ),
        );
        ip(
            host,
            &format!(
                "link add c0 type veth peer name eth0 netns {}",
                path(container)
            ),
        );
        for (ns, device, v4, v6) in [
            (client, "eth0", "192.0.2.7/24", "2001:db8::7/64"),
            (host, "eth0", "192.0.2.1/24", "2001:db8::1/64"),
            (host, "c0", "172.18.0.1/24", "fd00:18::1/64"),
            (container, "eth0", "172.18.0.2/24", "fd00:18::2/64"),
        ] {
            ip(ns, "link set lo up");
            ip(ns, &format!("link set {device} up"));
            ip(ns, &format!("address add {v4} dev {device}"));
            // Without duplicate address detection an address can be used at once.
            ip(ns, &format!("address add {v6} dev {device} nodad"));
        }
        ip(container, "route add default via 172.18.0.1");
        ip(container, "route add default via fd00:18::1");
        host.run(|| {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1").unwrap();
            }
        })
        .unwrap();
        topology
    }

    /// Serves published ports on the host's side of the client's link.
    pub(crate) fn attach(&self, plane: &DataPlane) -> u32 {
        let ifindex = self.index("eth0");
        self.host
            .run(|| {
                plane
                    .attach_uplink(ifindex, &IfName::parse("eth0").unwrap())
                    .unwrap()
            })
            .unwrap();
        ifindex
    }

    pub(crate) fn index(&self, device: &str) -> u32 {
        let out = ip(&self.host, &format!("-oneline link show {device}"));
        out.split(':').next().unwrap().parse().unwrap()
    }
}

pub(crate) fn ip(ns: &NetNs, arguments: &str) -> String {
    run(ns, "ip", arguments)
}

pub(crate) fn run(ns: &NetNs, program: &str, arguments: &str) -> String {
    let command = || Command::new(program).args(arguments.split(' ')).output();
    let out = ns.run(command).unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {arguments}: {stderr}");
    String::from_utf8(out.stdout).unwrap()
}

pub(crate) fn path(ns: &NetNs) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), ns.as_fd().as_raw_fd())
}

/// As the daemon learns it: below Linux 5.14 from a program.
pub(crate) fn cookie(plane: &DataPlane, ns: &NetNs) -> u64 {
    ns.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        sys::netns::cookie(socket.as_fd())
            .unwrap_or_else(|_older| plane.learn_cookie().unwrap().unwrap())
    })
    .unwrap()
}

pub(crate) fn udp(ns: &NetNs, bind: &str) -> UdpSocket {
    let socket = ns.run(|| UdpSocket::bind(bind)).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn connect(ns: &NetNs, to: &str) -> io::Result<TcpStream> {
    let to = to.parse().unwrap();
    let stream = ns
        .run(|| TcpStream::connect_timeout(&to, PATIENCE))
        .unwrap()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Echoes each connection's bytes, after a line that says whom the server sees. Ends with the
/// process, as the namespace does.
pub(crate) fn echo_tcp(ns: &NetNs, bind: &str) {
    let listener = ns.run(|| TcpListener::bind(bind)).unwrap().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    writeln!(stream, "{}", stream.peer_addr()?)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

pub(crate) fn echo_udp(ns: &NetNs, bind: &str) {
    let socket = ns.run(|| UdpSocket::bind(bind)).unwrap().unwrap();
    thread::spawn(move || -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (length, from) = socket.recv_from(&mut buffer)?;
            socket.send_to(&buffer[..length], from)?;
        }
    });
}

/// Whom the server saw.
pub(crate) fn read_greeting(stream: &mut TcpStream) -> SocketAddr {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).unwrap();
        if byte[0] == b'\n' {
            return String::from_utf8(line).unwrap().parse().unwrap();
        }
        line.push(byte[0]);
    }
}

/// Sends `data` and checks that it comes back.
#[track_caller]
pub(crate) fn round_trip(stream: &TcpStream, data: &[u8]) {
    let mut back = vec![0; data.len()];
    thread::scope(|scope| {
        scope.spawn(|| (&*stream).write_all(data).unwrap());
        (&*stream).read_exact(&mut back).unwrap();
    });
    assert!(back == data, "{} bytes came back changed", data.len());
}
