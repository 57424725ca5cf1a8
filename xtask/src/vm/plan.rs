//! What a guest is to do, one line a step, as `guest/init.sh` reads it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;
use crate::workspace::{self, EVERY_CRATE};

/// What `cargo nextest list --message-format=json` says, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct List {
    rust_suites: BTreeMap<String, Suite>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Suite {
    binary_path: PathBuf,
    testcases: BTreeMap<String, Case>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Case {
    filter_match: FilterMatch,
}

#[derive(Debug, Deserialize)]
struct FilterMatch {
    status: String,
}

/// Stories to run: a program of tests, and the name of a test in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stories {
    /// Name in the guest, and file.
    pub(super) programs: BTreeMap<String, PathBuf>,
    pub(super) tests: Vec<(String, String)>,
}

impl Stories {
    /// Those that `filter`, in nextest's language, selects and that [are asked for](is_asked_for) by
    /// their name or their program's; perhaps none. Builds their programs.
    pub(super) fn select(filter: &str, names: &[String]) -> Result<Self> {
        let mut list = workspace::cargo();
        list.args([
            "nextest",
            "list",
            "--message-format=json",
            "--filterset",
            filter,
        ])
        .args(EVERY_CRATE);
        Self::read(&process::stdout(&mut list)?, names)
    }

    /// How many there are of each part.
    pub(super) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (program, test) in &self.tests {
            *counts.entry(part_of(program, test)).or_default() += 1;
        }
        counts
    }

    // Nextest itself takes no part of a program's name that no program has.
    fn read(text: &str, names: &[String]) -> Result<Self> {
        let list: List = serde_json::from_str(text).context("nextest's list")?;
        let mut stories = Self::default();
        for (id, suite) in list.rust_suites {
            let name = id.replace("::", ".");
            for (test, case) in suite.testcases {
                let is_named = is_asked_for(names, &test) || is_asked_for(names, &id);
                if is_named && case.filter_match.status == "matches" {
                    stories
                        .programs
                        .insert(name.clone(), suite.binary_path.clone());
                    stories.tests.push((name.clone(), test));
                }
            }
        }
        Ok(stories)
    }
}

/// Whether `name` contains one of `names`, or there are none.
pub(super) fn is_asked_for(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|part| name.contains(part))
}

/// What a test belongs to, for whoever counts: a program of stories, or one of its modules.
pub(super) fn part_of(program: &str, test: &str) -> String {
    // The module that is there for all tests of some programs, and the crates' own tests.
    let module = test.split_once("::").filter(|(name, _)| *name != "root");
    match module {
        Some((module, _)) if program.contains('.') => format!("{program} {module}"),
        _ => program.to_owned(),
    }
}

/// Lines of `kind TAB limit TAB what TAB name`.
#[derive(Debug, Default)]
pub(super) struct Plan {
    text: String,
}

impl Plan {
    /// Looks for what the kernel can do.
    pub(super) fn features(&mut self) {
        self.line("features", 0, "-", "-");
    }

    pub(super) fn stories(&mut self, stories: &Stories, limit: u32) {
        for (program, test) in &stories.tests {
            self.line("test", limit, program, test);
        }
    }

    /// Starts a daemon, which stays.
    pub(super) fn daemon(&mut self) {
        self.line("daemon", 0, "-", "-");
    }

    /// Tells what the daemon has found.
    pub(super) fn info(&mut self) {
        self.line("info", 0, "-", "-");
    }

    /// Runs the file `path` of the disk with the programs.
    pub(super) fn script(&mut self, path: &str, name: &str, limit: u32) {
        self.line("script", limit, path, name);
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn line(&mut self, kind: &str, limit: u32, what: &str, name: &str) {
        self.text += &format!("{kind}\t{limit}\t{what}\t{name}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_are_what_the_filter_matches() {
        let text = r#"{"rust-suites": {
            "netd::bpf": {"binary-path": "/t/bpf-1", "testcases": {
                "a::b": {"filter-match": {"status": "matches"}},
                "a::c": {"filter-match": {"status": "mismatch", "reason": "expression"}}}},
            "api": {"binary-path": "/t/api-1", "testcases": {}}}}"#;
        let named = |part: &str| Stories::read(text, &[part.to_owned()]).unwrap();
        let stories = Stories::read(text, &[]).unwrap();
        assert_eq!(stories.tests, [("netd.bpf".to_owned(), "a::b".to_owned())]);
        assert_eq!(stories.counts(), [("netd.bpf a".to_owned(), 1)].into());
        assert_eq!(stories.programs["netd.bpf"], PathBuf::from("/t/bpf-1"));
        assert_eq!(named("bpf"), stories);
        assert_eq!(named("::b"), stories);
        assert_eq!(named("c"), Stories::default());
        let either = ["nothing", "::b"].map(str::to_owned);
        assert_eq!(Stories::read(text, &either).unwrap(), stories);
        let mut plan = Plan::default();
        plan.stories(&stories, 60);
        assert_eq!(plan.text(), "test\t60\tnetd.bpf\ta::b\n");
    }

    #[test]
    fn stories_are_counted_by_module() {
        assert_eq!(part_of("netd.bpf", "live::deep::one"), "netd.bpf live");
        assert_eq!(part_of("storaged.vfs", "one"), "storaged.vfs");
        assert_eq!(
            part_of("kernel-tests.life", "root::one"),
            "kernel-tests.life"
        );
        assert_eq!(part_of("sys", "mount::one"), "sys");
    }
}
