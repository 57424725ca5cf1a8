//! Starts of containers, with those who wait for them: clients attach to a container and wait for
//! its end before they start it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use api::id::Id;

use super::exec::Execs;
use super::{Client, Refusal, http};
use crate::cli::container::stop::{await_exit, connect};
use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::cli::run::start::check_startable;
use crate::container::Status;
use crate::shim::launch;
use crate::store::{ContainerDir, StoreError};
use crate::stream::{Connection, Control, Frame, Kind, encode};

/// How often somebody who waits looks for a container that somebody else has started.
const RECHECK: Duration = Duration::from_millis(500);

/// Of containers that are to be started here.
#[derive(Debug, Default)]
pub(super) struct Lives {
    next: Mutex<HashMap<Id, Arc<Life>>>,
    pub(super) execs: Execs,
}

/// From a container's start to its end.
#[derive(Debug, Default)]
struct Life {
    state: Mutex<LifeState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LifeState {
    attachers: Vec<Attacher>,
    code: Option<i32>,
}

/// Who is to have the streams.
#[derive(Debug)]
pub(super) struct Attacher {
    pub(super) client: Client,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    /// It gets what a terminal shows instead of frames.
    pub(super) is_raw: bool,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lives {
    fn next(&self, id: &Id) -> Arc<Life> {
        Arc::clone(locked(&self.next).entry(id.clone()).or_default())
    }

    /// Of a container that is gone.
    pub(super) fn forget(&self, id: &Id) {
        if let Some(life) = locked(&self.next).remove(id) {
            life.end(launch::EXIT_DAEMON);
        }
    }
}

fn broken(source: std::io::Error) -> CliError {
    CliError::Io {
        op: "talk to the container's shim",
        source,
    }
}

/// Starts a container. False if it runs already.
pub(super) fn start(
    context: &Context,
    lives: &Lives,
    container: &ContainerDir,
) -> Result<bool, Refusal> {
    if !check_startable(context, container)? {
        return Ok(false);
    }
    let life = locked(&lives.next)
        .remove(container.id())
        .unwrap_or_default();
    let shim = launch::find_shim().map_err(CliError::from)?;
    let begun = begin(context, container, &shim, &life);
    let mut connection = match begun {
        Ok(connection) => connection,
        Err(error) => {
            let refused = match &error {
                CliError::Launch(error) => error.exit_code(),
                _ => launch::EXIT_DAEMON,
            };
            life.end(refused);
            return Err(error.into());
        }
    };
    let watch = move || {
        let code = await_exit(&mut connection).ok().flatten();
        life.end(code.unwrap_or(launch::EXIT_DAEMON));
    };
    let watched = thread::Builder::new().name("life".to_owned()).spawn(watch);
    watched.map_err(broken)?;
    Ok(true)
}

/// The connection that tells of the end.
fn begin(
    context: &Context,
    container: &ContainerDir,
    shim: &std::path::Path,
    life: &Life,
) -> Result<Connection, CliError> {
    let starting = launch::start(shim, &context.places(container)?, true)?;
    let socket = starting.socket().to_owned();
    let mut attached = Vec::new();
    for attacher in std::mem::take(&mut locked(&life.state).attachers) {
        attached.push((attacher.connect(&socket)?, attacher));
    }
    // After the others, so that they are heard first.
    let mut connection = Connection::open(&socket).map_err(broken)?;
    connection.send(&Control::Start).map_err(broken)?;
    for (connection, attacher) in attached {
        attacher.spawn(connection)?;
    }
    starting.finish_and_reap()?;
    Ok(connection)
}

impl Life {
    fn end(&self, code: i32) {
        let mut state = locked(&self.state);
        state.code = Some(code);
        // Of a container that was never started.
        for attacher in state.attachers.drain(..) {
            drop(attacher.client.output.shutdown(Shutdown::Both));
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The exit code, if it is told in time.
    fn wait(&self, limit: Duration) -> Option<i32> {
        let state = locked(&self.state);
        let waited = self
            .changed
            .wait_timeout_while(state, limit, |state| state.code.is_none());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.code
    }
}

impl Attacher {
    fn connect(&self, socket: &std::path::Path) -> Result<Connection, CliError> {
        let mut connection = Connection::open(socket).map_err(broken)?;
        let wanted = Control::Attach {
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
        };
        connection.send(&wanted).map_err(broken)?;
        Ok(connection)
    }

    fn spawn(self, connection: Connection) -> Result<(), CliError> {
        let pump = move || self.pump(connection);
        let spawned = thread::Builder::new().name("attach".to_owned()).spawn(pump);
        spawned.map(drop).map_err(broken)
    }

    /// Moves streams until one side has had enough.
    fn pump(self, mut connection: Connection) {
        let Client { mut input, output } = self.client;
        if self.stdin
            && let Ok(mut into) = connection.try_clone()
        {
            let feed = move || {
                let mut buffer = vec![0; 32 << 10];
                loop {
                    let length = input.read(&mut buffer).unwrap_or(0);
                    if into.send_stdin(&buffer[..length]).is_err() || length == 0 {
                        return;
                    }
                }
            };
            // Without it the container has no input, as if the client had none.
            drop(thread::Builder::new().name("stdin".to_owned()).spawn(feed));
        }
        while let Ok(Some(frame)) = connection.receive() {
            let passed = match frame.kind {
                Kind::Stdout | Kind::Stderr => pass(&output, &frame, self.is_raw),
                Kind::Control => match frame.control() {
                    Ok(Control::Exit { .. } | Control::Error { .. }) | Err(_) => break,
                    Ok(_) => Ok(()),
                },
                Kind::Stdin => Ok(()),
            };
            if passed.is_err() {
                break;
            }
        }
        // Also wakes the reader of its input.
        drop(output.shutdown(Shutdown::Both));
        drop(connection.socket().shutdown(Shutdown::Both));
    }
}

/// Frames of output are Docker's.
fn pass(mut output: impl Write, frame: &Frame, is_raw: bool) -> std::io::Result<()> {
    if is_raw {
        output.write_all(&frame.payload)
    } else {
        output.write_all(&encode(frame.kind, &frame.payload))
    }
}

/// Gives a client the streams, now or when the container is started: whoever has got its answer may
/// start it.
pub(super) fn attach(
    context: &Context,
    lives: &Lives,
    container: &ContainerDir,
    attacher: Attacher,
    protocol: Option<&str>,
) -> Result<(), Refusal> {
    let upgrade = |mut output| http::upgrade(&mut output, protocol).map_err(broken);
    let socket = context.shim_socket(container)?;
    if container.state()?.status == Status::Running
        && let Ok(connection) = attacher.connect(&socket)
    {
        upgrade(&attacher.client.output)?;
        return Ok(attacher.spawn(connection)?);
    }
    let life = lives.next(container.id());
    let mut state = locked(&life.state);
    upgrade(&attacher.client.output)?;
    state.attachers.push(attacher);
    Ok(())
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    NotRunning,
    NextExit,
}

/// Somebody who waits for a container's end.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The one that is to come.
    life: Option<Arc<Life>>,
    /// When the last one began.
    before: String,
}

impl Waiter {
    /// From now on, no end is missed.
    pub(super) fn new(
        lives: &Lives,
        container: &ContainerDir,
        condition: Condition,
    ) -> Result<Self, Refusal> {
        let state = container.state()?;
        let is_to_come = condition == Condition::NextExit && state.status != Status::Running;
        Ok(Self {
            life: is_to_come.then(|| lives.next(container.id())),
            before: state.started_at,
        })
    }

    /// The exit code.
    pub(super) fn wait(&self, context: &Context, container: &ContainerDir) -> Result<i32, Refusal> {
        loop {
            match container.state() {
                Ok(state) if state.status == Status::Running => {
                    if let Some(mut connection) = connect(context, container)?
                        && let Some(code) = await_exit(&mut connection)?
                    {
                        return Ok(code);
                    }
                }
                // Also one that has begun and ended between two looks.
                Ok(state) if self.life.is_none() || state.started_at != self.before => {
                    return Ok(state.exit_code);
                }
                Ok(_) => {}
                Err(StoreError::NotFound { .. }) => {
                    // Its end has been told, or nobody knows of it.
                    let told = self.life.as_ref().and_then(|life| life.wait(RECHECK));
                    let id = container.id().short().to_owned();
                    return told.ok_or_else(|| CliError::from(ContainerError::Lost(id)).into());
                }
                Err(error) => return Err(error.into()),
            }
            if let Some(code) = self.life.as_ref().and_then(|life| life.wait(RECHECK)) {
                return Ok(code);
            }
        }
    }
}
