//! A Rust file as the rules see it: lines without comments and literals, and where its tests are.
//!
//! This is a scanner, not a parser: it follows comments, strings, raw strings and characters,
//! which is enough to search code for words.

/// One line of code.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// Counted from 1.
    pub(crate) number: usize,
    /// As written.
    pub(crate) text: &'a str,
    /// Without comments and the content of literals.
    pub(crate) code: String,
    /// Inside a test module, or anywhere in a file below `tests/`.
    pub(crate) is_test: bool,
}

#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) lines: Vec<Line<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Code,
    /// Depth of nested block comments.
    Comment(usize),
    Text,
    /// Number of `#` that close it.
    RawText(usize),
}

impl<'a> Source<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let mut state = State::Code;
        let mut lines = Vec::new();
        let mut is_test = false;
        for (index, line) in text.lines().enumerate() {
            let code = scan(line, &mut state);
            // In-file tests are the last item of a file (docs/testing.md).
            is_test |= code.trim_start().starts_with("#[cfg(test)]");
            lines.push(Line {
                number: index + 1,
                text: line,
                code,
                is_test,
            });
        }
        Self { lines }
    }
}

/// The code of one line; `state` carries over to the next.
fn scan(line: &str, state: &mut State) -> String {
    let bytes: Vec<char> = line.chars().collect();
    let mut code = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        at += match *state {
            State::Code => scan_code(rest, &mut code, state),
            State::Comment(depth) => scan_comment(rest, depth, state),
            State::Text => scan_text(rest, state),
            State::RawText(hashes) => scan_raw_text(rest, hashes, state),
        };
    }
    code
}

/// Each of these consumes at least one character and returns how many.
fn scan_code(rest: &[char], code: &mut String, state: &mut State) -> usize {
    match rest {
        ['/', '/', ..] => rest.len(),
        ['/', '*', ..] => {
            *state = State::Comment(1);
            2
        }
        ['"', ..] => {
            *state = State::Text;
            code.push('"');
            1
        }
        ['r', next, ..] if matches!(next, '"' | '#') && !ends_in_word(code) => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            if rest.get(1 + hashes) == Some(&'"') {
                *state = State::RawText(hashes);
                code.push('"');
                return hashes + 2;
            }
            code.push('r');
            1
        }
        // A character literal; a lifetime has no closing quote.
        ['\'', '\\', _, ..] => {
            let length = rest.iter().skip(3).take_while(|c| **c != '\'').count();
            code.push_str("''");
            (length + 4).min(rest.len())
        }
        ['\'', _, '\'', ..] => {
            code.push_str("''");
            3
        }
        [first, ..] => {
            code.push(*first);
            1
        }
        [] => 1,
    }
}

fn ends_in_word(code: &str) -> bool {
    code.chars()
        .next_back()
        .is_some_and(|c| c.is_alphanumeric() || c == '_')
}

fn scan_comment(rest: &[char], depth: usize, state: &mut State) -> usize {
    match rest {
        ['*', '/', ..] => {
            *state = if depth == 1 {
                State::Code
            } else {
                State::Comment(depth - 1)
            };
            2
        }
        ['/', '*', ..] => {
            *state = State::Comment(depth + 1);
            2
        }
        _ => 1,
    }
}

fn scan_text(rest: &[char], state: &mut State) -> usize {
    match rest {
        ['\\', ..] => 2.min(rest.len()),
        ['"', ..] => {
            *state = State::Code;
            1
        }
        _ => 1,
    }
}

fn scan_raw_text(rest: &[char], hashes: usize, state: &mut State) -> usize {
    let closes = rest[0] == '"'
        && rest.len() > hashes
        && rest[1..=hashes].iter().all(|character| *character == '#');
    if closes {
        *state = State::Code;
        return hashes + 1;
    }
    1
}

/// Whether `word` stands in `code` as a word of its own.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Vec<String> {
        Source::parse(text)
            .lines
            .into_iter()
            .map(|line| line.code.trim_end().to_owned())
            .collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert_eq!(code("a // unsafe"), ["a"]);
        assert_eq!(code("a /* x\n y /* z */ w */ b"), ["a", " b"]);
        assert_eq!(
            code("f(\"un\\\"safe\", 'x', '\\'', '\\u{7f}')"),
            ["f(\"\", '', '', '')"].map(|text| text.replace("\"\"", "\""))
        );
        assert_eq!(code("r#\"a \" b\"# c"), ["\" c"]);
        assert_eq!(code("fn f<'a>(x: &'a str)"), ["fn f<'a>(x: &'a str)"]);
        assert_eq!(code("\"two\nlines\" end"), ["\"", " end"]);
    }

    #[test]
    fn words_have_borders() {
        assert!(has_word("unsafe { x }", "unsafe"));
        assert!(!has_word("unsafe_op", "unsafe"));
        assert!(!has_word("metaya", "aya"));
        assert!(has_word("use aya::maps;", "aya"));
    }

    #[test]
    fn everything_after_the_test_mark_is_test() {
        let source = Source::parse("fn a() {}\n#[cfg(test)]\nmod tests {}\n");
        let tests: Vec<bool> = source.lines.iter().map(|line| line.is_test).collect();
        assert_eq!(tests, [false, true, true]);
    }
}
