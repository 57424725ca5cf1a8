//! Where replicas may run: `--constraint KEY==VALUE` and `KEY!=VALUE`, all of which must hold. Case
//! does not count in values, as in Docker.

/// What Docker says of a replica that no host may run.
pub(super) const NO_SUITABLE_NODE: &str =
    "no suitable node (scheduling constraints not satisfied on 1 node)";

const KEYS: [&str; 5] = [
    "node.id",
    "node.hostname",
    "node.role",
    "node.platform.os",
    "node.platform.arch",
];
/// A host has no labels, so that each is empty.
const LABELS: [&str; 2] = ["node.labels.", "engine.labels."];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    #[error("invalid constraint {0:?}: expected KEY==VALUE or KEY!=VALUE")]
    Text(String),
    #[error(
        "invalid constraint {text:?}: expected one of {keys}, node.labels.NAME and \
         engine.labels.NAME, not {key:?}",
        keys = KEYS.join(", ")
    )]
    Key { text: String, key: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Constraint<'t> {
    key: &'t str,
    is_equal: bool,
    value: &'t str,
}

fn parse(text: &str) -> Result<Constraint<'_>, ConstraintError> {
    let split = |operator| text.split_once(operator).map(|parts| (parts, operator));
    // The first of the two counts: a value may have the other.
    let found = [split("=="), split("!=")];
    let first = found.into_iter().flatten();
    let first = first.min_by_key(|((key, _), _)| key.len());
    let ((key, value), operator) = first.ok_or_else(|| ConstraintError::Text(text.to_owned()))?;
    let (key, value) = (key.trim(), value.trim());
    if value.is_empty() {
        return Err(ConstraintError::Text(text.to_owned()));
    }
    let names_label = |prefix: &str| key.len() > prefix.len() && key.starts_with(prefix);
    if !KEYS.contains(&key) && !LABELS.into_iter().any(names_label) {
        return Err(ConstraintError::Key {
            text: text.to_owned(),
            key: key.to_owned(),
        });
    }
    Ok(Constraint {
        key,
        is_equal: operator == "==",
        value,
    })
}

/// Whether the constraints can be understood.
///
/// # Errors
/// [`ConstraintError`] of the first that cannot.
pub fn check(constraints: &[String]) -> Result<(), ConstraintError> {
    constraints
        .iter()
        .try_for_each(|text| parse(text).map(drop))
}

/// Whether the host called `node` may run replicas with these constraints.
pub(super) fn allow(constraints: &[String], node: &str) -> bool {
    constraints.iter().all(|text| {
        parse(text).is_ok_and(|constraint| {
            let is_equal = fact(constraint.key, node).eq_ignore_ascii_case(constraint.value);
            is_equal == constraint.is_equal
        })
    })
}

fn fact<'n>(key: &str, node: &'n str) -> &'n str {
    match key {
        "node.id" | "node.hostname" => node,
        // The one host there is decides what runs.
        "node.role" => "manager",
        "node.platform.os" => std::env::consts::OS,
        "node.platform.arch" => std::env::consts::ARCH,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(texts: &[&str]) -> bool {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        check(&texts).unwrap();
        allow(&texts, "Alpha")
    }

    #[test]
    fn all_must_hold() {
        assert!(allows(&[]));
        assert!(allows(&["node.hostname==alpha", "node.role == manager"]));
        assert!(!allows(&["node.hostname==alpha", "node.role==worker"]));
        assert!(!allows(&["node.hostname!=ALPHA"]));
        assert!(allows(&["node.platform.os==linux"]));
    }

    #[test]
    fn a_label_that_a_host_has_not_is_none() {
        assert!(!allows(&["node.labels.zone==east"]));
        assert!(allows(&["node.labels.zone!=east", "engine.labels.a.b!=="]));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        let error = |text: &str| check(&[text.to_owned()]).unwrap_err().to_string();
        for text in ["", "node.hostname", "node.hostname=alpha", "node.id=="] {
            assert!(error(text).contains("expected KEY==VALUE"), "{text}");
        }
        for text in ["node.name==a", "==a", "node.labels.==a"] {
            assert!(error(text).contains("expected one of node.id, "), "{text}");
        }
    }
}
