//! Words of a line, as a shell reads them.

/// Blanks part words, quotes keep them together, and a backslash takes the next character as it is,
/// but in single quotes.
///
/// # Errors
/// What is wrong with the line.
pub(crate) fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (_, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('\\', None | Some('"')) => {
                let next = chars.next().ok_or("it ends with a backslash")?;
                word.get_or_insert_default().push(next);
            }
            (_, None) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_a_shell_would() {
        for (text, expected) in [
            ("", vec![]),
            ("  a  b\t", vec!["a", "b"]),
            (r#"A="x y"z 'p "q"' ''"#, vec!["A=x yz", "p \"q\"", ""]),
            (r#"a\ b "c\"d" 'e\'"#, vec!["a b", "c\"d", "e\\"]),
        ] {
            assert_eq!(words(text).unwrap(), expected, "{text}");
        }
        for text in ["a \"b", "'", "a\\"] {
            assert!(words(text).is_err(), "{text}");
        }
    }
}
