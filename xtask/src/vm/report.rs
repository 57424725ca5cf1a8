//! The part of `docs/kernel-support.md` that is written from runs: a column for each kernel, which
//! stays as it is until that kernel is run again.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::console::Account;
use super::matrix::{Absent, Kernel, Matrix};
use super::plan::part_of;
use super::switch::Script;

const BEGIN: &str = "<!-- written by `cargo xtask test vm --write-docs` -->";
const END: &str = "<!-- end of what is written -->";
/// Of what was not run, or not found.
const NOTHING: &str = "–";
/// Names of the lines of `hawser info` that say which way was taken.
const PATHS: [&str; 7] = [
    "Cgroup Version",
    "Mount Layers",
    "Storage Driver",
    "container DNS",
    "published ports",
    "socket hooks",
    "uplinks",
];

/// What one kernel's run showed.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) account: Account,
}

/// What the written part of the page says.
#[derive(Debug)]
pub(super) struct Report {
    features: Table,
    paths: Table,
    stories: Table,
    scripts: Table,
}

/// Has `change` replace what the page at `path` says of the kernels of `matrix`.
pub(super) fn write(path: &Path, matrix: &Matrix, change: impl FnOnce(&mut Report)) -> Result<()> {
    let page = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (before, written, after) =
        parts(&page).with_context(|| format!("{} has no part to write", path.display()))?;
    let mut report = Report::read(written, matrix);
    change(&mut report);
    let text = format!("{before}{BEGIN}\n{}{END}{after}", report.text(matrix));
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

impl Report {
    fn read(written: &str, matrix: &Matrix) -> Self {
        let names: Vec<String> = matrix.kernels.iter().map(|one| one.name.clone()).collect();
        let table = |head| Table::read(head, &names, written);
        Self {
            features: table("in the kernel"),
            paths: table("taken by the daemon"),
            stories: table("stories that passed"),
            scripts: table("scripts of `kernel-tests/guests`"),
        }
    }

    /// Replaces what was known of the kernel of `run`; `parts` says how many stories each has.
    pub(super) fn take(&mut self, run: &Run<'_>, parts: &BTreeMap<String, usize>) {
        let Run { kernel, account } = run;
        if !account.features.is_empty() {
            self.features.clear(&kernel.name);
        }
        for (name, has) in &account.features {
            let has = if *has { "yes" } else { "no" };
            let name = name.replace('_', " ");
            self.features.set(&name, &kernel.name, has.to_owned());
        }
        // What a script says of itself is no word of the daemon's.
        if paths(&account.info).next().is_some() {
            self.paths.clear(&kernel.name);
        }
        self.paths
            .set("Linux", &kernel.name, account.kernel.clone());
        for (name, what) in paths(&account.info) {
            self.paths.set(name, &kernel.name, what.to_owned());
        }
        for (part, count) in counts(account, parts) {
            let known = self.stories.get(&part, &kernel.name);
            if !known
                .and_then(Count::read)
                .is_some_and(|old| old.outweighs(count))
            {
                self.stories.set(&part, &kernel.name, count.to_string());
            }
        }
    }

    /// Replaces what was known of a script.
    pub(super) fn take_script(&mut self, kernel: &Kernel, script: &str, passed: bool) {
        let word = if passed { "passed" } else { "failed" };
        self.scripts.set(script, &kernel.name, word.to_owned());
    }

    /// Forgets what is not in the tree any more.
    pub(super) fn keep(&mut self, parts: &BTreeMap<String, usize>, scripts: &[Script]) {
        self.stories.keep(|name| parts.contains_key(name));
        self.scripts
            .keep(|name| scripts.iter().any(|script| script.name == name));
    }

    /// With why each kernel is there, and what is left out and why.
    fn text(&self, matrix: &Matrix) -> String {
        let mut text = String::from("\n");
        for Kernel { name, why, .. } in &matrix.kernels {
            text += &format!("* {name}: {why}\n");
        }
        for table in [&self.paths, &self.features, &self.stories, &self.scripts] {
            text += &format!("\n{}", table.text());
        }
        text += "\nStories that do not run in a guest:\n\n";
        for Absent { filter, why } in &matrix.stories.absent {
            let filter = filter.split_whitespace().collect::<Vec<_>>().join(" ");
            text += &format!("* `{filter}`: {why}\n");
        }
        text + "\n"
    }
}

/// What is before the written part of a page, that part, and what is behind it.
fn parts(page: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (written, after) = rest.split_once(END)?;
    Some((before, written, after))
}

/// `Name: what` of the lines of `hawser info` that are told.
fn paths(info: &[String]) -> impl Iterator<Item = (&str, &str)> {
    info.iter()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(name, _)| PATHS.contains(name))
}

/// How the stories of one part went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
    /// As many as there are, run or not.
    of: usize,
}

impl Count {
    /// Reads what [`Display`](std::fmt::Display) writes.
    fn read(cell: &str) -> Option<Self> {
        let (passed, rest) = cell.split_once(" of ")?;
        let (of, failed) = match rest.split_once(", ") {
            Some((of, failed)) => (of, failed.strip_suffix(" failed")?),
            None => (rest, "0"),
        };
        Some(Self {
            passed: passed.parse().ok()?,
            failed: failed.parse().ok()?,
            of: of.parse().ok()?,
        })
    }

    /// Whether a `later` run of fewer stories says nothing that this one does not.
    fn outweighs(self, later: Self) -> bool {
        later.failed == 0 && later.passed < self.passed + self.failed
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.passed, self.of)?;
        match self.failed {
            0 => Ok(()),
            failed => write!(f, ", {failed} failed"),
        }
    }
}

/// Of the parts that ran in a guest, which have as many stories as `parts` says.
fn counts(account: &Account, parts: &BTreeMap<String, usize>) -> BTreeMap<String, Count> {
    let mut counts = BTreeMap::new();
    let passed = account.passed.iter().map(|id| (id, true));
    // One that has no end has not passed.
    let failed = account
        .failed
        .iter()
        .chain(account.running())
        .map(|id| (id, false));
    for (id, has_passed) in passed.chain(failed) {
        let Some((program, test)) = id.strip_prefix("test:").and_then(|id| id.split_once(' '))
        else {
            continue;
        };
        let part = part_of(program, test);
        let of = parts.get(&part).copied().unwrap_or_default();
        let nothing = Count {
            passed: 0,
            failed: 0,
            of,
        };
        let count: &mut Count = counts.entry(part).or_insert(nothing);
        count.passed += usize::from(has_passed);
        count.failed += usize::from(!has_passed);
    }
    counts
}

/// A table of a page, with a column for each kernel.
#[derive(Debug)]
struct Table {
    /// Of its first column.
    head: &'static str,
    columns: Vec<String>,
    /// By their first cell; each has as many others as there are columns.
    rows: BTreeMap<String, Vec<Option<String>>>,
}

impl Table {
    /// What of the table that begins with `head` in `text` is about `columns`.
    fn read(head: &'static str, columns: &[String], text: &str) -> Self {
        let mut table = Self {
            head,
            columns: columns.to_vec(),
            rows: BTreeMap::new(),
        };
        let mut lines = text
            .lines()
            .map(cells)
            .skip_while(|line| line.first() != Some(&head));
        let known = lines.next().unwrap_or_default();
        // The line below the head.
        lines.next();
        for line in lines.take_while(|line| !line.is_empty()) {
            for (column, cell) in known.iter().zip(&line).skip(1) {
                if *cell != NOTHING {
                    table.set(line[0], column, (*cell).to_owned());
                }
            }
        }
        table
    }

    fn get(&self, row: &str, column: &str) -> Option<&str> {
        let index = self.columns.iter().position(|name| name == column)?;
        self.rows.get(row)?[index].as_deref()
    }

    /// Does nothing for a column that the table has not.
    fn set(&mut self, row: &str, column: &str, cell: String) {
        if let Some(index) = self.columns.iter().position(|name| name == column) {
            let empty = || vec![None; self.columns.len()];
            self.rows.entry(row.to_owned()).or_insert_with(empty)[index] = Some(cell);
        }
    }

    fn clear(&mut self, column: &str) {
        if let Some(index) = self.columns.iter().position(|name| name == column) {
            self.rows.values_mut().for_each(|row| row[index] = None);
        }
        self.rows.retain(|_, row| row.iter().any(Option::is_some));
    }

    fn keep(&mut self, wanted: impl Fn(&str) -> bool) {
        self.rows.retain(|name, _| wanted(name));
    }

    fn text(&self) -> String {
        let rule = " --- |".repeat(self.columns.len());
        let mut text = format!(
            "| {} | {} |\n| --- |{rule}\n",
            self.head,
            self.columns.join(" | ")
        );
        for (name, row) in &self.rows {
            let cells: Vec<&str> = row
                .iter()
                .map(|cell| cell.as_deref().unwrap_or(NOTHING))
                .collect();
            text += &format!("| {name} | {} |\n", cells.join(" | "));
        }
        text
    }
}

/// The cells of a line of a table; of another line, none.
fn cells(line: &str) -> Vec<&str> {
    let inner = line
        .strip_prefix("| ")
        .and_then(|line| line.strip_suffix(" |"));
    inner
        .map(|inner| inner.split(" | ").collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::console::Verdict;
    use super::*;

    fn columns() -> Vec<String> {
        ["5.10", "6.1"].map(str::to_owned).to_vec()
    }

    fn account(passed: &[&str], failed: &[&str]) -> Account {
        let mut account = Account::default();
        for id in passed {
            let id = (*id).to_owned();
            account.take(Verdict::Passed {
                id,
                centiseconds: 1,
            });
        }
        failed
            .iter()
            .for_each(|id| account.take(Verdict::Begin((*id).to_owned())));
        account
    }

    #[test]
    fn only_the_written_part_is_replaced() {
        let page = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        assert_eq!(parts(&page), Some(("head\n", "\nold\n", "\ntail\n")));
        assert_eq!(parts("no marks"), None);
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let mut table = Table::read("head", &columns(), "");
        table.set("a", "6.1", "yes".to_owned());
        table.set("b", "5.10", "no: b | c".replace(" | ", ", "));
        table.set("c", "4.19", "in no column".to_owned());
        let text = table.text();
        assert_eq!(
            text,
            "| head | 5.10 | 6.1 |\n| --- | --- | --- |\n| a | – | yes |\n| b | no: b, c | – |\n"
        );
        let text = format!("\n| other | 5.10 |\n| --- | --- |\n| a | no |\n\n{text}\n* list\n");
        let mut again = Table::read("head", &columns(), &text);
        assert_eq!(again.rows, table.rows);
        // A kernel that is not in the matrix any more goes, with rows about nothing else.
        assert_eq!(Table::read("head", &columns()[1..], &text).rows.len(), 1);
        again.clear("6.1");
        assert_eq!(again.rows.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn fewer_stories_that_pass_say_nothing_new() {
        let parts = [("p".to_owned(), 3)].into();
        let count = |passed: &[&str], failed: &[&str]| {
            counts(&account(passed, failed), &parts)["p"].to_string()
        };
        assert_eq!(count(&["test:p a", "test:p b", "script:s"], &[]), "2 of 3");
        assert_eq!(count(&["test:p a"], &["test:p b"]), "1 of 3, 1 failed");
        let read = |cell| Count::read(cell).unwrap();
        for cell in ["2 of 3", "1 of 3, 1 failed"] {
            assert_eq!(read(cell).to_string(), cell);
        }
        assert_eq!(Count::read("yes"), None);
        assert!(read("3 of 3").outweighs(read("2 of 3")));
        assert!(!read("3 of 3").outweighs(read("3 of 3")));
        assert!(!read("3 of 3").outweighs(read("0 of 3, 1 failed")));
        assert!(!read("0 of 3, 1 failed").outweighs(read("2 of 3")));
    }

    #[test]
    fn a_run_replaces_its_own_column() {
        let matrix = Matrix::read(&crate::workspace::root().join(super::super::MATRIX)).unwrap();
        let page = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&page, format!("head\n{BEGIN}\n{END}\ntail\n")).unwrap();
        let parts = [("p".to_owned(), 2)].into();
        let found = |kernel, version: &str, feature: Option<bool>| {
            let mut account = account(&["test:p a"], &[]);
            account.take(Verdict::Kernel(version.to_owned()));
            account.features = feature
                .map(|has| ("vlan".to_owned(), has))
                .into_iter()
                .collect();
            let said = match feature {
                Some(_) => " Storage Driver: overlay2",
                None => "a script has something to say",
            };
            account.take(Verdict::Info(said.to_owned()));
            let run = Run { kernel, account };
            write(page.path(), &matrix, |report| {
                report.take(&run, &parts);
                report.take_script(kernel, "s", true);
            })
            .unwrap();
        };
        found(&matrix.kernels[0], "5.10.1", Some(true));
        found(&matrix.kernels[1], "6.1.1", Some(false));
        // What this run has not looked for stays.
        found(&matrix.kernels[1], "6.1.2", None);
        let text = std::fs::read_to_string(&page).unwrap();
        let is_in = |text: &str, line: &str| text.lines().any(|other| other == line);
        for line in [
            "head",
            "| Linux | 5.10.1 | 6.1.2 | – | – |",
            "| Storage Driver | overlay2 | overlay2 | – | – |",
            "| vlan | yes | no | – | – |",
            "| p | 1 of 2 | 1 of 2 | – | – |",
            "| s | passed | passed | – | – |",
            "tail",
        ] {
            assert!(is_in(&text, line), "{line} in {text}");
        }
        write(page.path(), &matrix, |report| {
            report.keep(&parts, &[]);
        })
        .unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        assert!(is_in(&text, "| p | 1 of 2 | 1 of 2 | – | – |"), "{text}");
        assert!(!text.contains("| s |"), "{text}");
    }
}
