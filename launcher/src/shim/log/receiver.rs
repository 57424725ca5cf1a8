//! Who gets the log of a container: the journal, or a server for syslog, GELF or fluentd's protocol.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use rustls::ClientConfig;

use super::journald::{self, Fields};
use super::queue::Waiting;
use super::wire::Wire;
use super::{LogError, tls};
use crate::container::Record;
use crate::log::option::{Driver, Settings, Syslog, Tls};
use crate::log::syslog::{Address, Framing, Peer, Sender, Shape};
use crate::log::{fluentd, gelf};

/// Where the host's own syslog may listen.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

const SYSLOG: &str = "syslog";
const GELF: &str = "the GELF server";
const FLUENTD: &str = "fluentd";

#[derive(Debug)]
pub(super) struct Receiver {
    place: Place,
    words: Words,
    /// Of the addresses of a host, the next one to try.
    turn: usize,
}

#[derive(Debug)]
enum Place {
    Journal(PathBuf),
    Datagrams(Vec<PathBuf>),
    Stream(PathBuf),
    Udp(Vec<SocketAddr>),
    Tcp(Vec<SocketAddr>),
    Tls {
        addresses: Vec<SocketAddr>,
        host: String,
        config: Arc<ClientConfig>,
    },
}

#[derive(Debug)]
enum Words {
    Journal(Fields),
    Syslog(Sender),
    Gelf(gelf::Sender),
    Fluentd {
        sender: fluentd::Sender,
        epoch: String,
    },
}

impl Words {
    fn name(&self) -> &'static str {
        match self {
            Self::Journal(_) => "the journal",
            Self::Syslog(_) => SYSLOG,
            Self::Gelf(_) => GELF,
            Self::Fluentd { .. } => FLUENTD,
        }
    }
}

impl Receiver {
    pub(super) fn of(settings: &Settings, record: &Record) -> Result<Self, LogError> {
        let tag = settings.tag(record)?;
        let attributes = settings.chosen.of(&record.config);
        let epoch = format!("{}-{}", record.id.short(), jiff::Timestamp::now());
        match &settings.driver {
            Driver::Syslog(syslog) => Self::syslog(syslog, tag),
            Driver::Gelf(gelf) => {
                let (place, datagrams) = match &gelf.address {
                    gelf::Address::Udp(peer) => {
                        (Place::Udp(resolve(peer, GELF)?), Some(gelf.packing))
                    }
                    gelf::Address::Tcp(peer) => (Place::Tcp(resolve(peer, GELF)?), None),
                };
                let seed = seed().map_err(|source| LogError::Receiver {
                    receiver: GELF.to_owned(),
                    source,
                })?;
                let sender =
                    gelf::Sender::of(record, &tag, &hostname(), attributes, datagrams, seed);
                Ok(Self {
                    place,
                    words: Words::Gelf(sender),
                    turn: 0,
                })
            }
            Driver::Fluentd(fluentd) => {
                let place = match &fluentd.address {
                    fluentd::Address::Tcp(peer) => Place::Tcp(resolve(peer, FLUENTD)?),
                    fluentd::Address::Stream(path) => Place::Stream(path.clone()),
                    fluentd::Address::Tls(peer) => Place::Tls {
                        addresses: resolve(peer, FLUENTD)?,
                        host: peer.host.clone(),
                        config: tls::config(&Tls::default())
                            .map_err(|source| failed(peer, FLUENTD, source))?,
                    },
                };
                let sender = fluentd::Sender::of(record, tag, attributes, fluentd.precise);
                Ok(Self {
                    place,
                    words: Words::Fluentd { sender, epoch },
                    turn: 0,
                })
            }
            _ => {
                let fields = Fields::of(record, &tag, &attributes, epoch);
                Ok(Self::journal(Path::new(journald::SOCKET), fields))
            }
        }
    }

    pub(super) fn journal(socket: &Path, fields: Fields) -> Self {
        Self {
            place: Place::Journal(socket.to_owned()),
            words: Words::Journal(fields),
            turn: 0,
        }
    }

    fn syslog(syslog: &Syslog, tag: String) -> Result<Self, LogError> {
        let failed = |source| LogError::Receiver {
            receiver: describe(&syslog.address),
            source,
        };
        let is_long = matches!(syslog.shape, Shape::Rfc5424 | Shape::Rfc5424Micro);
        let framing = match &syslog.address {
            Address::Tls(_) if is_long => Framing::Length,
            _ => Framing::Newline,
        };
        let place = match &syslog.address {
            Address::Here => Place::Datagrams(LOCAL.map(PathBuf::from).into()),
            Address::Datagrams(path) => Place::Datagrams(vec![path.clone()]),
            Address::Stream(path) => Place::Stream(path.clone()),
            Address::Udp(peer) => Place::Udp(peer.resolve().map_err(failed)?),
            Address::Tcp(peer) => Place::Tcp(peer.resolve().map_err(failed)?),
            Address::Tls(peer) => Place::Tls {
                addresses: peer.resolve().map_err(failed)?,
                host: peer.host.clone(),
                config: tls::config(&syslog.tls).map_err(failed)?,
            },
        };
        let sender = Sender {
            facility: syslog.facility,
            shape: syslog.shape,
            framing,
            tag,
            hostname: hostname(),
            pid: std::process::id(),
            zone: TimeZone::system(),
        };
        Ok(Self {
            place,
            words: Words::Syslog(sender),
            turn: 0,
        })
    }

    /// Begins a connection. Names were looked up when the container was started: looking them up
    /// again would hold the container's output up.
    pub(super) fn connect(&mut self) -> io::Result<Wire> {
        self.turn += 1;
        let turn = self.turn - 1;
        match &self.place {
            Place::Journal(path) => Wire::datagrams(path, true),
            Place::Datagrams(paths) => first_of(paths, |path| Wire::datagrams(path, false)),
            Place::Stream(path) => Wire::stream(path),
            Place::Udp(addresses) => Wire::udp(one_of(addresses, turn)?),
            Place::Tcp(addresses) => Wire::tcp(one_of(addresses, turn)?, None),
            Place::Tls {
                addresses,
                host,
                config,
            } => {
                let connection = tls::connection(config, host)?;
                Wire::tcp(one_of(addresses, turn)?, Some(connection))
            }
        }
    }

    /// What is sent of an entry, in this order; nothing if it is too long to be sent.
    pub(super) fn messages(&self, waiting: &Waiting) -> Vec<Vec<u8>> {
        let (piece, time) = (&waiting.piece, waiting.time);
        match &self.words {
            Words::Journal(fields) => vec![fields.message(waiting)],
            Words::Syslog(sender) => vec![sender.message(piece.stream, &piece.line, time)],
            Words::Gelf(sender) => sender.messages(piece.stream, &piece.line, time, waiting.number),
            Words::Fluentd { sender, epoch } => {
                let part = piece.part.map(|part| fluentd::Part {
                    id: format!("{epoch}-{}", part.id),
                    ordinal: part.ordinal,
                    is_last: part.is_last,
                });
                vec![sender.message(piece.stream, &piece.line, time, part.as_ref())]
            }
        }
    }
}

fn hostname() -> String {
    let names = rustix::system::uname();
    names.nodename().to_string_lossy().into_owned()
}

fn seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn resolve(peer: &Peer, name: &str) -> Result<Vec<SocketAddr>, LogError> {
    peer.resolve().map_err(|source| failed(peer, name, source))
}

fn failed(peer: &Peer, name: &str, source: io::Error) -> LogError {
    LogError::Receiver {
        receiver: format!("{name} at {}:{}", peer.host, peer.port),
        source,
    }
}

fn one_of(addresses: &[SocketAddr], turn: usize) -> io::Result<SocketAddr> {
    let address = addresses.iter().cycle().nth(turn % addresses.len().max(1));
    address
        .copied()
        .ok_or_else(|| io::ErrorKind::HostUnreachable.into())
}

/// The first that works, or why the first one does not.
fn first_of<T>(paths: &[PathBuf], open: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let mut first = None;
    for path in paths {
        match open(path) {
            Ok(opened) => return Ok(opened),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |addresses: &[SocketAddr]| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            addresses.join(", ")
        };
        write!(f, "{} at ", self.words.name())?;
        match &self.place {
            Place::Journal(path) | Place::Stream(path) => write!(f, "{}", path.display()),
            Place::Datagrams(paths) => write!(f, "{}", paths[0].display()),
            Place::Udp(addresses) => write!(f, "udp://{}", list(addresses)),
            Place::Tcp(addresses) => write!(f, "tcp://{}", list(addresses)),
            Place::Tls {
                addresses, host, ..
            } => write!(f, "tcp+tls://{host} ({})", list(addresses)),
        }
    }
}

/// Before it has an address.
fn describe(address: &Address) -> String {
    match address {
        Address::Here => "syslog".to_owned(),
        Address::Datagrams(path) | Address::Stream(path) => format!("syslog at {}", path.display()),
        Address::Udp(peer) | Address::Tcp(peer) | Address::Tls(peer) => {
            format!("syslog at {}:{}", peer.host, peer.port)
        }
    }
}
