//! How far layers are: a bar for each on a terminal, else a line for each change, in Docker's words.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;

use crate::format::human;

/// Between two drawings.
const FRAME: Duration = Duration::from_millis(100);
const BAR: usize = 50;

/// Where progress and results go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// Standard output: the command is about images.
    Out,
    /// Standard error: standard output is the container's.
    Err,
    /// The result alone, on standard output.
    Quiet,
}

impl Voice {
    /// A line that is part of the account.
    pub fn say(self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    fn write(self, text: &str) {
        // Progress that nobody reads any more is no reason to stop.
        match self {
            Self::Out => drop(io::stdout().lock().write_all(text.as_bytes())),
            Self::Err => drop(io::stderr().lock().write_all(text.as_bytes())),
            Self::Quiet => {}
        }
    }

    /// Lines of the terminal, if it is one.
    fn rows(self) -> Option<usize> {
        let size = match self {
            Self::Out if io::stdout().is_terminal() => tcgetwinsize(io::stdout()),
            Self::Err if io::stderr().is_terminal() => tcgetwinsize(io::stderr()),
            _ => return None,
        };
        size.ok().map(|size| usize::from(size.ws_row))
    }
}

/// What is done with a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Such as `Waiting` or `Pull complete`.
    Word(&'static str),
    /// Such as `Downloading`; a total of 0 is unknown.
    Moving(&'static str, u64, u64),
}

#[derive(Debug)]
pub struct Progress {
    voice: Voice,
    /// Lines are drawn over.
    is_drawn: bool,
    board: Mutex<Board>,
}

#[derive(Debug)]
struct Board {
    lines: Vec<(String, Step)>,
    drawn: Option<Instant>,
}

impl Progress {
    /// One line for each of `names`, waiting.
    pub fn new(voice: Voice, names: Vec<String>) -> Self {
        let rows = voice.rows();
        let lines: Vec<(String, Step)> = names
            .into_iter()
            .map(|name| (name, Step::Word("Waiting")))
            .collect();
        Self {
            voice,
            // More lines than the terminal has cannot be drawn over.
            is_drawn: rows.is_some_and(|rows| lines.len() < rows),
            board: Mutex::new(Board { lines, drawn: None }),
        }
    }

    pub fn set(&self, number: usize, step: Step) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        let board = &mut *board;
        let Some((name, current)) = board.lines.get_mut(number) else {
            return;
        };
        let is_moving = matches!(step, Step::Moving(..));
        if !self.is_drawn {
            // Numbers would be lines without end.
            if !is_moving && *current != step {
                self.voice.say(&line(name, &step));
            }
            *current = step;
            return;
        }
        *current = step;
        let is_due = board.drawn.is_none_or(|drawn| drawn.elapsed() >= FRAME);
        if is_due || !is_moving {
            self.draw(board);
        }
    }

    fn draw(&self, board: &mut Board) {
        let up = match board.drawn {
            Some(_) => format!("\x1b[{}A", board.lines.len()),
            None => String::new(),
        };
        let lines: String = board
            .lines
            .iter()
            .map(|(name, step)| format!("\x1b[2K\r{}\n", line(name, step)))
            .collect();
        self.voice.write(&format!("{up}{lines}"));
        board.drawn = Some(Instant::now());
    }
}

fn line(name: &str, step: &Step) -> String {
    match step {
        Step::Word(word) => format!("{name}: {word}"),
        Step::Moving(word, done, 0) => format!("{name}: {word}  {}", human::size(*done, 4)),
        Step::Moving(word, done, total) => {
            let share = u128::from(*done) * BAR as u128 / u128::from(*total);
            let filled = usize::try_from(share).unwrap_or(BAR).min(BAR);
            let bar = format!("{}>", "=".repeat(filled.saturating_sub(1)));
            format!(
                "{name}: {word}  [{bar:BAR$}]  {}/{}",
                human::size(*done, 4),
                human::size(*total, 4)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills_from_empty_to_full() {
        let bar = |done| line("ab", &Step::Moving("Downloading", done, 1000));
        assert_eq!(
            bar(0),
            format!("ab: Downloading  [>{}]  0B/1kB", " ".repeat(49))
        );
        assert_eq!(
            bar(500),
            format!(
                "ab: Downloading  [{}>{}]  500B/1kB",
                "=".repeat(24),
                " ".repeat(25)
            )
        );
        assert_eq!(
            bar(1000),
            format!("ab: Downloading  [{}>]  1kB/1kB", "=".repeat(49))
        );
        assert_eq!(bar(5000).len(), bar(1000).len(), "more than announced");
    }
}
