//! Which server a URL means, and where a redirect leads.

use ureq::http::Uri;

/// What of a URL decides who gets credentials: scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) secure: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// None for anything but `http` and `https` with a host.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        // Credentials in a URL would be sent by a later part unseen.
        if authority.as_str().contains('@') {
            return None;
        }
        Some(Self {
            secure,
            host: authority.host().to_ascii_lowercase(),
            port: authority
                .port_u16()
                .unwrap_or(if secure { 443 } else { 80 }),
        })
    }
}

/// The URL that a `Location` means (RFC 9110, section 10.2.2), of which registries use absolute ones
/// and those that begin with the path.
pub(super) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let absolute = if location.starts_with("//") {
        format!("{}:{location}", base.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{}://{}{location}", base.scheme_str()?, base.authority()?)
    } else {
        location.to_owned()
    };
    let uri: Uri = absolute.parse().ok()?;
    Origin::of(&uri).map(|_| uri)
}

/// A URL with one more query parameter, whose value needs no escape.
pub(super) fn with_query(uri: &Uri, name: &str, value: &str) -> String {
    let mark = match uri.query() {
        None => '?',
        Some(_) => '&',
    };
    format!("{uri}{mark}{name}={value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let of = |text| Origin::of(&uri(text));
        assert_eq!(of("https://a.example/x"), of("https://A.example:443/y?z"));
        assert_ne!(of("https://a.example/"), of("http://a.example/"));
        assert_ne!(of("https://a.example/"), of("https://a.example:444/"));
        assert_eq!(of("https://me:secret@a.example/"), None);
        assert_eq!(of("ftp://a.example/"), None);
        assert_eq!(of("/only/a/path"), None);
    }

    #[test]
    fn locations_are_absolute_or_begin_with_the_path() {
        let base = uri("http://r:5000/v2/a/blobs/uploads/");
        let resolved = |location| resolve(&base, location).map(|uri| uri.to_string());
        for (location, expected) in [
            ("/v2/a?x=1", Some("http://r:5000/v2/a?x=1")),
            ("https://cdn.example/b", Some("https://cdn.example/b")),
            ("//cdn.example/b", Some("http://cdn.example/b")),
            ("file:///etc/passwd", None),
            ("http://r:5000/\r\nX: y", None),
            ("", None),
        ] {
            assert_eq!(resolved(location).as_deref(), expected, "{location:?}");
        }
    }

    #[test]
    fn a_parameter_joins_others() {
        let with = |text| with_query(&uri(text), "digest", "sha256:00");
        assert_eq!(with("http://r/u"), "http://r/u?digest=sha256:00");
        assert_eq!(with("http://r/u?s=1"), "http://r/u?s=1&digest=sha256:00");
    }
}
