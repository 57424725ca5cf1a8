//! Which certificates are trusted: the host's, and those put beside a registry's name as for Docker:
//! `/etc/docker/certs.d/HOST[:PORT]/*.crt`, and a client's own `NAME.cert` with `NAME.key`.

use std::fs;
use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::error::RegistryError;

/// Where distributions keep all authorities in one file.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const CERTS_DIRS: [&str; 2] = ["/etc/hawser/certs.d", "/etc/docker/certs.d"];

/// How a registry proves itself, and this host to it.
pub(super) fn tls(host: &str, is_verified: bool) -> Result<TlsConfig, RegistryError> {
    let (mut authorities, client) = private(host)?;
    let builder = TlsConfig::builder()
        .client_cert(client)
        .disable_verification(!is_verified);
    let system = system()?;
    let roots = if system.is_empty() && authorities.is_empty() {
        // A host without the package ca-certificates.
        RootCerts::WebPki
    } else {
        authorities.extend(system);
        RootCerts::from(authorities)
    };
    Ok(builder.root_certs(roots).build())
}

fn system() -> Result<Vec<Certificate<'static>>, RegistryError> {
    match system_authorities() {
        Some(path) => certificates(&path),
        None => Ok(Vec::new()),
    }
}

/// The file of the authorities that this host trusts.
pub(crate) fn system_authorities() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = BUNDLES.iter().map(PathBuf::from);
    named.into_iter().chain(usual).find(|path| path.exists())
}

type Private = (Vec<Certificate<'static>>, Option<ClientCert>);

fn private(host: &str) -> Result<Private, RegistryError> {
    let mut authorities = Vec::new();
    let mut client = None;
    for dir in CERTS_DIRS {
        // A host is of letters, digits, dots, hyphens and a port: one component.
        let (more, own) = private_in(&Path::new(dir).join(host))?;
        authorities.extend(more);
        client = client.or(own);
    }
    Ok((authorities, client))
}

fn private_in(dir: &Path) -> Result<Private, RegistryError> {
    let mut private = Private::default();
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(private);
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => private.0.extend(certificates(&path)?),
            Some("cert") => {
                let key = key(&path.with_extension("key"))?;
                private.1 = Some(ClientCert::new_with_certs(&certificates(&path)?, key));
            }
            _ => {}
        }
    }
    Ok(private)
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let pem = read(path)?;
    let found = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(refused(path, &error.to_string()))),
    });
    found.collect()
}

fn key(path: &Path) -> Result<PrivateKey<'static>, RegistryError> {
    PrivateKey::from_pem(&read(path)?).map_err(|error| refused(path, &error.to_string()))
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    fs::read(path).map_err(|source| RegistryError::File {
        path: path.to_owned(),
        source,
    })
}

fn refused(path: &Path, reason: &str) -> RegistryError {
    RegistryError::Certificate {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}
