//! What a registry answers: success or not, within bounds.

use std::io::Read;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::Body;
use ureq::http::Response;

use super::Repository;
use crate::registry::error::RegistryError;
use crate::registry::transport;

/// Of a token, an error or a list of tags.
const MAX_ANSWER: u64 = 1 << 20;
/// What of a registry's own words is shown.
const MAX_MESSAGE: usize = 300;

impl Repository {
    /// The reply if it is a success, else what it says.
    pub(in crate::registry) fn fine(
        &self,
        response: Response<Body>,
        what: &str,
    ) -> Result<Response<Body>, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        match status.as_u16() {
            401 | 403 => return Err(self.denied()),
            404 => {
                return Err(RegistryError::NotFound {
                    host: self.host().to_owned(),
                    what: what.to_owned(),
                });
            }
            _ => {}
        }
        let retry_after = transport::retry_after(response.headers(), Timestamp::now());
        // What it says is for people; without, the status has to do.
        let body = self
            .read(response, "the error", MAX_ANSWER)
            .unwrap_or_default();
        Err(RegistryError::Status {
            host: self.host().to_owned(),
            what: what.to_owned(),
            status: status.as_u16(),
            message: message(&body),
            retry_after,
        })
    }

    pub(super) fn json<T: DeserializeOwned>(
        &self,
        response: Response<Body>,
        what: &'static str,
    ) -> Result<T, RegistryError> {
        let bytes = self.read(response, what, MAX_ANSWER)?;
        serde_json::from_slice(&bytes).map_err(|source| RegistryError::Json {
            host: self.host().to_owned(),
            what,
            source,
        })
    }

    pub(super) fn read(
        &self,
        response: Response<Body>,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let body = response.into_body().into_reader();
        body.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| RegistryError::Exchange {
                host: self.host().to_owned(),
                op: "read the reply",
                source,
            })?;
        if bytes.len() as u64 > limit {
            return Err(RegistryError::TooLarge {
                host: self.host().to_owned(),
                what,
                limit,
            });
        }
        Ok(bytes)
    }
}

/// A registry's own words (distribution specification, "error codes"), for one line on a terminal.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Single>,
    }
    #[derive(Deserialize)]
    struct Single {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(known) => known
            .errors
            .first()
            .map(|error| format!("{}: {}", error.code, error.message))
            .unwrap_or_default(),
        Err(_other_text) => String::from_utf8_lossy(body).into_owned(),
    };
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_MESSAGE)
        .collect();
    if line.is_empty() {
        line
    } else {
        format!(": {line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registrys_words_fit_on_a_line() {
        let said = |text: &str| message(text.as_bytes());
        assert_eq!(
            said(r#"{"errors":[{"code":"DENIED","message":"no\nway\u001b[31m"}]}"#),
            ": DENIED: no way[31m"
        );
        assert_eq!(said("busy\r\n"), ": busy");
        assert_eq!(said(""), "");
        assert_eq!(said(&"x".repeat(5000)).len(), MAX_MESSAGE + 2);
    }
}
