//! How long the parts of a start took, for its line in the log.

use std::fmt;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Laps {
    since: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Laps {
    pub(crate) fn start() -> Self {
        Self {
            since: Instant::now(),
            laps: Vec::new(),
        }
    }

    /// Ends the part that has gone on since the last one.
    pub(crate) fn end(&mut self, part: &'static str) {
        let now = Instant::now();
        self.laps.push((part, now.duration_since(self.since)));
        self.since = now;
    }
}

impl fmt::Display for Laps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (part, time)) in self.laps.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{part} {} ms", time.as_millis())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_in_order() {
        let laps = Laps {
            since: Instant::now(),
            laps: vec![
                ("data plane", Duration::from_micros(12_900)),
                ("records", Duration::ZERO),
            ],
        };
        assert_eq!(laps.to_string(), "data plane 12 ms, records 0 ms");
    }
}
