//! A measured row: medians, quartiles and the ratio, as a table and as JSON.

use anyhow::{Result, anyhow};
use serde::Serialize;

use super::turns::{self, Figures, Sample};

/// What a row is about.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) goal: Goal,
    /// Whether a figure is one of many alike, so that the slowest ones say something.
    pub(crate) tail: bool,
}

impl Subject {
    /// Of figures whose slowest ones say nothing.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, goal: Goal) -> Self {
        Self {
            name: name.into(),
            unit,
            goal,
            tail: false,
        }
    }
}

/// What a row is to reach (design, figures to reach).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    /// The ratio of ours to the peer's.
    AtLeast(f64),
    AtMost(f64),
    /// Ours, in the row's unit, whatever the peer does.
    Within(f64),
    Reach(f64),
    /// None: the row is for comparison.
    Shown,
}

impl Goal {
    fn is_met(self, ours: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::AtLeast(least) => ratio.map(|ratio| ratio >= least),
            Self::AtMost(most) => ratio.map(|ratio| ratio <= most),
            Self::Within(most) => Some(ours <= most),
            Self::Reach(least) => Some(ours >= least),
            Self::Shown => None,
        }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(least) => format!(">= {least}"),
            Self::AtMost(most) => format!("<= {most}"),
            Self::Within(most) => format!("{most} {unit}"),
            Self::Reach(least) => format!(">= {least} {unit}"),
            Self::Shown => "-".to_owned(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    ours: f64,
    ours_quartiles: [f64; 2],
    ours_p99: Option<f64>,
    /// Absent when the peer cannot run here; `note` says why.
    peer: Option<f64>,
    peer_quartiles: Option<[f64; 2]>,
    peer_p99: Option<f64>,
    peer_name: String,
    ratio: Option<f64>,
    ratio_quartiles: Option<[f64; 2]>,
    goal: String,
    goal_met: Option<bool>,
    runs: usize,
    note: Option<String>,
}

/// The row of a subject: ours against one peer, or against ours elsewhere.
///
/// # Errors
/// When there is no figure of ours.
pub(crate) fn row(
    subject: Subject,
    ours: &Figures<f64>,
    peer_name: &str,
    peer: &Figures<f64>,
) -> Result<Row> {
    let ours = ours.as_ref().map_err(|why| anyhow!("ours: {why}"))?;
    let (peer, note) = match peer {
        Ok(figures) => (figures.as_slice(), None),
        Err(why) => (&[][..], Some(format!("{peer_name}: {why}"))),
    };
    let ratios: Vec<f64> = ours
        .iter()
        .zip(peer)
        .map(|(ours, peer)| ours / peer)
        .filter(|ratio| ratio.is_finite())
        .collect();
    let ratio = (!ratios.is_empty()).then(|| quantile(&ratios, 0.5));
    let has_peer = !peer.is_empty();
    let middle = quantile(ours, 0.5);
    Ok(Row {
        name: subject.name,
        unit: subject.unit,
        ours: middle,
        ours_quartiles: quartiles(ours),
        ours_p99: subject.tail.then(|| quantile(ours, 0.99)),
        peer: has_peer.then(|| quantile(peer, 0.5)),
        peer_quartiles: has_peer.then(|| quartiles(peer)),
        peer_p99: (has_peer && subject.tail).then(|| quantile(peer, 0.99)),
        peer_name: peer_name.to_owned(),
        ratio,
        ratio_quartiles: ratio.map(|_middle| quartiles(&ratios)),
        goal: subject.goal.text(subject.unit),
        goal_met: subject.goal.is_met(middle, ratio),
        runs: ours.len(),
        note,
    })
}

/// Lets ours and one peer take turns.
pub(crate) fn compare(
    subject: Subject,
    runs: usize,
    ours: Sample<'_, f64>,
    peer_name: &str,
    peer: Result<Sample<'_, f64>, String>,
) -> Result<Vec<Row>> {
    let figures = turns::take(runs, [Ok(ours), peer]);
    Ok(vec![row(subject, &figures[0], peer_name, &figures[1])?])
}

fn quartiles(figures: &[f64]) -> [f64; 2] {
    [quantile(figures, 0.25), quantile(figures, 0.75)]
}

/// Linear between the two nearest figures; not a number when there are none.
pub(crate) fn quantile(figures: &[f64], share: f64) -> f64 {
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

const HEAD: [&str; 11] = [
    "row", "unit", "ours", "p99", "peer", "p99", "peer is", "ratio", "goal", "met", "runs",
];

pub(crate) fn table(rows: &[Row]) -> String {
    let mut cells = vec![HEAD.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(Row::cells));
    let width = |column: usize| {
        cells
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for line in &cells {
        for (cell, width) in line.iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text + &notes(rows)
}

/// Each note once, with the rows it belongs to.
fn notes(rows: &[Row]) -> String {
    let mut notes: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows {
        let Some(note) = &row.note else {
            continue;
        };
        match notes.iter_mut().find(|(known, _rows)| known == note) {
            Some((_note, rows)) => rows.push(&row.name),
            None => notes.push((note, vec![&row.name])),
        }
    }
    let line = |(note, rows): (&str, Vec<&str>)| match &rows[..] {
        [first, _, ..] => format!("{first} and {} more: {note}\n", rows.len() - 1),
        _ => format!("{}: {note}\n", rows.concat()),
    };
    notes.into_iter().map(line).collect()
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let spread = |middle: f64, [low, high]: [f64; 2]| {
            format!("{} [{}-{}]", figure(middle), figure(low), figure(high))
        };
        let peer = self.peer.zip(self.peer_quartiles);
        let dash = || "-".to_owned();
        vec![
            self.name.clone(),
            self.unit.to_owned(),
            spread(self.ours, self.ours_quartiles),
            self.ours_p99.map_or_else(dash, figure),
            peer.map_or_else(dash, |(peer, quartiles)| spread(peer, quartiles)),
            self.peer_p99.map_or_else(dash, figure),
            self.peer_name.clone(),
            self.ratio
                .zip(self.ratio_quartiles)
                .map_or_else(dash, |(ratio, [low, high])| {
                    format!("{ratio:.2} [{low:.2}-{high:.2}]")
                }),
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
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(goal: Goal) -> Subject {
        Subject::new("x", "ms", goal)
    }

    #[test]
    fn quantiles_are_between_neighbours() {
        let figures = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&figures, 0.5), 2.5);
        assert_eq!(quantile(&figures, 0.0), 1.0);
        assert_eq!(quantile(&figures, 1.0), 4.0);
    }

    #[test]
    fn a_row_has_medians_and_the_median_of_the_ratios() {
        let ours = Ok(vec![1.0, 2.0, 3.0]);
        let peer = Ok(vec![4.0, 4.0, 4.0]);
        let row = row(subject(Goal::AtMost(0.5)), &ours, "p", &peer).unwrap();
        assert_eq!((row.ours, row.peer, row.ratio), (2.0, Some(4.0), Some(0.5)));
        assert_eq!(row.goal_met, Some(true));
    }

    #[test]
    fn a_peer_that_cannot_run_is_noted() {
        let peer = Err("no kernel".to_owned());
        let row = row(subject(Goal::AtMost(0.5)), &Ok(vec![1.0]), "p", &peer).unwrap();
        assert_eq!((row.peer, row.ratio, row.goal_met), (None, None, None));
        assert!(table(&[row]).ends_with("x: p: no kernel\n"));
    }

    #[test]
    fn a_goal_of_ours_alone_needs_no_peer() {
        let peer = Err("not finished".to_owned());
        let met = |ours| {
            let row = row(subject(Goal::Within(50.0)), &Ok(vec![ours]), "p", &peer);
            row.unwrap().goal_met
        };
        assert_eq!((met(49.0), met(51.0)), (Some(true), Some(false)));
    }

    #[test]
    fn ours_must_have_figures() {
        let ours = Err("it broke".to_owned());
        let error = row(subject(Goal::AtMost(1.0)), &ours, "p", &Ok(vec![1.0])).unwrap_err();
        assert_eq!(error.to_string(), "ours: it broke");
    }

    #[test]
    fn nothing_lost_on_both_sides_has_no_ratio() {
        let none = Ok(vec![0.0]);
        let row = row(subject(Goal::Within(0.0)), &none, "p", &none).unwrap();
        assert_eq!((row.ratio, row.goal_met), (None, Some(true)));
    }
}
