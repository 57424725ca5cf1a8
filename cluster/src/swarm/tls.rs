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
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};

use super::SwarmError;
use super::home::Papers;
use crate::authority::{digest, unit};
use crate::node::Role;

fn failed(action: &'static str) -> impl Fn(Error) -> SwarmError {
    move |source| SwarmError::Tls { action, source }
}

/// What a manager shows to whoever connects: itself, and its authority behind it. Whoever has a
/// certificate may show it, too.
pub(super) fn server(papers: &Papers) -> Result<ServerConfig, SwarmError> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    let root = certificate(&papers.authority)?;
    roots.add(root).map_err(failed("trust the authority"))?;
    let members =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
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

/// The digest that a token has of an authority.
pub(super) fn digest_of(authority: &str) -> Result<[u8; 32], SwarmError> {
    Ok(digest(&certificate(authority)?))
}

/// A node's certificate with its authority's behind it, and its key.
fn identity(
    papers: &Papers,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), SwarmError> {
    let chain = vec![
        certificate(&papers.certificate)?,
        certificate(&papers.authority)?,
    ];
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

/// Trusts managers whose authority has this digest: that of a join token. A member shows its `papers`.
pub(super) fn client(
    digest: [u8; 32],
    papers: Option<&Papers>,
) -> Result<ClientConfig, SwarmError> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed("choose a version of TLS"))?;
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { digest, provider }));
    let Some(papers) = papers else {
        return Ok(config.with_no_client_auth());
    };
    let (chain, key) = identity(papers)?;
    config
        .with_client_auth_cert(chain, key)
        .map_err(failed("use this node's certificate"))
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
pub(super) fn authority_of<'a, 'b>(
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
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
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
