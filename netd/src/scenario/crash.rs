//! The end after every step: of the kernel, of the daemon.

use std::panic::{AssertUnwindSafe, catch_unwind};

use api::ErrorCode;
use api::id::IfName;

use super::{World, eth0, network, refusal, request};
use crate::fake::End;
use crate::netd::Netd;
use crate::{NetError, Report};

#[test]
fn a_failing_step_is_undone() {
    let world = World::new();
    let netd = world.start().unwrap();
    netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
    let before = world.kernel.snapshot();
    // The bridge is gone: the pair cannot be made.
    let bridge =
        IfName::parse(&format!("br-{}", netd.network("shop").unwrap().id.short())).unwrap();
    let mut link = None;
    world
        .kernel
        .edit(|observed| link = observed.links.remove(&bridge));
    let (code, message) = refusal(netd.attach(request("shop", "web", 10)));
    assert_eq!(code, ErrorCode::Internal);
    assert!(
        message.starts_with("create interface pair veth"),
        "{message}"
    );
    world.kernel.edit(|observed| {
        observed
            .links
            .extend(link.map(|link| (bridge.clone(), link)));
    });
    assert_eq!(world.kernel.snapshot(), before);
    assert!(netd.endpoints(None).is_empty());
    netd.attach(request("shop", "web", 10)).unwrap();
}

/// Runs `operation` with a kernel that ends after each possible number of steps, starts a new
/// daemon, and expects that it undoes or completes the operation and leaves nothing to repair.
pub(super) fn crash_everywhere(prepare: fn(&Netd), operation: fn(&Netd) -> Result<(), NetError>) {
    for end in [End::Killed, End::Refuses] {
        end_everywhere(end, prepare, operation);
    }
}

/// The same of a daemon that is killed, where a kernel that refuses is no refusal.
pub(super) fn kill_everywhere(prepare: fn(&Netd), operation: fn(&Netd) -> Result<(), NetError>) {
    end_everywhere(End::Killed, prepare, operation);
}

fn end_everywhere(end: End, prepare: fn(&Netd), operation: fn(&Netd) -> Result<(), NetError>) {
    let mut steps = 0;
    while !crash_after(steps, end, prepare, operation) {
        steps += 1;
    }
    assert!(steps > 0, "the operation has no steps");
}

/// Returns whether the operation was through before the end.
fn crash_after(
    steps: usize,
    end: End,
    prepare: fn(&Netd),
    operation: fn(&Netd) -> Result<(), NetError>,
) -> bool {
    let world = World::new();
    let netd = world.start().unwrap();
    prepare(&netd);
    let look = |netd: &Netd| {
        (
            netd.endpoints(None),
            (netd.networks(), netd.services()),
            world.kernel.snapshot(),
        )
    };
    let before = look(&netd);
    world.kernel.end_after(Some((steps, end)));
    let done = catch_unwind(AssertUnwindSafe(|| operation(&netd)));
    drop(netd);
    world.kernel.end_after(None);
    let netd = world.start().unwrap();
    if matches!(done, Ok(Ok(()))) {
        return true;
    }
    let after = look(&netd);
    let undone = after.0.len() == before.0.len()
        && after.1.0.len() == before.1.0.len()
        && after.1.1.len() == before.1.1.len();
    if undone {
        assert_eq!(after, before, "undone after {steps} steps, {end:?}");
    }
    let again = netd.reconcile().unwrap();
    assert_eq!(again, Report::default(), "start leaves nothing to do");
    assert_eq!(look(&netd), after);
    if undone {
        operation(&netd).unwrap_or_else(|error| panic!("after {steps} steps, {end:?}: {error}"));
    }
    false
}

#[test]
fn a_crash_while_creating_a_network_is_undone() {
    crash_everywhere(
        |_| {},
        |netd| {
            let request = network(r#"{"Name":"shop","EnableIPv6":true}"#);
            netd.create_network(request).map(drop)
        },
    );
}

#[test]
fn a_crash_while_attaching_is_undone() {
    crash_everywhere(
        |netd| {
            netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
            netd.attach(request("shop", "db", 11)).unwrap();
        },
        |netd| netd.attach(request("shop", "web", 10)).map(drop),
    );
}

#[test]
fn a_crash_while_limiting_rates_is_undone() {
    crash_everywhere(
        |netd| {
            netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
        },
        |netd| {
            let mut limited = request("shop", "web", 10);
            limited.bandwidth = serde_json::from_str(
                r#"{"ingress_rate":8000,"ingress_burst":8000,"egress_rate":8000}"#,
            )
            .unwrap();
            netd.attach(limited).map(drop)
        },
    );
}

#[test]
fn a_crash_while_detaching_is_completed() {
    crash_everywhere(
        |netd| {
            netd.create_network(network(r#"{"Name":"shop"}"#)).unwrap();
            netd.attach(request("shop", "web", 10)).unwrap();
            netd.attach(request("shop", "db", 11)).unwrap();
        },
        |netd| {
            netd.detach("web", &eth0())?;
            assert_eq!(netd.endpoints(None).len(), 1);
            Ok(())
        },
    );
}
