//! The etcd that a manager runs: the distribution's program, as a process that needs no daemon.
//!
//! It is found by what it was started with, in the daemon's own namespaces, so that there is no moment
//! at which it runs and nobody knows of it. It listens with mutual TLS alone, as the node that it is on.

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use api::id::NodeId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::home::{CertificateFiles, Home};
use super::{Program, SwarmError, tls};
use crate::authority::unit;
use crate::node::Role;

/// IANA's ports of etcd, for its clients and for its members.
const CLIENTS: u16 = 2379;
const PEERS: u16 = 2380;
/// What the kernel calls it.
const NAME: &str = "etcd";
/// How long it may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the keeper looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(500);
/// Between its end and its next start; twice as long each time that it does not live.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// One that has lived so long has started well.
const LIVES: Duration = Duration::from_secs(60);
/// Says in its environment whom it trusts, which it reads at its start alone.
const ROOTS: &str = "HAWSER_ROOTS";
/// When its log begins anew.
const LOG: u64 = 1 << 20;

/// One etcd, running or not.
#[derive(Debug, Clone)]
pub(super) struct Server {
    program: Program,
    node: NodeId,
    cluster: NodeId,
    data: PathBuf,
    log: PathBuf,
    certificates: CertificateFiles,
    listen: IpAddr,
    advertise: IpAddr,
}

/// What it begins with where it has no data yet.
#[derive(Debug, Clone)]
pub(super) enum Beginning {
    /// As the first member.
    New,
    /// As one of these: names and addresses.
    Joins(Vec<(String, String)>),
    /// It has data.
    Again,
}

/// Starts it again whenever it ends, until this is dropped.
#[derive(Debug)]
pub(super) struct Keeper(Arc<Mutex<bool>>);

impl Drop for Keeper {
    fn drop(&mut self) {
        *over(&self.0) = true;
    }
}

impl Keeper {
    /// Ends it and starts it again, if it is still wanted.
    pub(super) fn restart(&self, server: &Server) -> Result<(), SwarmError> {
        let over = over(&self.0);
        if *over {
            return Ok(());
        }
        stop(&server.data, &server.program.groups)?;
        server.start(&Beginning::Again)
    }
}

/// Whether it is over; held, nobody starts it.
fn over(over: &Mutex<bool>) -> MutexGuard<'_, bool> {
    over.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where clients of a manager's etcd go.
pub(super) fn client_url(address: IpAddr) -> String {
    url(address, CLIENTS)
}

pub(super) fn peer_url(address: IpAddr) -> String {
    url(address, PEERS)
}

/// The one address at which a manager's etcd listens. Not at every one: the host may have an etcd of
/// its own on another.
pub(super) fn served(listen: SocketAddr, advertise: IpAddr) -> IpAddr {
    match listen.ip() {
        any if any.is_unspecified() => advertise,
        one => one,
    }
}

fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(address, port))
}

impl Server {
    pub(super) fn new(
        program: Program,
        home: &Home,
        (cluster, node): (NodeId, NodeId),
        (listen, advertise): (SocketAddr, IpAddr),
    ) -> Self {
        Self {
            program,
            node,
            cluster,
            data: home.etcd(),
            log: home.etcd_log(),
            certificates: home.certificate_files(),
            listen: served(listen, advertise),
            advertise,
        }
    }

    /// Where this node's own daemon asks it.
    pub(super) fn own_url(&self) -> String {
        client_url(self.listen)
    }

    fn arguments(&self, beginning: &Beginning) -> Vec<String> {
        let files = &self.certificates;
        let path = |path: &Path| path.display().to_string();
        let (certificate, key, ca) = (path(&files.certificate), path(&files.key), path(&files.ca));
        let manager = unit(Role::Manager);
        let mut arguments = vec![
            format!("--name={}", self.node),
            data_argument(&self.data),
            format!("--listen-client-urls={}", self.own_url()),
            format!("--advertise-client-urls={}", client_url(self.advertise)),
            format!("--listen-peer-urls={}", peer_url(self.listen)),
            format!("--cert-file={certificate}"),
            format!("--key-file={key}"),
            format!("--trusted-ca-file={ca}"),
            "--client-cert-auth".to_owned(),
            format!("--peer-cert-file={certificate}"),
            format!("--peer-key-file={key}"),
            format!("--peer-trusted-ca-file={ca}"),
            "--peer-client-cert-auth".to_owned(),
            format!("--peer-cert-allowed-hostname={manager}"),
            // The name is what counts; a manager may send from another address than it is reached at.
            "--experimental-peer-skip-client-san-verification".to_owned(),
            // It would ask as this member, whoever asks it.
            "--enable-grpc-gateway=false".to_owned(),
            "--enable-v2=false".to_owned(),
            "--auto-compaction-mode=periodic".to_owned(),
            "--auto-compaction-retention=1h".to_owned(),
            // Hosts that are busy, and links between sites.
            "--heartbeat-interval=200".to_owned(),
            "--election-timeout=2000".to_owned(),
            "--logger=zap".to_owned(),
            "--log-outputs=stderr".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let members = match beginning {
            Beginning::New => vec![(self.node.to_string(), peer_url(self.advertise))],
            Beginning::Joins(members) => members.clone(),
            Beginning::Again => Vec::new(),
        };
        let state = if matches!(beginning, Beginning::New) {
            "new"
        } else {
            "existing"
        };
        let members: Vec<String> = members
            .iter()
            .map(|(n, url)| format!("{n}={url}"))
            .collect();
        arguments.extend([
            format!("--initial-cluster-state={state}"),
            format!("--initial-cluster-token={}", self.cluster),
            format!("--initial-cluster={}", members.join(",")),
            format!("--initial-advertise-peer-urls={}", peer_url(self.advertise)),
        ]);
        arguments
    }

    /// Starts it, if it does not run.
    pub(super) fn start(&self, beginning: &Beginning) -> Result<(), SwarmError> {
        if running(&self.data).is_some() {
            return Ok(());
        }
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| SwarmError::Disk {
                action,
                path,
                source,
            }
        };
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.data);
        made.map_err(failed("make", &self.data))?;
        let log = self.open_log().map_err(failed("open", &self.log))?;
        let mut command = Command::new(&self.program.path);
        command
            .args(self.arguments(beginning))
            // It takes options from there, and speaks with whoever manages the daemon.
            .env_clear()
            .envs(env::var_os("PATH").map(|path| ("PATH", path)))
            .env(ROOTS, self.roots_on_disk()?.join(","))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let started = sys::signal::spawn_apart(&mut command);
        let child = started.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SwarmError::NoProgram(self.program.path.clone()),
            _ => SwarmError::Program {
                path: self.program.path.clone(),
                source,
            },
        })?;
        for group in &self.program.groups {
            if let Err(error) = enter(group, child.id()) {
                tracing::warn!(%error, group = %group.display(), "etcd stays in the daemon's group");
            }
        }
        tracing::info!(pid = child.id(), "etcd started");
        Ok(())
    }

    fn roots_on_disk(&self) -> Result<Vec<String>, SwarmError> {
        let path = &self.certificates.ca;
        let text = fs::read_to_string(path).map_err(|source| SwarmError::Disk {
            action: "read",
            path: path.clone(),
            source,
        })?;
        tls::fingerprints(&text)
    }

    /// Fingerprints of the authorities that it trusts, if it runs; of none where nobody has said so when
    /// it was started.
    pub(super) fn roots(&self) -> Option<Vec<String>> {
        let (pid, _) = sys::process::started_with(NAME, &data_argument(&self.data))?;
        let all = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let all = String::from_utf8_lossy(&all);
        let said = all.split('\0').find_map(|one| one.strip_prefix(ROOTS));
        let roots = said.and_then(|said| said.strip_prefix('='));
        let roots = roots.unwrap_or_default().split(',');
        Some(
            roots
                .filter(|one| !one.is_empty())
                .map(str::to_owned)
                .collect(),
        )
    }

    fn open_log(&self) -> io::Result<File> {
        let is_long = fs::metadata(&self.log).is_ok_and(|log| log.len() > LOG);
        let mut options = OpenOptions::new();
        options.create(true).mode(0o600).append(true);
        let log = options.open(&self.log)?;
        if is_long {
            log.set_len(0)?;
        }
        Ok(log)
    }

    /// Waits until `answers` does; `wait` at most, or until etcd has ended.
    pub(super) fn wait<T, E: fmt::Display>(
        &self,
        wait: Duration,
        mut answers: impl FnMut() -> Result<T, E>,
    ) -> Result<T, SwarmError> {
        let deadline = Instant::now() + wait;
        loop {
            let last = match answers() {
                Ok(answer) => return Ok(answer),
                Err(error) => error.to_string(),
            };
            let ended = running(&self.data).is_none();
            if ended || Instant::now() > deadline {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                let said = said.lines().rev().find(|line| !line.trim().is_empty());
                let what = if ended { "it has ended" } else { &*last };
                let what = said.map_or(what.to_owned(), |said| format!("{what}: {said}"));
                return Err(SwarmError::Etcd { what });
            }
            thread::sleep(LOOK / 5);
        }
    }

    pub(super) fn keep(self) -> io::Result<Keeper> {
        let is_over = Arc::new(Mutex::new(false));
        let keeper = Keeper(Arc::clone(&is_over));
        thread::Builder::new()
            .name("keep-etcd".to_owned())
            .spawn(move || self.keep_until(&is_over))?;
        Ok(keeper)
    }

    fn keep_until(&self, end: &Mutex<bool>) {
        let is_over = || *over(end);
        let mut pause = PAUSE;
        while !is_over() {
            let began = Instant::now();
            match running(&self.data) {
                Some(process) => {
                    while !is_over() && !has_ended(&process, LOOK) {}
                    if is_over() {
                        return;
                    }
                    reap(&process);
                    tracing::warn!("etcd has ended, its log is {}", self.log.display());
                    if began.elapsed() > LIVES {
                        pause = PAUSE;
                    }
                    let until = Instant::now() + pause;
                    while !is_over() && Instant::now() < until {
                        thread::sleep(LOOK / 5);
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                None => {
                    let end = over(end);
                    if *end {
                        return;
                    }
                    if let Err(error) = self.start(&Beginning::Again) {
                        tracing::error!(%error, "etcd does not start");
                    }
                    drop(end);
                    thread::sleep(LOOK);
                }
            }
        }
    }
}

fn data_argument(data: &Path) -> String {
    format!("--data-dir={}", data.display())
}

fn running(data: &Path) -> Option<OwnedFd> {
    sys::process::started_with(NAME, &data_argument(data)).map(|(_, process)| process)
}

/// Ends the etcd that has `data`, if one runs.
pub(super) fn stop(data: &Path, groups: &[PathBuf]) -> Result<bool, SwarmError> {
    let mut has_run = false;
    for signal in [Signal::TERM, Signal::KILL] {
        let Some(process) = running(data) else {
            break;
        };
        has_run = true;
        // It may have ended meanwhile.
        let _sent = pidfd_send_signal(&process, signal);
        has_ended(&process, PATIENCE);
        reap(&process);
    }
    if running(data).is_some() {
        return Err(SwarmError::Etcd {
            what: "it does not end".to_owned(),
        });
    }
    for group in groups {
        // One that is absent is gone; the kernel refuses while somebody is in it.
        let _gone = fs::remove_dir(group);
    }
    Ok(has_run)
}

fn enter(group: &Path, pid: u32) -> io::Result<()> {
    fs::create_dir_all(group)?;
    fs::write(group.join("cgroup.procs"), pid.to_string())
}

fn has_ended(process: &OwnedFd, wait: Duration) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let wait = Timespec::try_from(wait).unwrap_or_default();
    matches!(poll(&mut fds, Some(&wait)), Ok(1..))
}

/// One that another daemon has started is init's.
fn reap(process: &OwnedFd) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let _reaped = waitid(WaitId::PidFd(process.as_fd()), options);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_served_without_a_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let id = NodeId::from_bytes([1; 16]);
        let program = Program {
            path: "etcd".into(),
            groups: Vec::new(),
        };
        let addresses = ("[::]:2377".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let path = directory.path();
        let home = Home::new(path.join("swarm"), path.join("run"));
        let server = Server::new(program, &home, (id.clone(), id), addresses);
        let words = server.arguments(&Beginning::New);
        for flag in [
            "--client-cert-auth",
            "--peer-client-cert-auth",
            "--enable-grpc-gateway=false",
        ] {
            assert!(words.iter().any(|word| word == flag), "{flag}");
        }
        let urls: Vec<&String> = words
            .iter()
            .filter(|word| word.contains("-urls="))
            .collect();
        assert_eq!(urls.len(), 4);
        // Nowhere else than asked, either.
        assert!(
            urls.iter().all(|word| word.contains("=https://192.0.2.1:")),
            "{urls:?}"
        );
    }
}
