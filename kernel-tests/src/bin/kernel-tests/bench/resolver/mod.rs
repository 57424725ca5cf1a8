//! Name servers with many names, asked quietly and while containers come by the hundred: the
//! embedded server against aardvark-dns, docker's and unbound.

mod aardvark;
mod docker;
mod hawser;
mod load;
mod unbound;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use sys::netns::NetNs;

use self::aardvark::Aardvark;
use self::docker::Docker;
use self::hawser::Hawser;
use self::unbound::Unbound;
use super::row::{Goal, Row, Subject, row};
use super::turns::{self, Figures, Sample};
use super::{Scene, column};

const RUNS: usize = 5;
/// A quiet repeat takes this long.
const QUIET: Duration = Duration::from_secs(1);
/// A peer's storm ends early after this time; ours goes on to the last attach.
const PEERS_STORM: Duration = Duration::from_secs(5);
const LONGEST_STORM: Duration = Duration::from_secs(120);
const DOCKER: &str = "docker's resolver";
/// Questions outstanding at a time.
const WINDOWS: [usize; 2] = [1, 32];

/// A name server with its names, and somebody who asks it.
trait Server: Sync {
    /// Where the asker is.
    fn asker(&self) -> &NetNs;

    fn address(&self) -> SocketAddr;

    /// The full name that `number` is asked for.
    fn name(&self, number: u32) -> String;

    /// Lets a container with a name come, numbered from 0 in each storm.
    fn attach(&self, number: u32) -> Result<()>;

    /// Lets it go.
    fn detach(&self, number: u32) -> Result<()>;
}

/// Right answers a second, the slowest of a hundred in microseconds, questions lost, and attaches
/// meanwhile.
type Weather = [f64; 4];

struct Contestant<'a> {
    title: &'static str,
    server: Result<&'a dyn Server, String>,
    /// Longest storm.
    storm: Duration,
}

impl<'a> Contestant<'a> {
    /// Asks for each of `names`, quietly when `storm` is nothing.
    fn player(&self, names: u32, window: usize, storm: u32) -> Result<Sample<'a, Weather>, String> {
        let server = self.server.clone()?;
        let limit = self.storm;
        let questions: Vec<Vec<u8>> = (0..names)
            .map(|number| load::question(&server.name(number)))
            .collect();
        // The first turn is to warm caches and does not count: a storm of a thousand would take as long
        // as one that does.
        let mut is_warm = false;
        Ok(Box::new(move || {
            if storm == 0 || !std::mem::replace(&mut is_warm, true) {
                quiet(server, &questions, window)
            } else {
                stormy(server, &questions, window, storm, limit)
            }
        }))
    }
}

pub(crate) fn rows(scene: &Scene) -> Result<Vec<Row>> {
    let sizes = &scene.sizes;
    eprintln!("  {} names", sizes.zone);
    let ours = Hawser::start(sizes)?;
    let by_daemon = ours.by_daemon();
    let aardvark = Aardvark::start(sizes);
    let docker = scene
        .docker()
        .and_then(|docker| Docker::start(docker, sizes).map_err(|error| format!("{error:#}")));
    let unbound = Unbound::start(sizes);
    let mut contestants = vec![
        Contestant {
            title: "hawser",
            server: Ok(&ours),
            storm: LONGEST_STORM,
        },
        Contestant {
            title: "hawser's daemon",
            server: Ok(&by_daemon),
            storm: LONGEST_STORM,
        },
    ];
    contestants.extend([
        peer("aardvark-dns 2.1", &aardvark),
        Contestant {
            title: DOCKER,
            server: docker.as_ref().map(as_server).map_err(Clone::clone),
            storm: PEERS_STORM,
        },
        peer("unbound", &unbound),
    ]);
    let mut rows = Vec::new();
    for window in WINDOWS {
        rows.extend(measure(scene, &contestants, window)?);
    }
    Ok(rows)
}

fn as_server<S: Server>(server: &S) -> &dyn Server {
    server
}

fn peer<'a, S: Server>(title: &'static str, server: &'a Result<S>) -> Contestant<'a> {
    Contestant {
        title,
        server: server
            .as_ref()
            .map(as_server)
            .map_err(|error| format!("{error:#}")),
        storm: PEERS_STORM,
    }
}

/// Ours in front, by the kernel and by the daemon; then the peers.
const OURS: usize = 2;

fn measure(scene: &Scene, contestants: &[Contestant<'_>], window: usize) -> Result<Vec<Row>> {
    let sizes = &scene.sizes;
    let players = [0, sizes.storm].into_iter().flat_map(|storm| {
        contestants
            .iter()
            .map(move |contestant| contestant.player(sizes.zone, window, storm))
    });
    let figures = turns::take(sizes.runs(RUNS), players);
    let (quiet, stormy) = figures.split_at(contestants.len());
    let mut rows = Vec::new();
    for (label, figures) in [("", quiet), (", in a storm", stormy)] {
        let (ours, peers) = figures.split_at(OURS);
        for (place, figures) in ours.iter().enumerate() {
            for (contestant, peer) in contestants[OURS..].iter().zip(peers) {
                let names = Names {
                    place,
                    peer: contestant.title,
                    window,
                    label,
                };
                rows.extend(names.rows(contestants[place].title, figures, peer)?);
            }
            let of = contestants[place].title;
            let name = format!("names lost, {window} outstanding{label} ({of})");
            let subject = Subject::new(name, "queries", Goal::Within(0.0));
            let theirs = Ok(vec![peers.iter().filter_map(|peer| lost(peer).ok()).sum()]);
            let ours = lost(figures).map(|lost| vec![lost]);
            rows.push(row(subject, &ours, "peers together", &theirs)?);
        }
    }
    for (contestant, (stormy, quiet)) in contestants.iter().zip(stormy.iter().zip(quiet)).take(OURS)
    {
        let name = format!("names p99 in a storm, {window} outstanding");
        // Design: unmoved.
        let subject = Subject::new(name, "us", Goal::AtMost(1.1));
        let peer = format!("{}, quiet", contestant.title);
        rows.push(row(subject, &column(stormy, 1), &peer, &column(quiet, 1))?);
    }
    Ok(rows)
}

/// One of ours, by its place, against one peer.
struct Names<'a> {
    place: usize,
    peer: &'a str,
    window: usize,
    label: &'a str,
}

impl Names<'_> {
    fn rows(
        &self,
        title: &str,
        ours: &Figures<Weather>,
        peer: &Figures<Weather>,
    ) -> Result<[Row; 2]> {
        let Self { window, label, .. } = self;
        let peer_name = match attaches(peer) {
            Some(count) if !label.is_empty() => format!("{} ({count} attaches)", self.peer),
            _ => self.peer.to_owned(),
        };
        let name = |what| format!("names {what}, {window} outstanding{label} ({title})");
        let rate = Subject::new(name("rate"), "1/s", self.goal());
        let p99 = Subject::new(name("p99"), "us", Goal::AtMost(1.0));
        Ok([
            row(rate, &column(ours, 0), &peer_name, &column(peer, 0))?,
            row(p99, &column(ours, 1), &peer_name, &column(peer, 1))?,
        ])
    }

    /// Design: ahead of the peers from the daemon, and ten times moby's rate with one question
    /// outstanding by the kernel's answer.
    fn goal(&self) -> Goal {
        if self.place == 0 && self.window == 1 && self.peer == DOCKER {
            Goal::AtLeast(10.0)
        } else {
            Goal::AtLeast(1.0)
        }
    }
}

/// Attaches of the last storm.
fn attaches(figures: &Figures<Weather>) -> Option<f64> {
    figures.as_ref().ok()?.last().map(|weather| weather[3])
}

/// Of all repeats: what is lost once is lost.
fn lost(figures: &Figures<Weather>) -> Result<f64, String> {
    let figures = figures.as_ref().map_err(Clone::clone)?;
    Ok(figures.iter().map(|figure| figure[2]).sum())
}

fn quiet(server: &dyn Server, questions: &[Vec<u8>], window: usize) -> Result<Weather> {
    let load = server
        .asker()
        .run(|| load::ask(server.address(), questions, window, |taken| taken < QUIET))
        .context("thread of the asker")??;
    Ok([load.rate, load.p99, load.lost as f64, 0.0])
}

/// Asks while `count` containers come, one after the other; they go when the asking is over.
fn stormy(
    server: &dyn Server,
    questions: &[Vec<u8>],
    window: usize,
    count: u32,
    limit: Duration,
) -> Result<Weather> {
    let is_over = AtomicBool::new(false);
    let (come, load) = thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let come = storm(server, count, limit);
            is_over.store(true, Ordering::Relaxed);
            come
        });
        let load = server.asker().run(|| {
            load::ask(server.address(), questions, window, |_taken| {
                !is_over.load(Ordering::Relaxed)
            })
        });
        let come = storm.join().map_err(|_panic| anyhow!("the storm panicked"));
        (come, load)
    });
    let come = come??;
    for number in 0..come {
        server.detach(number)?;
    }
    let load = load.context("thread of the asker")??;
    Ok([load.rate, load.p99, load.lost as f64, f64::from(come)])
}

fn storm(server: &dyn Server, count: u32, limit: Duration) -> Result<u32> {
    let begin = Instant::now();
    for number in 0..count {
        if begin.elapsed() > limit {
            return Ok(number);
        }
        server
            .attach(number)
            .with_context(|| format!("attach {number} of a storm"))?;
    }
    Ok(count)
}

/// The address of name `number`, where servers are told it.
fn address_of(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 0, 1).to_bits() + number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_in_any_repeat_is_lost() {
        let figures: Figures<Weather> = Ok(vec![[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 2.0, 9.0]]);
        assert_eq!(lost(&figures), Ok(2.0));
        assert_eq!(attaches(&figures), Some(9.0));
    }
}
