//! A measured row: medians, quartiles and the ratio, as a table and as JSON.

use anyhow::Result;
use serde::Serialize;

/// What a row is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) peer_name: &'static str,
    pub(crate) goal: Goal,
    pub(crate) runs: usize,
}

/// What the ratio of ours to the peer's is to be (design, figures to reach).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtMost(most) => format!("<= {most}"),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: &'static str,
    unit: &'static str,
    ours: f64,
    ours_quartiles: [f64; 2],
    /// Absent when the peer cannot run here; `note` says why.
    peer: Option<f64>,
    peer_quartiles: Option<[f64; 2]>,
    peer_name: &'static str,
    ratio: Option<f64>,
    goal: String,
    goal_met: Option<bool>,
    runs: usize,
    note: Option<String>,
}

/// One repeat: a figure in the row's unit.
pub(crate) type Sample<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// Lets ours and the peer take turns. The first repeat of each warms caches and does not count.
pub(crate) fn compare(
    subject: Subject,
    mut ours: Sample<'_>,
    peer: Result<Sample<'_>, String>,
) -> Result<Row> {
    let (mut peer, note) = match peer {
        Ok(peer) => (Some(peer), None),
        Err(why) => (None, Some(why)),
    };
    let mut our_figures = Vec::new();
    let mut peer_figures = Vec::new();
    for repeat in 0..=subject.runs {
        let ours_first = repeat % 2 == 0;
        let early = if ours_first { Some(ours()?) } else { None };
        let theirs = peer.as_mut().map(|peer| peer()).transpose()?;
        let figure = match early {
            Some(figure) => figure,
            None => ours()?,
        };
        if repeat > 0 {
            our_figures.push(figure);
            peer_figures.extend(theirs);
        }
    }
    Ok(row(subject, &our_figures, &peer_figures, note))
}

fn row(subject: Subject, ours: &[f64], peer: &[f64], note: Option<String>) -> Row {
    let ratios: Vec<f64> = ours
        .iter()
        .zip(peer)
        .map(|(ours, peer)| ours / peer)
        .collect();
    let ratio = (!ratios.is_empty()).then(|| quantile(&ratios, 0.5));
    Row {
        name: subject.name,
        unit: subject.unit,
        ours: quantile(ours, 0.5),
        ours_quartiles: quartiles(ours),
        peer: (!peer.is_empty()).then(|| quantile(peer, 0.5)),
        peer_quartiles: (!peer.is_empty()).then(|| quartiles(peer)),
        peer_name: subject.peer_name,
        ratio,
        goal: subject.goal.text(),
        goal_met: ratio.map(|ratio| subject.goal.is_met(ratio)),
        runs: subject.runs,
        note,
    }
}

fn quartiles(figures: &[f64]) -> [f64; 2] {
    [quantile(figures, 0.25), quantile(figures, 0.75)]
}

/// Linear between the two nearest figures; not a number when there are none.
fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor())
}

pub(crate) fn table(rows: &[Row]) -> String {
    let head = [
        "row", "unit", "ours", "peer", "peer is", "ratio", "goal", "met", "runs",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(Row::cells));
    let width = |column: usize| {
        cells
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for line in &cells {
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    for row in rows {
        if let Some(note) = &row.note {
            text.push_str(&format!("{}: {note}\n", row.name));
        }
    }
    text
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let spread = |middle: f64, [low, high]: [f64; 2]| {
            format!("{} [{}-{}]", figure(middle), figure(low), figure(high))
        };
        let peer = self.peer.zip(self.peer_quartiles);
        let dash = || "-".to_owned();
        vec![
            self.name.to_owned(),
            self.unit.to_owned(),
            spread(self.ours, self.ours_quartiles),
            peer.map_or_else(dash, |(peer, quartiles)| spread(peer, quartiles)),
            self.peer_name.to_owned(),
            self.ratio.map_or_else(dash, |ratio| format!("{ratio:.2}")),
            self.goal.clone(),
            self.goal_met
                .map_or_else(dash, |met| if met { "yes" } else { "no" }.to_owned()),
            self.runs.to_string(),
        ]
    }
}

/// Three significant digits.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject = Subject {
        name: "x",
        unit: "ms",
        peer_name: "p",
        goal: Goal::AtMost(0.5),
        runs: 3,
    };

    #[test]
    fn quantiles_are_between_neighbours() {
        let figures = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&figures, 0.5), 2.5);
        assert_eq!(quantile(&figures, 0.0), 1.0);
        assert_eq!(quantile(&figures, 1.0), 4.0);
    }

    #[test]
    fn the_first_repeat_does_not_count() {
        let mut figures = [100.0, 1.0, 2.0, 3.0].into_iter();
        let ours: Sample<'_> = Box::new(move || Ok(figures.next().unwrap()));
        let peer: Sample<'_> = Box::new(|| Ok(4.0));
        let row = compare(SUBJECT, ours, Ok(peer)).unwrap();
        assert_eq!((row.ours, row.peer, row.ratio), (2.0, Some(4.0), Some(0.5)));
        assert_eq!(row.goal_met, Some(true));
    }

    #[test]
    fn a_peer_that_cannot_run_is_noted() {
        let row = compare(SUBJECT, Box::new(|| Ok(1.0)), Err("no kernel".to_owned())).unwrap();
        assert_eq!((row.peer, row.ratio, row.goal_met), (None, None, None));
        assert!(table(&[row]).ends_with("x: no kernel\n"));
    }
}
