//! Counting what passed and what failed.

use std::fmt;
use std::ops::{Add, AddAssign};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    pub(crate) const PASSED: Self = Self {
        passed: 1,
        failed: 0,
    };
    pub(crate) const FAILED: Self = Self {
        passed: 0,
        failed: 1,
    };
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// What nextest's summary line counts; a timed-out test has failed. Other lines give nothing.
pub(crate) fn nextest_summary(line: &str) -> Option<Tally> {
    let counts = line
        .trim_start()
        .strip_prefix("Summary")?
        .split_once("tests run:")?
        .1;
    let mut tally = Tally::default();
    for count in counts.split(',') {
        // `3 passed (1 slow)`, `2 failed`, `1 timed out`, `4 skipped`.
        let (number, word) = count.trim().split_once(' ')?;
        let number: u64 = number.parse().ok()?;
        match word.split_whitespace().next() {
            Some("passed") => tally.passed += number,
            Some("failed" | "timed" | "exec") => tally.failed += number,
            _ => {}
        }
    }
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_nextest_summaries() {
        let rows = [
            (
                "     Summary [   1.2s] 5 tests run: 5 passed, 0 skipped",
                Some((5, 0)),
            ),
            (
                "     Summary [   1.2s] 7 tests run: 4 passed (1 slow), 2 failed, 1 timed out, 9 skipped",
                Some((4, 3)),
            ),
            ("        PASS [   0.1s] netd tests::x", None),
        ];
        for (line, expected) in rows {
            let expected = expected.map(|(passed, failed)| Tally { passed, failed });
            assert_eq!(nextest_summary(line), expected, "{line}");
        }
    }
}
