//! Following the kernel: changes of links and addresses, and a look at everything now and then.

use std::collections::BTreeSet;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api::id::IfName;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkFlags;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::io::unix::AsyncFd;
use tokio::time::MissedTickBehavior;

use crate::model::desired::Desired;
use crate::mtu::Seen;
use crate::netd::Netd;
use crate::{netlink, observe};

/// Catches what sends no notification: a deleted nftables table, a changed setting.
const RECONCILE_EVERY: Duration = Duration::from_secs(30);
/// How long a namespace that everybody else has left outlives them: the resolver's sockets inside
/// keep it, and its interfaces, in being.
const RELEASE_EVERY: Duration = Duration::from_secs(1);

/// What a batch of notifications asks for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Due {
    /// Addresses or links of the host changed.
    host: bool,
    /// One of our links is gone or down, or notifications were lost.
    repair: bool,
    /// It is time to see whether sandboxes are gone.
    look: bool,
    /// Links that went away; ours only if the records still have them.
    gone: BTreeSet<IfName>,
}

impl Netd {
    /// Keeps the kernel as it should be until `shutdown`. What is attached stays so afterwards.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let socket = match subscribe().and_then(register) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "no notifications of links and addresses, only polling");
                None
            }
        };
        let mut seen = match self.kernel.observe() {
            Ok(observed) => Seen::of(&observed),
            Err(_tried_again_by_every_tick) => Seen::default(),
        };
        let mut shutdown = pin!(shutdown);
        let mut ticks = tokio::time::interval(RECONCILE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = tokio::time::interval(RELEASE_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = tokio::select! {
                () = &mut shutdown => return,
                _ = ticks.tick() => Due { repair: true, ..Due::default() },
                _ = looks.tick() => Due { look: true, ..Due::default() },
                due = notifications(socket.as_ref(), &mut seen) => due,
            };
            let netd = Arc::clone(&self);
            let done = tokio::task::spawn_blocking(move || netd.follow(&due)).await;
            if let Err(error) = done {
                tracing::error!(%error, "a reconcile panicked");
            }
        }
    }

    fn follow(&self, due: &Due) {
        let dead = || due.look && self.holds_dead_sandbox();
        if due.repair || lost(&self.view(), &due.gone) || dead() {
            // The lock waits for a detach that is just deleting the link: look again after it.
            if let Err(error) = self.reconcile() {
                tracing::warn!(%error, "reconcile");
            }
        } else if due.host {
            let _writer = self.writer();
            self.follow_host();
        }
    }
}

fn lost(view: &Desired, gone: &BTreeSet<IfName>) -> bool {
    view.bridges().any(|bridge| gone.contains(bridge))
        || view
            .parents()
            .any(|parent| gone.contains(&parent.parent.link))
        || view
            .endpoints
            .values()
            .filter_map(|endpoint| endpoint.attachment.host_ifname.as_ref())
            .any(|host| gone.contains(host))
}

/// `enum rtnetlink_groups` of include/uapi/linux/rtnetlink.h.
mod group {
    pub(super) const LINK: u32 = 1;
    pub(super) const IPV4_IFADDR: u32 = 5;
    pub(super) const IPV6_IFADDR: u32 = 9;
}

/// A socket that hears of changes of links and addresses in the calling thread's namespace.
fn subscribe() -> io::Result<Socket> {
    let groups = [group::LINK, group::IPV4_IFADDR, group::IPV6_IFADDR];
    netlink::listen(NETLINK_ROUTE, &groups)
}

#[expect(
    deprecated,
    reason = "its successor is unsafe because a type could give its descriptor away: this one does not"
)]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::new(socket)
}

async fn notifications(socket: Option<&AsyncFd<Socket>>, seen: &mut Seen) -> Due {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    loop {
        let mut guard = match socket.readable().await {
            Ok(guard) => guard,
            Err(error) => {
                tracing::warn!(%error, "notifications ended");
                return std::future::pending().await;
            }
        };
        let due = drain(guard.get_inner(), seen);
        guard.clear_ready();
        if due != Due::default() {
            return due;
        }
    }
}

/// Reads until nothing is left.
fn drain(socket: &Socket, seen: &mut Seen) -> Due {
    let mut due = Due::default();
    loop {
        match socket.recv_from_full() {
            Ok((datagram, _)) => {
                for message in netlink::messages(&datagram) {
                    match message.map(|message| message.payload) {
                        Ok(NetlinkPayload::InnerMessage(message)) => note(&mut due, seen, message),
                        Ok(_) => {}
                        // Whatever it was, the dump will tell.
                        Err(_unreadable) => due.host = true,
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return due,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // ENOBUFS: notifications were lost, so look at everything.
            Err(_overrun) => due.repair = true,
        }
    }
}

fn note(due: &mut Due, seen: &mut Seen, message: RouteNetlinkMessage) {
    match message {
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => due.host = true,
        RouteNetlinkMessage::DelLink(link) => {
            // Its addresses have gone before it, each with a notification.
            due.gone.extend(observe::link_name(&link));
            seen.forget(&link);
        }
        RouteNetlinkMessage::NewLink(link) if seen.is_changed(&link) => due.repair = true,
        // A link that was set down lost its IPv6 addresses; ours must come up again.
        RouteNetlinkMessage::NewLink(link) if !link.header.flags.contains(LinkFlags::Up) => {
            due.gone.extend(observe::link_name(&link));
        }
        _ => {}
    }
}
