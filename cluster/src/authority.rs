//! Who may call itself a node: the cluster's certificate authority.
//!
//! A certificate names the node (CN), its role (OU) and the cluster (O), as Docker's do. Keys stay
//! where they were made: only requests travel.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use api::id::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::pem::{self, parse_x509_pem};

use crate::node::Role;

/// Docker's name for it.
const NAME: &str = "swarm-ca";
/// Twenty years.
const LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How far another node's clock may be behind.
const SKEW: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{action}: {source}")]
    Failed {
        action: &'static str,
        source: rcgen::Error,
    },
    #[error("the key is not that of the authority's certificate")]
    Key,
}

fn failed(action: &'static str) -> impl Fn(rcgen::Error) -> AuthorityError {
    move |source| AuthorityError::Failed { action, source }
}

/// A key and the certificate of it, which signs those of nodes.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// Whom a certificate is for.
#[derive(Debug, Clone)]
pub struct Subject {
    pub node: NodeId,
    pub role: Role,
    pub cluster: NodeId,
    /// Where others reach it.
    pub addresses: Vec<IpAddr>,
}

/// A key, and the request for a certificate of it. PEM.
#[derive(Clone)]
pub struct KeyRequest {
    pub key: String,
    pub request: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRequest").finish_non_exhaustive()
    }
}

impl KeyRequest {
    /// A new key of the curve P-256.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn make() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(failed("make a key"))?;
        let request = CertificateParams::default();
        let request = request.serialize_request(&key);
        let request = request.and_then(|request| request.pem());
        Ok(Self {
            key: key.serialize_pem(),
            request: request.map_err(failed("request a certificate"))?,
        })
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn create() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(failed("make the authority's key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = OffsetDateTime::now_utc();
        params.not_before = now - SKEW;
        params.not_after = now + LIFE;
        let certificate = params.self_signed(&key);
        let certificate = certificate.map_err(failed("sign the authority's certificate"))?;
        Ok(Self {
            certificate: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// # Errors
    /// [`AuthorityError`]: not a certificate and its key.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(failed("read the authority's key"))?;
        let is_its = parse_x509_pem(certificate.as_bytes()).is_ok_and(|(_, pem)| {
            let parsed = pem.parse_x509();
            parsed.is_ok_and(|parsed| {
                *parsed.public_key().subject_public_key.data == *key.public_key_raw()
            })
        });
        if !is_its {
            return Err(AuthorityError::Key);
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, key);
        Ok(Self {
            issuer: issuer.map_err(failed("read the authority's certificate"))?,
            certificate: certificate.to_owned(),
        })
    }

    /// One that somebody else has made, if it can be an authority.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn given(certificate: &str, key: &str) -> Result<Self, String> {
        let count = pem::Pem::iter_from_buffer(certificate.as_bytes()).count();
        if count != 1 {
            return Err(format!("expected one certificate in PEM, found {count}"));
        }
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).map_err(|error| error.to_string())?;
        let parsed = pem.parse_x509().map_err(|error| error.to_string())?;
        let constraints = parsed.basic_constraints();
        let constraints = constraints.map_err(|error| error.to_string())?;
        if !constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err("its certificate is not that of an authority (CA:TRUE)".to_owned());
        }
        let usage = parsed.key_usage().map_err(|error| error.to_string())?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err("its key may not sign certificates (keyCertSign)".to_owned());
        }
        if parsed.subject() != parsed.issuer() || parsed.verify_signature(None).is_err() {
            return Err("it has not signed itself".to_owned());
        }
        if !parsed.validity().is_valid() {
            return Err(format!(
                "its certificate is good from {} to {}",
                parsed.validity().not_before,
                parsed.validity().not_after
            ));
        }
        // As all others: nothing around it, and a line of its own behind it.
        let text = certificate
            .split_at(certificate.find("-----BEGIN").unwrap_or(0))
            .1;
        let text = format!("{}\n", text.trim_end());
        Self::from_pem(&text, key).map_err(|error| error.to_string())
    }

    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The certificate for the key of `request`, which says nothing else that counts.
    ///
    /// # Errors
    /// [`AuthorityError`]: not a request, or not signed by its own key.
    pub fn sign(
        &self,
        request: &str,
        subject: &Subject,
        expiry: Duration,
    ) -> Result<String, AuthorityError> {
        let request = CertificateSigningRequestParams::from_pem(request);
        let mut request = request.map_err(failed("read the request for a certificate"))?;
        let role = unit(subject.role);
        let params = &mut request.params;
        *params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in [
            (DnType::OrganizationName, subject.cluster.as_str()),
            (DnType::OrganizationalUnitName, role),
            (DnType::CommonName, subject.node.as_str()),
        ] {
            params.distinguished_name.push(kind, value);
        }
        let names = [role, subject.node.as_str()].map(|name| {
            let name = name.try_into();
            name.map(SanType::DnsName)
        });
        let names: Result<Vec<SanType>, rcgen::Error> = names.into_iter().collect();
        params.subject_alt_names = names.map_err(failed("name the node"))?;
        let addresses = subject.addresses.iter().copied();
        params
            .subject_alt_names
            .extend(addresses.map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A node serves and asks: etcd's members do both with one certificate.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let now = OffsetDateTime::now_utc();
        params.not_before = now - SKEW;
        params.not_after = now + expiry;
        let certificate = request.signed_by(&self.issuer);
        Ok(certificate.map_err(failed("sign a certificate"))?.pem())
    }
}

/// From when to when a certificate is good, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    begin: i64,
    end: i64,
}

impl Life {
    /// That of a certificate in PEM.
    pub(crate) fn of(certificate: &str) -> Result<Self, AuthorityError> {
        let unread = |_other| failed("read a certificate")(rcgen::Error::CouldNotParseCertificate);
        let (_, pem) =
            parse_x509_pem(certificate.as_bytes()).map_err(|error| unread(error.to_string()))?;
        let parsed = pem
            .parse_x509()
            .map_err(|error| unread(error.to_string()))?;
        let validity = parsed.validity();
        Ok(Self {
            begin: validity.not_before.timestamp() + SKEW.as_secs() as i64,
            end: validity.not_after.timestamp(),
        })
    }

    /// Whether `node` should have another one: each some time between the half and four fifths of its
    /// life, so that not all come at once.
    pub(crate) fn is_late(self, node: &NodeId) -> bool {
        self.is_late_at(OffsetDateTime::now_utc().unix_timestamp(), node)
    }

    fn is_late_at(self, now: i64, node: &NodeId) -> bool {
        let spread = node.as_str().bytes().map(i64::from).sum::<i64>() % 31;
        now - self.begin > (self.end - self.begin) * (50 + spread) / 100
    }
}

/// The organizational unit of a node's certificate, and a name that it answers to: Docker's words.
pub(crate) fn unit(role: Role) -> &'static str {
    match role {
        Role::Worker => "swarm-worker",
        Role::Manager => "swarm-manager",
    }
}

/// SHA-256 of a certificate: what a join token has of the authority's.
pub fn digest(certificate_der: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate_der).into()
}

/// Bytes as people read them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut all, byte| {
        // Writing to a text does not fail.
        let _written = write!(all, "{byte:02x}");
        all
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn id(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 16])
    }

    fn subject() -> Subject {
        Subject {
            node: id(1),
            role: Role::Worker,
            cluster: id(2),
            addresses: vec![[192, 0, 2, 1].into()],
        }
    }

    /// What openssl makes of certificates written to a directory of the test's.
    fn openssl(directory: &std::path::Path, arguments: &[&str]) -> (bool, String) {
        let output = Command::new("openssl")
            .current_dir(directory)
            .args(arguments)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_node_is_who_its_certificate_says() {
        let authority = Authority::create().unwrap();
        let again = Authority::from_pem(authority.certificate(), &authority.key()).unwrap();
        let made = KeyRequest::make().unwrap();
        let days = Duration::from_secs(90 * 86_400);
        let certificate = again.sign(&made.request, &subject(), days).unwrap();

        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("ca.pem", authority.certificate());
        write("node.pem", &certificate);
        write("other.pem", Authority::create().unwrap().certificate());
        let verify = |ca: &str, purpose: &str| {
            let arguments = ["verify", "-CAfile", ca, "-purpose", purpose, "node.pem"];
            openssl(directory.path(), &arguments).0
        };
        assert!(verify("ca.pem", "sslserver") && verify("ca.pem", "sslclient"));
        assert!(!verify("other.pem", "sslclient"), "another authority's");

        let arguments = ["x509", "-in", "node.pem", "-noout", "-text"];
        let (_ok, text) = openssl(directory.path(), &arguments);
        let (node, cluster) = (id(1), id(2));
        for expected in [
            "Issuer: CN = swarm-ca".to_owned(),
            format!("Subject: O = {cluster}, OU = swarm-worker, CN = {node}"),
            "Signature Algorithm: ecdsa-with-SHA256".to_owned(),
            format!("DNS:swarm-worker, DNS:{node}, IP Address:192.0.2.1"),
        ] {
            assert!(text.contains(&expected), "no {expected:?} in {text}");
        }
        assert!(!text.contains("CA:TRUE"));
    }

    #[test]
    fn certificates_are_renewed_in_the_second_half_of_their_lives() {
        let authority = Authority::create().unwrap();
        let made = KeyRequest::make().unwrap();
        let expiry = Duration::from_secs(1000);
        let certificate = authority.sign(&made.request, &subject(), expiry).unwrap();
        let life = Life::of(&certificate).unwrap();
        assert_eq!(life.end - life.begin, 1000);
        for byte in 0..=255 {
            let late = |after: i64| life.is_late_at(life.begin + after, &id(byte));
            assert!(!late(500) && late(801));
        }
        let late_at_650 = (0..=255).filter(|byte| life.is_late_at(life.begin + 650, &id(*byte)));
        assert!((1..255).contains(&late_at_650.count()), "not all at once");
        assert!(Life::of("nonsense").is_err());
    }

    #[test]
    fn an_authority_that_is_given_must_be_one() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, flags: &[&str]| {
            let files = [format!("{name}.key"), format!("{name}.crt")];
            let head = [
                "req", "-x509", "-nodes", "-subj", "/CN=ours", "-newkey", "ec",
            ];
            let tail = [
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-keyout",
                &files[0],
                "-out",
                &files[1],
            ];
            let made = openssl(directory.path(), &[&head[..], &tail, flags].concat());
            assert!(made.0, "{}", made.1);
            files.map(|file| std::fs::read_to_string(directory.path().join(file)).unwrap())
        };
        let [key, certificate] = make("good", &["-days", "9"]);
        let shown = format!("Certificate:\n    Data:\n{}", certificate.trim_end());
        let authority = Authority::given(&shown, &key).unwrap();
        assert_eq!(authority.certificate(), certificate);
        let made = KeyRequest::make().unwrap();
        let day = Duration::from_secs(86_400);
        let node = authority.sign(&made.request, &subject(), day).unwrap();
        std::fs::write(directory.path().join("node.pem"), &node).unwrap();
        let verify = [
            "verify",
            "-CAfile",
            "good.crt",
            "-purpose",
            "sslclient",
            "node.pem",
        ];
        assert!(openssl(directory.path(), &verify).0);

        let refused = |certificate: &str, key: &str, why: &str| {
            let said = Authority::given(certificate, key).unwrap_err();
            assert!(said.contains(why), "{said}");
        };
        let other = Authority::create().unwrap();
        refused(&certificate, &other.key(), "the key is not that of");
        refused(&certificate, "nonsense", "read the authority's key");
        refused("nonsense", &key, "expected one certificate");
        let two = format!("{certificate}{certificate}");
        refused(&two, &key, "expected one certificate in PEM, found 2");
        refused(&node, &made.key, "CA:TRUE");
        let [over, ended] = {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.not_after = OffsetDateTime::now_utc() - SKEW;
            let ended = params.self_signed(&key).unwrap();
            [key.serialize_pem(), ended.pem()]
        };
        refused(&ended, &over, "is good from");
        let usage = ["-addext", "keyUsage=digitalSignature"];
        let [key, wrong] = make("wrong", &usage);
        refused(&wrong, &key, "keyCertSign");
    }

    #[test]
    fn a_request_that_was_changed_is_refused() {
        let authority = Authority::create().unwrap();
        let day = Duration::from_secs(86_400);
        let made = KeyRequest::make().unwrap();
        let other = KeyRequest::make().unwrap();
        let lines = |pem: &str| pem.lines().map(str::to_owned).collect::<Vec<_>>();
        // The body of one and the end, with the signature, of another.
        let (mut mixed, end) = (lines(&made.request), lines(&other.request));
        let last = mixed.len() - 2;
        mixed[last] = end[last].clone();
        assert!(authority.sign(&mixed.join("\n"), &subject(), day).is_err());
        assert!(authority.sign("nonsense", &subject(), day).is_err());
    }
}
