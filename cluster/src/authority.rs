//! Who may call itself a node: the cluster's certificate authority.
//!
//! A certificate names the node (CN), its role (OU) and the cluster (O), as Docker's do. Keys stay
//! where they were made: only requests travel.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use api::id::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::node::Role;

/// Docker's name for it.
const NAME: &str = "swarm-ca";
/// Twenty years.
const LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How far another node's clock may be behind.
const SKEW: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
#[error("{action}: {source}")]
pub struct AuthorityError {
    action: &'static str,
    source: rcgen::Error,
}

fn failed(action: &'static str) -> impl Fn(rcgen::Error) -> AuthorityError {
    move |source| AuthorityError { action, source }
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
        let issuer = Issuer::from_ca_cert_pem(certificate, key);
        Ok(Self {
            issuer: issuer.map_err(failed("read the authority's certificate"))?,
            certificate: certificate.to_owned(),
        })
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
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
            .map_err(|error| unread(error.to_string()))?;
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
