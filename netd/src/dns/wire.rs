//! Small questions about raw messages, for the relay, which changes nothing but ids.

use domain::base::iana::Rcode;

pub(super) const HEADER_LEN: usize = 12;
const QR: u8 = 0x80;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const OPCODE: u8 = 0x78;
/// Type and class, which follow a question's name.
const QUESTION_TAIL: usize = 4;
/// RFC 1035 §2.3.4.
const MAX_NAME: usize = 255;
const QDCOUNT: std::ops::Range<usize> = 4..6;

pub(super) fn set_id(message: &mut [u8], id: [u8; 2]) {
    if let Some(field) = message.first_chunk_mut() {
        *field = id;
    }
}

pub(super) fn id(message: &[u8]) -> [u8; 2] {
    message.first_chunk().copied().unwrap_or_default()
}

pub(super) fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & TC != 0)
}

pub(super) fn rcode(message: &[u8]) -> Rcode {
    Rcode::masked_from_int(message.get(3).copied().unwrap_or_default())
}

/// Where the first question ends; `None` when it is malformed, compressed, or longer than a name.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_LEN;
    loop {
        match *message.get(at)? {
            0 => break,
            len @ 1..=63 => at += 1 + usize::from(len),
            _ => return None,
        }
    }
    let name = at + 1 - HEADER_LEN;
    let end = at + 1 + QUESTION_TAIL;
    (name <= MAX_NAME && end <= message.len()).then_some(end)
}

/// The query without what differs between askers of the same thing: the id and the case of the
/// name.
pub(super) fn normalized(query: &[u8], question_end: usize) -> Vec<u8> {
    let mut key = query.to_vec();
    set_id(&mut key, [0; 2]);
    // Length octets are at most 63 and so below 'A'.
    key[HEADER_LEN..question_end - QUESTION_TAIL].make_ascii_lowercase();
    key
}

/// Whether a datagram is the reply to exactly this query: id, direction and question (RFC 5452 §9).
pub(super) fn is_reply_to(reply: &[u8], query: &[u8]) -> bool {
    let Some(end) = question_end(query) else {
        return false;
    };
    let header_fits = reply.len() >= HEADER_LEN
        && id(reply) == id(query)
        && reply[2] & QR != 0
        && (reply[2] ^ query[2]) & OPCODE == 0;
    header_fits && (has_question(reply, query, end) || is_bare_error(reply))
}

fn has_question(reply: &[u8], query: &[u8], end: usize) -> bool {
    reply.get(QDCOUNT) == query.get(QDCOUNT)
        && reply
            .get(HEADER_LEN..end)
            .is_some_and(|question| question.eq_ignore_ascii_case(&query[HEADER_LEN..end]))
}

/// Some servers refuse without repeating the question. Such a reply decides nothing but that.
fn is_bare_error(reply: &[u8]) -> bool {
    reply.len() == HEADER_LEN
        && reply[QDCOUNT] == [0, 0]
        && !matches!(rcode(reply), Rcode::NOERROR | Rcode::NXDOMAIN)
}

/// Overwrites `out` with a reply of a header and, when the query's can be read, its question.
pub(super) fn write_error(query: &[u8], rcode: Rcode, out: &mut Vec<u8>) {
    out.clear();
    let question = match query.get(QDCOUNT) {
        Some([0, 1]) => question_end(query).map(|end| &query[HEADER_LEN..end]),
        _ => None,
    };
    let flags = query.get(2).copied().unwrap_or_default() & (OPCODE | RD) | QR;
    out.extend_from_slice(&id(query));
    out.extend_from_slice(&[flags, RA | rcode.to_int()]);
    out.extend_from_slice(&[0, u8::from(question.is_some()), 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(question.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03wEb\0\0\x01\0\x01";

    fn reply() -> Vec<u8> {
        let mut reply = QUERY.to_vec();
        reply[2] |= QR;
        reply
    }

    #[test]
    fn a_reply_has_the_id_and_the_question_of_its_query() {
        assert!(is_reply_to(&reply(), QUERY));
        let check = |change: fn(&mut Vec<u8>), accepted| {
            let mut reply = reply();
            change(&mut reply);
            assert_eq!(is_reply_to(&reply, QUERY), accepted, "{reply:x?}");
        };
        check(|r| r.extend_from_slice(b"more"), true);
        check(|r| r[13] = b'W', true);
        check(|r| r[0] ^= 1, false);
        check(|r| r[2] &= !QR, false);
        check(|r| r[13] = b'x', false);
        check(|r| r[18] = 28, false);
        check(|r| r[5] = 0, false);
        check(|r| r[2] |= 0x08, false);
        check(|r| r.truncate(20), false);
        check(|r| r.truncate(HEADER_LEN), false);
        let refusal = |r: &mut Vec<u8>| {
            r.truncate(HEADER_LEN);
            (r[5], r[3]) = (0, Rcode::REFUSED.to_int());
        };
        check(refusal, true);
    }

    #[test]
    fn the_key_of_a_query_ignores_id_and_case_only() {
        let end = question_end(QUERY).unwrap();
        assert_eq!(
            normalized(QUERY, end),
            b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01"
        );
    }

    #[test]
    fn errors_repeat_a_readable_question() {
        let mut out = vec![1; 99];
        write_error(QUERY, Rcode::SERVFAIL, &mut out);
        assert_eq!(
            out,
            b"\x12\x34\x81\x82\0\x01\0\0\0\0\0\0\x03wEb\0\0\x01\0\x01"
        );
        write_error(&QUERY[..15], Rcode::FORMERR, &mut out);
        assert_eq!(out, b"\x12\x34\x81\x81\0\0\0\0\0\0\0\0");
        let long = [
            &QUERY[..HEADER_LEN],
            &b"\x3f".repeat(256),
            b"\0\0\x01\0\x01",
        ]
        .concat();
        write_error(&long, Rcode::FORMERR, &mut out);
        assert_eq!(out, b"\x12\x34\x81\x81\0\0\0\0\0\0\0\0");
        write_error(b"", Rcode::FORMERR, &mut out);
        assert_eq!(out.len(), HEADER_LEN);
    }
}
