//! Fragments: only the first one has ports, and the others follow it.

use netd::bpf::Side::{Egress, Ingress};

use super::{Cases, PROTOCOLS, first, more};
use crate::packet::Fragment::{First, Later};
use crate::packet::SCTP;

pub(super) fn add(all: &mut Cases) {
    for (name, p) in PROTOCOLS {
        // SCTP's checksum bars a fragment from another port.
        let at = |e: &super::Ends| {
            if p == SCTP {
                (e.same, e.same_web)
            } else {
                (e.host, e.web)
            }
        };
        for (v, e) in all.families() {
            let (host, web) = at(&e);
            all.case(format!("{name} {v}: a first fragment, in"))
                .ingress(first(p, e.client, host).fragment(First))
                .goes(e.client, web);
        }
        for (v, e) in all.families() {
            let (host, web) = at(&e);
            all.case(format!("{name} {v}: a later fragment, in"))
                .after(Ingress, first(p, e.client, host).fragment(First))
                .ingress(more(p, e.client, host).fragment(Later))
                .goes(e.client, web);
        }
        for (v, e) in all.families() {
            let (host, _) = at(&e);
            all.case(format!(
                "{name} {v}: a later fragment of another packet, in"
            ))
            .after(Ingress, first(p, e.client, host))
            .ingress(more(p, e.client, host).fragment(Later))
            .untouched();
        }
        for (v, e) in all.families() {
            let (host, web) = at(&e);
            all.case(format!("{name} {v}: a first fragment, out"))
                .after(Ingress, first(p, e.client, host))
                .egress(more(p, web, e.client).fragment(First))
                .goes(host, e.client);
        }
        for (v, e) in all.families() {
            let (host, web) = at(&e);
            all.case(format!("{name} {v}: a later fragment, out"))
                .after(Ingress, first(p, e.client, host))
                .after(Egress, more(p, web, e.client).fragment(First))
                .egress(more(p, web, e.client).fragment(Later))
                .goes(host, e.client);
        }
        for (v, e) in all.families() {
            let (_, web) = at(&e);
            all.case(format!(
                "{name} {v}: a later fragment of another packet, out"
            ))
            .egress(more(p, web, e.client).fragment(Later))
            .untouched();
        }
        for (v, e) in all.families() {
            all.case(format!("{name} {v}: a first fragment to a closed port"))
                .ingress(first(p, e.client, e.closed).fragment(First))
                .untouched();
        }
    }
    let e = all.ends4();
    all.case("a first fragment with options")
        .ingress(more(17, e.client, e.host).fragment(First).options(&[1; 8]))
        .goes(e.client, e.web);
    let e = all.ends6();
    all.case("a first fragment behind a hop-by-hop header")
        .ingress(more(17, e.client, e.host).extension(0, 1).fragment(First))
        .goes(e.client, e.web);
    for (v, e) in all.families() {
        all.case(format!("sctp {v}: a first fragment to another port"))
            .ingress(more(SCTP, e.client, e.host).fragment(First))
            .drops();
    }
    for (v, e) in all.families() {
        all.case(format!("sctp {v}: a first fragment from another port"))
            .after(Ingress, first(SCTP, e.client, e.host))
            .egress(more(SCTP, e.web, e.client).fragment(First))
            .drops();
    }
}
