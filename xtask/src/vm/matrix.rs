//! `kernel-tests/kernels.toml`: which kernels, what each must be able to do, and which stories run.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Matrix {
    #[serde(rename = "kernel")]
    pub(super) kernels: Vec<Kernel>,
    pub(super) stories: Stories,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kernel {
    pub(super) name: String,
    /// Debian's name of the release whose cloud kernel it is.
    pub(super) suite: String,
    /// Why it is in the matrix.
    pub(super) why: String,
    /// Every feature that guests look for, and whether this kernel has it.
    pub(super) features: BTreeMap<String, bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stories {
    /// Those that run in guests, in nextest's language.
    pub(super) filter: String,
    /// Those of them that `--quick` runs.
    pub(super) quick: String,
    /// How long one may take, in seconds: guests are emulated.
    pub(super) limit: u32,
    /// Those that match `filter` and cannot run in a guest.
    pub(super) absent: Vec<Absent>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Absent {
    pub(super) filter: String,
    pub(super) why: String,
}

impl Matrix {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        toml::from_str(&text).with_context(|| path.display().to_string())
    }

    /// Where in the matrix the kernels called `names` are; all of them when there is no name, or one is `all`.
    pub(super) fn select(&self, names: &[String]) -> Result<Vec<usize>> {
        if names.is_empty() || names.iter().any(|name| name == "all") {
            return Ok((0..self.kernels.len()).collect());
        }
        names.iter().map(|name| self.find(name)).collect()
    }

    fn find(&self, name: &str) -> Result<usize> {
        let found = self.kernels.iter().position(|kernel| kernel.name == name);
        if let Some(index) = found {
            return Ok(index);
        }
        let known: Vec<&str> = self
            .kernels
            .iter()
            .map(|kernel| kernel.name.as_str())
            .collect();
        bail!(
            "no kernel {name:?} in the matrix; there are {} and all",
            known.join(", ")
        )
    }
}

impl Stories {
    /// What to run, in nextest's language.
    pub(super) fn selection(&self, quick: bool) -> String {
        let mut expression = format!("({})", self.filter);
        for absent in &self.absent {
            expression += &format!(" - ({})", absent.filter);
        }
        if quick {
            format!("({expression}) & ({})", self.quick)
        } else {
            expression
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_of_the_tree_is_whole() {
        let matrix = Matrix::read(&crate::workspace::root().join(super::super::MATRIX)).unwrap();
        assert_eq!(
            matrix.select(&["all".to_owned()]).unwrap().len(),
            matrix.kernels.len()
        );
        let features = |kernel: &Kernel| kernel.features.keys().cloned().collect::<Vec<_>>();
        for kernel in &matrix.kernels {
            assert!(!kernel.why.is_empty(), "{}", kernel.name);
            assert_eq!(
                features(kernel),
                features(&matrix.kernels[0]),
                "{}",
                kernel.name
            );
        }
        assert!(
            matrix
                .stories
                .absent
                .iter()
                .all(|absent| !absent.why.is_empty())
        );
        let error = matrix.select(&["2.6".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("5.10, 6.1"), "{error}");
    }

    #[test]
    fn what_cannot_run_is_left_out() {
        let stories = Stories {
            filter: "package(a)".to_owned(),
            quick: "test(q)".to_owned(),
            limit: 1,
            absent: vec![Absent {
                filter: "test(b)".to_owned(),
                why: "no b".to_owned(),
            }],
        };
        assert_eq!(stories.selection(false), "(package(a)) - (test(b))");
        assert_eq!(
            stories.selection(true),
            "((package(a)) - (test(b))) & (test(q))"
        );
    }
}
