//! Holds a container: one loop that moves output and input, serves clients and waits for the end.
//!
//! The end is a pidfd that becomes readable, so that a container that exits before the loop has
//! begun is not missed, as it would be by waiting for SIGCHLD. That signal tells of others: orphans
//! of commands that were executed in the container. A PID namespace, and so its first process, does
//! not end before the last of its processes is reaped (`zap_pid_ns_processes`,
//! kernel/pid_namespace.c).

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use sys::signalfd::SignalFd;

use super::clients::Clients;
use super::drain::Drainer;
use super::freezer::Freezer;
use super::log::Log;
use super::streams::Streams;
use super::teller::Teller;
use crate::log::Stream;
use crate::stream::{Control, Kind};

/// Input that waits for the container to read it; more is left in the client's socket.
const MAX_INPUT: usize = 64 << 10;
/// What a pipe holds.
const READ_SIZE: usize = 64 << 10;
const SIGKILL: i32 = 9;
/// After so long without anything to do, a shim is as small as it can be.
const CALM: Duration = Duration::from_secs(1);

/// A container and everybody who talks to it.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    pub(crate) clients: &'a mut Clients,
    signals: &'a mut SignalFd,
    streams: Streams,
    /// None between two lives of the container.
    init: Option<Init>,
    log: Option<Log>,
    input: VecDeque<u8>,
    /// No more input will come; close stdin when all is written.
    input_ended: bool,
    closes_stdin: bool,
    kill_at: Option<Instant>,
    /// For members of services.
    drainer: Option<Drainer>,
    steering: Option<Steering>,
    /// The signal that waits for the end of a drain.
    draining: Option<(OwnedFd, i32)>,
    /// A turn lasts no longer than this.
    wake_at: Option<Instant>,
    /// When to let go of memory, unless something happens until then.
    settles_at: Cell<Option<Instant>>,
    /// A client asked for the start.
    pub(crate) start_requested: bool,
    /// A client asked for the end: no restart.
    pub(crate) stop_requested: bool,
}

/// The first process of a container.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    /// Held while a guard is needed.
    pub(crate) _guard: Option<PipeWriter>,
}

/// How a running container is steered, and who is told.
#[derive(Debug)]
pub(crate) struct Steering {
    pub(crate) freezer: Freezer,
    pub(crate) teller: Teller,
}

/// What a turn of the loop found.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Turn {
    /// The first process has ended and can be reaped.
    pub(crate) has_exited: bool,
    /// Nobody waits for the start report any more.
    pub(crate) is_abandoned: bool,
}

/// A descriptor of one turn, and whom it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Init,
    Signals,
    Listener,
    Report,
    Drained,
    Output(Stream),
    Log,
    Input,
    Client(usize),
}

impl<'a> Hold<'a> {
    /// Holds a created container.
    pub(crate) fn new(
        clients: &'a mut Clients,
        signals: &'a mut SignalFd,
        streams: Streams,
        init: Init,
        log: Option<Log>,
        stdin_once: bool,
    ) -> Self {
        Self {
            streams,
            init: Some(init),
            log,
            closes_stdin: stdin_once,
            ..Self::idle(clients, signals)
        }
    }

    /// Lets it be drained before it stops.
    pub(crate) fn with_drainer(self, drainer: Option<Drainer>) -> Self {
        Self { drainer, ..self }
    }

    pub(crate) fn with_steering(self, steering: Steering) -> Self {
        Self {
            steering: Some(steering),
            ..self
        }
    }

    /// Serves clients while there is no container.
    pub(crate) fn idle(clients: &'a mut Clients, signals: &'a mut SignalFd) -> Self {
        Self {
            clients,
            signals,
            streams: Streams::default(),
            init: None,
            log: None,
            input: VecDeque::new(),
            input_ended: false,
            closes_stdin: false,
            kill_at: None,
            drainer: None,
            steering: None,
            draining: None,
            wake_at: None,
            settles_at: Cell::default(),
            start_requested: false,
            stop_requested: false,
        }
    }

    /// Waits for something to happen and handles it. `report` is watched for its reader's end.
    pub(crate) fn turn(&mut self, report: Option<BorrowedFd<'_>>) -> io::Result<Turn> {
        let ready = self.wait(report)?;
        let mut turn = Turn::default();
        for (source, events) in ready {
            match source {
                Source::Init => turn.has_exited = true,
                Source::Signals => self.reap_orphans()?,
                Source::Report => turn.is_abandoned = true,
                Source::Drained => self.end_drain()?,
                Source::Listener => self.clients.accept(),
                Source::Output(stream) => {
                    self.move_output(stream);
                }
                // Done below, with what is due by time.
                Source::Log => {}
                Source::Input => self.move_input(),
                Source::Client(index) => self.serve(index, events),
            }
        }
        if let Some(log) = &mut self.log {
            log.serve();
        }
        self.clients.sweep();
        self.kill_if_due()?;
        Ok(turn)
    }

    fn wait(&self, report: Option<BorrowedFd<'_>>) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::new();
        let mut fds = Vec::new();
        let mut watch = |source, fd, events| {
            sources.push(source);
            fds.push(PollFd::from_borrowed_fd(fd, events));
        };
        watch(Source::Listener, self.clients.listener(), PollFlags::IN);
        watch(Source::Signals, self.signals.as_fd(), PollFlags::IN);
        if let Some(init) = &self.init {
            watch(Source::Init, init.pidfd.as_fd(), PollFlags::IN);
        }
        if let Some((ended, _)) = &self.draining {
            watch(Source::Drained, ended.as_fd(), PollFlags::IN);
        }
        if let Some(report) = report {
            watch(Source::Report, report, PollFlags::empty());
        }
        let log_waits = self.log.as_ref().is_some_and(Log::is_congested);
        if !log_waits && !self.clients.are_congested() {
            for stream in [Stream::Stdout, Stream::Stderr] {
                if let Some(fd) = self.output(stream) {
                    watch(Source::Output(stream), fd.as_fd(), PollFlags::IN);
                }
            }
        }
        if let Some((fd, events)) = self.log.as_ref().and_then(Log::interest) {
            watch(Source::Log, fd, events);
        }
        if let Some(stdin) = &self.streams.stdin
            && !self.input.is_empty()
        {
            watch(Source::Input, stdin.as_fd(), PollFlags::OUT);
        }
        for (index, client) in self.clients.list.iter().enumerate() {
            let mut events = PollFlags::empty();
            events.set(PollFlags::OUT, client.has_unsent());
            let is_full = self.input.len() >= MAX_INPUT && client.gives_input();
            events.set(PollFlags::IN, !is_full);
            watch(Source::Client(index), client.socket(), events);
        }
        let mut ready = poll_for(&mut fds, self.timeout())?;
        if ready == 0 && self.settles_at.get().is_some_and(|at| at <= Instant::now()) {
            self.settles_at.set(None);
            let rest = self.timeout();
            // Most of what a start, a client or a burst of output has brought into memory is not used
            // again soon: nothing but the next call is from here on.
            sys::image::let_go_of_pages();
            ready = poll_for(&mut fds, rest)?;
        }
        if ready > 0 {
            self.settles_at.set(Some(Instant::now() + CALM));
        }
        let events = fds.iter().map(PollFd::revents);
        Ok(sources
            .into_iter()
            .zip(events)
            .filter(|(_, events)| !events.is_empty())
            .collect())
    }

    /// Other signals are for nobody: shutting down the host signals everybody, and the container's end
    /// is what ends the shim.
    fn reap_orphans(&mut self) -> io::Result<()> {
        while self.signals.next()?.is_some() {}
        sys::orphan::reap_all_but(self.init.as_ref().map(|init| init.pid))
    }

    fn timeout(&self) -> Option<Duration> {
        let due = [self.kill_at, self.wake_at, self.settles_at.get()];
        let due = due.into_iter().flatten().min();
        let left = due.map(|at| at.saturating_duration_since(Instant::now()));
        let log = self.log.as_ref().and_then(Log::patience);
        let patience = [left, self.clients.patience(), log];
        patience.into_iter().flatten().min()
    }

    fn output(&self, stream: Stream) -> Option<&OwnedFd> {
        match stream {
            Stream::Stdout => self.streams.stdout.as_ref(),
            Stream::Stderr => self.streams.stderr.as_ref(),
        }
    }

    /// Moves one piece of output to the log and the clients. False when there is none now.
    fn move_output(&mut self, stream: Stream) -> bool {
        let Some(fd) = self.output(stream) else {
            return false;
        };
        let mut bytes = [0; READ_SIZE];
        match rustix::io::read(fd, &mut bytes) {
            // A terminal whose last user is gone reads as EIO.
            Ok(0) | Err(Errno::IO) => {
                match stream {
                    Stream::Stdout => self.streams.stdout = None,
                    Stream::Stderr => self.streams.stderr = None,
                }
                false
            }
            Ok(length) => {
                self.publish(stream, &bytes[..length]);
                true
            }
            Err(_not_now) => false,
        }
    }

    fn publish(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            log.write(stream, bytes);
        }
        let kind = match stream {
            Stream::Stdout => Kind::Stdout,
            Stream::Stderr => Kind::Stderr,
        };
        self.clients.output(kind, bytes);
    }

    fn move_input(&mut self) {
        while let Some(stdin) = &self.streams.stdin
            && !self.input.is_empty()
        {
            let (front, _) = self.input.as_slices();
            match rustix::io::write(stdin, front) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // The container has closed its standard input.
                Err(_closed) => {
                    self.input.clear();
                    self.streams.stdin = None;
                }
            }
        }
        if self.input_ended && self.input.is_empty() {
            self.streams.stdin = None;
        }
    }

    fn serve(&mut self, index: usize, events: PollFlags) {
        let Some(client) = self.clients.list.get_mut(index) else {
            return;
        };
        if events.contains(PollFlags::OUT) {
            client.send();
        }
        if !events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let gives_input = client.gives_input();
        for frame in client.receive() {
            match frame.kind {
                Kind::Stdin if self.clients.list[index].gives_input() => {
                    self.take_input(&frame.payload);
                }
                Kind::Control => match frame.control() {
                    Ok(control) => self.obey(index, control),
                    Err(error) => self.refuse(index, error.to_string()),
                },
                _ => {}
            }
        }
        if gives_input && !self.clients.list[index].is_open() {
            self.take_input(&[]);
        }
        self.move_input();
    }

    /// Nothing is the end of the input, which counts only for `--interactive` runs that are
    /// attached from the start, and never for a terminal.
    fn take_input(&mut self, bytes: &[u8]) {
        if self.streams.stdin.is_none() {
            return;
        }
        if bytes.is_empty() {
            self.input_ended |= self.closes_stdin && !self.streams.is_terminal;
        } else if !self.input_ended {
            self.input.extend(bytes);
        }
    }

    fn obey(&mut self, index: usize, control: Control) {
        let outcome = match control {
            Control::Attach {
                stdin,
                stdout,
                stderr,
            } => {
                self.clients.list[index].attach(stdin, stdout, stderr);
                Ok(())
            }
            Control::Start => {
                self.start_requested = true;
                Ok(())
            }
            Control::Signal { number } => self.signal(number),
            Control::Stop { signal, timeout_s } => {
                self.stop_requested = true;
                // A negative timeout waits for ever.
                let timeout = u64::try_from(timeout_s).ok().map(Duration::from_secs);
                self.kill_at = timeout.map(|timeout| Instant::now() + timeout);
                self.stop(signal, timeout)
            }
            Control::Pause => self.freeze(index, true),
            Control::Unpause => self.freeze(index, false),
            Control::Resize { rows, cols } => self.streams.resize(rows, cols),
            Control::Done
            | Control::Started { .. }
            | Control::Exit { .. }
            | Control::Error { .. } => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "only a shim says this",
            )),
        };
        if let Err(error) = outcome {
            self.refuse(index, error.to_string());
        }
    }

    fn freeze(&mut self, index: usize, frozen: bool) -> io::Result<()> {
        let Some(steering) = self.steering.as_mut().filter(|_| self.init.is_some()) else {
            return Err(io::Error::other("the container does not run"));
        };
        if frozen {
            steering.freezer.pause()?;
            steering.teller.tell("pause", &[]);
        } else {
            steering.freezer.resume()?;
            steering.teller.tell("unpause", &[]);
        }
        self.clients.list[index].tell(&Control::Done);
        Ok(())
    }

    fn refuse(&mut self, index: usize, message: String) {
        self.clients.list[index].tell(&Control::Error {
            message,
            exit_code: None,
        });
    }

    /// Lets a member of services finish its connections first. Who asks again is in a hurry.
    fn stop(&mut self, signal: i32, timeout: Option<Duration>) -> io::Result<()> {
        let is_second = self.draining.take().is_some();
        let waits = signal != SIGKILL && !is_second;
        if let Some(drainer) = self.drainer.as_ref().filter(|_| waits)
            && self.init.is_some()
            && let Ok(ended) = drainer.begin(timeout)
        {
            self.draining = Some((ended, signal));
            return Ok(());
        }
        self.signal(signal)
    }

    fn end_drain(&mut self) -> io::Result<()> {
        match self.draining.take() {
            Some((_ended, signal)) => self.signal(signal),
            None => Ok(()),
        }
    }

    fn signal(&mut self, number: i32) -> io::Result<()> {
        let Some(init) = &self.init else {
            return Ok(());
        };
        match sys::signal::send(init.pidfd.as_fd(), number) {
            // It is on its way out, which is what most signals are for.
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
            Ok(()) => self.sent(number),
            outcome => outcome,
        }
    }

    /// Tells of a signal. A paused container that is to end must run for it.
    fn sent(&mut self, number: i32) -> io::Result<()> {
        let Some(steering) = &mut self.steering else {
            return Ok(());
        };
        let text = number.to_string();
        steering.teller.tell("kill", &[("signal", &text)]);
        if steering.freezer.is_frozen && (number == SIGKILL || self.stop_requested) {
            steering.freezer.resume()?;
            steering.teller.tell("unpause", &[]);
        }
        Ok(())
    }

    fn kill_if_due(&mut self) -> io::Result<()> {
        if self.kill_at.is_some_and(|at| at <= Instant::now()) {
            self.kill_at = None;
            self.signal(SIGKILL)?;
        }
        Ok(())
    }

    /// Reaps the first process, which has ended, and moves the rest of its output.
    pub(crate) fn finish(&mut self) -> io::Result<i32> {
        let Some(init) = self.init.take() else {
            return Err(io::Error::other("there is no process to reap"));
        };
        let code = reap(init.pidfd.as_fd())?;
        // Every process of the PID namespace is gone (pid_namespaces(7)), so the pipes hold what
        // is left and no more comes.
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.move_output(stream) {}
        }
        if let Some(log) = &mut self.log {
            log.finish();
        }
        Ok(code)
    }

    /// Serves clients for so long. True when one asks for the end.
    pub(crate) fn pause(&mut self, pause: Duration) -> io::Result<bool> {
        let until = Instant::now() + pause;
        self.wake_at = Some(until);
        while !self.stop_requested && Instant::now() < until {
            self.turn(None)?;
        }
        Ok(self.stop_requested)
    }
}

/// How many of `fds` are ready; none if a signal came first.
fn poll_for(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<usize> {
    let limit = limit.and_then(|left| Timespec::try_from(left).ok());
    match poll(fds, limit.as_ref()) {
        Err(Errno::INTR) => Ok(0),
        outcome => Ok(outcome?),
    }
}

/// Waits until every client has what was queued for it, or is given up.
pub(crate) fn linger(clients: &mut Clients) -> io::Result<()> {
    while clients.have_unsent() {
        let mut fds: Vec<PollFd<'_>> = clients
            .list
            .iter()
            .filter(|client| client.has_unsent())
            .map(|client| PollFd::from_borrowed_fd(client.socket(), PollFlags::OUT))
            .collect();
        poll_for(&mut fds, clients.patience())?;
        clients.list.iter_mut().for_each(|client| client.send());
        clients.sweep();
    }
    Ok(())
}

/// The exit code of a child that has ended, as a shell would say it.
pub(crate) fn reap(child: BorrowedFd<'_>) -> io::Result<i32> {
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(child), WaitIdOptions::EXITED))?;
    let Some(status) = status else {
        return Err(io::Error::other("the process has not ended"));
    };
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    Ok(status.exit_status().or(signal).unwrap_or(255))
}

/// RFC 3339 with nanoseconds.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}
