//! What the demo prints.

use std::cell::Cell;

/// Longest output of one command that is shown.
const MAX_LINES: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Narrator {
    steps: Cell<u32>,
}

impl Narrator {
    /// Begins a step.
    pub(crate) fn step(&self, title: &str) {
        self.steps.set(self.steps.get() + 1);
        println!("\n{}. {title}", self.steps.get());
    }

    /// A command line, as a person would type it.
    pub(crate) fn command(&self, arguments: &[&str]) {
        let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
        println!("   $ hawser {}", words.join(" "));
    }

    /// What a command printed.
    pub(crate) fn output(&self, text: &str) {
        for line in text.lines().take(MAX_LINES) {
            println!("     {line}");
        }
        if text.lines().nth(MAX_LINES).is_some() {
            println!("     …");
        }
    }

    /// Something that was checked and holds.
    pub(crate) fn result(&self, text: &str) {
        println!("   ✓ {text}");
    }
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=,@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("-v"), "-v");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
