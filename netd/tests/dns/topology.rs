//! A server with one network `shop` on 127.53.TEST.1, and clients beside it, in a network namespace
//! of the test's own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use api::id::{Id, NetworkName};
use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::AllRecordData;
use netd::dns::{Config, DnsServer, NamedEndpoint};
use sys::netns::{NetNs, NsId};
use tokio::runtime::Runtime;

/// Far above what any reply takes, so that a lost one fails the test and a busy host does not.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Topology {
    pub(crate) runtime: Runtime,
    pub(crate) server: DnsServer,
    pub(crate) socket: SocketAddr,
    test: u8,
}

pub(crate) fn id(digit: char) -> Id {
    Id::parse(&digit.to_string().repeat(64)).unwrap()
}

/// The sandbox of the container with this number; nothing is there.
pub(crate) fn sandbox(number: u64) -> NsId {
    NsId {
        device: 0,
        inode: number,
    }
}

thread_local! {
    static NAMESPACE: NetNs = isolate();
}

/// Moves the test's thread, and so all threads it starts, into a namespace with a loopback.
fn isolate() -> NetNs {
    let namespace = NetNs::create().expect("root is needed for a namespace");
    namespace.enter().unwrap();
    raise_loopback();
    namespace
}

pub(crate) fn raise_loopback() {
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());
}

pub(crate) fn runtime() -> Runtime {
    NAMESPACE.with(|_namespace| ());
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

impl Topology {
    /// `test` is the test's own number: it gives its addresses. The containers `web` (.2, also
    /// called `www`) and `app` (.3) are there.
    pub(crate) fn new(test: u8, config: Config) -> Self {
        let runtime = runtime();
        let server = DnsServer::new(config, runtime.handle().clone()).unwrap();
        let address = IpAddr::from([127, 53, test, 1]);
        let socket = server.listen(&id('a'), address, 0).unwrap();
        Self::attach(test, runtime, server, socket)
    }

    /// The same around a server that listens already.
    pub(crate) fn attach(
        test: u8,
        runtime: Runtime,
        server: DnsServer,
        socket: SocketAddr,
    ) -> Self {
        let topology = Self {
            runtime,
            server,
            socket,
            test,
        };
        topology
            .server
            .upsert(topology.endpoint('2', &["web", "www"]));
        topology.server.upsert(topology.endpoint('3', &["app"]));
        topology
    }

    /// The address of the container with this number.
    pub(crate) fn address(&self, number: u8) -> IpAddr {
        IpAddr::from([127, 53, self.test, number])
    }

    /// An endpoint on `shop` whose address ends in the digit.
    pub(crate) fn endpoint(&self, digit: char, names: &[&str]) -> NamedEndpoint {
        NamedEndpoint {
            endpoint: id(digit),
            network: id('a'),
            network_name: NetworkName::parse("shop").unwrap(),
            container_id: id(digit).to_string(),
            sandbox: sandbox(digit.to_digit(16).unwrap().into()),
            order: 0,
            names: names.iter().map(ToString::to_string).collect(),
            addresses: vec![self.address(digit.to_digit(16).unwrap() as u8)],
            ports: Vec::new(),
            links: Vec::new(),
            upstreams: Vec::new(),
            internal: false,
        }
    }

    /// One of thousands of endpoints that come and go.
    pub(crate) fn numbered(&self, number: u16) -> NamedEndpoint {
        let [high, low] = number.to_be_bytes();
        let mut id = [0x55; 32];
        id[..2].copy_from_slice(&[high, low]);
        NamedEndpoint {
            endpoint: Id::from_bytes(id),
            container_id: format!("numbered{number}"),
            sandbox: sandbox(1000 + u64::from(number)),
            addresses: vec![IpAddr::from([10, 53, high, low])],
            ..self.endpoint('5', &[&format!("c{number}"), "all"])
        }
    }

    /// A socket of the container with this number, connected to the server.
    pub(crate) fn client(&self, number: u8) -> UdpSocket {
        let client = UdpSocket::bind((self.address(number), 0)).unwrap();
        client.connect(self.socket).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// What container 3 gets over UDP, as `RCODE address …`.
    pub(crate) fn ask(&self, name: &str, rtype: Rtype) -> String {
        self.ask_from(3, name, rtype)
    }

    pub(crate) fn ask_from(&self, number: u8, name: &str, rtype: Rtype) -> String {
        let query = query(name, rtype);
        let client = self.client(number);
        client.send(&query).unwrap();
        let reply = receive(&client);
        assert_eq!(reply[..2], query[..2], "the id");
        render(&reply)
    }

    /// What container 3 gets over TCP.
    pub(crate) fn ask_tcp(&self, name: &str, rtype: Rtype) -> String {
        let mut stream = self.connection_from(3);
        send_framed(&mut stream, &query(name, rtype));
        render(&receive_framed(&mut stream).unwrap())
    }

    /// A connection of the container with this number.
    pub(crate) fn connection_from(&self, number: u8) -> TcpStream {
        let from = self.address(number);
        let stream = self.runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            socket.connect(self.socket).await.unwrap()
        });
        let stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The value of one of the server's metrics.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let mut text = String::new();
        self.server.metrics(&mut text);
        let prefix = format!("hawser_dns_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
            .parse()
            .unwrap()
    }
}

pub(crate) fn query(name: &str, rtype: Rtype) -> Vec<u8> {
    let name: Name<Vec<u8>> = name.parse().unwrap();
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x2a2a);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, rtype)).unwrap();
    builder.finish()
}

pub(crate) fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut reply = vec![0; 65535];
    let len = client.recv(&mut reply).expect("a reply");
    reply.truncate(len);
    reply
}

pub(crate) fn send_framed(stream: &mut TcpStream, message: &[u8]) {
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).unwrap();
}

/// `None` when the server has closed the connection.
pub(crate) fn receive_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("no reply"),
        Err(_closed) => return None,
    }
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply).unwrap();
    Some(reply)
}

/// A reply as `RCODE data …`, the answers' data in their order; `TC` when truncated.
pub(crate) fn render(reply: &[u8]) -> String {
    let message = Message::from_octets(reply).expect("a message");
    let mut text = message.header().rcode().to_string();
    if message.header().tc() {
        text += " TC";
    }
    for record in message.answer().unwrap() {
        let record = record
            .unwrap()
            .into_record::<AllRecordData<_, _>>()
            .unwrap()
            .unwrap();
        text += &format!(" {}", record.data());
    }
    text
}

/// Tries until it holds; fails the test when it never does.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Rcode alone, for replies built by fake upstreams.
pub(crate) fn rcode_reply(query: &[u8], rcode: Rcode) -> Vec<u8> {
    let query = Message::from_octets(query).unwrap();
    MessageBuilder::new_vec()
        .start_answer(&query, rcode)
        .unwrap()
        .finish()
}
