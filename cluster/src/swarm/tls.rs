//! How nodes speak before they know each other, and after.

use std::sync::Arc;

use api::id::NodeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::SwarmError;
use super::home::Papers;
use crate::authority::{digest, hex, unit};
use crate::node::Role;

fn failed(action: &'static str) -> impl Fn(Error) -> SwarmError {
    move |source| SwarmError::Tls { action, source }
}

/// What a manager shows to whoever connects: itself, and behind it all authorities that it trusts.
/// Whoever has a certificate may show it, too.
pub(super) fn server(papers: &Papers) -> Result<ServerConfig, SwarmError> {
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(trusting(certificates(&papers.authority)?)?);
    let members = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .allow_unauthenticated()
        .build();
    let members =
        members.map_err(|error| failed("verify members")(Error::General(error.to_string())))?;
    let (chain, key) = identity(papers)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed("choose a version of TLS"))?;
    config
        .with_client_cert_verifier(members)
        .with_single_cert(chain, key)
        .map_err(failed("use this node's certificate"))
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, SwarmError> {
    let parsed = CertificateDer::from_pem_slice(pem.as_bytes());
    parsed.map_err(|error| failed("read a certificate")(Error::General(error.to_string())))
}

/// All of a text that has one or several.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, SwarmError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    parsed.map_err(|error| failed("read a certificate")(Error::General(error.to_string())))
}

fn trusting(
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<RootCertStore, SwarmError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(failed("trust the authority"))?;
    }
    Ok(store)
}

/// The digest that a token has of an authority.
pub(super) fn digest_of(authority: &str) -> Result<[u8; 32], SwarmError> {
    Ok(digest(&certificate(authority)?))
}

/// The digests of all authorities in a text, as people read them.
pub(super) fn fingerprints(pem: &str) -> Result<Vec<String>, SwarmError> {
    let all = certificates(pem)?.into_iter();
    Ok(all.map(|root| hex(&digest(&root))).collect())
}

/// The digest of the authority that has given a node its certificate, of those that it trusts; nothing
/// of a certificate that is over.
pub(super) fn issuer(papers: &Papers) -> Result<Option<[u8; 32]>, SwarmError> {
    let own = certificate(&papers.certificate)?;
    for root in certificates(&papers.authority)? {
        let (digest, provider) = (digest(&root), Arc::new(ring::default_provider()));
        let store = Arc::new(trusting([root])?);
        let verifier = WebPkiClientVerifier::builder_with_provider(store, provider).build();
        let verifier = verifier
            .map_err(|error| failed("verify a certificate")(Error::General(error.to_string())))?;
        if verifier
            .verify_client_cert(&own, &[], UnixTime::now())
            .is_ok()
        {
            return Ok(Some(digest));
        }
    }
    Ok(None)
}

/// A node's certificate with those of its authorities behind it, and its key.
fn identity(
    papers: &Papers,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), SwarmError> {
    let mut chain = vec![certificate(&papers.certificate)?];
    chain.extend(certificates(&papers.authority)?);
    let key = PrivateKeyDer::from_pem_slice(papers.key.as_bytes())
        .map_err(|error| failed("read this node's key")(Error::General(error.to_string())))?;
    Ok((chain, key))
}

/// Whether a certificate, which has been verified, is that of `node`.
pub(super) fn is_of(shown: &CertificateDer<'_>, node: &NodeId) -> bool {
    let (Ok(name), Ok(shown)) = (node_name(node), ParsedCertificate::try_from(shown)) else {
        return false;
    };
    verify_server_name(&shown, &name).is_ok()
}

/// The same of a manager.
pub(super) fn is_manager(shown: &CertificateDer<'_>) -> bool {
    let shown = ParsedCertificate::try_from(shown);
    shown.is_ok_and(|shown| verify_server_name(&shown, &manager_name()).is_ok())
}

/// Whom a node trusts that connects to another one.
#[derive(Clone, Copy)]
pub(super) enum Trust<'p> {
    /// Whose authority has the digest of a join token.
    Token([u8; 32]),
    /// Members of the cluster that these are of, which are shown.
    Members(&'p Papers),
}

pub(super) fn client(trust: Trust<'_>) -> Result<ClientConfig, SwarmError> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed("choose a version of TLS"))?;
    match trust {
        Trust::Token(digest) => {
            let pinned = Arc::new(Pinned { digest, provider });
            let config = config.dangerous();
            Ok(config
                .with_custom_certificate_verifier(pinned)
                .with_no_client_auth())
        }
        Trust::Members(papers) => {
            let roots = trusting(certificates(&papers.authority)?)?;
            let (chain, key) = identity(papers)?;
            config
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .map_err(failed("use this node's certificate"))
        }
    }
}

/// The name that a manager's certificate has, wherever it is reached.
pub(super) fn manager_name() -> ServerName<'static> {
    ServerName::try_from(unit(Role::Manager)).expect("a name of the DNS")
}

/// The name that the certificate of a node has.
pub(super) fn node_name(node: &NodeId) -> Result<ServerName<'static>, SwarmError> {
    let name = ServerName::try_from(node.to_string());
    name.map_err(|error| failed("name a node")(Error::General(error.to_string())))
}

/// Of a chain, the certificate that the token speaks of.
fn authority_of<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
    wanted: &[u8; 32],
) -> Option<&'a CertificateDer<'b>> {
    chain.iter().find(|der| digest(der) == *wanted)
}

/// Verifies as usual, from the one root that the token names.
#[derive(Debug)]
struct Pinned {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(root) = authority_of(intermediates, &self.digest) else {
            return Err(Error::General(
                "it is not of the cluster that the token is for".to_owned(),
            ));
        };
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = verifier
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        let shown = verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now);
        match shown {
            // Two authorities may have one name.
            Err(Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) if intermediates.len() > 1 => Err(Error::General(
                "the authority of its cluster is being replaced: take the token that hawser \
                     swarm join-token prints there by now"
                    .to_owned(),
            )),
            shown => shown,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::authority::{Authority, KeyRequest, Subject};

    /// A manager with a certificate of `issuer`, which trusts all of `roots`.
    fn papers(issuer: &Authority, roots: &[&Authority]) -> Papers {
        let made = KeyRequest::make().unwrap();
        let subject = Subject {
            node: NodeId::from_bytes([1; 16]),
            role: Role::Manager,
            cluster: NodeId::from_bytes([2; 16]),
            addresses: Vec::new(),
        };
        let hour = Duration::from_secs(3600);
        Papers {
            authority: roots.iter().map(|root| root.certificate()).collect(),
            certificate: issuer.sign(&made.request, &subject, hour).unwrap(),
            key: made.key,
        }
    }

    /// What either side says against the other.
    fn meet(trust: Trust<'_>, shown: &Papers) -> Result<(), String> {
        let client = Arc::new(client(trust).unwrap());
        let mut client = ClientConnection::new(client, manager_name()).unwrap();
        let mut server = ServerConnection::new(Arc::new(server(shown).unwrap())).unwrap();
        for _ in 0..4 {
            let mut sent = Vec::new();
            client.write_tls(&mut sent).unwrap();
            server.read_tls(&mut sent.as_slice()).unwrap();
            server
                .process_new_packets()
                .map_err(|error| error.to_string())?;
            let mut answered = Vec::new();
            server.write_tls(&mut answered).unwrap();
            client.read_tls(&mut answered.as_slice()).unwrap();
            client
                .process_new_packets()
                .map_err(|error| error.to_string())?;
        }
        match client.is_handshaking() || server.is_handshaking() {
            true => Err("it does not end".to_owned()),
            false => Ok(()),
        }
    }

    fn digest_of(authority: &Authority) -> [u8; 32] {
        super::digest_of(authority.certificate()).unwrap()
    }

    #[test]
    fn members_of_two_authorities_meet_while_both_are_trusted() {
        let [old, new] = [(); 2].map(|()| Authority::create().unwrap());
        let both = [&old, &new];
        let all = both.map(|issuer| papers(issuer, &both));
        for (one, issuer) in all.iter().zip(both) {
            assert_eq!(issuer_of(one), Some(digest_of(issuer)));
            for other in &all {
                assert_eq!(meet(Trust::Members(one), other), Ok(()));
            }
        }
        let (last, after) = (papers(&old, &both), papers(&new, &[&new]));
        assert_eq!(meet(Trust::Members(&all[1]), &after), Ok(()));
        meet(Trust::Members(&last), &after).expect_err("it is of the one that is no more");
        meet(Trust::Members(&after), &last).expect_err("the same, the other way");
    }

    fn issuer_of(papers: &Papers) -> Option<[u8; 32]> {
        issuer(papers).unwrap()
    }

    #[test]
    fn a_token_of_the_other_authority_is_told_so() {
        let [old, new] = [(); 2].map(|()| Authority::create().unwrap());
        let tokens = [&old, &new].map(|authority| Trust::Token(digest_of(authority)));
        for (issuer, good, bad) in [(&old, 0, 1), (&new, 1, 0)] {
            let shown = papers(issuer, &[&old, &new]);
            assert_eq!(meet(tokens[good], &shown), Ok(()));
            let said = meet(tokens[bad], &shown).unwrap_err();
            assert!(said.contains("is being replaced"), "{said}");
        }
        let said = meet(tokens[0], &papers(&new, &[&new])).unwrap_err();
        assert!(said.contains("not of the cluster"), "{said}");
    }
}
