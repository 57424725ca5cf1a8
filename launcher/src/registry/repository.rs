//! A repository of a registry that was reached, for whoever is logged in.

use std::io::Read;
use std::sync::{Mutex, PoisonError};

use api::client::escape;
use api::id::Digest;
use api::reference::Selector;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LINK, LOCATION, WWW_AUTHENTICATE};
use ureq::http::{HeaderName, Method, Response, Uri};
use ureq::{Body, SendBody};

use super::authority::{Origin, resolve};
use super::challenge::{self, Challenge};
use super::credential::Credential;
use super::endpoint::Endpoint;
use super::error::{RegistryError, is_transient};
use super::manifest::{ACCEPTED, Descriptor, Document, MAX_MANIFEST};
use super::transport::{Headers, Transport, patiently};

const MAX_REDIRECTS: usize = 5;
/// Of a token, an error or a list of tags.
const MAX_ANSWER: u64 = 1 << 20;
/// Lists of tags come in pages.
const MAX_PAGES: usize = 1000;
/// What of a registry's own words is shown.
const MAX_MESSAGE: usize = 300;

#[derive(Debug)]
pub struct Repository {
    endpoint: Endpoint,
    origin: Origin,
    transport: Transport,
    path: String,
    scopes: Vec<String>,
    credential: Option<Credential>,
    challenge: Option<Challenge>,
    /// Value of the header, once it is known.
    authorization: Mutex<Option<String>>,
}

impl Repository {
    /// Asks the registry whether it is one, and gets leave for `scopes` if it wants that.
    ///
    /// # Errors
    /// It cannot be reached, is none, or refuses the login.
    pub fn connect(
        endpoint: &Endpoint,
        path: &str,
        scopes: Vec<String>,
        credential: Option<Credential>,
    ) -> Result<Self, RegistryError> {
        let root = format!("{}/v2/", endpoint.base);
        let no_url = || RegistryError::Protocol {
            host: endpoint.host.clone(),
            reason: format!("{} is no URL of a registry", endpoint.base),
        };
        let url: Uri = root.parse().map_err(|_invalid| no_url())?;
        let mut repository = Self {
            origin: Origin::of(&url).ok_or_else(no_url)?,
            transport: Transport::new(&endpoint.host, endpoint.is_verified)?,
            endpoint: endpoint.clone(),
            path: path.to_owned(),
            scopes,
            credential,
            challenge: None,
            authorization: Mutex::new(None),
        };
        repository.greet(&url)?;
        Ok(repository)
    }

    fn greet(&mut self, url: &Uri) -> Result<(), RegistryError> {
        let ask = || {
            self.transport
                .send(&Method::GET, url, &[], SendBody::none())
        };
        let response = match ask()? {
            busy if is_transient(busy.status().as_u16()) => {
                patiently(|| self.fine(ask()?, "/v2/"))?
            }
            response => response,
        };
        match response.status().as_u16() {
            200 => return Ok(()),
            401 => {}
            status => {
                return Err(RegistryError::Protocol {
                    host: self.host().to_owned(),
                    reason: format!("this is no registry: it answered {status} to /v2/"),
                });
            }
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges = headers.iter().filter_map(|header| header.to_str().ok());
        self.challenge = challenge::choose(challenges);
        if self.challenge.is_none() {
            return Err(self.protocol("it wants a login of a kind unknown here"));
        }
        patiently(|| self.authorize())?;
        Ok(())
    }

    pub fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// Whether a login, if there is one, was accepted.
    ///
    /// # Errors
    /// [`RegistryError::Login`].
    pub fn check_login(&self) -> Result<(), RegistryError> {
        let response = self.fetch(&Method::GET, &self.url_of("/v2/")?, &[])?;
        match response.status().as_u16() {
            200 => Ok(()),
            401 | 403 => Err(RegistryError::Login {
                host: self.host().to_owned(),
            }),
            _ => self.fine(response, "/v2/").map(drop),
        }
    }

    /// # Errors
    /// There is none, it is too large, or it is not what its digest says.
    pub fn manifest(&self, selector: &Selector) -> Result<Document, RegistryError> {
        let url = self.url(&format!("manifests/{selector}"))?;
        let accepted = [(ACCEPT, ACCEPTED.join(", "))];
        let what = format!("{}:{selector}", self.path);
        patiently(|| {
            let response = self.fetch(&Method::GET, &url, &accepted)?;
            let response = self.fine(response, &what)?;
            let media_type = header(&response, &CONTENT_TYPE).to_owned();
            let bytes = self.read(response, "the manifest", MAX_MANIFEST)?;
            let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
            match selector {
                Selector::Digest(wanted) if *wanted != digest => {
                    Err(self.forged("the manifest", wanted.clone(), digest))
                }
                _ => Ok(Document::new(bytes, &media_type, digest)),
            }
        })
    }

    /// A blob that is read into memory, such as a configuration.
    ///
    /// # Errors
    /// As [`Self::manifest`].
    pub fn small_blob(
        &self,
        descriptor: &Descriptor,
        what: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        patiently(|| {
            let response = self.blob(&descriptor.digest, 0)?;
            let bytes = self.read(response, what, limit.min(descriptor.size))?;
            let digest = Digest::from_sha256(Sha256::digest(&bytes).into());
            if digest == descriptor.digest {
                Ok(bytes)
            } else {
                Err(self.forged(what, descriptor.digest.clone(), digest))
            }
        })
    }

    /// The bytes of a blob from `offset` on, if the server can do that, else from the start: the
    /// status tells.
    pub(super) fn blob(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<Response<Body>, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let range = (ureq::http::header::RANGE, format!("bytes={offset}-"));
        let headers = if offset == 0 { &[][..] } else { &[range][..] };
        self.fine(self.fetch(&Method::GET, &url, headers)?, digest.as_str())
    }

    /// All tags, in the registry's order.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut url = self.url("tags/list")?;
        for _ in 0..MAX_PAGES {
            let (page, next) = patiently(|| {
                let response = self.fetch(&Method::GET, &url, &[])?;
                let response = self.fine(response, &self.path)?;
                let next = next_page(&url, header(&response, &LINK));
                Ok((self.json::<Page>(response, "the list of tags")?, next))
            })?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                // The list is this registry's; a page elsewhere would be somebody else's.
                Some(next) if Origin::of(&next).as_ref() == Some(&self.origin) => url = next,
                _ => return Ok(tags),
            }
        }
        Err(self.protocol("its list of tags has no end"))
    }

    pub(super) fn url(&self, rest: &str) -> Result<Uri, RegistryError> {
        self.url_of(&format!("/v2/{}/{rest}", self.path))
    }

    fn url_of(&self, path: &str) -> Result<Uri, RegistryError> {
        format!("{}{path}", self.endpoint.base)
            .parse()
            .map_err(|error| self.protocol(&format!("cannot ask for {path}: {error}")))
    }

    /// Follows redirects, each without credentials for another server.
    pub(super) fn fetch(
        &self,
        method: &Method,
        url: &Uri,
        headers: Headers<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut at = url.clone();
        for _ in 0..MAX_REDIRECTS {
            let response = self.send(method, &at, headers, b"")?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let next = self.location(&at, &response)?;
            let is_downgrade =
                at.scheme_str() == Some("https") && next.scheme_str() != Some("https");
            if is_downgrade {
                return Err(self.protocol(&format!("it redirects from https to {next}")));
            }
            at = next;
        }
        Err(self.protocol("it redirects in circles"))
    }

    /// Where a reply says to go on.
    pub(super) fn location(
        &self,
        at: &Uri,
        response: &Response<Body>,
    ) -> Result<Uri, RegistryError> {
        let location = header(response, &LOCATION);
        resolve(at, location).ok_or_else(|| self.protocol(&format!("it redirects to {location:?}")))
    }

    /// One request with a body that can be sent again: a token may have run out meanwhile.
    pub(super) fn send(
        &self,
        method: &Method,
        url: &Uri,
        headers: Headers<'_>,
        mut body: &[u8],
    ) -> Result<Response<Body>, RegistryError> {
        let content = body;
        let ask = |body: SendBody<'_>| self.send_body(method, url, headers, body);
        let first = if content.is_empty() && !method_has_body(method) {
            ask(SendBody::none())?
        } else {
            ask(ureq::AsSendBody::as_body(&mut body))?
        };
        let is_ours = Origin::of(url).as_ref() == Some(&self.origin);
        if first.status().as_u16() != 401 || !is_ours || self.challenge.is_none() {
            return Ok(first);
        }
        self.authorize()?;
        let mut body = content;
        if content.is_empty() && !method_has_body(method) {
            ask(SendBody::none())
        } else {
            ask(ureq::AsSendBody::as_body(&mut body))
        }
    }

    pub(super) fn send_body(
        &self,
        method: &Method,
        url: &Uri,
        headers: Headers<'_>,
        body: SendBody<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut headers = headers.to_vec();
        if Origin::of(url).as_ref() == Some(&self.origin) {
            headers.extend(self.authorization().map(|value| (AUTHORIZATION, value)));
        }
        self.transport.send(method, url, &headers, body)
    }

    fn authorization(&self) -> Option<String> {
        let known = self.authorization.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Meets the registry's challenge.
    fn authorize(&self) -> Result<(), RegistryError> {
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
                    ureq::AsSendBody::as_body(&mut body),
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

    /// The reply if it is a success, else what it says.
    pub(super) fn fine(
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
        // What it says is for people; without, the status has to do.
        let body = self
            .read(response, "the error", MAX_ANSWER)
            .unwrap_or_default();
        Err(RegistryError::Status {
            host: self.host().to_owned(),
            what: what.to_owned(),
            status: status.as_u16(),
            message: message(&body),
        })
    }

    fn json<T: DeserializeOwned>(
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

    fn read(
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

    pub(super) fn forged(
        &self,
        what: &'static str,
        wanted: Digest,
        actual: Digest,
    ) -> RegistryError {
        RegistryError::Digest {
            host: self.host().to_owned(),
            what,
            wanted,
            actual,
        }
    }

    fn denied(&self) -> RegistryError {
        RegistryError::Denied {
            host: self.host().to_owned(),
            repository: self.path.clone(),
        }
    }

    pub(super) fn protocol(&self, reason: &str) -> RegistryError {
        RegistryError::Protocol {
            host: self.host().to_owned(),
            reason: reason.to_owned(),
        }
    }
}

fn method_has_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

pub(super) fn header<'r>(response: &'r Response<Body>, name: &HeaderName) -> &'r str {
    let value = response.headers().get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
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

/// `Link: <URL>; rel="next"` (RFC 8288).
fn next_page(at: &Uri, link: &str) -> Option<Uri> {
    let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
    parameters.contains("next").then(|| resolve(at, target))?
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

    #[test]
    fn parameters_are_escaped() {
        assert_eq!(
            query(&[("scope", "repository:a/b:pull,push"), ("service", "a&b=c")]),
            "scope=repository%3Aa%2Fb%3Apull%2Cpush&service=a%26b%3Dc"
        );
    }

    #[test]
    fn the_next_page_is_where_the_link_says() {
        let at: Uri = "https://r/v2/a/tags/list".parse().unwrap();
        let next = |link| next_page(&at, link).map(|uri| uri.to_string());
        assert_eq!(
            next(r#"</v2/a/tags/list?last=x&n=5>; rel="next""#).as_deref(),
            Some("https://r/v2/a/tags/list?last=x&n=5")
        );
        assert_eq!(next(""), None);
        assert_eq!(next(r#"</v2/a>; rel="last""#), None);
    }
}
