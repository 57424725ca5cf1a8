//! Debian's registry, unpacked and never installed, on a throwaway host.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::docker::peer;
use crate::{Host, wait};

const START_LIMIT: Duration = Duration::from_secs(30);

/// Of a [`Guard`]: `me` with the password `pass`, by bcrypt at its least cost.
pub const LOGIN: &str = "me:$2b$04$abcdefghijklmnopqrstuufznL8bkzdtHwLhca4To/v9Lo9bA7fR6";

/// A registry that is ended when this is dropped.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    directory: tempfile::TempDir,
    address: String,
}

/// What a registry asks of its clients.
#[derive(Debug, Clone, Copy, Default)]
pub struct Guard<'g> {
    /// A line of an htpasswd file: `NAME:HASH`.
    pub login: Option<&'g str>,
    /// The certificate's and the key's file.
    pub certificate: Option<(&'g Path, &'g Path)>,
    /// The authority of its clients' certificates, which they must show then.
    pub clients: Option<&'g Path>,
}

impl Registry {
    /// Starts a registry on `127.0.0.1:PORT` of `host`.
    ///
    /// # Errors
    /// When it does not start, in its last words.
    pub fn start(host: &Arc<Host>, port: u16, guard: Guard<'_>) -> Result<Self> {
        Self::at(host, &format!("127.0.0.1:{port}"), guard)
    }

    /// The same on any `ADDRESS:PORT` of `host`.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn at(host: &Arc<Host>, address: &str, guard: Guard<'_>) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("hawser-registry-")
            .tempdir_in("/var/tmp")
            .context("directory of the registry")?;
        let root = directory.path();
        let config = root.join("config.yml");
        fs::write(&config, settings(root, address, guard)?).context("registry configuration")?;
        let log = File::create(root.join("log")).context("log of the registry")?;
        let process = host
            .command(peer("usr/bin/docker-registry")?)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("log of the registry")?)
            .stderr(log)
            .spawn()
            .context("docker-registry")?;
        let mut registry = Self {
            process,
            directory,
            address: address.to_owned(),
        };
        registry.await_start()?;
        Ok(registry)
    }

    fn await_start(&mut self) -> Result<()> {
        let ready = wait::until(START_LIMIT, "the registry listens", || {
            let is_there = matches!(self.process.try_wait(), Ok(None));
            // It says so when the socket is there.
            let listens = self.log().contains("listening on");
            (listens || !is_there).then_some(listens && is_there)
        });
        match ready {
            Ok(true) => Ok(()),
            _ => bail!("docker-registry does not start:\n{}", self.log()),
        }
    }

    /// `ADDRESS:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Where it keeps blobs: a directory for each, with the file `data`.
    pub fn blobs(&self) -> std::path::PathBuf {
        self.directory
            .path()
            .join("data/docker/registry/v2/blobs/sha256")
    }
}

fn settings(root: &Path, address: &str, guard: Guard<'_>) -> Result<String> {
    let mut text = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: {address}\n",
        root.join("data").display()
    );
    if let Some((certificate, key)) = guard.certificate {
        text.push_str(&format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            certificate.display(),
            key.display()
        ));
        if let Some(authority) = guard.clients {
            text.push_str(&format!("    clientcas: [{}]\n", authority.display()));
        }
    }
    if let Some(login) = guard.login {
        let path = root.join("htpasswd");
        let mut file = File::create(&path).context("htpasswd")?;
        writeln!(file, "{login}").context("htpasswd")?;
        text.push_str(&format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            path.display()
        ));
    }
    Ok(text)
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It keeps nothing that a sudden end would harm.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
