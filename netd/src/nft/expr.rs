//! The few expressions our rules are made of.

use super::wire::Attrs;

// `enum nft_registers`: four 16-byte registers after the verdict's.
const VERDICT: u32 = 0;
const FIRST: u32 = 1;
const SECOND: u32 = 2;

/// `enum nft_meta_keys`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meta {
    OutputIndex = 5,
    InputName = 6,
    OutputName = 7,
    Family = 15,
}

/// `enum nf_inet_hooks`' protocols as `meta nfproto` reports them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    V4 = 2,
    V6 = 10,
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
        const NFTA_LIST_ELEM: u16 = 1;
        let expression = Attrs::new().text(1, name).nest(2, data);
        Self(self.0.nest(NFTA_LIST_ELEM, &expression))
    }

    fn meta(self, key: Meta, register: u32) -> Self {
        let data = Attrs::new().number(1, register).number(2, key as u32);
        self.expression("meta", &data)
    }

    fn lookup(self, set: &str) -> Self {
        let data = Attrs::new().text(1, set).number(2, FIRST);
        self.expression("lookup", &data)
    }

    /// The interface's name is in `set`.
    pub(super) fn name_in(self, key: Meta, set: &str) -> Self {
        self.meta(key, FIRST).lookup(set)
    }

    /// The pair of input and output interface is in `set`.
    pub(super) fn pair_in(self, set: &str) -> Self {
        self.meta(Meta::InputName, FIRST)
            .meta(Meta::OutputName, SECOND)
            .lookup(set)
    }

    pub(super) fn of_family(self, family: Family) -> Self {
        self.meta(Meta::Family, FIRST).equals(&[family as u8])
    }

    /// Leaves by the loopback interface, which has index 1 in every namespace.
    pub(super) fn leaves_by_loopback(self) -> Self {
        self.meta(Meta::OutputIndex, FIRST)
            .equals(&1u32.to_ne_bytes())
    }

    /// The source address is in `set`; only after [`Self::of_family`].
    pub(super) fn source_in(self, family: Family, set: &str) -> Self {
        const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
        let (offset, length) = match family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        let data = Attrs::new()
            .number(1, FIRST)
            .number(2, NFT_PAYLOAD_NETWORK_HEADER)
            .number(3, offset)
            .number(4, length);
        self.expression("payload", &data).lookup(set)
    }

    fn equals(self, value: &[u8]) -> Self {
        const NFT_CMP_EQ: u32 = 0;
        let data = Attrs::new()
            .number(1, FIRST)
            .number(2, NFT_CMP_EQ)
            .nest(3, &Attrs::new().bytes(1, value));
        self.expression("cmp", &data)
    }

    pub(super) fn count(self) -> Self {
        self.expression("counter", &Attrs::new())
    }

    pub(super) fn masquerade(self) -> Self {
        self.expression("masq", &Attrs::new())
    }

    pub(super) fn verdict(self, verdict: Verdict) -> Self {
        const NFTA_DATA_VERDICT: u16 = 2;
        // NF_DROP and NF_ACCEPT of include/uapi/linux/netfilter.h.
        let code = match verdict {
            Verdict::Drop => 0,
            Verdict::Accept => 1,
        };
        let value = Attrs::new().nest(NFTA_DATA_VERDICT, &Attrs::new().number(1, code));
        let data = Attrs::new().number(1, VERDICT).nest(2, &value);
        self.expression("immediate", &data)
    }
}
