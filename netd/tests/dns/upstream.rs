//! A name server of the test's own, on a loopback port: UDP and TCP.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder};
use domain::rdata::A;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Runtime;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

/// Source port and id of a query.
pub(crate) type Source = (u16, [u8; 2]);

/// From a query to the datagrams that answer it.
pub(crate) type Behaviour = dyn Fn(&[u8], Over) -> Vec<Vec<u8>> + Send + Sync;

#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    queries: Arc<AtomicUsize>,
    sources: Arc<Mutex<Vec<Source>>>,
    behaviour: Arc<Mutex<Arc<Behaviour>>>,
}

impl Upstream {
    /// Lives as long as the runtime.
    pub(crate) fn start(
        runtime: &Runtime,
        behaviour: impl Fn(&[u8], Over) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let (udp, tcp) = runtime.block_on(bind());
        let upstream = Self {
            address: udp.local_addr().unwrap(),
            queries: Arc::default(),
            sources: Arc::default(),
            behaviour: Arc::new(Mutex::new(Arc::new(behaviour))),
        };
        runtime.spawn(upstream.clone().serve_udp(udp));
        runtime.spawn(upstream.clone().serve_tcp(tcp));
        upstream
    }

    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }

    /// Where the queries over UDP came from.
    pub(crate) fn sources(&self) -> Vec<Source> {
        self.sources.lock().unwrap().clone()
    }

    pub(crate) fn set(
        &self,
        behaviour: impl Fn(&[u8], Over) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) {
        *self.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    fn react(&self, query: &[u8], over: Over) -> Vec<Vec<u8>> {
        self.queries.fetch_add(1, Ordering::SeqCst);
        let behaviour = Arc::clone(&self.behaviour.lock().unwrap());
        behaviour(query, over)
    }

    async fn serve_udp(self, socket: UdpSocket) {
        let mut query = vec![0; 65535];
        while let Ok((len, from)) = socket.recv_from(&mut query).await {
            self.sources
                .lock()
                .unwrap()
                .push((from.port(), [query[0], query[1]]));
            for reply in self.react(&query[..len], Over::Udp) {
                socket.send_to(&reply, from).await.unwrap();
            }
        }
    }

    async fn serve_tcp(self, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut query = vec![0; length.into()];
            stream.read_exact(&mut query).await.unwrap();
            for reply in self.react(&query, Over::Tcp) {
                stream.write_u16(reply.len() as u16).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        }
    }
}

/// Both on one port.
async fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

/// A reply with one address.
pub(crate) fn address(query: &[u8], last: u8, ttl: u32) -> Vec<u8> {
    addresses(query, &[last], ttl)
}

/// A reply with addresses 192.0.2.x.
pub(crate) fn addresses(query: &[u8], last: &[u8], ttl: u32) -> Vec<u8> {
    let query = Message::from_octets(query).unwrap();
    let mut builder = MessageBuilder::new_vec()
        .start_answer(&query, Rcode::NOERROR)
        .unwrap();
    let name = query.sole_question().unwrap();
    for last in last {
        builder
            .push((name.qname(), ttl, A::from_octets(192, 0, 2, *last)))
            .unwrap();
    }
    builder.finish()
}
