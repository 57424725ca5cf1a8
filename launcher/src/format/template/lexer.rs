//! Splits a template into text and the tokens of its actions.

use super::TemplateError;

/// A piece of the template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    /// Blank space stands before it: `.A .B` are two operands, `.A.B` is one.
    pub(super) spaced: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// A keyword or a function.
    Word(String),
    /// `.Name`, without the dot.
    Field(String),
    /// A dot alone.
    Dot,
    /// `$name`, without the sign; `$` is the empty name.
    Variable(String),
    Text(String),
    Number(serde_json::Number),
    Open,
    Close,
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    Comma,
}

/// Cuts `source` at its actions and drops the text that `{{-` and `-}}` trim, and comments.
pub(super) fn split(source: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = source;
    let mut trim_next = false;
    while let Some(start) = rest.find("{{") {
        let (text, action) = (&rest[..start], &rest[start + 2..]);
        let trims_left = action.starts_with("-") && action[1..].starts_with(char::is_whitespace);
        push_text(&mut pieces, text, trim_next, trims_left);
        let body = if trims_left { &action[1..] } else { action };
        let end = action_end(body)?;
        let mut inner = &body[..end];
        trim_next = inner.len() > 1
            && inner.ends_with('-')
            && inner[..inner.len() - 1].ends_with(char::is_whitespace);
        if trim_next {
            inner = &inner[..inner.len() - 1];
        }
        if !inner.trim().starts_with("/*") {
            pieces.push(Piece::Action(tokens(inner)?));
        }
        rest = &body[end + 2..];
    }
    push_text(&mut pieces, rest, trim_next, false);
    Ok(pieces)
}

fn push_text(pieces: &mut Vec<Piece>, text: &str, trim_start: bool, trim_end: bool) {
    let text = if trim_start { text.trim_start() } else { text };
    let text = if trim_end { text.trim_end() } else { text };
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

/// Where the `}}` of an action is: not inside a quoted text or a comment.
fn action_end(body: &str) -> Result<usize, TemplateError> {
    if body.trim_start().starts_with("/*") {
        let end = body.find("*/").ok_or(TemplateError::Unclosed("comment"))?;
        return body[end..]
            .find("}}")
            .map(|at| end + at)
            .ok_or(TemplateError::Unclosed("action"));
    }
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if body[at..].starts_with("}}") => return Ok(at),
            None => {}
        }
    }
    Err(TemplateError::Unclosed("action"))
}

fn tokens(action: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = action;
    loop {
        let trimmed = rest.trim_start();
        let spaced = trimmed.len() < rest.len() || tokens.is_empty();
        if trimmed.is_empty() {
            return Ok(tokens);
        }
        let (kind, length) = token(trimmed)?;
        tokens.push(Token { kind, spaced });
        rest = &trimmed[length..];
    }
}

/// The token at the start of `text`, and how many bytes it takes.
fn token(text: &str) -> Result<(TokenKind, usize), TemplateError> {
    let mut chars = text.chars();
    let first = chars.next().unwrap_or_default();
    let second = chars.next().unwrap_or_default();
    let symbol = match (first, second) {
        ('(', _) => Some((TokenKind::Open, 1)),
        (')', _) => Some((TokenKind::Close, 1)),
        ('|', _) => Some((TokenKind::Pipe, 1)),
        (',', _) => Some((TokenKind::Comma, 1)),
        (':', '=') => Some((TokenKind::Declare, 2)),
        ('=', _) => Some((TokenKind::Assign, 1)),
        _ => None,
    };
    if let Some(symbol) = symbol {
        return Ok(symbol);
    }
    match first {
        '.' => {
            let name = word(&text[1..]);
            let kind = if name.is_empty() {
                TokenKind::Dot
            } else {
                TokenKind::Field(name.to_owned())
            };
            Ok((kind, 1 + name.len()))
        }
        '$' => {
            let name = word(&text[1..]);
            Ok((TokenKind::Variable(name.to_owned()), 1 + name.len()))
        }
        '"' => quoted(text),
        '`' => {
            let end = text[1..].find('`').ok_or(TemplateError::Unclosed("text"))?;
            Ok((TokenKind::Text(text[1..=end].to_owned()), end + 2))
        }
        '0'..='9' | '-' | '+' => number(text),
        _ => {
            let name = word(text);
            if name.is_empty() {
                return Err(TemplateError::UnexpectedCharacter(first));
            }
            Ok((TokenKind::Word(name.to_owned()), name.len()))
        }
    }
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

fn number(text: &str) -> Result<(TokenKind, usize), TemplateError> {
    let tail = &text[1..];
    let end = tail.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'));
    let literal = &text[..1 + end.unwrap_or(tail.len())];
    let digits = literal.strip_prefix('+').unwrap_or(literal);
    let number = digits
        .parse::<i64>()
        .map(serde_json::Number::from)
        .ok()
        .or_else(|| serde_json::Number::from_f64(digits.parse().ok()?))
        .ok_or_else(|| TemplateError::Number(literal.to_owned()))?;
    Ok((TokenKind::Number(number), literal.len()))
}

/// A Go string literal: the escapes people type at a shell.
fn quoted(text: &str) -> Result<(TokenKind, usize), TemplateError> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((TokenKind::Text(value), at + 1)),
            '\\' => {
                let (_, escape) = chars.next().ok_or(TemplateError::Unclosed("text"))?;
                value.push(match escape {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '\\' | '"' | '\'' => escape,
                    _ => return Err(TemplateError::Escape(escape)),
                });
            }
            _ => value.push(c),
        }
    }
    Err(TemplateError::Unclosed("text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(action: &str) -> Vec<TokenKind> {
        tokens(action)
            .unwrap()
            .into_iter()
            .map(|token| token.kind)
            .collect()
    }

    #[test]
    fn text_between_trim_marks_goes() {
        let pieces = split("a  {{- .X -}}  b {{/* note }} */}}c").unwrap();
        assert_eq!(
            pieces,
            [
                Piece::Text("a".into()),
                Piece::Action(tokens(" .X ").unwrap()),
                Piece::Text("b ".into()),
                Piece::Text("c".into()),
            ]
        );
    }

    #[test]
    fn braces_inside_a_text_do_not_end_the_action() {
        assert_eq!(kinds(r#""}}\n""#), [TokenKind::Text("}}\n".into())]);
        assert_eq!(split(r#"{{"}}"}}{{`}}`}}"#).unwrap().len(), 2);
    }

    #[test]
    fn a_space_parts_two_fields() {
        let spaced: Vec<bool> = tokens("index .A.B $x.C 1 -2")
            .unwrap()
            .iter()
            .map(|token| token.spaced)
            .collect();
        assert_eq!(
            spaced,
            [true, true, false, true, false, true, true],
            "index .A .B $x .C 1 -2"
        );
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for source in [
            "{{",
            "{{.A",
            r#"{{"x}}"#,
            "{{`x}}",
            "{{ # }}",
            "{{1x}}",
            r#"{{"\q"}}"#,
        ] {
            assert!(split(source).is_err(), "{source}");
        }
    }
}
