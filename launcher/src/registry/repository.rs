//! A repository of a registry that was reached, for whoever is logged in.

mod reply;
pub(super) mod search;
mod token;

use std::sync::{Mutex, PoisonError};

use api::id::Digest;
use api::reference::Selector;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LINK, LOCATION, WWW_AUTHENTICATE};
use ureq::http::{HeaderName, Method, Response, Uri};
use ureq::{AsSendBody, Body, SendBody};

use super::authority::{Origin, resolve};
use super::challenge::{self, Challenge};
use super::credential::Credential;
use super::endpoint::Endpoint;
use super::error::{RegistryError, is_transient};
use super::manifest::{ACCEPTED, Descriptor, Document, MAX_MANIFEST};
use super::transport::{Headers, Transport, patiently};

const MAX_REDIRECTS: usize = 5;
/// Lists of tags come in pages.
const MAX_PAGES: usize = 1000;

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
        self.pages(self.url("tags/list")?, "the list of tags", |page: Page| {
            tags.extend(page.tags.unwrap_or_default());
            true
        })?;
        Ok(tags)
    }

    /// Reads a list page by page, for as long as `take` wants more.
    fn pages<P: DeserializeOwned>(
        &self,
        mut url: Uri,
        what: &'static str,
        mut take: impl FnMut(P) -> bool,
    ) -> Result<(), RegistryError> {
        for _ in 0..MAX_PAGES {
            let (page, next) = patiently(|| {
                let response = self.fetch(&Method::GET, &url, &[])?;
                let response = self.fine(response, &self.path)?;
                let next = next_page(&url, header(&response, &LINK));
                Ok((self.json::<P>(response, what)?, next))
            })?;
            let wants_more = take(page);
            match next.filter(|_| wants_more) {
                // The list is this registry's; a page elsewhere would be somebody else's.
                Some(next) if Origin::of(&next).as_ref() == Some(&self.origin) => url = next,
                _ => return Ok(()),
            }
        }
        Err(self.protocol(&format!("{what} has no end")))
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
        content: &[u8],
    ) -> Result<Response<Body>, RegistryError> {
        let ask = || {
            let mut content = content;
            match *method {
                Method::POST | Method::PUT | Method::PATCH => {
                    self.send_body(method, url, headers, content.as_body())
                }
                _ => self.send_body(method, url, headers, SendBody::none()),
            }
        };
        let first = ask()?;
        let is_ours = Origin::of(url).as_ref() == Some(&self.origin);
        if first.status().as_u16() != 401 || !is_ours || self.challenge.is_none() {
            return Ok(first);
        }
        self.authorize()?;
        ask()
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

pub(super) fn header<'r>(response: &'r Response<Body>, name: &HeaderName) -> &'r str {
    let value = response.headers().get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// `Link: <URL>; rel="next"` (RFC 8288).
fn next_page(at: &Uri, link: &str) -> Option<Uri> {
    let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
    parameters.contains("next").then(|| resolve(at, target))?
}

#[cfg(test)]
mod tests {
    use super::*;

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
