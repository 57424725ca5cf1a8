//! `cargo xtask tidy`: the rules of the tree that no compiler checks.
//!
//! Each rule is a pure function from a file's text, or from cargo's metadata, to findings. It
//! needs neither root nor the eBPF toolchain.

mod edges;
mod links;
mod purity;
mod size;
mod source;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// One broken rule, at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    path: PathBuf,
    /// Counted from 1; 0 when the whole file is meant.
    line: usize,
    what: String,
}

impl Finding {
    fn at(path: &Path, line: usize, what: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.path.display(), self.what),
        }
    }
}

/// Prints every finding and fails if there is one.
pub(crate) fn run() -> Result<()> {
    let findings = findings()?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: nothing found");
            Ok(())
        }
        count => bail!("tidy: {count} broken rules"),
    }
}

fn findings() -> Result<Vec<Finding>> {
    let files = workspace::files()?;
    let mut findings = edges::check()?;
    for path in &files {
        let full = workspace::root().join(path);
        let bytes = std::fs::read(&full).with_context(|| full.display().to_string())?;
        // Captured packets and other binary fixtures have no lines.
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        findings.extend(check_file(path, &text));
    }
    findings.extend(size::unused_allowances(&files));
    Ok(findings)
}

fn check_file(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = words::check(path, text);
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("rs") => {
            let source = source::Source::parse(text);
            findings.extend(words::check_source(path, &source));
            findings.extend(purity::check(path, &source));
            findings.extend(size::check(path, &source));
        }
        Some("md") => findings.extend(links::check(path, text, |link| link.exists())),
        _ => {}
    }
    findings
}
