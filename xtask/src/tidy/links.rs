//! Links of the documentation lead to files that exist.

use std::path::{Path, PathBuf};

use super::Finding;
use crate::workspace;

pub(crate) fn check(path: &Path, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let dir = workspace::root().join(path.parent().unwrap_or(Path::new("")));
    let mut findings = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for target in targets(line) {
            if !exists(&dir.join(&target)) {
                let what = format!("link to {}, which does not exist", target.display());
                findings.push(Finding::at(path, index + 1, what));
            }
        }
    }
    findings
}

/// The files that the links of one line name; addresses and anchors are not ours to check.
fn targets(line: &str) -> Vec<PathBuf> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty())
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_followed() {
        let line = "[a](b.md) [c](https://example.org/x) [d](#e) [f](g/h.md#i)";
        assert_eq!(targets(line), [Path::new("b.md"), Path::new("g/h.md")]);
    }

    #[test]
    fn a_link_to_nothing_is_found() {
        let text = "[a](b.md)\n```\n[not](a-link)\n```\n";
        assert_eq!(check(Path::new("docs/x.md"), text, |_| false).len(), 1);
        assert!(check(Path::new("docs/x.md"), text, |_| true).is_empty());
    }
}
