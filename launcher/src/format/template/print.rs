//! How Go's `fmt` prints a value.

use serde_json::Value;

/// `%v`.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        other => nested(other),
    }
}

/// `%v` of something inside an array or a map.
fn nested(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Array(values) => {
            let texts: Vec<String> = values.iter().map(nested).collect();
            format!("[{}]", texts.join(" "))
        }
        Value::Object(members) => {
            let texts: Vec<String> = members
                .iter()
                .map(|(key, value)| format!("{key}:{}", nested(value)))
                .collect();
            format!("map[{}]", texts.join(" "))
        }
    }
}

/// JSON as Go encodes it: `<`, `>` and `&` stay, for Docker turns that escape off.
pub(super) fn json(value: &Value) -> String {
    value.to_string()
}

/// `printf`. A verb that does not fit prints as Go shows the mistake.
pub(super) fn formatted(format: &str, arguments: &[Value]) -> String {
    let mut output = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        output.push_str(&rest[..at]);
        let (verb, tail) = Verb::parse(&rest[at + 1..]);
        rest = tail;
        if verb.letter == '%' {
            output.push('%');
            continue;
        }
        match arguments.next() {
            Some(argument) => output.push_str(&verb.apply(argument)),
            None => output.push_str(&format!("%!{}(MISSING)", verb.letter)),
        }
    }
    output.push_str(rest);
    output
}

struct Verb {
    left: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    letter: char,
}

/// More padding than any terminal is wide is a typing error.
const MAX_WIDTH: usize = 4096;

impl Verb {
    fn parse(text: &str) -> (Self, &str) {
        let flags = text.len() - text.trim_start_matches(['-', '+', '#', ' ', '0']).len();
        let (width, rest) = digits(&text[flags..]);
        let (precision, rest) = match rest.strip_prefix('.') {
            Some(rest) => {
                let (precision, rest) = digits(rest);
                (Some(precision), rest)
            }
            None => (None, rest),
        };
        let letter = rest.chars().next().unwrap_or('%');
        let verb = Self {
            left: text[..flags].contains('-'),
            zero: text[..flags].contains('0'),
            width,
            precision,
            letter,
        };
        (verb, rest.get(letter.len_utf8()..).unwrap_or_default())
    }

    fn apply(&self, value: &Value) -> String {
        let text = match (self.letter, value) {
            ('v' | 's', Value::String(text)) => match self.precision {
                Some(precision) => text.chars().take(precision).collect(),
                None => text.clone(),
            },
            ('v' | 's', _) | ('d', Value::Number(_)) | ('t', Value::Bool(_)) => plain(value),
            ('q', _) => format!("{:?}", plain(value)),
            ('x', Value::Number(number)) => format!("{:x}", number.as_i64().unwrap_or_default()),
            ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            ('f', Value::Number(number)) => {
                let precision = self.precision.unwrap_or(6);
                format!("{:.precision$}", number.as_f64().unwrap_or_default())
            }
            (letter, _) => format!("%!{letter}({})", plain(value)),
        };
        let width = self.width.min(MAX_WIDTH);
        match value {
            _ if self.left => format!("{text:<width$}"),
            Value::Number(_) if self.zero => format!("{text:0>width$}"),
            _ => format!("{text:>width$}"),
        }
    }
}

fn digits(text: &str) -> (usize, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (text[..end].parse().unwrap_or_default(), &text[end..])
}
