//! Health checks that are commands: executed in the container, reported to the daemon.
//!
//! A thread looks after them while the container lives. It is joined before the container may be
//! made again, which forks.

use std::io::{self, PipeReader, Read};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use api::Client;
use api::client::{ClientError, escape};
use api::path::{SERVICE_MEMBERS, SERVICES};
use api::service::{Health, MemberState, MemberUpdate, Probe, ProbeResult, Service};

use super::exec::EXIT_TIMEOUT;
use super::launch::{Exec, Places};

/// While a member starts, it is looked at more often: it is waited for.
const STARTING_INTERVAL: Duration = Duration::from_millis(200);
/// When the daemon is asked again what it did not answer.
const RETRY: Duration = Duration::from_secs(1);
/// After this the daemon is taken to be away.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of what a command says, for the error.
const MAX_OUTPUT: usize = 200;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How much longer than the command may take it may take to begin and to be ended.
const MARGIN: Duration = Duration::from_secs(5);
const TOO_LATE: &str = "no end in time";

/// Looks after the container until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct HealthWatch {
    /// Each with what tells it to end by going away.
    threads: Vec<(Sender<()>, JoinHandle<()>)>,
}

impl Drop for HealthWatch {
    fn drop(&mut self) {
        for (stop, thread) in self.threads.drain(..) {
            drop(stop);
            // One that panicked has ended as well.
            drop(thread.join());
        }
    }
}

impl HealthWatch {
    /// Begins for every service of these whose health check is a command. A daemon that is away now
    /// is asked later.
    pub(crate) fn begin(
        places: &Places,
        services: impl Iterator<Item = String>,
        container: &str,
    ) -> io::Result<Self> {
        let client = Client::new(&places.socket).with_timeout(PATIENCE);
        let places = Arc::new(places.clone());
        let mut watch = Self::default();
        for service in services {
            let member = Member {
                client: client.clone(),
                places: Arc::clone(&places),
                service,
                container: container.to_owned(),
            };
            watch.spawn(move |stopped| member.watch(stopped))?;
        }
        Ok(watch)
    }

    /// Looks after one thing more, in a thread of its own.
    pub(super) fn spawn(
        &mut self,
        work: impl FnOnce(&Receiver<()>) + Send + 'static,
    ) -> io::Result<()> {
        let (stop, stopped) = channel();
        let thread = thread::Builder::new().name("health".to_owned());
        let thread = thread.spawn(move || work(&stopped))?;
        self.threads.push((stop, thread));
        Ok(())
    }
}

/// One container's part in one service.
struct Member {
    client: Client,
    places: Arc<Places>,
    service: String,
    container: String,
}

impl Member {
    fn watch(&self, stopped: &Receiver<()>) {
        loop {
            let pause = match self.look(stopped) {
                Ok(Some(pause)) => pause,
                // The check is the daemon's, or there is none.
                Ok(None) => return,
                Err(_tried_again) => RETRY,
            };
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Executes the check once and reports; how long to wait for the next, if there is one.
    fn look(&self, stopped: &Receiver<()>) -> Result<Option<Duration>, ClientError> {
        let route = format!("{SERVICES}/{}", escape(&self.service));
        let service: Service = self.client.get(&route)?;
        let Some(Health {
            probe: Probe::Command { command },
            interval,
            timeout,
            ..
        }) = service.spec.health
        else {
            return Ok(None);
        };
        let update = MemberUpdate {
            probe: Some(self.execute(&command, timeout, stopped)),
            ..MemberUpdate::default()
        };
        let route = format!("{route}/{SERVICE_MEMBERS}/{}", self.container);
        let service: Service = self.client.post(&route, &update)?;
        let mut own = service.members.iter();
        let starts = own.any(|member| {
            member.container_id == self.container && member.state == MemberState::Starting
        });
        Ok(Some(if starts {
            interval.min(STARTING_INTERVAL)
        } else {
            interval
        }))
    }

    fn execute(
        &self,
        command: &[String],
        timeout: Duration,
        stopped: &Receiver<()>,
    ) -> ProbeResult {
        let exec = Exec {
            command: command.to_vec(),
            timeout: Some(timeout),
            ..Exec::default()
        };
        let outcome = run(&exec, &self.places, stopped);
        ProbeResult {
            healthy: outcome.is_ok(),
            error: outcome.err().unwrap_or_default(),
        }
    }
}

/// Fails with the exit code and the beginning of what was said.
fn run(exec: &Exec, places: &Places, stopped: &Receiver<()>) -> Result<(), String> {
    let ended = execute(exec, places, stopped, MAX_OUTPUT)
        .map_err(|error| format!("the command cannot be run: {error}"))?;
    let Some((code, output)) = ended else {
        return Err(TOO_LATE.to_owned());
    };
    let said = output.lines().next().unwrap_or_default().trim();
    match (code, said) {
        (0, _) => Ok(()),
        (code, "") => Err(format!("exit code {code}")),
        (code, said) => Err(format!("exit code {code}: {said}")),
    }
}

/// Executes a command in the container: its exit code and the beginning of what it says; nothing
/// when it does not end in time. A container that ends waits for no command.
pub(super) fn execute(
    exec: &Exec,
    places: &Places,
    stopped: &Receiver<()>,
    most: usize,
) -> io::Result<Option<(i32, String)>> {
    let mut command = exec.command(Path::new("/proc/self/exe"), places);
    let (reader, writer) = io::pipe()?;
    rustix::io::ioctl_fionbio(&reader, true)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?);
    let mut child = sys::signal::spawn_unblocked(command.stderr(writer))?;
    // The command holds the other ends, which would keep the pipe open.
    drop(command);
    let mut output = Output {
        pipe: Some(reader),
        kept: Vec::new(),
        most,
    };
    let begun = Instant::now();
    // The command itself is ended by whoever executes it.
    let limit = exec.timeout.unwrap_or_default() + MARGIN;
    let status = loop {
        output.read();
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let is_over = stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout);
        if is_over || begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    };
    output.read();
    let said = String::from_utf8_lossy(&output.kept).into_owned();
    let code = status.code().unwrap_or(-1);
    Ok((code != EXIT_TIMEOUT).then_some((code, said)))
}

/// What a command says: the beginning is kept, and nothing waits in the pipe.
struct Output {
    pipe: Option<PipeReader>,
    kept: Vec<u8>,
    most: usize,
}

impl Output {
    fn read(&mut self) {
        let mut bytes = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    let room = self.most.saturating_sub(self.kept.len());
                    self.kept.extend(&bytes[..length.min(room)]);
                }
                Err(_nothing_now) => return,
            }
        }
    }
}
