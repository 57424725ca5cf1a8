//! The chains and their rules, which are always the same, and how a changed one is told.
//!
//! Each rule carries user data: a comment, which `nft list` shows, and a hash of the expressions it
//! was made of. The kernel keeps both with the rule, so that one that somebody replaced, or that
//! another version of this program wrote, is recognised without decoding expressions.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use abi::MARK_PUBLISHED;

use super::expr::{Family, Link, Rule, Side, Verdict};
use super::set::{
    APART, BRIDGES, GUARDED4, GUARDED6, INTERNAL, ROUTED4, ROUTED6, SAME, SOURCES4, SOURCES6,
    SPREAD,
};
use super::wire::{Attrs, Batch, Kind, number, text};
use super::{TABLE, uapi};
use crate::netlink::attribute;

/// Of rule user data; nft(8) passes over types it does not know.
const UDATA_HASH: u8 = 0x48;

/// A base chain.
pub(super) struct Chain {
    properties: Properties,
    rules: Vec<(&'static str, Rule)>,
}

/// What tells a chain from another one of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) name: String,
    kind: String,
    hook: u32,
    priority: i32,
    policy: u32,
}

/// A rule as the kernel keeps it: the chain and our user data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) chain: String,
    user_data: Vec<u8>,
}

pub(super) fn chains() -> [Chain; 4] {
    [raw(), prerouting(), forward(), postrouting()]
}

/// What goes between subnets of one network is no connection: the answer to what this node routes may
/// be routed by another one, and a firewall would drop the rest of a half as invalid.
fn raw() -> Chain {
    let hook = uapi::NF_INET_PRE_ROUTING;
    let between = Rule::new().name_in(Link::Input, SPREAD).route_in(APART);
    Chain::new("raw", "filter", hook, uapi::NF_IP_PRI_RAW).rule(SUBNETS, between.untracked())
}

/// Who comes from elsewhere reaches a container by a published port, or not at all.
///
/// It stands right behind connection tracking: whatever sets marks for its own ends, policy routing
/// for one, does so later (`NF_IP_PRI_MANGLE` is -150), and must not undo ours.
fn prerouting() -> Chain {
    let priority = uapi::NF_IP_PRI_CONNTRACK + 1;
    let guarded = |family, set| drop(Rule::new().address_in(family, Side::Destination, set));
    Chain::new("prerouting", "filter", uapi::NF_INET_PRE_ROUTING, priority)
        .rule(
            "containers: the forward chain judges",
            accept(Rule::new().name_in(Link::Input, BRIDGES)),
        )
        .rule(
            "published ports",
            accept(Rule::new().marked(MARK_PUBLISHED)),
        )
        .rule("replies", accept(Rule::new().of_known_connection()))
        .rule("the host itself", accept(Rule::new().for_this_host()))
        .rule(ECHO, echo_request(Family::V4, ROUTED4))
        .rule(ECHO, echo_request(Family::V6, ROUTED6))
        .rule("unpublished ports", guarded(Family::V4, GUARDED4))
        .rule("unpublished ports", guarded(Family::V6, GUARDED6))
}

fn forward() -> Chain {
    let segments = |link| {
        let rule = Rule::new().opens_connection().name_in(link, BRIDGES);
        rule.clamp_segments()
    };
    let between = || {
        Rule::new()
            .name_in(Link::Input, BRIDGES)
            .name_in(Link::Output, BRIDGES)
    };
    Chain::new(
        "forward",
        "filter",
        uapi::NF_INET_FORWARD,
        uapi::NF_IP_PRI_FILTER,
    )
    .rule(SEGMENTS, segments(Link::Input))
    .rule(SEGMENTS, segments(Link::Output))
    .rule("within a network", accept(Rule::new().pair_in(SAME)))
    .rule(SUBNETS, accept(Rule::new().pair_in(APART)))
    .rule(
        "from an internal network",
        drop(Rule::new().name_in(Link::Input, INTERNAL)),
    )
    .rule(
        "to an internal network",
        drop(Rule::new().name_in(Link::Output, INTERNAL)),
    )
    .rule("replies", accept(Rule::new().of_known_connection()))
    .rule(
        "published ports of other networks",
        accept(between().marked(MARK_PUBLISHED)),
    )
    .rule(ECHO, echo_request(Family::V4, ROUTED4))
    .rule(ECHO, echo_request(Family::V6, ROUTED6))
    .rule("between networks", drop(between()))
}

fn postrouting() -> Chain {
    let masquerade = |family, set| {
        Rule::new()
            .address_in(family, Side::Source, set)
            .masquerade()
    };
    Chain::new(
        "postrouting",
        "nat",
        uapi::NF_INET_POST_ROUTING,
        uapi::NF_IP_PRI_NAT_SRC,
    )
    .rule(
        "to containers",
        accept(Rule::new().name_in(Link::Output, BRIDGES)),
    )
    .rule("to the host", accept(Rule::new().leaves_by_loopback()))
    .rule(
        "replies of published ports",
        accept(Rule::new().marked(MARK_PUBLISHED)),
    )
    .rule("to the outside", masquerade(Family::V4, SOURCES4))
    .rule("to the outside", masquerade(Family::V6, SOURCES6))
}

const SUBNETS: &str = "between subnets of a network";
const ECHO: &str = "echo requests to routed networks";
const SEGMENTS: &str = "no larger segments than the routes take";

fn echo_request(family: Family, set: &str) -> Rule {
    let rule = Rule::new().address_in(family, Side::Destination, set);
    accept(rule.of_echo_request(family))
}

fn accept(rule: Rule) -> Rule {
    rule.verdict(Verdict::Accept)
}

fn drop(rule: Rule) -> Rule {
    rule.count().verdict(Verdict::Drop)
}

impl Chain {
    fn new(name: &str, kind: &str, hook: u32, priority: i32) -> Self {
        Self {
            properties: Properties {
                name: name.to_owned(),
                kind: kind.to_owned(),
                hook,
                priority,
                policy: uapi::NF_ACCEPT,
            },
            rules: Vec::new(),
        }
    }

    fn rule(mut self, comment: &'static str, rule: Rule) -> Self {
        self.rules.push((comment, rule));
        self
    }

    pub(super) fn create(self, batch: &mut Batch) {
        let chain = &self.properties;
        let hook = Attrs::new()
            .number(uapi::NFTA_HOOK_HOOKNUM, chain.hook)
            .number(uapi::NFTA_HOOK_PRIORITY, chain.priority.cast_unsigned());
        let attrs = Attrs::new()
            .text(uapi::NFTA_CHAIN_TABLE, TABLE)
            .text(uapi::NFTA_CHAIN_NAME, &chain.name)
            .nest(uapi::NFTA_CHAIN_HOOK, &hook)
            .number(uapi::NFTA_CHAIN_POLICY, chain.policy)
            .text(uapi::NFTA_CHAIN_TYPE, &chain.kind);
        batch.push(Kind::NewChain, uapi::NLM_F_CREATE, attrs);
        for (comment, rule) in self.rules {
            let expressions = rule.encode();
            let attrs = Attrs::new()
                .text(uapi::NFTA_RULE_TABLE, TABLE)
                .text(uapi::NFTA_RULE_CHAIN, &self.properties.name)
                .nest(uapi::NFTA_RULE_EXPRESSIONS, &expressions)
                .bytes(uapi::NFTA_RULE_USERDATA, &user_data(comment, &expressions));
            let flags = uapi::NLM_F_CREATE | uapi::NLM_F_APPEND;
            batch.push(Kind::NewRule, flags, attrs);
        }
    }

    pub(super) fn properties(&self) -> Properties {
        self.properties.clone()
    }

    /// What [`Written::read`] finds of the rules when nobody has changed them.
    pub(super) fn written(self) -> Vec<Written> {
        let chain = self.properties.name;
        self.rules
            .into_iter()
            .map(|(comment, rule)| Written {
                chain: chain.clone(),
                user_data: user_data(comment, &rule.encode()),
            })
            .collect()
    }
}

impl Properties {
    /// The base chain with these attributes, if it is one of our table.
    pub(super) fn read(attrs: &[u8]) -> Option<Self> {
        if text(attribute(attrs, uapi::NFTA_CHAIN_TABLE)?)? != TABLE {
            return None;
        }
        let hook = attribute(attrs, uapi::NFTA_CHAIN_HOOK).unwrap_or_default();
        let value = |list, kind| attribute(list, kind).and_then(number).unwrap_or_default();
        let words = |kind| attribute(attrs, kind).and_then(text).unwrap_or_default();
        Some(Self {
            name: words(uapi::NFTA_CHAIN_NAME).to_owned(),
            kind: words(uapi::NFTA_CHAIN_TYPE).to_owned(),
            hook: value(hook, uapi::NFTA_HOOK_HOOKNUM),
            priority: value(hook, uapi::NFTA_HOOK_PRIORITY).cast_signed(),
            policy: value(attrs, uapi::NFTA_CHAIN_POLICY),
        })
    }
}

impl Written {
    pub(super) fn read(attrs: &[u8]) -> Option<Self> {
        Some(Self {
            chain: text(attribute(attrs, uapi::NFTA_RULE_CHAIN)?)?.to_owned(),
            user_data: attribute(attrs, uapi::NFTA_RULE_USERDATA)
                .unwrap_or_default()
                .to_vec(),
        })
    }
}

fn user_data(comment: &str, expressions: &Attrs) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    expressions.hash(&mut hasher);
    let mut data = Vec::new();
    let mut put = |kind: u8, value: &[u8]| {
        data.push(kind);
        data.push(u8::try_from(value.len()).expect("comments are short"));
        data.extend(value);
    };
    put(
        uapi::NFTNL_UDATA_RULE_COMMENT,
        &[comment.as_bytes(), &[0]].concat(),
    );
    put(UDATA_HASH, &hasher.finish().to_be_bytes());
    data
}
