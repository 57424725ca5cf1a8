//! A service that lives through trouble, for as long as it is told to, with every connection
//! accounted for: a daemon that is killed again and again, and members that come and go.
//!
//! Its functions panic as those of [`Shop`] do.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::load::{Clients, Failure, Habit, Member, Tally, at, free_ports};
use crate::shop::TOOLS;
use crate::{Shop, wait};

/// Where the service is published, and the port of a container of its own.
const SERVICE_PORT: u16 = 8080;
const PLAIN_PORT: u16 = 9080;
/// From one kill of the daemon to the next.
const BETWEEN_KILLS: Duration = Duration::from_secs(1);
/// Every so many kills it may come up first: a start takes longer than that in a debug build.
const READY_EVERY: usize = 4;
/// From one connection of a client to the next.
const PAUSE: Duration = Duration::from_millis(2);
/// Connections that stay until somebody cuts them.
const FOREVER: usize = usize::MAX;
/// Members that serve at any time, at least.
const FEW: usize = 3;
const SOON: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub opened: usize,
    pub messages: usize,
    /// Kills of the daemon, or members that came, drained and died.
    pub events: usize,
    pub took: Duration,
    /// Those that nothing excuses.
    pub failures: Vec<Failure>,
}

impl Outcome {
    fn new(tally: &Tally, events: usize, begun: Instant) -> Self {
        Self {
            opened: tally.opened(),
            messages: tally.messages(),
            events,
            took: begun.elapsed(),
            failures: tally.failures(),
        }
    }

    /// Connections a second.
    pub fn rate(&self) -> f64 {
        self.opened as f64 / self.took.as_secs_f64()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            opened,
            messages,
            events,
            took,
            failures,
        } = self;
        write!(
            f,
            "{opened} connections with {messages} answers, {events} events in {took:.1?}, {} lost",
            failures.len()
        )?;
        for failure in failures.iter().take(10) {
            write!(
                f,
                "\n  to {}, of member {:?}, after {:?}: {}",
                failure.to,
                failure.member,
                failure.at - failure.since,
                failure.error
            )?;
        }
        Ok(())
    }
}

/// A client that leaves the processor to others.
fn short() -> Habit {
    let pause = wait::slowed(PAUSE);
    Habit::Short { pause }
}

/// The network namespace of a container.
#[track_caller]
fn sandbox(shop: &Shop, name: &str) -> PathBuf {
    let pid = shop.inspect(name, "{{.State.Pid}}");
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

fn vip(shop: &Shop) -> Result<std::net::IpAddr> {
    let format = "{{(index .Endpoint.VirtualIPs 0).Addr}}";
    let addr = shop.hawser(&["service", "inspect", "--format", format, "web"]);
    let addr = addr.split('/').next().unwrap_or_default();
    addr.parse().with_context(|| format!("address {addr:?}"))
}

/// Kills the daemon every second while connections go on, old ones and new ones, from outside, from
/// the host and from a container, to a service and to a container's own port.
///
/// # Errors
/// When something cannot be set up, or the daemon does not come back.
pub fn kills(duration: Duration) -> Result<Outcome> {
    let mut shop = Shop::open();
    shop.type_("network create --ipv6 shop");
    shop.type_("service create --name web --network shop --publish 8080:80");
    shop.idle("client", "--network shop");
    shop.idle("plain", "--network shop -p 9080:80");
    let mut members = vec![Member::serve(&sandbox(&shop, "plain"), 80, 9)?];
    for (name, number) in [("one", 1), ("two", 2)] {
        shop.idle(name, "--service web");
        members.push(Member::serve(&sandbox(&shop, name), 80, number)?);
    }

    let mut clients = Clients::default();
    let (outside, host) = (
        shop.outside.network_namespace(),
        shop.host.network_namespace(),
    );
    let client = sandbox(&shop, "client");
    let (v4, v6) = (shop.outside.host_v4, shop.outside.host_v6);
    for (path, to) in [
        (&outside, at(v4, SERVICE_PORT)),
        (&outside, at(v6, SERVICE_PORT)),
        (&outside, at(v4, PLAIN_PORT)),
        (&host, at([127, 0, 0, 1], SERVICE_PORT)),
        (&host, at(std::net::Ipv6Addr::LOCALHOST, PLAIN_PORT)),
        (&client, at(vip(&shop)?, 80)),
        (&client, at(v4, PLAIN_PORT)),
    ] {
        clients.start(path, to, short())?;
        let held = Habit::Held {
            count: 10,
            asks: FOREVER,
        };
        clients.start(path, to, held)?;
    }

    let begun = Instant::now();
    let mut kills = 0;
    // On a slow host a start takes most of the time.
    while begun.elapsed() < duration || kills < 2 * READY_EVERY {
        thread::sleep(BETWEEN_KILLS);
        shop.daemon.kill()?;
        kills += 1;
        shop.daemon.spawn()?;
        if kills % READY_EVERY == 0 {
            shop.daemon.wait_until_ready()?;
        }
    }
    shop.daemon.wait_until_ready()?;
    let tally = clients.finish();
    drop(members);
    Ok(Outcome::new(&tally, kills, begun))
}

/// The time in which connections of a member may be lost: from its end until no more are led to it.
struct Death {
    member: u8,
    begun: Instant,
    ended: Instant,
}

impl Death {
    /// A connection that has not spoken to anybody yet may have been led to the dead.
    fn excuses(&self, failure: &Failure) -> bool {
        let of_it = failure.member.is_none_or(|member| member == self.member);
        of_it && failure.at >= self.begun && failure.since <= self.ended
    }
}

/// Members that come and go.
struct Crowd {
    shop: Shop,
    members: BTreeMap<u8, Member>,
    last: u8,
    deaths: Vec<Death>,
    events: usize,
}

/// Lets members join, drain and die while clients connect as fast as they can.
///
/// # Errors
/// When something cannot be set up, or a member does not become what it shall.
pub fn churn(duration: Duration, clients_outside: usize) -> Result<Outcome> {
    let shop = Shop::open();
    shop.type_("network create shop");
    #[rustfmt::skip]
    shop.hawser(&[
        "service", "create", "--name", "web", "--network", "shop", "--publish", "8080:80",
        "--health-tcp", "80", "--health-interval", "200ms", "--drain", "20s",
    ]);
    shop.idle("client", "--network shop");
    let outside = shop.outside.network_namespace();
    let inside = sandbox(&shop, "client");
    let published = at(shop.outside.host_v4, SERVICE_PORT);
    let address = at(vip(&shop)?, 80);
    let mut crowd = Crowd {
        shop,
        members: BTreeMap::new(),
        last: 0,
        deaths: Vec::new(),
        events: 0,
    };
    for _ in 0..FEW {
        crowd.join()?;
    }

    let mut clients = Clients::default();
    free_ports(&outside)?;
    free_ports(&inside)?;
    for _ in 0..clients_outside {
        clients.start(&outside, published, Habit::FAST)?;
    }
    clients.start(&inside, address, short())?;
    // Some seconds each: a drain lets them come to their end.
    let held = Habit::Held {
        count: 30,
        asks: 20,
    };
    clients.start(&outside, published, held)?;

    let begun = Instant::now();
    while begun.elapsed() < duration {
        crowd.join()?;
        crowd.drain()?;
        crowd.join()?;
        crowd.die()?;
    }
    let tally = clients.finish();
    let mut outcome = Outcome::new(&tally, crowd.events, begun);
    let deaths = &crowd.deaths;
    let is_excused = |failure: &Failure| deaths.iter().any(|death| death.excuses(failure));
    outcome.failures.retain(|failure| !is_excused(failure));
    Ok(outcome)
}

impl Crowd {
    fn name(number: u8) -> String {
        format!("m{number}")
    }

    fn join(&mut self) -> Result<()> {
        self.last += 1;
        let name = Self::name(self.last);
        // As the first process of its namespace, it ends by signals that it handles alone.
        let idle = ["sh", "-c", "trap exit TERM; sleep 600 & wait"];
        let run = ["run", "-d", "--name", &name, "--service", "web", TOOLS];
        self.shop.hawser(&[&run[..], &idle].concat());
        let sandbox = sandbox(&self.shop, &name);
        let member = Member::serve(&sandbox, 80, self.last)?;
        self.members.insert(self.last, member);
        self.becomes(self.last, Some("serving"))?;
        self.events += 1;
        Ok(())
    }

    /// The oldest member goes in good order.
    fn drain(&mut self) -> Result<()> {
        let (number, member) = self.members.pop_first().context("there are members")?;
        let name = Self::name(number);
        self.shop.hawser(&["stop", "-t", "30", &name]);
        drop(member);
        self.becomes(number, None)?;
        self.events += 1;
        Ok(())
    }

    /// The oldest member's program dies, and its container with it.
    fn die(&mut self) -> Result<()> {
        let (number, member) = self.members.pop_first().context("there are members")?;
        let begun = Instant::now();
        drop(member);
        self.shop.hawser(&["kill", &Self::name(number)]);
        self.becomes(number, None)?;
        self.deaths.push(Death {
            member: number,
            begun,
            ended: Instant::now(),
        });
        self.events += 1;
        Ok(())
    }

    /// Waits until a member is in a state, or no member any more.
    fn becomes(&self, number: u8, state: Option<&str>) -> Result<()> {
        let name = Self::name(number);
        let what = format!("member {name} is {state:?}");
        wait::until(SOON, &what, || {
            let format = "{{.Name}} {{.CurrentState}}";
            let states = self
                .shop
                .daemon
                .hawser(&["service", "ps", "--format", format, "web"]);
            let states = states.ok()?;
            let mut lines = states.lines().filter_map(|line| line.split_once(' '));
            let found = lines.find(|(member, _state)| *member == name);
            (found.map(|(_member, state)| state) == state).then_some(())
        })?;
        ensure!(!self.members.is_empty(), "nobody serves any more");
        Ok(())
    }
}
