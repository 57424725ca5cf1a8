//! A blob as it comes: checked against its digest at the end, and gone on with where a connection
//! broke.

use std::io::{self, Read};

use api::id::Digest;
use sha2::{Digest as _, Sha256};
use ureq::BodyReader;

use super::error::RegistryError;
use super::manifest::Descriptor;
use super::repository::Repository;
use super::transport::pause;

const MAX_FAILURES: u32 = 5;
/// So much must have come for failures of before to be forgotten.
const PROGRESS: u64 = 1 << 20;

/// Reads a blob; it ends well only if every byte was the right one, so that whoever passes it on
/// must not take it for whole before.
pub struct BlobReader<'r> {
    repository: &'r Repository,
    descriptor: &'r Descriptor,
    body: Option<BodyReader<'static>>,
    offset: u64,
    hash: Sha256,
    failures: u32,
    failed_at: u64,
    failure: Option<RegistryError>,
    /// Told how much has come.
    seen: &'r (dyn Fn(u64) + Sync),
}

impl std::fmt::Debug for BlobReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobReader({}, {})", self.descriptor.digest, self.offset)
    }
}

impl<'r> BlobReader<'r> {
    pub fn new(
        repository: &'r Repository,
        descriptor: &'r Descriptor,
        seen: &'r (dyn Fn(u64) + Sync),
    ) -> Self {
        Self {
            repository,
            descriptor,
            body: None,
            offset: 0,
            hash: Sha256::new(),
            failures: 0,
            failed_at: 0,
            failure: None,
            seen,
        }
    }

    /// Why a read failed, in better words than an I/O error's.
    pub fn take_failure(&mut self) -> Option<RegistryError> {
        self.failure.take()
    }

    fn step(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        let left = self.descriptor.size - self.offset;
        if left == 0 {
            return self.check().map(|()| 0);
        }
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open()?,
        };
        let exchange = |source| RegistryError::Exchange {
            host: self.repository.host().to_owned(),
            op: "read a layer",
            source,
        };
        match body.read(&mut buffer[..wanted]) {
            Ok(0) => Err(exchange(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => {
                self.body = Some(body);
                self.hash.update(&buffer[..read]);
                self.offset += read as u64;
                (self.seen)(self.offset);
                Ok(read)
            }
            Err(source) => Err(exchange(source)),
        }
    }

    fn open(&self) -> Result<BodyReader<'static>, RegistryError> {
        let response = self.repository.blob(&self.descriptor.digest, self.offset)?;
        let is_partial = response.status().as_u16() == 206;
        let range = response.headers().get("content-range");
        let start = format!("bytes {}-", self.offset);
        let continues = range
            .and_then(|range| range.to_str().ok())
            .is_some_and(|range| range.starts_with(&start));
        if is_partial && !continues {
            return Err(self
                .repository
                .protocol("it sent another range than was asked for"));
        }
        let mut body = response.into_body().into_reader();
        if !is_partial && self.offset > 0 {
            // It knows no ranges: the start comes again, and is thrown away.
            let skipped = io::copy(&mut body.by_ref().take(self.offset), &mut io::sink());
            let exchange = |source| RegistryError::Exchange {
                host: self.repository.host().to_owned(),
                op: "read a layer again",
                source,
            };
            if skipped.map_err(exchange)? < self.offset {
                return Err(exchange(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(body)
    }

    fn check(&mut self) -> Result<(), RegistryError> {
        let actual = Digest::from_sha256(self.hash.clone().finalize().into());
        if actual == self.descriptor.digest {
            return Ok(());
        }
        let wanted = self.descriptor.digest.clone();
        Err(self.repository.forged("a layer", wanted, actual))
    }

    /// Whether another attempt is worth it.
    fn bears(&mut self, error: &RegistryError) -> bool {
        if self.offset - self.failed_at >= PROGRESS {
            self.failures = 0;
        }
        self.failed_at = self.offset;
        self.failures += 1;
        error.is_transient() && self.failures < MAX_FAILURES
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match self.step(buffer) {
                Ok(read) => return Ok(read),
                Err(error) if self.bears(&error) => pause(self.failures - 1, &error),
                Err(error) => {
                    let told = io::Error::other(error.to_string());
                    self.failure = Some(error);
                    return Err(told);
                }
            }
        }
    }
}
