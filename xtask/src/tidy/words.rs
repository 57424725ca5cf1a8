//! Words that must not be in the tree, and names that say nothing.

use std::path::Path;

use super::Finding;
use super::source::{Source, has_word};
use crate::workspace;

/// Code that may not stand anywhere, with the reason that is printed.
const BANNED: &[(&str, &str)] = &[
    (
        concat!("/proc/self", "/ns/net"),
        "names the main thread's namespace, not the caller's; use /proc/thread-self/ns/net",
    ),
    (concat!("todo", "!("), "unfinished"),
    (concat!("unimplemented", "!("), "unfinished"),
    (concat!("dbg", "!("), "left over from debugging"),
    (
        concat!("#[", "ignore"),
        "a test that does not run; make it run or remove it",
    ),
];

/// Module names that tell a reader nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["common", "helpers", "manager", "misc", "types", "utils"];

/// How far above a sleep the deadline of its loop may stand.
const DEADLINE_REACH: usize = 12;

/// Rules for every text file.
pub(crate) fn check(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let home = workspace::root().display().to_string();
    for (index, line) in text.lines().enumerate() {
        let mut found = |what: &str| findings.push(Finding::at(path, index + 1, what));
        if line.ends_with([' ', '\t', '\r']) {
            found("trailing white space");
        }
        if home.len() > 1 && line.contains(&home) {
            found("names the directory of this checkout");
        }
        if is_unlinked_todo(line) {
            found("a mark of unfinished work needs a link to its issue");
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        findings.push(Finding::at(path, 0, "no newline at the end"));
    }
    findings
}

fn is_unlinked_todo(line: &str) -> bool {
    let mark = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    mark.iter().any(|mark| has_word(line, mark)) && !line.contains("://")
}

/// Rules for Rust.
pub(crate) fn check_source(path: &Path, source: &Source<'_>) -> Vec<Finding> {
    let mut findings = empty_name(path).into_iter().collect::<Vec<_>>();
    let may_be_unsafe = path.starts_with("sys") || path.starts_with("ebpf");
    for (index, line) in source.lines.iter().enumerate() {
        let mut found = |what: String| findings.push(Finding::at(path, line.number, what));
        for (word, why) in BANNED {
            // Paths stand in literals, everything else in code.
            let place = if word.starts_with('/') {
                without_comment(line.text)
            } else {
                &line.code
            };
            if place.contains(word) {
                found(format!("`{word}`: {why}"));
            }
        }
        if !may_be_unsafe && has_word(&line.code, "unsafe") {
            found("`unsafe` belongs into the sys crate or ebpf/".to_owned());
        }
        let in_test = line.is_test || is_test_file(path);
        if in_test && sleeps(&line.code) && !has_deadline_above(source, index) {
            found("a sleep in a test; poll with a deadline".to_owned());
        }
    }
    findings
}

fn without_comment(text: &str) -> &str {
    text.trim_start()
        .strip_prefix("//")
        .map_or(text, |_comment| "")
}

fn sleeps(code: &str) -> bool {
    code.contains("sleep(") && (code.contains("thread::") || code.contains("time::"))
}

fn has_deadline_above(source: &Source<'_>, index: usize) -> bool {
    source.lines[index.saturating_sub(DEADLINE_REACH)..index]
        .iter()
        .any(|line| line.code.contains("deadline"))
}

fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_name().is_some_and(|name| name == "tests.rs")
}

/// A module is named by its file or, for `mod.rs`, by its directory.
fn empty_name(path: &Path) -> Option<Finding> {
    let stem = path.file_stem()?.to_str()?;
    let name = match stem {
        "mod" => path.parent()?.file_name()?.to_str()?,
        stem => stem,
    };
    EMPTY_NAMES
        .contains(&name)
        .then(|| Finding::at(path, 0, format!("a module named {name:?} tells nothing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let path = Path::new(path);
        let mut all = check(path, text);
        all.extend(check_source(path, &Source::parse(text)));
        all.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn clean_code_has_no_findings() {
        assert!(found("netd/src/a.rs", "fn a() {}\n").is_empty());
    }

    #[test]
    fn unsafe_code_is_for_sys_and_ebpf() {
        let text = "fn a() { unsafe { b() } }\n";
        assert_eq!(found("netd/src/a.rs", text).len(), 1);
        assert!(found("sys/src/a.rs", text).is_empty());
        assert!(found("ebpf/abi/src/a.rs", text).is_empty());
        assert!(found("netd/src/a.rs", "//! No unsafe code.\n").is_empty());
    }

    #[test]
    fn banned_words_are_found_in_code_only() {
        let text = format!("fn a() {{ {}) }}\n", BANNED[1].0);
        assert_eq!(found("netd/src/a.rs", &text).len(), 1);
        let path = format!("const P: &str = \"{}\";\n", BANNED[0].0);
        assert_eq!(found("netd/src/a.rs", &path).len(), 1);
        assert!(found("netd/src/a.rs", &format!("// {}\n", BANNED[0].0)).is_empty());
    }

    #[test]
    fn a_test_may_sleep_in_a_loop_with_a_deadline_only() {
        let bare = "fn t() { std::thread::sleep(STEP); }\n";
        assert_eq!(found("netd/tests/a.rs", bare).len(), 1);
        assert!(found("netd/src/a.rs", bare).is_empty());
        let polled = "while now() < deadline {\n    thread::sleep(STEP);\n}\n";
        assert!(found("netd/tests/a.rs", polled).is_empty());
    }

    #[test]
    fn white_space_and_missing_newlines_are_found() {
        assert_eq!(found("netd/src/a.rs", "a \nb").len(), 2);
    }

    #[test]
    fn modules_have_telling_names() {
        assert_eq!(found("netd/src/utils.rs", "").len(), 1);
        assert_eq!(found("netd/src/helpers/mod.rs", "").len(), 1);
        assert!(found("netd/src/plan.rs", "").is_empty());
    }

    #[test]
    fn a_todo_has_a_link() {
        let bare = concat!("// TO", "DO: later\n");
        assert_eq!(found("netd/src/a.rs", bare).len(), 1);
        let linked = concat!("// TO", "DO(https://example.org/issues/7): later\n");
        assert!(found("netd/src/a.rs", linked).is_empty());
    }
}
