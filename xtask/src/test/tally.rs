//! Counting what passed and what failed.

use std::fmt;
use std::iter::Sum;
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

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), Add::add)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// What nextest says at its end: counts, and the tests that did not pass at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Nextest {
    /// Of the summary line; absent before it, as when a test binary does not compile.
    pub(crate) tally: Option<Tally>,
    /// Tests that failed at every try.
    pub(crate) failed: Vec<String>,
    /// Tests that passed, though not at the first try.
    pub(crate) flaky: Vec<String>,
}

impl Nextest {
    /// Takes the next line of nextest's standard error.
    pub(crate) fn read(&mut self, line: &str) {
        if self.tally.is_none() {
            self.tally = summary(line);
            return;
        }
        // `   TRY 2 FAIL [   0.031s] (629/753) netd::dns peer::gives_the_same_answers`; before the
        // summary the same lines tell of the first try.
        let Some((status, rest)) = line.trim_start().split_once(" [") else {
            return;
        };
        // Between them is what the failed tests printed.
        let is_status = [
            "FAIL", "TRY ", "TIMEOUT", "ABORT", "SIG", "EXECFAIL", "FLAKY",
        ];
        if !is_status.iter().any(|word| status.starts_with(word)) {
            return;
        }
        let words: Vec<&str> = rest.split_whitespace().rev().take(2).collect();
        let &[test, binary] = words.as_slice() else {
            return;
        };
        let name = format!("{binary} {test}");
        if status.starts_with("FLAKY") {
            self.flaky.push(name);
        } else {
            self.failed.push(name);
        }
    }
}

/// What nextest's summary line counts; a timed-out test has failed. Other lines give nothing.
fn summary(line: &str) -> Option<Tally> {
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
            assert_eq!(summary(line), expected, "{line}");
        }
    }

    #[test]
    fn names_what_failed_and_what_passed_at_the_second_try() {
        let text = "
  TRY 1 FAIL [   0.03s] ( 1/3) netd::dns peer::a
        PASS [   0.03s] ( 1/3) netd::dns peer::a
────────────
     Summary [   1.2s] 3 tests run: 2 passed (1 flaky), 1 failed, 0 skipped
   FLAKY 2/2 [   0.03s] ( 1/3) netd::dns peer::a
  TRY 2 FAIL [   0.02s] ( 2/3) storaged layers::b
    commit of 500 files  ms    511 [511-511]     -    -
error: test run failed";
        let mut nextest = Nextest::default();
        text.lines().for_each(|line| nextest.read(line));
        let expected = Nextest {
            tally: Some(Tally {
                passed: 2,
                failed: 1,
            }),
            failed: vec!["storaged layers::b".to_owned()],
            flaky: vec!["netd::dns peer::a".to_owned()],
        };
        assert_eq!(nextest, expected);
    }
}
