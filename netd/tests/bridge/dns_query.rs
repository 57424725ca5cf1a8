//! A resolver as a container has one: it asks 127.0.0.11.

use std::net::{Ipv4Addr, UdpSocket};

use domain::base::iana::Rcode;
use domain::base::name::Name;
use domain::base::{Message, MessageBuilder, Rtype};
use domain::rdata::A;

use crate::world::PATIENCE;

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
    let socket = UdpSocket::bind((source, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect("127.0.0.11:53").unwrap();
    socket.send(&question.finish()).unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    let message = Message::from_octets(&buffer[..length]).unwrap();
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
