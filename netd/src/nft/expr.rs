//! The few expressions our rules are made of.

use super::uapi;
use super::wire::Attrs;

/// Which of a packet's interfaces.
#[derive(Debug, Clone, Copy)]
pub(super) enum Link {
    Input,
    Output,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    V4,
    V6,
}

/// Which address of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    Drop,
    Accept,
}

/// A rule's expressions, in order.
#[derive(Debug, Default)]
pub(super) struct Rule(Attrs);

impl Rule {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn encode(self) -> Attrs {
        self.0
    }

    fn expression(self, name: &str, data: &Attrs) -> Self {
        let expression = Attrs::new()
            .text(uapi::NFTA_EXPR_NAME, name)
            .nest(uapi::NFTA_EXPR_DATA, data);
        Self(self.0.nest(uapi::NFTA_LIST_ELEM, &expression))
    }

    fn meta(self, key: u32, register: u32) -> Self {
        let data = Attrs::new()
            .number(uapi::NFTA_META_DREG, register)
            .number(uapi::NFTA_META_KEY, key);
        self.expression("meta", &data)
    }

    fn lookup(self, set: &str) -> Self {
        let data = Attrs::new()
            .text(uapi::NFTA_LOOKUP_SET, set)
            .number(uapi::NFTA_LOOKUP_SREG, uapi::NFT_REG_1);
        self.expression("lookup", &data)
    }

    fn compare(self, operation: u32, value: &[u8]) -> Self {
        let value = Attrs::new().bytes(uapi::NFTA_DATA_VALUE, value);
        let data = Attrs::new()
            .number(uapi::NFTA_CMP_SREG, uapi::NFT_REG_1)
            .number(uapi::NFTA_CMP_OP, operation)
            .nest(uapi::NFTA_CMP_DATA, &value);
        self.expression("cmp", &data)
    }

    /// Keeps the bits of `mask` in the first register.
    fn masked<const N: usize>(self, mask: [u8; N]) -> Self {
        const { assert!(N <= 4, "the kernel wants a small number of bytes") };
        let value = |value: &[u8; N]| Attrs::new().bytes(uapi::NFTA_DATA_VALUE, value);
        let data = Attrs::new()
            .number(uapi::NFTA_BITWISE_SREG, uapi::NFT_REG_1)
            .number(uapi::NFTA_BITWISE_DREG, uapi::NFT_REG_1)
            .number(uapi::NFTA_BITWISE_LEN, N as u32)
            .nest(uapi::NFTA_BITWISE_MASK, &value(&mask))
            .nest(uapi::NFTA_BITWISE_XOR, &value(&[0; N]));
        self.expression("bitwise", &data)
    }

    /// Any of `bits` is set in the first register.
    fn any_of(self, bits: u32) -> Self {
        self.masked(bits.to_ne_bytes())
            .compare(uapi::NFT_CMP_NEQ, &0_u32.to_ne_bytes())
    }

    /// The interface's name is in `set`.
    pub(super) fn name_in(self, link: Link, set: &str) -> Self {
        let key = match link {
            Link::Input => uapi::NFT_META_IIFNAME,
            Link::Output => uapi::NFT_META_OIFNAME,
        };
        self.meta(key, uapi::NFT_REG_1).lookup(set)
    }

    /// The pair of input and output interface is in `set`.
    pub(super) fn pair_in(self, set: &str) -> Self {
        self.meta(uapi::NFT_META_IIFNAME, uapi::NFT_REG_1)
            .meta(uapi::NFT_META_OIFNAME, uapi::NFT_REG_2)
            .lookup(set)
    }

    /// The pair of the input interface and the one that the route to the destination leads by is in
    /// `set`.
    pub(super) fn route_in(self, set: &str) -> Self {
        self.meta(uapi::NFT_META_IIFNAME, uapi::NFT_REG_1)
            .fib(uapi::NFT_FIB_RESULT_OIFNAME, uapi::NFT_REG_2)
            .lookup(set)
    }

    /// Leaves by the loopback interface, which has index 1 in every namespace.
    pub(super) fn leaves_by_loopback(self) -> Self {
        self.meta(uapi::NFT_META_OIF, uapi::NFT_REG_1)
            .compare(uapi::NFT_CMP_EQ, &1_u32.to_ne_bytes())
    }

    /// The packet's mark has a bit of `mark`.
    pub(super) fn marked(self, mark: u32) -> Self {
        self.meta(uapi::NFT_META_MARK, uapi::NFT_REG_1).any_of(mark)
    }

    /// Belongs to a connection that went both ways, or is an error about one.
    pub(super) fn of_known_connection(self) -> Self {
        let data = Attrs::new()
            .number(uapi::NFTA_CT_DREG, uapi::NFT_REG_1)
            .number(uapi::NFTA_CT_KEY, uapi::NFT_CT_STATE);
        self.expression("ct", &data)
            .any_of(uapi::CT_ESTABLISHED | uapi::CT_RELATED)
    }

    /// For an address of this host.
    pub(super) fn for_this_host(self) -> Self {
        self.fib(uapi::NFT_FIB_RESULT_ADDRTYPE, uapi::NFT_REG_1)
            .compare(uapi::NFT_CMP_EQ, &uapi::RTN_LOCAL.to_ne_bytes())
    }

    /// What the host's routes say of the destination.
    fn fib(self, result: u32, register: u32) -> Self {
        let data = Attrs::new()
            .number(uapi::NFTA_FIB_DREG, register)
            .number(uapi::NFTA_FIB_RESULT, result)
            .number(uapi::NFTA_FIB_FLAGS, uapi::NFTA_FIB_F_DADDR);
        self.expression("fib", &data)
    }

    /// Is of `family`, and that address of it is in `set`.
    pub(super) fn address_in(self, family: Family, side: Side, set: &str) -> Self {
        let (protocol, offset, length) = match (family, side) {
            (Family::V4, Side::Source) => (uapi::NFPROTO_IPV4, 12, 4),
            (Family::V4, Side::Destination) => (uapi::NFPROTO_IPV4, 16, 4),
            (Family::V6, Side::Source) => (uapi::NFPROTO_IPV6, 8, 16),
            (Family::V6, Side::Destination) => (uapi::NFPROTO_IPV6, 24, 16),
        };
        self.meta(uapi::NFT_META_NFPROTO, uapi::NFT_REG_1)
            .compare(uapi::NFT_CMP_EQ, &[protocol])
            .payload(uapi::NFT_PAYLOAD_NETWORK_HEADER, offset, length)
            .lookup(set)
    }

    /// Asks whether its destination, an address of `family`, is alive.
    pub(super) fn of_echo_request(self, family: Family) -> Self {
        let (protocol, kind) = match family {
            Family::V4 => (uapi::IPPROTO_ICMP, uapi::ICMP_ECHO),
            Family::V6 => (uapi::IPPROTO_ICMPV6, uapi::ICMPV6_ECHO_REQUEST),
        };
        self.meta(uapi::NFT_META_L4PROTO, uapi::NFT_REG_1)
            .compare(uapi::NFT_CMP_EQ, &[protocol])
            .payload(uapi::NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1)
            .compare(uapi::NFT_CMP_EQ, &[kind])
    }

    /// Opens a TCP connection, or answers one that does.
    pub(super) fn opens_connection(self) -> Self {
        const FLAGS: u32 = 13;
        const SYN: u8 = 2;
        const RST: u8 = 4;
        self.meta(uapi::NFT_META_L4PROTO, uapi::NFT_REG_1)
            .compare(uapi::NFT_CMP_EQ, &[uapi::IPPROTO_TCP])
            .payload(uapi::NFT_PAYLOAD_TRANSPORT_HEADER, FLAGS, 1)
            .masked([SYN | RST])
            .compare(uapi::NFT_CMP_EQ, &[SYN])
    }

    /// Lowers the largest segment that the sender takes to what fits the packet's routes, there and
    /// back (RFC 9293, 3.7.1).
    pub(super) fn clamp_segments(self) -> Self {
        const MAXSEG: u8 = 2;
        const BYTES: u32 = 2;
        let route = Attrs::new()
            .number(uapi::NFTA_RT_DREG, uapi::NFT_REG_1)
            .number(uapi::NFTA_RT_KEY, uapi::NFT_RT_TCPMSS);
        let order = Attrs::new()
            .number(uapi::NFTA_BYTEORDER_SREG, uapi::NFT_REG_1)
            .number(uapi::NFTA_BYTEORDER_DREG, uapi::NFT_REG_1)
            .number(uapi::NFTA_BYTEORDER_OP, uapi::NFT_BYTEORDER_HTON)
            .number(uapi::NFTA_BYTEORDER_LEN, BYTES)
            .number(uapi::NFTA_BYTEORDER_SIZE, BYTES);
        let option = Attrs::new()
            .number(uapi::NFTA_EXTHDR_SREG, uapi::NFT_REG_1)
            .bytes(uapi::NFTA_EXTHDR_TYPE, &[MAXSEG])
            .number(uapi::NFTA_EXTHDR_OFFSET, 2)
            .number(uapi::NFTA_EXTHDR_LEN, BYTES)
            .number(uapi::NFTA_EXTHDR_OP, uapi::NFT_EXTHDR_OP_TCPOPT);
        self.expression("rt", &route)
            .expression("byteorder", &order)
            .expression("exthdr", &option)
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        let data = Attrs::new()
            .number(uapi::NFTA_PAYLOAD_DREG, uapi::NFT_REG_1)
            .number(uapi::NFTA_PAYLOAD_BASE, base)
            .number(uapi::NFTA_PAYLOAD_OFFSET, offset)
            .number(uapi::NFTA_PAYLOAD_LEN, length);
        self.expression("payload", &data)
    }

    pub(super) fn count(self) -> Self {
        self.expression("counter", &Attrs::new())
    }

    pub(super) fn untracked(self) -> Self {
        self.expression("notrack", &Attrs::new())
    }

    pub(super) fn masquerade(self) -> Self {
        self.expression("masq", &Attrs::new())
    }

    pub(super) fn verdict(self, verdict: Verdict) -> Self {
        let code = match verdict {
            Verdict::Drop => uapi::NF_DROP,
            Verdict::Accept => uapi::NF_ACCEPT,
        };
        let code = Attrs::new().number(uapi::NFTA_VERDICT_CODE, code);
        let verdict = Attrs::new().nest(uapi::NFTA_DATA_VERDICT, &code);
        let data = Attrs::new()
            .number(uapi::NFTA_IMMEDIATE_DREG, uapi::NFT_REG_VERDICT)
            .nest(uapi::NFTA_IMMEDIATE_DATA, &verdict);
        self.expression("immediate", &data)
    }
}
