//! The functional core stays functional: `model/` names no clock, no I/O and no kernel interface.

use std::path::Path;

use super::Finding;
use super::source::{Source, has_word};

/// Names that bring effects; time and randomness come in as parameters instead.
const EFFECTS: [&str; 14] = [
    "File",
    "Instant",
    "SystemTime",
    "aya",
    "getrandom",
    "jiff",
    "netlink_packet_route",
    "netlink_sys",
    "redb",
    "rustix",
    "std::fs",
    "std::process",
    "std::thread",
    "tokio",
];

pub(crate) fn check(path: &Path, source: &Source<'_>) -> Vec<Finding> {
    if !is_model(path) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for line in source.lines.iter().filter(|line| !line.is_test) {
        let named = |effect: &&&str| has_word(&line.code, effect) && !is_flag_set(&line.code);
        for effect in EFFECTS.iter().filter(named) {
            let what = format!("`{effect}` in a model; the model is pure");
            findings.push(Finding::at(path, line.number, what));
        }
    }
    findings
}

/// Flag sets of rustix are plain numbers.
fn is_flag_set(code: &str) -> bool {
    code.starts_with("use rustix::") && code.contains("Flags")
}

fn is_model(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "model") || path.ends_with("src/model.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(Path::new(path), &Source::parse(text)).len()
    }

    #[test]
    fn effects_are_found_in_models_only() {
        assert_eq!(count("netd/src/model/plan.rs", "use std::fs;\n"), 1);
        assert_eq!(count("netd/src/apply/link.rs", "use std::fs;\n"), 0);
        assert_eq!(
            count("netd/src/model/plan.rs", "use rustix::mount::MountFlags;\n"),
            0
        );
        assert_eq!(
            count("netd/src/model/plan.rs", "use rustix::fs::open;\n"),
            1
        );
        assert_eq!(count("netd/src/model/plan.rs", "//! No tokio here.\n"), 0);
        assert_eq!(
            count("netd/src/model/plan.rs", "#[cfg(test)]\nuse std::fs;\n"),
            0
        );
    }
}
