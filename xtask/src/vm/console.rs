//! What a guest says: on one serial port how each story went, on the other everything the kernel
//! and the stories print.

use std::collections::BTreeMap;

/// One line of the port with the verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Kernel(String),
    Begin(String),
    Passed {
        id: String,
        centiseconds: u64,
    },
    Failed {
        id: String,
        centiseconds: u64,
        code: i32,
    },
    Feature {
        name: String,
        has: bool,
    },
    Info(String),
    /// The end, with the kernel's taint flags.
    Done {
        tainted: u64,
    },
}

impl Verdict {
    /// Lines of others, as of a boot loader, give nothing.
    pub(super) fn read(line: &str) -> Option<Self> {
        let (word, rest) = line.trim().strip_prefix("@@ ")?.split_once(' ')?;
        match word {
            "kernel" => Some(Self::Kernel(rest.to_owned())),
            "begin" => Some(Self::Begin(rest.to_owned())),
            "passed" => {
                let (id, centiseconds) = rest.rsplit_once(' ')?;
                Some(Self::Passed {
                    id: id.to_owned(),
                    centiseconds: centiseconds.parse().ok()?,
                })
            }
            "failed" => {
                let (rest, code) = rest.rsplit_once(' ')?;
                let (id, centiseconds) = rest.rsplit_once(' ')?;
                Some(Self::Failed {
                    id: id.to_owned(),
                    centiseconds: centiseconds.parse().ok()?,
                    code: code.parse().ok()?,
                })
            }
            "feature" => {
                let (name, has) = rest.split_once(' ')?;
                Some(Self::Feature {
                    name: name.to_owned(),
                    has: has == "yes",
                })
            }
            "info" => Some(Self::Info(rest.to_owned())),
            "done" => Some(Self::Done {
                tainted: rest.parse().ok()?,
            }),
            _ => None,
        }
    }
}

/// Everything one guest said.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) kernel: String,
    pub(super) passed: Vec<String>,
    pub(super) failed: Vec<String>,
    pub(super) features: BTreeMap<String, bool>,
    pub(super) info: Vec<String>,
    /// Begun and not ended.
    running: Option<String>,
    done: Option<u64>,
}

/// TAINT_DIE and TAINT_WARN of the kernel's include/linux/panic.h.
const DIED: u64 = 1 << 7;
const WARNED: u64 = 1 << 9;

impl Account {
    pub(super) fn take(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Kernel(kernel) => self.kernel = kernel,
            Verdict::Begin(id) => self.running = Some(id),
            Verdict::Passed { id, .. } => {
                self.running = None;
                self.passed.push(id);
            }
            Verdict::Failed { id, .. } => {
                self.running = None;
                self.failed.push(id);
            }
            Verdict::Feature { name, has } => {
                self.features.insert(name, has);
            }
            Verdict::Info(line) => self.info.push(line),
            Verdict::Done { tainted } => self.done = Some(tainted),
        }
    }

    /// The story that the guest ended in, or hung.
    pub(super) fn running(&self) -> Option<&String> {
        self.running.as_ref()
    }

    /// What is wrong beside failed stories; `console` is what the kernel printed.
    pub(super) fn troubles(&self, console: &str, expected: &BTreeMap<String, bool>) -> Vec<String> {
        let mut troubles: Vec<String> = console
            .lines()
            .filter(|line| is_trouble(line))
            .map(|line| line.trim().to_owned())
            .collect();
        match self.done {
            None => troubles.push(match &self.running {
                Some(id) => format!("the guest ended, or hung, in {id}"),
                None => "the guest ended, or hung, between stories".to_owned(),
            }),
            Some(tainted) if tainted & (DIED | WARNED) != 0 => {
                troubles.push(format!("the kernel is tainted: {tainted:#x}"));
            }
            Some(_) => {}
        }
        for (name, has) in &self.features {
            match expected.get(name) {
                Some(expected) if expected == has => {}
                Some(true) => troubles.push(format!("{name} is missing in this kernel")),
                Some(false) => troubles.push(format!("{name} is in this kernel, unexpectedly")),
                None => troubles.push(format!("kernels.toml does not say whether it has {name}")),
            }
        }
        troubles
    }
}

/// Whether the kernel says that something is wrong with itself.
fn is_trouble(line: &str) -> bool {
    const WORDS: [&str; 10] = [
        "BUG:",
        "INFO: rcu",
        "INFO: task",
        "Kernel panic",
        "Oops",
        "WARNING:",
        "double fault",
        "general protection fault",
        "soft lockup",
        "unable to handle",
    ];
    // `[   12.345678] …` is the kernel; stories may print what they like.
    let is_kernel = line.strip_prefix('[').is_some_and(|rest| {
        rest.trim_start()
            .starts_with(|first: char| first.is_ascii_digit())
    });
    is_kernel && WORDS.iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> Account {
        let mut account = Account::default();
        text.lines()
            .filter_map(Verdict::read)
            .for_each(|verdict| account.take(verdict));
        account
    }

    #[test]
    fn stories_are_counted_and_the_end_is_needed() {
        let text = "noise\n@@ kernel 6.1.0\n@@ begin test:a b\n@@ passed test:a b 12\n\
             @@ begin test:a c\n@@ failed test:a c 34 101\n";
        let begun = account(text);
        assert_eq!(begun.kernel, "6.1.0");
        assert_eq!(begun.passed, ["test:a b"]);
        assert_eq!(begun.failed, ["test:a c"]);
        let troubles = begun.troubles("", &BTreeMap::new());
        assert_eq!(troubles, ["the guest ended, or hung, between stories"]);
        let ended = account(&format!("{text}@@ done 0\n"));
        assert!(ended.troubles("", &BTreeMap::new()).is_empty());
        let hung = account("@@ begin test:a d\n").troubles("", &BTreeMap::new());
        assert_eq!(hung, ["the guest ended, or hung, in test:a d"]);
    }

    #[test]
    fn only_the_kernel_is_believed_about_itself() {
        let ended = account("@@ done 0");
        let console = "BUG: says a story\n[    1.5] eth0: up\n[   12.5] BUG: kernel NULL pointer\n";
        let troubles = ended.troubles(console, &BTreeMap::new());
        assert_eq!(troubles, ["[   12.5] BUG: kernel NULL pointer"]);
        assert_eq!(
            account("@@ done 512").troubles("", &BTreeMap::new()).len(),
            1
        );
        // Unsigned modules and user requests taint too.
        assert!(
            account("@@ done 12352")
                .troubles("", &BTreeMap::new())
                .is_empty()
        );
    }

    #[test]
    fn features_are_expected_both_ways() {
        let ended =
            account("@@ feature vlan yes\n@@ feature netkit no\n@@ feature x no\n@@ done 0");
        let expected = [("vlan".to_owned(), false), ("netkit".to_owned(), true)].into();
        let troubles = ended.troubles("", &expected);
        assert_eq!(troubles.len(), 3, "{troubles:?}");
    }
}
