//! A resolver as a container has one: it asks 127.0.0.11.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};

use domain::base::iana::Rcode;
use domain::base::name::Name;
use domain::base::name::ParsedName;
use domain::base::{Message, MessageBuilder, Rtype};
use domain::rdata::{A, Ptr};

use crate::world::PATIENCE;

const RESOLVER: &str = "127.0.0.11:53";

/// The IPv4 addresses of `name`, or the error's code. To be run inside a sandbox.
pub(crate) fn lookup(name: &str) -> Result<Vec<Ipv4Addr>, Rcode> {
    lookup_from(Ipv4Addr::UNSPECIFIED, name)
}

/// The same by a socket that is bound to an address.
pub(crate) fn lookup_from(source: Ipv4Addr, name: &str) -> Result<Vec<Ipv4Addr>, Rcode> {
    let name: Name<Vec<u8>> = format!("{name}.").parse().unwrap();
    let mut question = MessageBuilder::new_vec().question();
    question.header_mut().set_id(7);
    question.header_mut().set_rd(true);
    question.push((&name, Rtype::A)).unwrap();
    let message = Message::from_octets(ask_udp(source, &question.finish())).unwrap();
    match message.header().rcode() {
        Rcode::NOERROR => Ok(message
            .answer()
            .unwrap()
            .limit_to::<A>()
            .map(|record| record.unwrap().data().addr())
            .collect()),
        code => Err(code),
    }
}

/// The name that an address is called by. To be run inside a sandbox.
pub(crate) fn pointer(address: Ipv4Addr) -> Option<String> {
    let [a, b, c, d] = address.octets();
    let name: Name<Vec<u8>> = format!("{d}.{c}.{b}.{a}.in-addr.arpa.").parse().unwrap();
    let mut question = MessageBuilder::new_vec().question();
    question.header_mut().set_id(7);
    question.header_mut().set_rd(true);
    question.push((&name, Rtype::PTR)).unwrap();
    let answer = ask_udp(Ipv4Addr::UNSPECIFIED, &question.finish());
    let message = Message::from_octets(answer).unwrap();
    let mut records = message.answer().unwrap().limit_to::<Ptr<ParsedName<_>>>();
    let record = records.next()?.unwrap();
    Some(record.data().ptrdname().to_string())
}

/// Sends a message, to be run inside a sandbox; returns the answer.
pub(crate) fn ask_udp(source: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((source, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(RESOLVER).unwrap();
    socket.send(message).unwrap();
    let mut buffer = vec![0; 1500];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// The same by a connection.
pub(crate) fn ask_tcp(message: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(RESOLVER).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = u16::try_from(message.len()).unwrap();
    socket
        .write_all(&[&length.to_be_bytes(), message].concat())
        .unwrap();
    let mut length = [0; 2];
    socket.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    socket.read_exact(&mut answer).unwrap();
    answer
}
