//! Query bytes and a view in, reply bytes out. Pure.
//!
//! Local names are answered here with authority. What is not a local name is the forwarder's, unless
//! the asker may not ask the outside; then the refusal is composed here as well.
//!
//! A name that exists is never denied: a type it has no records of gets NODATA (NOERROR and no
//! answers), because resolvers such as musl's take NXDOMAIN for one family as the end of the name.
//!
//! `_PORT._PROTOCOL.name` (RFC 2782, with the port's number for want of a service's name) says where
//! the containers called `name` that publish this port of theirs serve it.

use std::convert::Infallible;

use api::net::Protocol;
use domain::base::iana::{Class, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AnswerBuilder, PushError, StaticCompressor};
use domain::base::name::ParsedName;
use domain::base::opt::OptRecord;
use domain::base::{Message, MessageBuilder, Question};
use domain::rdata::{A, Aaaa, Ptr, Srv};

use super::dial::Servers;
use super::name::{self, Key};
use super::wire;
use super::zone::{Addresses, Endpoint, Outside, View};

/// The UDP payload nobody has to fragment (DNS flag day 2020).
const MAX_UDP: u16 = 1232;
/// What every client takes without EDNS (RFC 1035 §4.2.1).
const MIN_UDP: u16 = 512;
/// An OPT record without options (RFC 6891 §6.1.2).
const OPT_LEN: usize = 11;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a message that came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send what is in the output buffer.
    Reply,
    /// Ask these servers, or the host's.
    Forward {
        servers: Option<Servers>,
        single_label: bool,
    },
    /// Say nothing: it is no query, and an answer could start a loop.
    Ignore,
}

/// How to answer, beside what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) transport: Transport,
    pub(super) ttl: u32,
    /// Which of several addresses comes first.
    pub(super) turn: usize,
}

/// Decides about one message. `out` is overwritten and holds a reply iff the verdict is
/// [`Verdict::Reply`].
pub(super) fn answer(query: &[u8], view: &View<'_>, style: Style, out: &mut Vec<u8>) -> Verdict {
    let Ok(message) = Message::from_slice(query) else {
        return Verdict::Ignore;
    };
    if message.header().qr() {
        return Verdict::Ignore;
    }
    let request = match Request::parse(message, style) {
        Ok(request) => request,
        Err(rcode) => {
            wire::write_error(query, rcode, out);
            return Verdict::Reply;
        }
    };
    match request.decide(view) {
        Decision::Say(content) => {
            request.compose(&content, out);
            Verdict::Reply
        }
        Decision::Forward(servers) => Verdict::Forward {
            servers,
            single_label: request.name.is_single_label(),
        },
    }
}

/// Composes a reply to `query` that carries nothing but `rcode`.
pub(super) fn failure(query: &[u8], rcode: Rcode, transport: Transport, out: &mut Vec<u8>) {
    let style = Style {
        transport,
        ttl: 0,
        turn: 0,
    };
    match Message::from_slice(query).map(|message| Request::parse(message, style)) {
        Ok(Ok(request)) => request.compose(&Content::Failure(rcode.into()), out),
        _ => wire::write_error(query, rcode, out),
    }
}

type Name<'q> = ParsedName<&'q [u8]>;
type Answers<'o> = AnswerBuilder<StaticCompressor<&'o mut Vec<u8>>>;

/// A well-formed query.
struct Request<'q> {
    message: &'q Message<[u8]>,
    question: Question<Name<'q>>,
    name: Key,
    opt: Option<OptRecord<&'q [u8]>>,
    style: Style,
}

enum Decision<'z> {
    Say(Content<'z>),
    Forward(Option<Servers>),
}

enum Content<'z> {
    Addresses(&'z Addresses),
    Pointer(&'z domain::base::Name<Vec<u8>>),
    /// Those of the owners that publish the port.
    Service(&'z Addresses, Protocol, u16),
    NoData,
    /// A name of ours that does not exist.
    Denial,
    Failure(OptRcode),
}

impl<'q> Request<'q> {
    fn parse(message: &'q Message<[u8]>, style: Style) -> Result<Self, Rcode> {
        if message.header().opcode() != domain::base::iana::Opcode::QUERY {
            return Err(Rcode::NOTIMP);
        }
        // More than one question has no defined meaning (RFC 9619).
        let question = message
            .sole_question()
            .map_err(|_malformed| Rcode::FORMERR)?;
        let name = Key::from_labels(question.qname().iter().map(|label| label.as_slice()))
            .ok_or(Rcode::FORMERR)?;
        // The wire helpers, which relay and cache use, know no compressed question.
        wire::question_end(message.as_slice()).ok_or(Rcode::FORMERR)?;
        let opt = parse_opt(message)?;
        Ok(Self {
            message,
            question,
            name,
            opt,
            style,
        })
    }

    fn decide<'z>(&self, view: &View<'z>) -> Decision<'z> {
        if self.opt.as_ref().is_some_and(|opt| opt.version() != 0) {
            return Decision::Say(Content::Failure(OptRcode::BADVERS));
        }
        let transfer = matches!(self.question.qtype(), Rtype::AXFR | Rtype::IXFR);
        if transfer || !matches!(self.question.qclass(), Class::IN | Class::ANY) {
            return Decision::Say(Content::Failure(OptRcode::REFUSED));
        }
        if let Some(content) = self.local(view) {
            return Decision::Say(content);
        }
        match view.outside() {
            Outside::Forward(servers) => Decision::Forward(servers),
            Outside::Nothing => Decision::Say(Content::Failure(OptRcode::NXDOMAIN)),
            Outside::Stranger => Decision::Say(Content::Failure(OptRcode::REFUSED)),
        }
    }

    /// `None` when the name is nobody's here.
    fn local<'z>(&self, view: &View<'z>) -> Option<Content<'z>> {
        let mut exists = false;
        for addresses in view.addresses(self.name.as_bytes()) {
            if self.wants(addresses) {
                return Some(Content::Addresses(addresses));
            }
            exists = true;
        }
        if exists {
            return Some(Content::NoData);
        }
        if let Some(content) = self.service(view) {
            return Some(content);
        }
        let pointer = view.pointer(name::reverse_address(&self.name)?)?;
        match self.question.qtype() {
            Rtype::PTR | Rtype::ANY => Some(Content::Pointer(pointer)),
            _ => Some(Content::NoData),
        }
    }

    /// `None` when the name is no service of a name of ours.
    fn service<'z>(&self, view: &View<'z>) -> Option<Content<'z>> {
        let (protocol, port, host) = name::service(&self.name)?;
        let mut found = None;
        for addresses in view.addresses(host) {
            let serves = |owner: &Endpoint| owner.service(protocol, port).is_some();
            if addresses.owners().any(serves) {
                return Some(match self.question.qtype() {
                    Rtype::SRV | Rtype::ANY => Content::Service(addresses, protocol, port),
                    _ => Content::NoData,
                });
            }
            found = Some(Content::Denial);
        }
        found
    }

    fn wants(&self, addresses: &Addresses) -> bool {
        match self.question.qtype() {
            Rtype::A => !addresses.v4.is_empty(),
            Rtype::AAAA => !addresses.v6.is_empty(),
            Rtype::ANY => !addresses.v4.is_empty() || !addresses.v6.is_empty(),
            _ => false,
        }
    }

    fn max_len(&self) -> usize {
        match (self.style.transport, &self.opt) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => MIN_UDP.into(),
            (Transport::Udp, Some(opt)) => opt.udp_payload_size().clamp(MIN_UDP, MAX_UDP).into(),
        }
    }

    fn compose(&self, content: &Content<'_>, out: &mut Vec<u8>) {
        let rcode = match content {
            Content::Failure(rcode) => *rcode,
            Content::Denial => OptRcode::NXDOMAIN,
            _ => OptRcode::NOERROR,
        };
        if self.try_compose(content, rcode, out).is_err() {
            // Only a question that fills the whole message can get here.
            wire::write_error(self.message.as_slice(), Rcode::SERVFAIL, out);
        }
    }

    fn try_compose(
        &self,
        content: &Content<'_>,
        rcode: OptRcode,
        out: &mut Vec<u8>,
    ) -> Result<(), PushError> {
        let mut builder = new_builder(out);
        let reserved = if self.opt.is_some() { OPT_LEN } else { 0 };
        // The builder refuses what reaches its limit, not only what exceeds it.
        builder.set_push_limit(self.max_len() - reserved + 1);
        let mut answers = builder.start_answer(self.message, rcode.rcode())?;
        answers.header_mut().set_ra(true);
        answers
            .header_mut()
            .set_aa(!matches!(content, Content::Failure(_)));
        let complete = self.push_records(content, &mut answers);
        answers.header_mut().set_tc(complete.is_err());
        let mut additional = answers.additional();
        additional.clear_push_limit();
        if let Some(asked) = &self.opt {
            additional.opt(|opt| {
                opt.set_udp_payload_size(MAX_UDP);
                opt.set_rcode(rcode);
                // There is nothing signed here; the bit is repeated all the same (RFC 3225 §3).
                opt.set_dnssec_ok(asked.dnssec_ok());
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Fails when the reply is full; what fitted stays in it.
    fn push_records(
        &self,
        content: &Content<'_>,
        answers: &mut Answers<'_>,
    ) -> Result<(), PushError> {
        let (name, ttl) = (self.question.qname(), self.style.ttl);
        match content {
            Content::Addresses(addresses) => {
                if self.question.qtype() != Rtype::AAAA {
                    for address in rotated(&addresses.v4, self.style.turn) {
                        answers.push((name, Class::IN, ttl, A::new(*address)))?;
                    }
                }
                if self.question.qtype() != Rtype::A {
                    for address in rotated(&addresses.v6, self.style.turn) {
                        answers.push((name, Class::IN, ttl, Aaaa::new(*address)))?;
                    }
                }
                Ok(())
            }
            Content::Pointer(target) => answers.push((name, Class::IN, ttl, Ptr::new(target))),
            Content::Service(owners, protocol, port) => {
                for target in owners.owners().filter_map(|e| e.service(*protocol, *port)) {
                    answers.push((name, Class::IN, ttl, Srv::new(0, 1, *port, target)))?;
                }
                Ok(())
            }
            Content::NoData | Content::Denial | Content::Failure(_) => Ok(()),
        }
    }
}

fn new_builder(out: &mut Vec<u8>) -> MessageBuilder<StaticCompressor<&mut Vec<u8>>> {
    let builder: Result<_, Infallible> = MessageBuilder::from_target(StaticCompressor::new(out));
    match builder {
        Ok(builder) => builder,
    }
}

/// At most one OPT record is allowed (RFC 6891 §6.1.1).
fn parse_opt(message: &Message<[u8]>) -> Result<Option<OptRecord<&[u8]>>, Rcode> {
    if message.header_counts().arcount() == 0 {
        return Ok(None);
    }
    let additional = message.additional().map_err(|_malformed| Rcode::FORMERR)?;
    let mut found = None;
    for record in additional {
        let record = record.map_err(|_malformed| Rcode::FORMERR)?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        let opt = record.into_record().map_err(|_malformed| Rcode::FORMERR)?;
        let opt = opt.map(OptRecord::from);
        if opt.is_none() || found.is_some() {
            return Err(Rcode::FORMERR);
        }
        found = opt;
    }
    Ok(found)
}

/// All items, beginning with another one each turn, so that clients that take the first are spread.
fn rotated<T>(items: &[T], turn: usize) -> impl Iterator<Item = &T> {
    let (head, tail) = items.split_at(turn.checked_rem(items.len()).unwrap_or(0));
    tail.iter().chain(head)
}

#[cfg(test)]
mod tests;
