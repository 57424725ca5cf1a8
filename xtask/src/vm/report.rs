//! The part of `docs/kernel-support.md` that is written from runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

use super::console::Account;
use super::matrix::{Absent, Kernel};

const BEGIN: &str = "<!-- written by `cargo xtask test vm --write-docs` -->";
const END: &str = "<!-- end of what is written -->";

/// What one kernel's run showed.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) account: Account,
}

/// Replaces the written part of the page at `path`.
pub(super) fn write(path: &Path, runs: &[Run<'_>], absent: &[Absent]) -> Result<()> {
    let page = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let replaced = replace(&page, &tables(runs, absent))
        .with_context(|| format!("{} has no part to write", path.display()))?;
    std::fs::write(path, replaced).with_context(|| path.display().to_string())
}

fn replace(page: &str, text: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{text}{END}{after}"))
}

fn tables(runs: &[Run<'_>], absent: &[Absent]) -> String {
    let mut text = String::from(
        "\n| kernel | what ran | stories passed | why it is here |\n| --- | --- | --- | --- |\n",
    );
    for Run { kernel, account } in runs {
        text += &format!(
            "| {} | {} | {} of {} | {} |\n",
            kernel.name,
            account.kernel,
            account.passed,
            account.passed + account.failed.len() as u64,
            kernel.why
        );
    }
    let names: Vec<&str> = runs.iter().map(|run| run.kernel.name.as_str()).collect();
    let head = format!(
        "| {} |\n| --- {}|\n",
        names.join(" | "),
        "| --- ".repeat(names.len())
    );
    text += &format!("\n| in the kernel {head}");
    text += &rows(runs, |account| {
        let words = account.features.iter().map(|(name, has)| {
            let has = if *has { "yes" } else { "no" };
            (name.replace('_', " "), has.to_owned())
        });
        words.collect()
    });
    text += &format!("\n| taken by the daemon {head}");
    text += &rows(runs, |account| paths(&account.info));
    text += "\nStories that do not run in a guest:\n\n";
    for Absent { filter, why } in absent {
        text += &format!("* `{filter}`: {why}\n");
    }
    text.push('\n');
    text
}

fn rows(runs: &[Run<'_>], of: impl Fn(&Account) -> BTreeMap<String, String>) -> String {
    let columns: Vec<_> = runs.iter().map(|run| of(&run.account)).collect();
    let names: BTreeSet<&String> = columns.iter().flat_map(|column| column.keys()).collect();
    let cell = |column: &BTreeMap<String, String>, name: &String| {
        column.get(name).cloned().unwrap_or_else(|| "–".to_owned())
    };
    names
        .into_iter()
        .map(|name| {
            let cells: Vec<String> = columns.iter().map(|column| cell(column, name)).collect();
            format!("| {name} | {} |\n", cells.join(" | "))
        })
        .collect()
}

/// `Name: what` of the lines of `hawser info` that say which way was taken.
fn paths(info: &[String]) -> BTreeMap<String, String> {
    let told = |name: &str| PATHS.contains(&name);
    info.iter()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(name, _)| told(name))
        .map(|(name, what)| (name.to_owned(), what.to_owned()))
        .collect()
}

/// Names of those lines.
const PATHS: [&str; 7] = [
    "Cgroup Version",
    "Mount Layers",
    "Storage Driver",
    "container DNS",
    "published ports",
    "socket hooks",
    "uplinks",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_written_part_is_replaced() {
        let page = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let expected = format!("head\n{BEGIN}\nnew\n{END}\ntail\n");
        assert_eq!(replace(&page, "new\n"), Some(expected));
        assert_eq!(replace("no marks", "new"), None);
    }
}
