//! One request, one reply: timeouts, certificates and patience.

use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use ureq::http::header::RETRY_AFTER;
use ureq::http::{HeaderMap, HeaderName, Method, Request, Response, Uri};
use ureq::{Agent, Body, SendBody};

use super::error::RegistryError;
use super::roots;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a peer that neither sends nor takes anything.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A server may ask for more than that, and does not get it.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Headers of a request; a value with a line break in it is refused when the request is built.
pub(super) type Headers<'h> = &'h [(HeaderName, String)];

#[derive(Debug)]
pub(super) struct Transport {
    agent: Agent,
    /// For errors.
    host: String,
}

impl Transport {
    /// Certificates are those for `host`.
    pub(super) fn new(host: &str, is_verified: bool) -> Result<Self, RegistryError> {
        let config = Agent::config_builder()
            .tls_config(roots::tls(host, is_verified)?)
            .http_status_as_error(false)
            // Who gets credentials is decided anew for each of them.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .timeout_per_write(Some(STALL_TIMEOUT))
            .user_agent(concat!("hawser/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            host: host.to_owned(),
        })
    }

    pub(super) fn send(
        &self,
        method: &Method,
        url: &Uri,
        headers: Headers<'_>,
        body: SendBody<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .body(body)
            .map_err(|error| RegistryError::Protocol {
                host: self.host.clone(),
                reason: format!("cannot ask for {url}: {error}"),
            })?;
        self.agent
            .run(request)
            .map_err(|source| RegistryError::Reach {
                host: self.host.clone(),
                source,
            })
    }
}

/// Tries again what failed for the moment, each time after twice the pause.
pub(super) fn patiently<T>(
    mut attempt: impl FnMut() -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    for failures in 0..ATTEMPTS - 1 {
        match attempt() {
            Err(error) if error.is_transient() => pause(failures, &error),
            outcome => return outcome,
        }
    }
    attempt()
}

/// Before the next attempt after so many failures, the last of which is `error`.
pub(super) fn pause(failures: u32, error: &RegistryError) {
    let own = FIRST_PAUSE * 2_u32.pow(failures.min(ATTEMPTS));
    let asked = error.retry_after().unwrap_or_default();
    thread::sleep(own.max(asked.min(MAX_PAUSE)));
}

/// The pause that a server asks for, in seconds or by the time of its end (RFC 9110 §10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let end = rfc2822::parse(text).ok()?.timestamp();
    Duration::try_from(end.duration_since(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_by_its_end() {
        let now = Timestamp::from_second(784_111_777).unwrap();
        let asked = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        let end = "Sun, 06 Nov 1994 08:49:42 GMT";
        assert_eq!(asked(end), Some(Duration::from_secs(5)));
        for nothing in ["", "-1", "soon", "Sun, 06 Nov 1994 08:49:00 GMT"] {
            assert_eq!(asked(nothing), None, "{nothing}");
        }
    }
}
