//! `hawser-shim run`: the life of one container, from its start to its clean-up.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, chdir, getpid, pidfd_open, set_child_subreaper, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdout};

use sys::signalfd::SignalFd;

use super::arguments::Arguments;
use super::clients::Clients;
use super::guard;
use super::hold::{Hold, Init, linger, now};
use super::launch::{EXIT_DAEMON, Places, Report};
use super::log::{Log, LogError};
use super::restart::{Life, Restarts};
use super::runtime::null;
use super::setup::{Created, Reached, Setup, SetupError};
use crate::container::{RestartPolicy, State, Status};
use crate::store::{Lock, durability_of, process_id};
use crate::stream::{Control, socket_path};

/// Why a shim ends without having run its container.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("{op}: {source}")]
    System { op: &'static str, source: io::Error },
    #[error("container {name} is already running")]
    Running { name: String },
    #[error("nobody waits for the container any more")]
    Abandoned,
}

impl From<crate::store::StoreError> for RunError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Setup(error.into())
    }
}

impl From<LogError> for RunError {
    fn from(error: LogError) -> Self {
        Self::Setup(error.into())
    }
}

impl RunError {
    fn exit_code(&self) -> i32 {
        match self {
            Self::Setup(error) => error.exit_code(),
            _ => EXIT_DAEMON,
        }
    }
}

fn system<E: Into<io::Error>>(op: &'static str) -> impl Fn(E) -> RunError {
    move |source| RunError::System {
        op,
        source: source.into(),
    }
}

pub(crate) fn main(places: &Places, arguments: &Arguments) -> i32 {
    match run(places, arguments.has("--wait-attach")) {
        Ok(()) => 0,
        Err(error) => {
            let exit_code = error.exit_code();
            report(&Report::Failed {
                error: error.to_string(),
                exit_code,
            });
            exit_code
        }
    }
}

/// The launcher may be gone; then nobody is there to be told.
fn report(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        drop(writeln!(io::stdout().lock(), "{line}"));
    }
}

fn run(places: &Places, wait_attach: bool) -> Result<(), RunError> {
    detach().map_err(system("leave the caller's session"))?;
    let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD];
    let mut signals = SignalFd::block(&signals).map_err(system("block signals"))?;
    let setup = Setup::open(places)?;
    let lock = setup.dir.lock()?;
    let state = setup.dir.state()?;
    if state.status == Status::Running {
        return Err(RunError::Running {
            name: setup.record.name.to_string(),
        });
    }
    let socket = socket_path(&places.run_dir, setup.dir.id());
    let mut clients = Clients::bind(&socket).map_err(system("listen for clients"))?;
    report(&Report::Listening { listening: socket });
    let outcome = live_on(&setup, &mut clients, &mut signals, lock, wait_attach);
    if let Err(error) = &outcome {
        give_up(&setup, error, &mut clients, state);
    }
    outcome
}

/// Starts the container, and starts it again as long as its policy says so.
fn live_on(
    setup: &Setup,
    clients: &mut Clients,
    signals: &mut SignalFd,
    mut lock: Lock,
    wait_attach: bool,
) -> Result<(), RunError> {
    let mut restarts = Restarts::default();
    loop {
        // Only the first start has somebody who waits for it.
        let is_first = restarts.count == 0;
        let begun = Instant::now();
        let waits = wait_attach && is_first;
        let hold = start(setup, clients, signals, waits, restarts.count)?;
        drop(lock);
        let ended = live(setup, hold)?;
        let life = Life {
            code: ended.code,
            lasted: begun.elapsed(),
            was_stopped: ended.was_stopped,
        };
        let Some(pause) = restarts.after(&policy(setup), life) else {
            return end(setup, clients, &ended, restarts.count);
        };
        note(setup, &ended, restarts.count, true)?;
        clients.tell(&Control::Exit { code: ended.code });
        // Others may look at the container, and change it, while it waits.
        drop(ended.lock);
        let stopped = Hold::idle(clients, signals)
            .pause(pause)
            .map_err(system("serve clients"))?;
        lock = setup.dir.lock()?;
        if stopped {
            let ended = Ended {
                was_stopped: true,
                lock,
                ..ended
            };
            return end(setup, clients, &ended, restarts.count);
        }
    }
}

/// As it is now: it may have been changed while the container ran.
fn policy(setup: &Setup) -> RestartPolicy {
    let record = setup.dir.record();
    let host = record.map_or_else(
        |_unreadable| setup.record.host_config.clone(),
        |record| record.host_config,
    );
    host.restart_policy
}

/// How a life of the container ended.
struct Ended {
    code: i32,
    /// Somebody asked for it.
    was_stopped: bool,
    ran_out_of_memory: bool,
    /// Held since the release began.
    lock: Lock,
}

/// Leaves the caller's session and working directory, and becomes the parent of what the runtime
/// leaves behind.
fn detach() -> rustix::io::Result<()> {
    match setsid() {
        // A group leader has a session of its own already, or a shell that wants it this way.
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    chdir("/")?;
    set_child_subreaper(Some(getpid()))
}

/// Makes the container and starts it, with `wait_attach` when a client says so.
fn start<'a>(
    setup: &Setup,
    clients: &'a mut Clients,
    signals: &'a mut SignalFd,
    wait_attach: bool,
    restart_count: u32,
) -> Result<Hold<'a>, RunError> {
    // Before anything is made: a receiver that is not there is a reason not to start.
    let log = Log::open(&setup.dir, &setup.record, restart_count == 0)?;
    let Created { pid, streams } = setup.make()?;
    let begun = prepare(setup, pid).and_then(|init| {
        let stdin_once = setup.record.config.stdin_once;
        let hold = Hold::new(clients, signals, streams, init, log, stdin_once);
        let hold = hold.with_steering(setup.steering()?);
        let mut hold = hold.with_drainer(setup.drainer());
        await_start(&mut hold, wait_attach)?;
        begin(setup, pid, &mut hold, restart_count)?;
        Ok(hold)
    });
    begun.inspect_err(|_cause| {
        // The cause is what the user must know; leftovers are found again by the next start.
        drop(setup.release(Reached::Networks));
    })
}

fn prepare(setup: &Setup, pid: u32) -> Result<Init, RunError> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pidfd = number
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
        .map_err(system("watch the container's first process"))?;
    let guard = match setup.runtime.program {
        None => None,
        Some(_) => {
            Some(guard::begin(&setup.places, &pidfd).map_err(system("guard the container"))?)
        }
    };
    Ok(Init {
        pid,
        pidfd,
        _guard: guard,
    })
}

/// Serves clients until one asks for the start.
fn await_start(hold: &mut Hold<'_>, wait_attach: bool) -> Result<(), RunError> {
    let stdout = io::stdout();
    while wait_attach && !hold.start_requested {
        let turn = hold
            .turn(Some(stdout.as_fd()))
            .map_err(system("serve clients"))?;
        if turn.is_abandoned || turn.has_exited || hold.stop_requested {
            return Err(RunError::Abandoned);
        }
    }
    Ok(())
}

fn begin(setup: &Setup, pid: u32, hold: &mut Hold<'_>, restart_count: u32) -> Result<(), RunError> {
    let identify = |pid| process_id(pid).map_err(system("read /proc"));
    let state = State {
        status: Status::Running,
        shim: Some(identify(std::process::id())?),
        init: Some(identify(pid)?),
        started_at: now(),
        restart_count,
        ..State::default()
    };
    // Written before the start, for a container may end before it is written after it.
    setup
        .dir
        .write_state(&state, crate::store::Durability::Volatile)?;
    setup.runtime.start().map_err(SetupError::from)?;
    // Before anybody is told of the end.
    setup.teller().tell("start", &[]);
    hold.clients.tell(&Control::Started { pid });
    report(&Report::Started { started: pid });
    let_go().map_err(system("close the report"))
}

/// Lets go of the caller's pipes, so that whoever reads them sees their end.
fn let_go() -> io::Result<()> {
    let null = null()?;
    dup2_stdout(&null)?;
    Ok(dup2_stderr(&null)?)
}

/// A start has failed and is undone: write down why, and tell those who wait.
fn give_up(setup: &Setup, error: &RunError, clients: &mut Clients, before: State) {
    clients.close_door();
    clients.accept();
    let exit_code = error.exit_code();
    let message = error.to_string();
    // A container that cannot be started again has exited all the same.
    let has_run = setup.dir.state().is_ok_and(|state| state.restart_count > 0);
    let status = if has_run {
        Status::Exited
    } else {
        before.status
    };
    let state = State {
        status,
        exit_code,
        error: message.clone(),
        shim: None,
        init: None,
        ..before
    };
    // The caller gets the error itself; the file only repeats it for `inspect`.
    drop(setup.dir.write_state(&state, durability_of(&setup.record)));
    drop(settle(setup));
    clients.tell(&Control::Error {
        message,
        exit_code: Some(exit_code),
    });
    drop(linger(clients));
}

/// Holds the running container until it ends, and undoes what was made for it.
fn live(setup: &Setup, mut hold: Hold<'_>) -> Result<Ended, RunError> {
    let begun = Instant::now();
    let watch = setup
        .watch_health()
        .map_err(system("watch the container's health"))?;
    while !hold
        .turn(None)
        .map_err(system("hold the container"))?
        .has_exited
    {}
    if !setup.record.host_config.pid_mode.is_empty() {
        // No namespace of its own has ended with the first process.
        drop(setup.group().map(|group| group.kill()));
    }
    let code = hold.finish().map_err(system("reap the container"))?;
    drop(watch);
    let was_stopped = hold.stop_requested;
    let lasted = begun.elapsed();
    // Before its control groups go.
    let ran_out_of_memory = setup
        .group()
        .is_ok_and(|group| group.has_run_out_of_memory());
    let teller = setup.teller();
    if ran_out_of_memory {
        teller.tell("oom", &[]);
    }
    let seconds = lasted.as_secs().to_string();
    let exit_code = code.to_string();
    let attributes = [
        ("execDuration", seconds.as_str()),
        ("exitCode", exit_code.as_str()),
    ];
    teller.tell("die", &attributes);
    let lock = setup.dir.lock()?;
    // What could not be undone is found again by the next start and by `rm`.
    drop(setup.release(Reached::Networks));
    Ok(Ended {
        code,
        was_stopped,
        ran_out_of_memory,
        lock,
    })
}

/// Writes down that the container has ended, for now or for good.
fn note(
    setup: &Setup,
    ended: &Ended,
    restart_count: u32,
    restarting: bool,
) -> Result<(), RunError> {
    let before = setup.dir.state()?;
    let state = State {
        status: if restarting {
            Status::Running
        } else {
            Status::Exited
        },
        restarting,
        paused: false,
        stopped: ended.was_stopped,
        shim: before.shim.filter(|_| restarting),
        init: None,
        exit_code: ended.code,
        oom_killed: ended.ran_out_of_memory,
        finished_at: now(),
        restart_count,
        ..before
    };
    Ok(setup
        .dir
        .write_state(&state, durability_of(&setup.record))?)
}

/// The container has ended for good.
fn end(
    setup: &Setup,
    clients: &mut Clients,
    ended: &Ended,
    restart_count: u32,
) -> Result<(), RunError> {
    let code = ended.code;
    // Before the door closes: whoever finds it closed reads why.
    note(setup, ended, restart_count, false)?;
    clients.close_door();
    clients.accept();
    // What stays behind is found by the next start and by `rm`.
    drop(settle(setup));
    clients.tell(&Control::Exit { code });
    linger(clients).map_err(system("serve clients"))
}

/// Leaves of an ended container what shall stay. A removal that is cut short is finished by `rm`.
fn settle(setup: &Setup) -> Result<(), SetupError> {
    if setup.record.host_config.auto_remove && setup.remove().is_ok() {
        setup.teller().tell("destroy", &[]);
        return Ok(());
    }
    setup.forget()
}

/// Writes down the end of a container whose shim could not, and undoes what that has left.
pub(super) fn bury(places: &Places) -> i32 {
    i32::from(try_bury(places).is_err())
}

fn try_bury(places: &Places) -> Result<(), RunError> {
    let setup = Setup::open(places)?;
    let _lock = setup.dir.lock()?;
    let state = setup.dir.state()?;
    // Somebody else may have seen to it before.
    if state.status != Status::Exited || state.init.is_none() {
        return Ok(());
    }
    let code = state.exit_code.to_string();
    let ended = State {
        restarting: false,
        paused: false,
        shim: None,
        init: None,
        finished_at: now(),
        ..state
    };
    setup
        .dir
        .write_state(&ended, durability_of(&setup.record))?;
    setup.teller().tell("die", &[("exitCode", &code)]);
    // What could not be undone is found again by the next start and by `rm`.
    drop(setup.release(Reached::Networks));
    Ok(settle(&setup)?)
}

/// `hawser-shim clean`: undoes what a shim that was killed has left, for `rm` and after a crash.
pub(crate) fn clean(places: &Places) -> i32 {
    match try_clean(places) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

fn try_clean(places: &Places) -> Result<(), RunError> {
    let setup = Setup::open(places)?;
    let _lock = setup.dir.lock()?;
    if setup.dir.state()?.status == Status::Running {
        return Err(RunError::Running {
            name: setup.record.name.to_string(),
        });
    }
    match setup.release(Reached::Networks).into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(setup.forget()?),
    }
}
