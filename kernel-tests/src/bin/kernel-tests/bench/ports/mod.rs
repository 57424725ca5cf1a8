//! A published port against docker's, against one map of nftables, and against the container's own
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

use anyhow::Result;
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

type Open = fn() -> Result<Box<dyn Side>>;

const OURS: Open = hawser::open;
const PEERS: [(&str, Open); 3] = [
    ("docker, DNAT", docker::open),
    ("nftables, a map", direct::open_map),
    ("no translation", direct::open_routed),
];

/// A side with its servers, or why it cannot take part.
type Player = RefCell<Result<(Box<dyn Side>, Servers), String>>;

fn player(open: Open) -> Player {
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
    let players: Vec<Player> = [OURS]
        .into_iter()
        .chain(PEERS.map(|(_name, open)| open))
        .map(player)
        .collect();
    let mut rows = Vec::new();
    let mut before = 0;
    let mut fewest: Option<(u16, Figures<[f64; N]>)> = None;
    for &ports in &scene.sizes.published {
        eprintln!("  {ports} ports");
        let count = ports.saturating_sub(1);
        for player in &players {
            publish(player, before, count);
        }
        before = before.max(count);
        let samples = players.iter().map(|player| sample(player, measured));
        let figures = turns::take(scene.sizes.runs(NINE), samples);
        let (ours, peers) = figures.split_at(1);
        for (place, figure) in measured.figures.iter().enumerate() {
            let subject = |goal| Subject {
                name: format!("{}, {ports} published", figure.name),
                unit: figure.unit,
                goal,
                tail: false,
            };
            let own = column(&ours[0], place);
            for ((name, _open), peer) in PEERS.iter().zip(peers) {
                let goal = match *name {
                    "docker, DNAT" => (figure.goal)(ports),
                    _ => Goal::Shown,
                };
                rows.push(row(subject(goal), &own, name, &column(peer, place))?);
            }
            if let Some((fewest, figures)) = &fewest {
                let name = format!("hawser, {fewest} published");
                let goal = figure.flat;
                rows.push(row(subject(goal), &own, &name, &column(figures, place))?);
            }
        }
        if fewest.is_none() {
            fewest = figures.into_iter().next().map(|ours| (ports, ours));
        }
    }
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
