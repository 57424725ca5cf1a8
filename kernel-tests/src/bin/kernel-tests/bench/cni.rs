//! Connecting and disconnecting a sandbox: our plugin against the reference plugins and netavark,
//! beside few and many others.

use anyhow::Result;

use super::engine::{Kind, Ports};
use super::row::{Goal, Row, Subject, row};
use super::sizes::Sizes;
use super::town::{MANY_PORTS, Population, Town};
use super::turns::{self, Figures, Sample};
use super::{MANY, Scene, column};

/// Enough for the slowest of a hundred to be one of them.
const RUNS: usize = 100;
/// Published ports of a container that has many.
const PORTS: u16 = 30;
/// Repeats of what takes a peer many seconds.
const LONG_RUNS: usize = 5;
/// Design, figures to reach: against the best peer.
const ADD: Goal = Goal::AtMost(0.25);
/// The design names none for DEL; it is to be ahead.
const DEL: Goal = Goal::AtMost(1.0);
/// Design: flat, and within 10 % of the figure without ports.
const FLAT: Goal = Goal::AtMost(1.1);

/// Milliseconds of an ADD and of the DEL after it.
type Visit = [f64; 2];

/// One point of the curve: what is there, and what the guest publishes.
struct Point {
    label: String,
    population: Population,
    ports: u16,
}

pub(crate) fn empty_host(scene: &Scene) -> Result<Vec<Row>> {
    let points = [Point {
        label: "0 endpoints".to_owned(),
        population: Population::default(),
        ports: 0,
    }];
    Ok(measure(&points, scene.sizes.runs(MANY))?.0)
}

pub(crate) fn curve(scene: &Scene) -> Result<Vec<Row>> {
    let points = points(&scene.sizes);
    let (mut rows, ours) = measure(&points, scene.sizes.runs(RUNS))?;
    for (point, base) in comparisons(&scene.sizes) {
        let subject = subject(format!("cni-add, {}", points[point].label), FLAT);
        let name = format!("hawser, {}", points[base].label);
        rows.push(row(
            subject,
            &column(&ours[point], 0),
            &name,
            &column(&ours[base], 0),
        )?);
    }
    Ok(rows)
}

fn points(sizes: &Sizes) -> Vec<Point> {
    let crowd = Population {
        residents: sizes.crowd,
        ports_each: PORTS,
        ports_of_one: 0,
    };
    let among_ports = Population {
        ports_of_one: sizes.ports,
        ..Population::default()
    };
    let point = |label: String, population, ports| Point {
        label,
        population,
        ports,
    };
    let mut points: Vec<Point> = sizes
        .endpoints
        .iter()
        .map(|&count| point(format!("{count} endpoints"), Population::of(count), 0))
        .collect();
    let crowded = format!("{} containers of {PORTS} ports", sizes.crowd);
    points.extend([
        point("1 port, 0 published".to_owned(), Population::default(), 1),
        point(format!("1 port, {} published", sizes.ports), among_ports, 1),
        point(format!("0 ports, {crowded}"), crowd, 0),
        point(format!("{PORTS} ports, {crowded}"), crowd, PORTS),
    ]);
    points
}

/// Which points are to cost the same: the later of each pair as much as the earlier.
fn comparisons(sizes: &Sizes) -> Vec<(usize, usize)> {
    let sizes = sizes.endpoints.len();
    let mut pairs: Vec<(usize, usize)> = (1..sizes).map(|point| (point, 0)).collect();
    pairs.extend([(sizes + 1, sizes), (sizes + 3, sizes + 2)]);
    pairs
}

/// Lets all engines take turns at all points; returns the rows and our own figures by point.
fn measure(points: &[Point], runs: usize) -> Result<(Vec<Row>, Vec<Figures<Visit>>)> {
    let towns = settle(points);
    let players = points.iter().flat_map(|point| {
        let same = towns.iter().filter(|(there, _)| *there == point.population);
        same.map(|(_population, town)| {
            let town = town.as_ref().map_err(Clone::clone)?;
            Ok(Box::new(|| town.visit(point.ports)) as Sample<'_, Visit>)
        })
    });
    let mut figures = turns::take(runs, players).into_iter();
    let mut rows = Vec::new();
    let mut all_ours = Vec::new();
    for point in points {
        let [ours, peers @ ..] = Kind::ALL.map(|_kind| figures.next().unwrap_or(Ok(Vec::new())));
        for (place, verb, goal) in [(0, "add", ADD), (1, "del", DEL)] {
            for (kind, peer) in Kind::PEERS.iter().zip(&peers) {
                let subject = subject(format!("cni-{verb}, {}", point.label), goal);
                let peer = column(peer, place);
                rows.push(row(subject, &column(&ours, place), kind.title(), &peer)?);
            }
        }
        all_ours.push(ours);
    }
    Ok((rows, all_ours))
}

/// A town of each engine for each population, in the engines' order.
fn settle(points: &[Point]) -> Vec<(Population, Result<Town, String>)> {
    let mut towns: Vec<(Population, Result<Town, String>)> = Vec::new();
    for point in points {
        if towns.iter().any(|(there, _)| *there == point.population) {
            continue;
        }
        for kind in Kind::ALL {
            eprintln!("  {}: {}", kind.title(), point.label);
            let town = Town::open(kind, point.population).map_err(|error| format!("{error:#}"));
            towns.push((point.population, town));
        }
    }
    towns
}

fn subject(name: String, goal: Goal) -> Subject {
    Subject {
        tail: true,
        ..Subject::new(name, "ms", goal)
    }
}

/// One endpoint publishes a range of ten thousand ports.
pub(crate) fn range(scene: &Scene) -> Result<Vec<Row>> {
    let count = scene.sizes.ports;
    let ports = Ports::range(MANY_PORTS, count);
    let towns = Kind::ALL
        .map(|kind| Town::open(kind, Population::default()).map_err(|error| format!("{error:#}")));
    let players = towns.iter().map(|town| {
        let town = town.as_ref().map_err(Clone::clone)?;
        Ok(Box::new(|| town.visit_with(ports)) as Sample<'_, Visit>)
    });
    let figures = turns::take(scene.sizes.runs(LONG_RUNS), players);
    let ours = column(&figures[0], 0);
    let rows = Kind::PEERS.iter().zip(&figures[1..]).map(|(kind, peer)| {
        let goal = Goal::Within(50.0);
        let subject = subject(format!("cni-add, a range of {count} ports"), goal);
        row(subject, &ours, kind.title(), &column(peer, 0))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sizes: Sizes,
    }

    #[test]
    fn each_point_is_compared_with_the_same_work_on_a_smaller_host() {
        let sizes = Line::parse_from(["bench"]).sizes;
        let points = points(&sizes);
        let labels: Vec<[&str; 2]> = comparisons(&sizes)
            .into_iter()
            .map(|(point, base)| [&*points[point].label, &*points[base].label])
            .collect();
        let crowd = "60 containers of 30 ports";
        assert_eq!(
            labels,
            [
                ["100 endpoints", "0 endpoints"],
                ["1000 endpoints", "0 endpoints"],
                ["1 port, 10000 published", "1 port, 0 published"],
                [
                    &*format!("30 ports, {crowd}"),
                    &*format!("0 ports, {crowd}")
                ],
            ]
        );
    }
}
