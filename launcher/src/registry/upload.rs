//! Blobs and manifests on their way to a registry.

use std::io::{self, Read};

use api::id::Digest;
use sha2::{Digest as _, Sha256};
use ureq::SendBody;
use ureq::http::header::CONTENT_TYPE;
use ureq::http::{Method, Uri};

use super::authority::with_query;
use super::error::RegistryError;
use super::repository::Repository;
use super::transport::patiently;

/// What a stream turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub digest: Digest,
    pub size: u64,
}

impl Repository {
    /// # Errors
    /// The registry cannot say.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        patiently(|| {
            let response = self.fetch(&Method::HEAD, &url, &[])?;
            match response.status().as_u16() {
                404 => Ok(false),
                _ => self.fine(response, digest.as_str()).map(|_| true),
            }
        })
    }

    /// Takes a blob over from another repository of the registry; false if that cannot be.
    ///
    /// # Errors
    /// The registry refuses uploads.
    pub fn mount_blob(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let query = format!(
            "blobs/uploads/?mount={digest}&from={}",
            api::client::escape(from)
        );
        let url = self.url(&query)?;
        let response = self.send(&Method::POST, &url, &[], b"")?;
        let response = self.fine(response, "the upload")?;
        if response.status().as_u16() == 201 {
            return Ok(true);
        }
        // It began an upload instead, which nobody will go on with.
        if let Ok(session) = self.location(&url, &response) {
            drop(self.send(&Method::DELETE, &session, &[], b""));
        }
        Ok(false)
    }

    /// Sends a blob that is in memory.
    ///
    /// # Errors
    /// The registry refuses it.
    pub fn put_blob(&self, content: &[u8]) -> Result<Sent, RegistryError> {
        let digest = Digest::from_sha256(Sha256::digest(content).into());
        if !self.has_blob(&digest)? {
            patiently(|| {
                let session = self.begin()?;
                self.finish(&session, &digest, content)
            })?;
        }
        Ok(Sent {
            digest,
            size: content.len() as u64,
        })
    }

    /// Sends a stream, whose digest is known at its end. It is dropped before `ended_well` is asked
    /// whether it was whole; of one that was not the registry keeps nothing.
    ///
    /// # Errors
    /// The registry refuses it, or `ended_well` does.
    pub fn put_stream<E: From<RegistryError>>(
        &self,
        stream: impl Read,
        ended_well: impl FnOnce() -> Result<(), E>,
    ) -> Result<Sent, E> {
        let session = self.begin()?;
        let mut hashed = Hashed {
            stream,
            hash: Sha256::new(),
            size: 0,
        };
        let kind = (CONTENT_TYPE, "application/octet-stream".to_owned());
        let body = SendBody::from_reader(&mut hashed);
        let sent = self.send_body(&Method::PATCH, &session, &[kind], body);
        let Hashed { stream, hash, size } = hashed;
        drop(stream);
        let whole = ended_well();
        let response = self.fine(sent?, "the upload")?;
        let session = self.location(&session, &response)?;
        if let Err(error) = whole {
            // A session that stays is dropped by the registry some day.
            drop(self.send(&Method::DELETE, &session, &[], b""));
            return Err(error);
        }
        let digest = Digest::from_sha256(hash.finalize().into());
        self.finish(&session, &digest, b"")?;
        Ok(Sent { digest, size })
    }

    /// Gives an image its tag.
    ///
    /// # Errors
    /// The registry refuses it.
    pub fn put_manifest(
        &self,
        tag: &str,
        media_type: &str,
        content: &[u8],
    ) -> Result<Digest, RegistryError> {
        let url = self.url(&format!("manifests/{tag}"))?;
        let kind = [(CONTENT_TYPE, media_type.to_owned())];
        patiently(|| {
            let response = self.send(&Method::PUT, &url, &kind, content)?;
            self.fine(response, "the manifest").map(drop)
        })?;
        Ok(Digest::from_sha256(Sha256::digest(content).into()))
    }

    /// Where the upload goes on.
    fn begin(&self) -> Result<Uri, RegistryError> {
        let url = self.url("blobs/uploads/")?;
        patiently(|| {
            let response = self.send(&Method::POST, &url, &[], b"")?;
            let response = self.fine(response, "the upload")?;
            self.location(&url, &response)
        })
    }

    fn finish(&self, session: &Uri, digest: &Digest, content: &[u8]) -> Result<(), RegistryError> {
        let url = with_query(session, "digest", &api::client::escape(digest.as_str()));
        let url = url
            .parse()
            .map_err(|error| self.protocol(&format!("cannot go on at {url}: {error}")))?;
        let kind = [(CONTENT_TYPE, "application/octet-stream".to_owned())];
        let response = self.send(&Method::PUT, &url, &kind, content)?;
        self.fine(response, "the end of the upload").map(drop)
    }
}

struct Hashed<R> {
    stream: R,
    hash: Sha256,
    size: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.size += read as u64;
        Ok(read)
    }
}
