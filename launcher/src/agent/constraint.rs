//! Where replicas may run: `--constraint KEY==VALUE` and `KEY!=VALUE`, all of which must hold. Case
//! does not count in values, as in Docker.

use super::host::Host;

const KEYS: [&str; 5] = [
    "node.id",
    "node.hostname",
    "node.role",
    "node.platform.os",
    "node.platform.arch",
];
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
    #[error("invalid placement preference {0:?}: expected spread=node.labels.NAME")]
    Preference(String),
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

/// Whether the host may run replicas with these constraints.
pub(super) fn allow(constraints: &[String], host: &Host) -> bool {
    constraints.iter().all(|text| {
        parse(text).is_ok_and(|constraint| {
            let is_equal = fact(constraint.key, host).eq_ignore_ascii_case(constraint.value);
            is_equal == constraint.is_equal
        })
    })
}

/// Empty of a label that the host has not.
pub(super) fn fact<'h>(key: &str, host: &'h Host) -> &'h str {
    match key {
        "node.id" => &host.id,
        "node.hostname" => &host.name,
        "node.role" => host.role.as_str(),
        "node.platform.os" => &host.os,
        "node.platform.arch" => &host.architecture,
        key => {
            let label = key.strip_prefix("node.labels.");
            let value = label.and_then(|label| host.labels.get(label));
            value.map_or("", String::as_str)
        }
    }
}

/// The label of `spread=node.labels.NAME`.
///
/// # Errors
/// [`ConstraintError`].
pub fn preference(text: &str) -> Result<&str, ConstraintError> {
    let label = text.strip_prefix("spread=").unwrap_or_default();
    let is_label = LABELS.into_iter().any(|prefix| {
        label
            .strip_prefix(prefix)
            .is_some_and(|name| !name.is_empty())
    });
    match is_label {
        true => Ok(label),
        false => Err(ConstraintError::Preference(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(texts: &[&str]) -> bool {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        check(&texts).unwrap();
        let mut host = Host::alone("Alpha");
        host.labels.insert("disk".to_owned(), "ssd".to_owned());
        allow(&texts, &host)
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
        assert!(allows(&["node.labels.disk==SSD", "node.labels.disk!=hdd"]));
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
        assert_eq!(
            preference("spread=node.labels.rack"),
            Ok("node.labels.rack")
        );
        for text in [
            "",
            "spread",
            "spread=",
            "spread=node.labels.",
            "binpack=node.labels.a",
        ] {
            let error = preference(text).unwrap_err().to_string();
            assert!(error.contains("expected spread="), "{text}");
        }
    }
}
