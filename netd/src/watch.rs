//! Following the kernel: what others change is heard of and repaired, and everything is looked at
//! now and then.
//!
//! Heard of are links, addresses, what overlay networks lead to, default routes, tc filters and forwarding by rtnetlink, and packet
//! filters by nftables: our table is repaired, and connections show themselves to everybody else's. A link of a program can be taken off without a word, so that those are asked
//! after twice a second: a few system calls for each uplink and each hook. Settings that send no
//! notification wait for the periodic look.

mod due;
mod pace;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::io::unix::AsyncFd;
use tokio::time::MissedTickBehavior;

use crate::bpf::BpfError;
use crate::mtu::Seen;
use crate::netd::Netd;
use crate::netlink;
use crate::nft::{self, Heard, Transactions};
use due::Due;
use pace::Pace;

const RECONCILE_EVERY: Duration = Duration::from_secs(30);
/// Also how long a namespace that everybody else has left outlives them: the resolver's sockets
/// inside keep it, and its interfaces, in being.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Changes come in bursts: a bridge that is deleted lets go of each of its ports.
const BURST: Duration = Duration::from_millis(50);

impl Netd {
    /// Keeps the kernel as it should be until `shutdown`. What is attached stays so afterwards.
    pub async fn run(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = pin!(shutdown) => {}
            () = Arc::clone(&self).watch() => {}
            () = Arc::clone(&self).watch_health() => {}
            () = Arc::clone(&self).change_keys() => {}
        }
        self.stopping.store(true, Ordering::Relaxed);
    }

    async fn watch(self: Arc<Self>) {
        let seen = match self.kernel.observe() {
            Ok(observed) => Seen::of(&observed),
            Err(_tried_again_by_every_tick) => Seen::default(),
        };
        let mut ears = Ears::open(seen);
        let mut pace = Pace::default();
        let mut programs = Programs::default();
        let mut reconciles = every(RECONCILE_EVERY);
        let mut looks = every(LOOK_EVERY);
        loop {
            let due = tokio::select! {
                _ = reconciles.tick() => Due::everything(),
                _ = looks.tick() => Due::look(),
                mut due = ears.hear() => {
                    tokio::time::sleep(BURST).await;
                    ears.drain(&mut due);
                    due
                }
            };
            let netd = Arc::clone(&self);
            let known = std::mem::take(&mut programs);
            let followed = tokio::task::spawn_blocking(move || netd.follow(&due, &known)).await;
            match followed {
                Ok(followed) => {
                    programs = followed.programs;
                    if followed.repaired && pace.repaired(Instant::now()) {
                        tracing::warn!(
                            "somebody undoes every repair: repairing less and less often; \
                             `hawser doctor` says what differs"
                        );
                    }
                }
                Err(error) => tracing::error!(%error, "a reconcile panicked"),
            }
            tokio::time::sleep_until(pace.next(Instant::now()).into()).await;
        }
    }

    /// Does what is due. `known` are the programs that were attached at the last look.
    fn follow(&self, due: &Due, known: &Programs) -> Followed {
        if due.filter {
            self.renew_shortcuts();
        }
        let programs = self.programs();
        let mut repaired = false;
        let dead = || due.look && self.holds_dead_sandbox();
        let stopped = || due.stops_any(&known.uplinks);
        if programs.lacks(known) || due.concerns(&self.view()) || stopped() || dead() {
            match self.reconcile() {
                Ok(report) => repaired = report.repaired > 0,
                Err(error) => tracing::warn!(%error, "reconcile"),
            }
        } else if due.host {
            let _writer = self.writer();
            self.follow_host();
        } else {
            return Followed { repaired, programs };
        }
        Followed {
            repaired,
            programs: self.programs(),
        }
    }

    fn programs(&self) -> Programs {
        let Some(data_plane) = &self.data_plane else {
            return Programs::default();
        };
        let look = || -> Result<Programs, BpfError> {
            Ok(Programs {
                uplinks: data_plane.uplinks()?,
                hooks: !data_plane.is_hook_lost()?,
            })
        };
        look().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot see which programs are attached");
            Programs::default()
        })
    }
}

/// The programs that can be detached without a word.
#[derive(Debug, Default)]
struct Programs {
    /// Links that have both of theirs.
    uplinks: BTreeSet<u32>,
    /// All socket hooks are attached.
    hooks: bool,
}

impl Programs {
    fn lacks(&self, before: &Self) -> bool {
        !before.uplinks.is_subset(&self.uplinks) || (before.hooks && !self.hooks)
    }
}

struct Followed {
    repaired: bool,
    programs: Programs,
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Where the kernel's notifications arrive.
struct Ears {
    route: Option<AsyncFd<Socket>>,
    filter: Option<AsyncFd<Socket>>,
    transactions: Transactions,
    /// The MTU of each link.
    seen: Seen,
}

impl Ears {
    /// Sockets in the calling thread's namespace.
    fn open(seen: Seen) -> Self {
        let heard = |what: &str, socket: io::Result<Socket>| match socket.and_then(register) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "no notifications of {what}, only looks now and then");
                None
            }
        };
        Self {
            route: heard("links, addresses and routes", subscribe()),
            filter: heard("packet filters", nft::subscribe()),
            transactions: Transactions::default(),
            seen,
        }
    }

    /// Waits until there is something to do.
    async fn hear(&mut self) -> Due {
        loop {
            tokio::select! {
                () = readable(self.route.as_ref()) => {}
                () = readable(self.filter.as_ref()) => {}
            }
            let mut due = Due::default();
            self.drain(&mut due);
            if !due.is_nothing() {
                return due;
            }
        }
    }

    /// Reads until nothing is left. A lost notification may have been about anything.
    fn drain(&mut self, due: &mut Due) {
        let mut lost = false;
        if let Some(socket) = &self.route {
            lost |= drain(socket.get_ref(), |datagram| {
                due.note(datagram, &mut self.seen);
            });
        }
        if let Some(socket) = &self.filter {
            let mut heard = Heard::default();
            lost |= drain(socket.get_ref(), |datagram| {
                self.transactions.note(datagram, is_own_thread, &mut heard);
            });
            due.filter |= heard.any;
            due.repair |= heard.ours;
        }
        due.filter |= lost;
        due.repair |= lost;
    }
}

/// Shows every datagram that waits; true when the kernel had to drop some.
fn drain(socket: &Socket, mut show: impl FnMut(&[u8])) -> bool {
    let mut lost = false;
    loop {
        match socket.recv_from_full() {
            Ok((datagram, _)) => show(&datagram),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return lost,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // ENOBUFS.
            Err(_overrun) => lost = true,
        }
    }
}

/// The author of a transaction is told as a thread.
fn is_own_thread(thread: u32) -> bool {
    Path::new(&format!("/proc/self/task/{thread}")).exists()
}

/// `enum rtnetlink_groups` of include/uapi/linux/rtnetlink.h.
mod group {
    pub(super) const LINK: u32 = 1;
    pub(super) const NEIGH: u32 = 3;
    pub(super) const TC: u32 = 4;
    pub(super) const IPV4_IFADDR: u32 = 5;
    pub(super) const IPV4_ROUTE: u32 = 7;
    pub(super) const IPV6_IFADDR: u32 = 9;
    pub(super) const IPV6_ROUTE: u32 = 11;
    pub(super) const IPV4_NETCONF: u32 = 24;
    pub(super) const IPV6_NETCONF: u32 = 25;
}

fn subscribe() -> io::Result<Socket> {
    let groups = [
        group::LINK,
        group::NEIGH,
        group::TC,
        group::IPV4_IFADDR,
        group::IPV4_ROUTE,
        group::IPV6_IFADDR,
        group::IPV6_ROUTE,
        group::IPV4_NETCONF,
        group::IPV6_NETCONF,
    ];
    netlink::listen(NETLINK_ROUTE, &groups)
}

#[expect(
    deprecated,
    reason = "its successor is unsafe because a type could give its descriptor away: this one does not"
)]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::new(socket)
}

async fn readable(socket: Option<&AsyncFd<Socket>>) {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    match socket.readable().await {
        // Before it is read: what arrives from here on says so again.
        Ok(mut guard) => guard.clear_ready(),
        Err(error) => {
            tracing::warn!(%error, "notifications ended");
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use sys::netns::NetNs;

    use super::*;

    fn ip(arguments: &str) {
        let done = Command::new("ip").args(arguments.split(' ')).status();
        assert!(done.unwrap().success(), "ip {arguments}");
    }

    /// What the kernel tells of in a namespace of its own while `ip` is given these lines.
    fn heard_of(lines: &'static [&'static str]) -> Due {
        let namespace = NetNs::create().expect("root is needed");
        let hear = || {
            let socket = subscribe().unwrap();
            lines.iter().for_each(|line| ip(line));
            let (mut due, mut seen) = (Due::default(), Seen::default());
            drain(&socket, |datagram| due.note(datagram, &mut seen));
            due
        };
        namespace.run(hear).unwrap()
    }

    #[test]
    fn an_interface_that_comes_and_goes_is_no_change_of_the_host() {
        let pair = heard_of(&[
            "link add here type veth peer name there",
            "link set here addrgenmode none",
            "link set here up",
            "link del here",
        ]);
        assert!(!pair.is_nothing());
        assert!(!pair.host && !pair.repair && !pair.filter, "{pair:?}");
        let address = heard_of(&["address add 192.0.2.1/32 dev lo"]);
        assert!(address.host, "{address:?}");
    }
}
