//! A published port, in each of its modes, against docker's, against one map of nftables, and against the container's own
//! address, with more and more ports published beside it: throughput, connections, requests, their
//! latency, and the processor time of each.
//!
//! Every side is a host of its own with a client of its own, so that no address is used by two. The
//! servers are the same programs in each sandbox's network, and clients and servers have a processor
//! each.

mod direct;
mod docker;
mod hawser;
mod measure;
mod server;

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use kernel_tests::{Outside, Shop};

use self::measure::{CONNECTION, Measured, REQUEST, STREAM, STREAMS};
use self::server::Servers;
use super::column;
use super::row::{Goal, Row, Subject, row};
use super::turns::{self, Figures, Sample};
use super::{NINE, Scene};

/// Where the others' ports begin; no two are neighbours, so that no engine makes a range of them.
const OTHERS: u16 = 20_000;
/// Inside the sandbox, and published as.
const WEB: (u16, u16) = (80, 18_080);
const STREAM_TO: (u16, u16) = (5201, 15_201);

/// A host with a sandbox that can be reached from outside.
trait Side {
    fn outside(&self) -> &Outside;

    /// The sandbox's network namespace.
    fn sandbox(&self) -> Result<PathBuf>;

    /// What the client asks, and whether at the published ports.
    fn target(&self) -> (Ipv4Addr, bool);

    /// Publishes so many ports in all, those that are measured not counted. There were `before`.
    fn publish(&mut self, before: u16, count: u16) -> Result<()>;
}

/// Ports that are published beside the measured ones.
fn others(before: u16, count: u16) -> impl Iterator<Item = u16> {
    (before..count).map(|number| OTHERS + 2 * number)
}

/// Publishes as many more ports on a host of ours.
pub(super) fn publish_others(shop: &Shop, before: u16, count: u16) -> Result<()> {
    if count <= before {
        return Ok(());
    }
    hawser::publish(shop, &format!("others{count}"), others(before, count))
}

/// How packets of our published ports go; each has bounds of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Hybrid,
    Compat,
    Fast,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Hybrid, Self::Compat, Self::Fast];

    fn name(self) -> &'static str {
        match self {
            Self::Hybrid => "hybrid",
            Self::Compat => "compat",
            Self::Fast => "fast",
        }
    }

    /// The bound of this mode, of one for each.
    fn of<T: Copy>(self, [hybrid, compat, fast]: [T; 3]) -> T {
        match self {
            Self::Hybrid => hybrid,
            Self::Compat => compat,
            Self::Fast => fast,
        }
    }
}

type Open = fn() -> Result<Box<dyn Side>>;

/// What the goals are about.
const DOCKER: &str = "docker, DNAT";
const PEERS: [(&str, Open); 3] = [
    (DOCKER, docker::open),
    ("nftables, a map", direct::open_map),
    ("no translation", direct::open_routed),
];

/// A side with its servers, or why it cannot take part.
type Player = RefCell<Result<(Box<dyn Side>, Servers), String>>;

fn player(open: impl FnOnce() -> Result<Box<dyn Side>>) -> Player {
    let ready = || {
        let side = open()?;
        let servers = Servers::start(&*side)?;
        Ok((side, servers))
    };
    RefCell::new(ready().map_err(|error: anyhow::Error| format!("{error:#}")))
}

pub(crate) fn throughput(scene: &Scene) -> Result<Vec<Row>> {
    compare(scene, &STREAM)
}

pub(crate) fn streams(scene: &Scene) -> Result<Vec<Row>> {
    compare(scene, &STREAMS)
}

pub(crate) fn connections(scene: &Scene) -> Result<Vec<Row>> {
    compare(scene, &CONNECTION)
}

pub(crate) fn requests(scene: &Scene) -> Result<Vec<Row>> {
    compare(scene, &REQUEST)
}

fn compare<const N: usize>(scene: &Scene, measured: &Measured<N>) -> Result<Vec<Row>> {
    let ours = Mode::ALL.map(|mode| player(|| hawser::open(mode)));
    let peers = PEERS.map(|(_name, open)| player(open));
    let players: Vec<Player> = ours.into_iter().chain(peers).collect();
    let mut rows = Vec::new();
    let mut before = 0;
    let mut fewest: Option<(u16, Vec<Figures<[f64; N]>>)> = None;
    for &ports in &scene.sizes.published {
        eprintln!("  {ports} ports");
        let count = ports.saturating_sub(1);
        for player in &players {
            publish(player, before, count);
        }
        before = before.max(count);
        let samples = players.iter().map(|player| sample(player, measured));
        let figures = turns::take(scene.sizes.runs(NINE), samples);
        let (ours, peers) = figures.split_at(Mode::ALL.len());
        for (place, figure) in measured.figures.iter().enumerate() {
            for (mode, ours) in Mode::ALL.into_iter().zip(ours) {
                if let Err(why) = ours {
                    eprintln!("  {} cannot be measured: {why}", mode.name());
                    continue;
                }
                let name = format!("{}, {}, {ports} published", figure.name, mode.name());
                let subject = |goal| Subject::new(name.clone(), figure.unit, goal);
                let ours = column(ours, place);
                for ((name, _open), peer) in PEERS.iter().zip(peers) {
                    let goal = match *name {
                        DOCKER => (figure.goal)(mode, ports),
                        _ => Goal::Shown,
                    };
                    rows.push(row(subject(goal), &ours, name, &column(peer, place))?);
                }
                if let Some((fewest, figures)) = &fewest {
                    let name = format!("hawser, {fewest} published");
                    let peer = column(&figures[mode as usize], place);
                    rows.push(row(subject(figure.flat), &ours, &name, &peer)?);
                }
            }
        }
        if fewest.is_none() {
            fewest = Some((ports, ours.to_vec()));
        }
    }
    ensure!(!rows.is_empty(), "nothing of ours could be measured");
    Ok(rows)
}

/// One that cannot publish so many is out.
fn publish(player: &Player, before: u16, count: u16) {
    let mut player = player.borrow_mut();
    let done = match &mut *player {
        Ok((side, _servers)) => side.publish(before, count),
        Err(_why) => return,
    };
    if let Err(error) = done {
        *player = Err(format!("{count} more ports: {error:#}"));
    }
}

fn sample<'a, const N: usize>(
    player: &'a Player,
    measured: &'a Measured<N>,
) -> Result<Sample<'a, [f64; N]>, String> {
    if let Err(why) = &*player.borrow() {
        return Err(why.clone());
    }
    Ok(Box::new(move || match &*player.borrow() {
        Ok((side, _servers)) => (measured.take)(&**side),
        Err(why) => anyhow::bail!("{why}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_never_make_a_range_and_grow() {
        assert_eq!(others(0, 3).collect::<Vec<_>>(), [20_000, 20_002, 20_004]);
        assert_eq!(others(2, 4).collect::<Vec<_>>(), [20_004, 20_006]);
        assert_eq!(others(4, 2).count(), 0);
        assert_eq!(others(0, 9_999).last(), Some(39_996));
    }
}
