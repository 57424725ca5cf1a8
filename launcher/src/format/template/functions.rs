//! The functions of a template.

use std::cmp::Ordering;

use serde_json::Value;

use super::TemplateError;
use super::eval::{is_true, kind_of};
use super::print;

const KNOWN: [&str; 23] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate", "upper",
];

pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// Calls `name`. `and` and `or` are the evaluator's, for they stop early.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let failed = |reason: String| TemplateError::Function {
        function: name.to_owned(),
        reason,
    };
    let result = match (name, arguments) {
        ("not", [value]) => Ok(Value::from(!is_true(value))),
        ("len", [value]) => length(value),
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), index),
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("print", values) => Ok(concatenated(values).into()),
        ("println", values) => {
            let texts: Vec<String> = values.iter().map(print::plain).collect();
            Ok(format!("{}\n", texts.join(" ")).into())
        }
        ("printf", [Value::String(format), values @ ..]) => {
            Ok(print::formatted(format, values).into())
        }
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            Ok(others.iter().any(|other| equal(first, other)).into())
        }
        ("ne", [a, b]) => Ok((!equal(a, b)).into()),
        ("lt" | "le" | "gt" | "ge", [a, b]) => compare(a, b).map(|order| {
            Value::from(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            })
        }),
        ("json", [value]) => Ok(print::json(value).into()),
        ("join", [Value::Array(values), Value::String(separator)]) => {
            let texts: Vec<String> = values.iter().map(print::plain).collect();
            Ok(texts.join(separator).into())
        }
        ("join", [Value::Null, Value::String(_)]) => Ok("".into()),
        ("split", [Value::String(text), Value::String(separator)]) => Ok(split(text, separator)),
        ("upper", [Value::String(text)]) => Ok(text.to_uppercase().into()),
        ("lower", [Value::String(text)]) => Ok(text.to_lowercase().into()),
        ("title", [Value::String(text)]) => Ok(title(text).into()),
        (
            "pad",
            [
                Value::String(text),
                Value::Number(before),
                Value::Number(after),
            ],
        ) => Ok(pad(text, before.as_u64(), after.as_u64()).into()),
        ("truncate", [Value::String(text), Value::Number(length)]) => {
            let length = length.as_u64().unwrap_or_default() as usize;
            Ok(text.chars().take(length).collect::<String>().into())
        }
        _ => Err(format!("wrong arguments: {}", kinds(arguments))),
    };
    result.map_err(failed)
}

fn kinds(arguments: &[Value]) -> String {
    let kinds: Vec<&str> = arguments.iter().map(kind_of).collect();
    kinds.join(", ")
}

fn length(value: &Value) -> Result<Value, String> {
    match value {
        Value::String(text) => Ok(text.len().into()),
        Value::Array(values) => Ok(values.len().into()),
        Value::Object(members) => Ok(members.len().into()),
        // A nil slice or map has none.
        Value::Null => Ok(0.into()),
        other => Err(format!("{} has no length", kind_of(other))),
    }
}

fn index(value: Value, key: &Value) -> Result<Value, String> {
    match (&value, key) {
        (Value::Object(members), Value::String(key)) => {
            Ok(members.get(key).cloned().unwrap_or_else(|| "".into()))
        }
        // A nil map has no keys; the zero value of what it would hold is the empty text.
        (Value::Null, Value::String(_)) => Ok("".into()),
        (Value::Array(values), Value::Number(position)) => position
            .as_u64()
            .and_then(|position| values.get(position as usize))
            .cloned()
            .ok_or_else(|| format!("index out of range: {position}")),
        _ => Err(format!(
            "cannot index {} by {}",
            kind_of(&value),
            kind_of(key)
        )),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let bound = |at: usize, missing: usize| match bounds.get(at) {
        None => Ok(missing),
        Some(bound) => bound
            .as_u64()
            .map(|bound| bound as usize)
            .ok_or_else(|| format!("bad bound {bound}")),
    };
    let range = |length: usize| {
        let (start, end) = (bound(0, 0)?, bound(1, length)?);
        if start <= end && end <= length {
            Ok(start..end)
        } else {
            Err(format!("bounds out of range [{start}:{end}] of {length}"))
        }
    };
    match value {
        Value::String(text) => text
            .get(range(text.len())?)
            .map(Value::from)
            .ok_or_else(|| "bounds cut a character".to_owned()),
        Value::Array(values) => Ok(values[range(values.len())?].to_vec().into()),
        other => Err(format!("cannot slice {}", kind_of(other))),
    }
}

/// Go's `Sprint` puts a space between two operands when neither is a text.
fn concatenated(values: &[Value]) -> String {
    let mut output = String::new();
    for (at, value) in values.iter().enumerate() {
        let spaced = at > 0 && !value.is_string() && !values[at - 1].is_string();
        if spaced {
            output.push(' ');
        }
        output.push_str(&print::plain(value));
    }
    output
}

fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, String> {
    let order = match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => a
            .as_f64()
            .zip(b.as_f64())
            .and_then(|(a, b)| a.partial_cmp(&b)),
    };
    order.ok_or_else(|| format!("cannot compare {} with {}", kind_of(a), kind_of(b)))
}

fn split(text: &str, separator: &str) -> Value {
    if separator.is_empty() {
        return text.chars().map(|c| c.to_string()).collect::<Value>();
    }
    text.split(separator).collect()
}

fn title(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    let mut starts = true;
    for c in text.chars() {
        if starts {
            output.extend(c.to_uppercase());
        } else {
            output.push(c);
        }
        starts = c.is_whitespace();
    }
    output
}

fn pad(text: &str, before: Option<u64>, after: Option<u64>) -> String {
    const MAX: u64 = 4096;
    let spaces = |count: Option<u64>| " ".repeat(count.unwrap_or_default().min(MAX) as usize);
    if text.is_empty() {
        return String::new();
    }
    format!("{}{text}{}", spaces(before), spaces(after))
}
