//! Names answered at the endpoint's link: the maps, and what may be answered from them.
//!
//! The daemon's answers are the measure. Whatever is not exactly one question for the A or AAAA
//! records of a name with at most one of them goes on to the daemon untouched.
//!
//! ```text
//! askers  network, source address ──▶ the networks whose names it may know, in order
//! names   network, name           ──▶ how many addresses of each family, and the one
//! ```

pub const NAMES: &str = "names";
pub const ASKERS: &str = "askers";
pub const ANSWERS: &str = "answers";
pub const MAX_NAMES: u32 = 262_144;
pub const MAX_ASKERS: u32 = 65_536;

/// The longest name, in wire form with its root label, that is answered here.
pub const NAME_LEN: usize = 64;
/// The most networks of one asker.
pub const MAX_SCOPES: usize = 4;

/// Key of [`NAMES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameKey {
    /// As in [`crate::endpoint::EndpointValue`].
    pub network: u64,
    /// Wire form, lower-cased, zeros behind it.
    pub name: [u8; NAME_LEN],
}

/// Value of [`NAMES`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameValue {
    /// The IPv6 address if there is exactly one, as in a packet.
    pub v6: [u32; 4],
    /// The IPv4 address if there is exactly one, as in a packet.
    pub v4: u32,
    /// Of an answer, in network order.
    pub ttl: u32,
    /// How many addresses there are: none, one, or [`SEVERAL`].
    pub v4_count: u8,
    pub v6_count: u8,
    pub pad: [u8; 2],
}

pub const SEVERAL: u8 = 2;

/// Key of [`ASKERS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskerKey {
    pub network: u64,
    /// As in a packet.
    pub address: u32,
    pub pad: u32,
}

/// Value of [`ASKERS`]: the networks in the order in which a name is looked for, then zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskerValue {
    pub networks: [u64; MAX_SCOPES],
}

/// What was answered here. Index into [`ANSWERS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    A = 0,
    Aaaa = 1,
    NoData = 2,
}

pub const ANSWER_NAMES: [&str; 3] = ["a", "aaaa", "nodata"];

/// The records that are answered here (RFC 1035, 3.2.2; RFC 3596, 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    A,
    Aaaa,
}

impl Kind {
    /// From the type and the class of a question, as in a packet.
    #[inline(always)]
    pub const fn of(kind: u16, class: u16) -> Option<Self> {
        if class != IN {
            return None;
        }
        match u16::from_be(kind) {
            1 => Some(Self::A),
            28 => Some(Self::Aaaa),
            _ => None,
        }
    }
}

const IN: u16 = 1_u16.to_be();

/// What one network says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Exactly one address of the family.
    One,
    /// The name is known, with other records.
    Other,
    /// The daemon chooses which of them comes first.
    Several,
}

#[inline(always)]
pub const fn find(kind: Kind, value: &NameValue) -> Found {
    let count = match kind {
        Kind::A => value.v4_count,
        Kind::Aaaa => value.v6_count,
    };
    match count {
        0 => Found::Other,
        1 => Found::One,
        _ => Found::Several,
    }
}

/// The header of a message (RFC 1035, 4.1.1), as in a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub id: u16,
    /// QR, opcode, AA, TC, RD.
    pub flags: u8,
    /// RA, Z, AD, CD, rcode.
    pub more: u8,
    pub questions: u16,
    pub answers: u16,
    pub authorities: u16,
    pub additionals: u16,
}

const QR: u8 = 0x80;
const AA: u8 = 0x04;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
/// AD and CD, which a query may have (RFC 6840, 5.7; RFC 4035, 3.2.2).
const CHECKS: u8 = 0x30;

impl Header {
    /// Whether this is a query of one question and at most one other record.
    #[inline(always)]
    pub const fn is_plain_query(&self) -> bool {
        self.flags & !RD == 0
            && self.more & !CHECKS == 0
            && self.questions == 1_u16.to_be()
            && self.answers == 0
            && self.authorities == 0
            && self.has_opt_or_nothing()
    }

    #[inline(always)]
    const fn has_opt_or_nothing(&self) -> bool {
        matches!(u16::from_be(self.additionals), 0 | 1)
    }

    #[inline(always)]
    pub const fn has_opt(&self) -> bool {
        self.additionals != 0
    }

    /// The header of the answer, with this many records.
    #[inline(always)]
    pub const fn answer(&self, records: u16) -> Self {
        Self {
            flags: QR | AA | self.flags,
            more: RA,
            answers: records.to_be(),
            ..*self
        }
    }
}

/// An OPT record without options (RFC 6891, 6.1.2).
pub const OPT_LEN: u32 = 11;
/// One with an option of eight bytes: a client's cookie (RFC 7873, 4).
pub const OPT_COOKIE_LEN: u32 = 23;

/// In the first octet of an OPT record's flags.
const DNSSEC_OK: u8 = 0x80;

/// Whether an OPT record of `length` bytes that begins so ends where the message does, and asks for
/// nothing but what it says to everybody: an answer repeats whether DNSSEC's records are welcome
/// (RFC 3225, 3), which is left to the daemon. `option` is the length of its option, as in a packet.
#[inline(always)]
pub const fn is_plain_opt(bytes: &[u8; OPT_LEN as usize], length: u32, option: u16) -> bool {
    let [root, high, low, _, _, _, version, flags, _, size_high, size] = *bytes;
    let size = u16::from_be_bytes([size_high, size]) as u32;
    root == 0
        && high == 0
        && low == 41
        && version == 0
        && flags & DNSSEC_OK == 0
        && size + OPT_LEN == length
        && (size == 0 || option == 8_u16.to_be())
}

/// The answer's OPT record: the payload size everybody takes, and no options.
pub const OPT: [u8; OPT_LEN as usize] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

/// A reference to the question's name, and the class.
const POINTER: u16 = 0xc00c_u16.to_be();

/// An A record of the question's name.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record4 {
    pub head: RecordHead,
    pub address: u32,
}

/// An AAAA record of the question's name.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record6 {
    pub head: RecordHead,
    pub address: [u32; 4],
}

/// Name, type, class, TTL and data length (RFC 1035, 4.1.3), in units that keep it unpadded.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead(pub [u16; 6]);

impl RecordHead {
    /// `ttl` in network order.
    #[inline(always)]
    pub const fn new(kind: Kind, ttl: u32) -> Self {
        let (kind, length) = match kind {
            Kind::A => (1_u16, 4_u16),
            Kind::Aaaa => (28, 16),
        };
        let [a, b, c, d] = ttl.to_ne_bytes();
        Self([
            POINTER,
            kind.to_be(),
            IN,
            u16::from_ne_bytes([a, b]),
            u16::from_ne_bytes([c, d]),
            length.to_be(),
        ])
    }
}

/// Reads a name octet by octet.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameReader {
    /// Octets until the next length.
    left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Octet {
    /// Lower-cased: lengths are at most 63 and so below 'A'.
    Part(u8),
    /// The root label, which ends the name.
    End,
    /// A compressed label, or one of a kind that does not exist.
    Foreign,
}

impl NameReader {
    #[inline(always)]
    pub const fn next(&mut self, octet: u8) -> Octet {
        if self.left == 0 {
            if octet == 0 {
                return Octet::End;
            }
            if octet > 63 {
                return Octet::Foreign;
            }
            self.left = octet;
        } else {
            self.left -= 1;
        }
        Octet::Part(octet.to_ascii_lowercase())
    }
}

/// The sum of `a` and `b` as checksums add up (RFC 1071): the carry comes around.
#[inline(always)]
pub const fn add_sums(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// The sum of data as it counts where the data begins at this offset: at an odd one with its bytes
/// swapped, which is the same as eight bits further on (RFC 1071, section 2). Without a branch, after
/// which the verifier would have to look at each offset by itself.
#[inline(always)]
pub const fn sum_at(offset: u32, sum: u32) -> u32 {
    sum.rotate_left((offset & 1) * 8)
}

const _: () = {
    assert!(size_of::<NameKey>() == 72);
    assert!(size_of::<NameValue>() == 28);
    assert!(size_of::<AskerKey>() == 16);
    assert!(size_of::<AskerValue>() == 32);
    assert!(size_of::<Header>() == 12);
    assert!(size_of::<RecordHead>() == 12);
    assert!(size_of::<Record4>() == 16);
    assert!(size_of::<Record6>() == 28);
    assert!(ANSWER_NAMES.len() == Answered::NoData as usize + 1);
};

#[cfg(feature = "user")]
pod!(NameKey, NameValue, AskerKey, AskerValue);

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    fn read(wire: &[u8]) -> (Vec<u8>, Option<Octet>) {
        let mut reader = NameReader::default();
        let mut read = Vec::new();
        for octet in wire {
            match reader.next(*octet) {
                Octet::Part(octet) => read.push(octet),
                end => return (read, Some(end)),
            }
        }
        (read, None)
    }

    #[test]
    fn names_are_read_to_their_root_label() {
        assert_eq!(
            read(b"\x03WeB\x01.\0rest"),
            (b"\x03web\x01.".to_vec(), Some(Octet::End))
        );
        let binary = read(b"\x02\0\0\0");
        assert_eq!(binary, (b"\x02\0\0".to_vec(), Some(Octet::End)));
        assert_eq!(read(b"\x03web\xc0\x0c").1, Some(Octet::Foreign));
        assert_eq!(read(b"\x40a").1, Some(Octet::Foreign));
        assert_eq!(read(b"\x03we").1, None);
    }

    #[test]
    fn only_plain_queries_are_taken() {
        let plain = Header {
            id: 1,
            flags: RD,
            more: 0x20,
            questions: 1_u16.to_be(),
            answers: 0,
            authorities: 0,
            additionals: 0,
        };
        assert!(plain.is_plain_query());
        assert!(Header { flags: 0, ..plain }.is_plain_query());
        let one = 1_u16.to_be();
        assert!(
            Header {
                additionals: one,
                ..plain
            }
            .is_plain_query()
        );
        for odd in [
            Header { flags: QR, ..plain },
            Header {
                flags: 0x08,
                ..plain
            },
            Header {
                flags: 0x02,
                ..plain
            },
            Header { more: RA, ..plain },
            Header {
                more: 0x40,
                ..plain
            },
            Header { more: 3, ..plain },
            Header {
                questions: 0,
                ..plain
            },
            Header {
                questions: 2_u16.to_be(),
                ..plain
            },
            Header {
                answers: one,
                ..plain
            },
            Header {
                authorities: one,
                ..plain
            },
            Header {
                additionals: 2_u16.to_be(),
                ..plain
            },
        ] {
            assert!(!odd.is_plain_query(), "{odd:?}");
        }
        let answer = plain.answer(1);
        assert_eq!((answer.flags, answer.more), (0x85, 0x80));
        assert_eq!((answer.id, answer.answers), (1, one));
    }

    #[test]
    fn opt_records_are_plain_or_have_one_cookie() {
        assert!(is_plain_opt(&OPT, 11, 0));
        assert!(!is_plain_opt(&OPT, 23, 8_u16.to_be()), "too long");
        let mut cookie = OPT;
        cookie[10] = 12;
        assert!(is_plain_opt(&cookie, 23, 8_u16.to_be()));
        assert!(!is_plain_opt(&cookie, 23, 9_u16.to_be()));
        assert!(!is_plain_opt(&cookie, 11, 0));
        for (at, value) in [(0, 1), (2, 1), (6, 1), (7, DNSSEC_OK)] {
            let mut bad = OPT;
            bad[at] = value;
            assert!(!is_plain_opt(&bad, 11, 0), "{at}");
        }
    }

    #[test]
    fn sums_of_odd_data_are_swapped() {
        let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
        // 0x1234 + 0xffff = 0x11233, folded 0x1234.
        let sum = add_sums(0x1234, 0xffff);
        assert_eq!(fold(sum_at(6, sum)), 0x1234);
        assert_eq!(fold(sum_at(7, sum)), 0x3412);
        assert_eq!(add_sums(u32::MAX, 2), 2);
    }

    #[test]
    fn classes_and_types() {
        let be = |n: u16| n.to_be();
        assert_eq!(Kind::of(be(1), be(1)), Some(Kind::A));
        assert_eq!(Kind::of(be(28), be(1)), Some(Kind::Aaaa));
        assert_eq!(Kind::of(be(28), be(255)), None);
        assert_eq!(Kind::of(be(15), be(1)), None);
    }
}
