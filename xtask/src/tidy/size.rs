//! Files stay small enough to be read at once.

use std::path::{Path, PathBuf};

use super::Finding;
use super::source::Source;

/// Most lines of a file, its in-file tests not counted.
const MAX_LINES: usize = 600;
/// Most lines of the tests in one file.
const MAX_TEST_LINES: usize = 600;

/// Files that may be longer, with the limit and the reason.
const ALLOWED: &[(&str, usize, &str)] = &[];

pub(crate) fn check(path: &Path, source: &Source<'_>) -> Vec<Finding> {
    let tests = source.lines.iter().filter(|line| line.is_test).count();
    let code = source.lines.len() - tests;
    let limit = ALLOWED
        .iter()
        .find(|(allowed, ..)| Path::new(allowed) == path)
        .map_or(MAX_LINES, |(_, limit, _)| *limit);
    let mut findings = Vec::new();
    if code > limit {
        let what = format!(
            "{code} lines without tests, more than {limit}; is there a second idea inside?"
        );
        findings.push(Finding::at(path, 0, what));
    }
    if tests > MAX_TEST_LINES {
        let what = format!("{tests} lines of tests, more than {MAX_TEST_LINES}; move them out");
        findings.push(Finding::at(path, 0, what));
    }
    findings
}

/// An allowance for a file that is gone would cover the next one of that name.
pub(crate) fn unused_allowances(files: &[PathBuf]) -> Vec<Finding> {
    ALLOWED
        .iter()
        .map(|(path, ..)| Path::new(path))
        .filter(|path| !files.iter().any(|file| file == path))
        .map(|path| Finding::at(path, 0, "has an allowance in tidy but does not exist"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(lines: usize, tests: usize) -> usize {
        let mut text = "x\n".repeat(lines);
        if tests > 0 {
            text.push_str("#[cfg(test)]\n");
            text.push_str(&"x\n".repeat(tests - 1));
        }
        check(Path::new("netd/src/a.rs"), &Source::parse(&text)).len()
    }

    #[test]
    fn tests_have_a_limit_of_their_own() {
        assert_eq!(count(MAX_LINES, MAX_TEST_LINES), 0);
        assert_eq!(count(MAX_LINES + 1, 0), 1);
        assert_eq!(count(1, MAX_TEST_LINES + 1), 1);
    }
}
