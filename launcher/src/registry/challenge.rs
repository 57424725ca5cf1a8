//! The challenges of a `WWW-Authenticate` header (RFC 9110, section 11.6.1).

use std::collections::BTreeMap;

/// How a registry wants to know who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with every request (RFC 7617).
    Basic,
    /// A token of the server `realm` (distribution specification, "token authentication").
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

/// The first challenge that this client can meet, a token before a password.
pub(super) fn choose<'h>(headers: impl Iterator<Item = &'h str>) -> Option<Challenge> {
    let mut known: Vec<Challenge> = headers.flat_map(parse).collect();
    let bearer = known
        .iter()
        .position(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    match bearer {
        Some(at) => Some(known.swap_remove(at)),
        None => known.pop(),
    }
}

/// One header may hold several challenges; those of unknown schemes are left out.
fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut scanner = Scanner(header);
    let mut scheme = String::new();
    let mut parameters = BTreeMap::new();
    while let Some(item) = scanner.next_item() {
        match item {
            Item::Scheme(next) => {
                challenges.extend(challenge(&scheme, &mut parameters));
                scheme = next;
            }
            Item::Parameter(name, value) => {
                parameters.entry(name).or_insert(value);
            }
        }
    }
    challenges.extend(challenge(&scheme, &mut parameters));
    challenges
}

fn challenge(scheme: &str, parameters: &mut BTreeMap<String, String>) -> Option<Challenge> {
    let mut parameters = std::mem::take(parameters);
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: parameters.remove("realm")?,
            service: parameters.remove("service"),
            scope: parameters.remove("scope"),
        }),
        _ => None,
    }
}

/// Lower case, but for values.
enum Item {
    Scheme(String),
    Parameter(String, String),
}

struct Scanner<'h>(&'h str);

impl Scanner<'_> {
    fn next_item(&mut self) -> Option<Item> {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
        let word = self.token()?.to_ascii_lowercase();
        let after = self.0.trim_start_matches([' ', '\t']);
        // `scheme token68=` is a form that neither of the known schemes has.
        match after.strip_prefix('=') {
            None => Some(Item::Scheme(word)),
            Some(rest) => {
                self.0 = rest.trim_start_matches([' ', '\t']);
                Some(Item::Parameter(word, self.value()))
            }
        }
    }

    fn token(&mut self) -> Option<&str> {
        let end = self
            .0
            .find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | ',' | '"'))
            .unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.0.strip_prefix('"') else {
            return self.token().unwrap_or_default().to_owned();
        };
        let mut value = String::new();
        let mut characters = quoted.chars();
        while let Some(character) = characters.next() {
            match character {
                '"' => break,
                '\\' => value.extend(characters.next()),
                other => value.push(other),
            }
        }
        self.0 = characters.as_str();
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn a_token_server_is_named_with_service_and_scope() {
        let header = r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
        assert_eq!(
            choose([header].into_iter()),
            Some(bearer(
                "https://auth.example/token",
                Some("r.example"),
                Some("repository:a/b:pull,push")
            ))
        );
    }

    #[test]
    fn spaces_case_order_and_escapes_do_not_matter() {
        let header = r#"  bEARER  SCOPE = "a\"b" , realm=https://x/t"#;
        assert_eq!(
            choose([header].into_iter()),
            Some(bearer("https://x/t", None, Some("a\"b")))
        );
    }

    #[test]
    fn of_several_a_token_is_preferred() {
        for headers in [
            &[r#"Basic realm="r", Bearer realm="https://t""#][..],
            &[r#"Basic realm="r""#, r#"Bearer realm="https://t""#][..],
            &[r#"Negotiate, Bearer realm="https://t", Basic realm="r""#][..],
        ] {
            assert_eq!(
                choose(headers.iter().copied()),
                Some(bearer("https://t", None, None)),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_met_is_none() {
        for header in [
            "",
            "Negotiate",
            "Digest realm=\"x\"",
            "Bearer",
            "=,=\"",
            "Bearer realm",
        ] {
            assert_eq!(choose([header].into_iter()), None, "{header:?}");
        }
        assert_eq!(choose(["Basic"].into_iter()), Some(Challenge::Basic));
    }
}
