//! The TCP side (RFC 7766): messages with a two-octet length, answered in order.
//!
//! A connection ends when it says nothing for [`Limits::tcp_idle`](super::Limits), when it has lasted
//! for `tcp_total` whatever it says, or when a message is not a query.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::Transport;
use super::serve::{Asker, Service, Step};
use super::zone::Seat;

/// After an accept that failed, most likely for want of file descriptors.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Serves until dropped. The connections are dropped with it.
pub(super) async fn serve(listener: TcpListener, seat: Seat, service: Arc<Service>) {
    let seat = Arc::new(seat);
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let connection =
                    serve_connection(stream, client, Arc::clone(&seat), Arc::clone(&service));
                let asker = Asker {
                    seat: &seat,
                    source: client.ip(),
                    transport: Transport::Tcp,
                    turn: 0,
                };
                match service.connections.admit(asker.client()) {
                    Some(permit) => {
                        connections.spawn(async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                    None => service.counters.tcp_refused.increment(),
                }
            }
            Err(error) => {
                tracing::debug!(?seat, %error, "accepting DNS connections");
                sleep(ERROR_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(
    stream: TcpStream,
    client: SocketAddr,
    seat: Arc<Seat>,
    service: Arc<Service>,
) {
    let limit = service.limits.tcp_total;
    let mut connection = Connection {
        stream,
        client,
        seat,
        service,
        query: Vec::new(),
        reply: Vec::new(),
    };
    let conversation = async {
        for turn in 0.. {
            if !connection.serve_one(turn).await? {
                break;
            }
        }
        Ok::<_, io::Error>(())
    };
    // How a client leaves is its own affair.
    if let Ok(Err(error)) = timeout(limit, conversation).await {
        tracing::trace!(%client, %error, "DNS connection ended");
    }
}

struct Connection {
    stream: TcpStream,
    client: SocketAddr,
    seat: Arc<Seat>,
    service: Arc<Service>,
    query: Vec<u8>,
    reply: Vec<u8>,
}

impl Connection {
    /// `false` when the connection has to end.
    async fn serve_one(&mut self, turn: usize) -> io::Result<bool> {
        let idle = self.service.limits.tcp_idle;
        timeout(idle, self.read_query()).await??;
        self.service.counters.tcp_queries.increment();
        let asker = Asker {
            seat: &self.seat,
            source: self.client.ip(),
            transport: Transport::Tcp,
            turn,
        };
        match self.service.begin(&self.query, asker, &mut self.reply) {
            Step::Silence => return Ok(false),
            Step::Reply => {}
            Step::Ask(permit, miss) => self.reply = self.service.finish(permit, miss).await,
        }
        timeout(idle, self.write_reply()).await??;
        Ok(true)
    }

    async fn read_query(&mut self) -> io::Result<()> {
        let length = self.stream.read_u16().await?;
        self.query.resize(length.into(), 0);
        self.stream.read_exact(&mut self.query).await?;
        Ok(())
    }

    async fn write_reply(&mut self) -> io::Result<()> {
        let too_long = |_over| io::Error::from(io::ErrorKind::InvalidData);
        let length = u16::try_from(self.reply.len()).map_err(too_long)?;
        // One write, so that no client has to put a reply together from two segments.
        self.reply.splice(..0, length.to_be_bytes());
        self.stream.write_all(&self.reply).await
    }
}
