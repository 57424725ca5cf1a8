//! How a repository's registry learns who asks: a password with every request, or a token.

use std::sync::PoisonError;

use api::client::escape;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ureq::http::{Method, Uri};
use ureq::{AsSendBody, SendBody};

use super::Repository;
use crate::registry::authority::Origin;
use crate::registry::challenge::Challenge;
use crate::registry::credential::Credential;
use crate::registry::error::RegistryError;
use crate::registry::transport::Transport;

impl Repository {
    /// Meets the registry's challenge.
    pub(super) fn authorize(&self) -> Result<(), RegistryError> {
        let value = match (&self.challenge, &self.credential) {
            (None, _) | (Some(Challenge::Basic), None) => None,
            (Some(Challenge::Basic), Some(Credential::Password { user, password })) => {
                Some(basic(user, password))
            }
            (Some(Challenge::Basic), Some(Credential::Token(_))) => {
                return Err(
                    self.protocol("the login kept for it is a token, but it wants a password")
                );
            }
            (
                Some(Challenge::Bearer {
                    realm,
                    service,
                    scope,
                }),
                credential,
            ) => {
                let token = self.token(
                    realm,
                    service.as_deref(),
                    scope.as_deref(),
                    credential.as_ref(),
                )?;
                Some(format!("Bearer {token}"))
            }
        };
        *self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = value;
        Ok(())
    }

    /// Asks the token server (distribution specification, "token authentication" and "OAuth 2").
    fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let bad = || self.protocol(&format!("its token server {realm:?} is no URL"));
        let server: Uri = realm.parse().map_err(|_invalid| bad())?;
        let origin = Origin::of(&server).ok_or_else(bad)?;
        if self.endpoint.is_secure() && !origin.secure {
            return Err(self.protocol("its token server does not use https"));
        }
        // Trusting a registry without a certificate is no reason to trust another host.
        let is_verified = self.endpoint.is_verified || server.host() != self.host_name();
        let transport = Transport::new(server.authority().map_or("", |a| a.as_str()), is_verified)?;
        let mut parameters: Vec<(&str, &str)> = Vec::new();
        parameters.extend(service.map(|service| ("service", service)));
        if self.scopes.is_empty() {
            parameters.extend(scope.map(|scope| ("scope", scope)));
        }
        parameters.extend(self.scopes.iter().map(|scope| ("scope", scope.as_str())));
        let response = match credential {
            Some(Credential::Token(token)) => {
                parameters.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "hawser"),
                    ("refresh_token", token),
                ]);
                let form = query(&parameters);
                let kind = "application/x-www-form-urlencoded".to_owned();
                let mut body = form.as_bytes();
                transport.send(
                    &Method::POST,
                    &server,
                    &[(CONTENT_TYPE, kind)],
                    body.as_body(),
                )?
            }
            other => {
                let mut headers = Vec::new();
                if let Some(Credential::Password { user, password }) = other {
                    parameters.push(("account", user));
                    headers.push((AUTHORIZATION, basic(user, password)));
                }
                let mark = if server.query().is_some() { '&' } else { '?' };
                let url = format!("{server}{mark}{}", query(&parameters));
                let url = url.parse().map_err(|_invalid| bad())?;
                transport.send(&Method::GET, &url, &headers, SendBody::none())?
            }
        };
        if matches!(response.status().as_u16(), 400 | 401 | 403) {
            return Err(match credential {
                Some(_) => RegistryError::Login {
                    host: self.host().to_owned(),
                },
                None => self.denied(),
            });
        }
        let response = self.fine(response, "the request for a token")?;
        let answer: Answer = self.json(response, "the token")?;
        let token = answer.token.or(answer.access_token).unwrap_or_default();
        if token.is_empty() {
            return Err(self.protocol("its token server gave no token"));
        }
        Ok(token)
    }

    fn host_name(&self) -> Option<&str> {
        Some(self.host().split(':').next().unwrap_or_default())
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn query(parameters: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_escaped() {
        assert_eq!(
            query(&[("scope", "repository:a/b:pull,push"), ("service", "a&b=c")]),
            "scope=repository%3Aa%2Fb%3Apull%2Cpush&service=a%26b%3Dc"
        );
    }
}
