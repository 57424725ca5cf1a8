//! What a node keeps of its cluster on its own disk.
//!
//! ```text
//! swarm/state.json                        which cluster, as whom, where
//! swarm/certificates/swarm-root-ca.crt    the cluster's authority; two while one takes the other's place
//! swarm/certificates/swarm-node.crt       this node
//! swarm/certificates/swarm-node.key       its key, which never leaves it
//! swarm/certificates/swarm-node.key.sealed
//!                                         the same of a manager that must be unlocked: the key is then
//!                                         a link to where it is in memory
//! swarm/certificates/swarm-node.next      all of these, while they are replaced
//! swarm/etcd                              the data of the etcd that a manager runs
//! swarm/etcd.log                          what that has to say
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use api::id::NodeId;
use api::swarm::EtcdAddress;
use serde::{Deserialize, Serialize};

use super::SwarmError;
use super::lock::{Lock, UnlockKey};
use crate::node::Role;

const STATE: &str = "state.json";
const CERTIFICATES: &str = "certificates";
const AUTHORITY: &str = "swarm-root-ca.crt";
const CERTIFICATE: &str = "swarm-node.crt";
const KEY: &str = "swarm-node.key";
const SEALED: &str = "swarm-node.key.sealed";
const NEXT: &str = "swarm-node.next";
const ETCD: &str = "etcd";
const ETCD_LOG: &str = "etcd.log";

/// The directory `swarm` of the state directory.
#[derive(Debug, Clone)]
pub(super) struct Home {
    path: PathBuf,
    /// Where keys are that are not to be on a disk.
    run: PathBuf,
    /// What this node's key is sealed with on the disk, if it is.
    pub(super) lock: Lock,
}

/// Which cluster this node is in, as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) cluster: NodeId,
    pub(super) node: NodeId,
    pub(super) role: Role,
    pub(super) etcd: EtcdAddress,
    /// The managers run it.
    pub(super) own_etcd: bool,
    /// Where it takes requests to join, as a manager.
    pub(super) listen: SocketAddr,
    /// Where others reach it then.
    pub(super) advertise: SocketAddr,
    pub(super) data_address: IpAddr,
    pub(super) data_port: u16,
}

/// A node's own certificate, its key and the authorities that it trusts. PEM.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Papers {
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Papers that take the place of others.
#[derive(Serialize, Deserialize)]
struct Next {
    papers: Papers,
    /// The key is.
    sealed: bool,
}

/// Where the same are.
#[derive(Debug, Clone)]
pub(super) struct CertificateFiles {
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Home {
    pub(super) fn new(path: PathBuf, run: PathBuf) -> Self {
        let lock = Lock::default();
        Self { path, run, lock }
    }

    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    pub(super) fn etcd(&self) -> PathBuf {
        self.path.join(ETCD)
    }

    pub(super) fn etcd_log(&self) -> PathBuf {
        self.path.join(ETCD_LOG)
    }

    pub(super) fn certificate_files(&self) -> CertificateFiles {
        let file = |name| self.path.join(CERTIFICATES).join(name);
        CertificateFiles {
            ca: file(AUTHORITY),
            certificate: file(CERTIFICATE),
            key: file(KEY),
        }
    }

    /// Nothing when the node is in no cluster.
    pub(super) fn state(&self) -> Result<Option<State>, SwarmError> {
        let path = self.path.join(STATE);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", &path)(error)),
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(state) => Ok(Some(state)),
                Err(error) => Err(self.failed("read", &path)(error.into())),
            },
        }
    }

    pub(super) fn papers(&self) -> Result<Papers, SwarmError> {
        let read = |name: &str| {
            let path = self.path.join(CERTIFICATES).join(name);
            fs::read_to_string(&path).map_err(self.failed("read", &path))
        };
        Ok(Papers {
            authority: read(AUTHORITY)?,
            certificate: read(CERTIFICATE)?,
            key: read(KEY)?,
        })
    }

    /// Durable. Whoever is ended in between finds them next to the ones before ([`Self::settle`]): a
    /// certificate without its key would be of no use.
    pub(super) fn keep_papers(&self, papers: &Papers) -> Result<(), SwarmError> {
        let certificates = self.path.join(CERTIFICATES);
        let mut directory = DirBuilder::new();
        directory.recursive(true).mode(0o700);
        let made = directory.create(&certificates);
        made.map_err(self.failed("make", &certificates))?;
        let unlock = self.lock.key();
        let mut next = papers.clone();
        if let Some(unlock) = &unlock {
            next.key = unlock.seal(KEY, &papers.key)?;
        }
        let path = certificates.join(NEXT);
        let next = Next {
            papers: next,
            sealed: unlock.is_some(),
        };
        let text = super::record::write(&next);
        replace(&path, text.as_bytes()).map_err(self.failed("write", &path))?;
        self.take_next(&next)?;
        match next.sealed {
            true => self.show_key(&papers.key),
            false => self.gone([fs::remove_dir_all(&self.run), Ok(())]),
        }
    }

    /// Takes what somebody was about to keep who was ended.
    pub(super) fn settle(&self) -> Result<(), SwarmError> {
        let path = self.path.join(CERTIFICATES).join(NEXT);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            text => text.map_err(self.failed("read", &path))?,
        };
        let next = serde_json::from_slice(&text);
        let next = next.map_err(|error| self.failed("read", &path)(error.into()))?;
        self.take_next(&next)
    }

    fn take_next(&self, next: &Next) -> Result<(), SwarmError> {
        let file = |name| self.path.join(CERTIFICATES).join(name);
        let papers = &next.papers;
        let key = if next.sealed { SEALED } else { KEY };
        for (name, text) in [
            (AUTHORITY, &papers.authority),
            (CERTIFICATE, &papers.certificate),
            (key, &papers.key),
        ] {
            let path = file(name);
            replace(&path, text.as_bytes()).map_err(self.failed("write", &path))?;
        }
        let sealed = match next.sealed {
            true => Ok(()),
            false => fs::remove_file(file(SEALED)),
        };
        self.gone([sealed, Ok(())])?;
        self.gone([fs::remove_file(file(NEXT)), Ok(())])
    }

    /// Durable: whom this node trusts.
    pub(super) fn keep_roots(&self, roots: &str) -> Result<(), SwarmError> {
        let path = self.path.join(CERTIFICATES).join(AUTHORITY);
        replace(&path, roots.as_bytes()).map_err(self.failed("write", &path))
    }

    /// The key is where etcd looks for it, as long as the host runs.
    fn show_key(&self, key: &str) -> Result<(), SwarmError> {
        let mut directory = DirBuilder::new();
        let made = directory.recursive(true).mode(0o700).create(&self.run);
        made.map_err(self.failed("make", &self.run))?;
        let shown = self.run.join(KEY);
        replace(&shown, key.as_bytes()).map_err(self.failed("write", &shown))?;
        let path = self.path.join(CERTIFICATES).join(KEY);
        link(&shown, &path).map_err(self.failed("write", &path))
    }

    /// Whether this node's key is sealed.
    pub(super) fn is_sealed(&self) -> bool {
        self.path.join(CERTIFICATES).join(SEALED).exists()
    }

    /// What was sealed can be read again.
    pub(super) fn unlock(&self, unlock: &UnlockKey) -> Result<(), SwarmError> {
        let path = self.path.join(CERTIFICATES).join(SEALED);
        let sealed = fs::read_to_string(&path).map_err(self.failed("read", &path))?;
        let key = unlock.open(KEY, &sealed).ok_or(SwarmError::WrongKey)?;
        self.show_key(&key)?;
        self.lock.set(Some(unlock.clone()));
        Ok(())
    }

    /// Durable. With it, and not before, the node is in a cluster: its papers are there.
    pub(super) fn keep_state(&self, state: &State) -> Result<(), SwarmError> {
        let path = self.path.join(STATE);
        let text = serde_json::to_vec_pretty(state).map_err(io::Error::from);
        let written = text.and_then(|text| replace(&path, &text));
        written.map_err(self.failed("write", &path))
    }

    /// The node is in no cluster any more. The state goes first.
    pub(super) fn clear(&self) -> Result<(), SwarmError> {
        let state = self.path.join(STATE);
        self.lock.set(None);
        self.gone([fs::remove_dir_all(&self.run), Ok(())])?;
        self.gone([fs::remove_file(&state), fs::remove_dir_all(&self.path)])
    }

    /// The node has no part of the store any more.
    pub(super) fn clear_store(&self) -> Result<(), SwarmError> {
        self.gone([
            fs::remove_dir_all(self.etcd()),
            fs::remove_file(self.etcd_log()),
        ])
    }

    fn gone(&self, removed: [io::Result<()>; 2]) -> Result<(), SwarmError> {
        for removed in removed {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("remove", &self.path)(error));
                }
                _removed_or_absent => {}
            }
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SwarmError {
        let path = path.to_owned();
        move |source| SwarmError::Disk {
            action,
            path,
            source,
        }
    }
}

/// `path` leads to `target`, at once.
fn link(target: &Path, path: &Path) -> io::Result<()> {
    let part = path.with_extension("part");
    match fs::remove_file(&part) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _removed_or_absent => {}
    }
    symlink(target, &part)?;
    fs::rename(&part, path)?;
    sync_directory(path)
}

/// Nobody but root reads it: keys are among these files.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    sync_directory(path)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn papers_belong_together_whoever_is_ended_while_they_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let papers = |number: u8| Papers {
            authority: format!("authority {number}"),
            certificate: format!("certificate {number}"),
            key: format!("key {number}"),
        };
        let home = Home::new(path("swarm"), path("run"));
        home.keep_papers(&papers(1)).unwrap();
        // As it is left by one that was ended.
        let next = Next {
            papers: papers(2),
            sealed: false,
        };
        let certificates = path("swarm").join(CERTIFICATES);
        fs::write(certificates.join(NEXT), super::super::record::write(&next)).unwrap();
        fs::write(certificates.join(CERTIFICATE), "certificate 2").unwrap();
        home.settle().unwrap();
        let found = home.papers().unwrap();
        let found = [found.authority, found.certificate, found.key];
        assert_eq!(found, ["authority 2", "certificate 2", "key 2"]);
        assert!(!certificates.join(NEXT).exists());
        home.settle().unwrap();

        let unlock = UnlockKey::random().unwrap();
        home.lock.set(Some(unlock.clone()));
        home.keep_papers(&papers(3)).unwrap();
        assert!(home.is_sealed() && !certificates.join(NEXT).exists());
        assert_eq!(home.papers().unwrap().key, "key 3");
        let text = fs::read_to_string(certificates.join(SEALED)).unwrap();
        assert_eq!(unlock.open(KEY, &text).as_deref(), Some("key 3"));
        home.lock.set(None);
        home.keep_papers(&papers(4)).unwrap();
        assert!(!home.is_sealed());
        assert_eq!(home.papers().unwrap().key, "key 4");
        assert!(!path("run").exists());
    }
}
