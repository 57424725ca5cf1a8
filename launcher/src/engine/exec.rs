//! Commands inside containers, which clients make, start and look at by requests of their own.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use api::id::Id;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{self, Reply, Request};
use super::life::locked;
use super::{Client, Refusal};
use crate::cli::container::exec::check_executable;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::run::create::random_id;
use crate::shim::launch::{self, Exec};
use crate::store::ContainerDir;
use crate::stream::{Kind, encode};

/// How long the exit code of one that has ended can be asked for.
const KEPT: Duration = Duration::from_secs(300);

/// Those that clients have made.
#[derive(Debug, Default)]
pub(super) struct Execs(Mutex<HashMap<String, Arc<Inside>>>);

/// A command inside a container.
#[derive(Debug)]
struct Inside {
    container: Id,
    asked: Asked,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_started: bool,
    pid: Option<u32>,
    code: Option<i32>,
    ended: Option<Instant>,
    /// The end of its terminal that is ours.
    terminal: Option<OwnedFd>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "PascalCase")]
struct Asked {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    detach_keys: String,
    tty: bool,
    env: Option<Vec<String>>,
    cmd: Vec<String>,
    privileged: bool,
    user: String,
    working_dir: String,
    /// Said again by the start, which counts.
    #[serde(rename = "Detach")]
    _detach: bool,
    #[serde(rename = "ConsoleSize")]
    _console_size: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Start {
    detach: bool,
}

fn body<T: for<'a> Deserialize<'a> + Default>(request: &Request) -> Result<T, Refusal> {
    if request.body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&request.body)
        .map_err(|error| Refusal::new(400, format!("cannot understand the body: {error}")))
}

fn broken(op: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |source| CliError::Io { op, source }.into()
}

impl Execs {
    /// `POST /containers/ID/exec`.
    pub(super) fn make(
        &self,
        context: &Context,
        container: &ContainerDir,
        request: &Request,
    ) -> Result<Reply, Refusal> {
        let asked: Asked = body(request)?;
        if asked.cmd.is_empty() {
            return Err(Refusal::new(400, "No exec command specified".to_owned()));
        }
        check_executable(container, container.record()?.name.as_ref())?;
        context.tell_of(container, &format!("exec_create: {}", asked.cmd.join(" ")));
        let id = random_id()?.to_string();
        let inside = Inside {
            container: container.id().clone(),
            asked,
            state: Mutex::default(),
        };
        let mut execs = locked(&self.0);
        execs.retain(|_, inside| {
            let ended = locked(&inside.state).ended;
            ended.is_none_or(|ended| ended.elapsed() < KEPT)
        });
        execs.insert(id.clone(), Arc::new(inside));
        Ok(Reply::json(201, &json!({ "Id": id })))
    }

    fn find(&self, id: &str) -> Result<Arc<Inside>, Refusal> {
        let found = locked(&self.0).get(id).cloned();
        found.ok_or_else(|| Refusal::new(404, format!("No such exec instance: {id}")))
    }

    /// `GET /exec/ID/json`.
    pub(super) fn look(&self, id: &str) -> Result<Reply, Refusal> {
        let inside = self.find(id)?;
        let (asked, state) = (&inside.asked, locked(&inside.state));
        let (entrypoint, arguments) = asked.cmd.split_first().unzip();
        Ok(Reply::json(
            200,
            &json!({
                "ID": id,
                "ContainerID": inside.container,
                "Running": state.is_started && state.code.is_none(),
                "ExitCode": state.code,
                "Pid": state.pid.unwrap_or_default(),
                "OpenStdin": asked.attach_stdin,
                "OpenStdout": asked.attach_stdout,
                "OpenStderr": asked.attach_stderr,
                "CanRemove": state.code.is_some(),
                "DetachKeys": asked.detach_keys,
                "ProcessConfig": {
                    "tty": asked.tty,
                    "entrypoint": entrypoint,
                    "arguments": arguments.unwrap_or_default(),
                    "privileged": asked.privileged,
                    "user": asked.user,
                },
            }),
        ))
    }

    /// `POST /exec/ID/resize`.
    pub(super) fn resize(&self, id: &str, rows: u16, cols: u16) -> Result<Reply, Refusal> {
        let inside = self.find(id)?;
        let state = locked(&inside.state);
        let size = Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // One that has ended has no size.
        if let (Some(terminal), None) = (&state.terminal, state.code) {
            tcsetwinsize(terminal, size).map_err(|errno| broken("resize")(errno.into()))?;
            let pid = state.pid.and_then(|pid| i32::try_from(pid).ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                // It has not been waited for, so that this is no other process.
                kill_process(pid, Signal::WINCH)
                    .map_err(|errno| broken("tell of the size")(errno.into()))?;
            }
        }
        Ok(Reply::bare(200))
    }

    /// `POST /exec/ID/start`. The answer, unless the client has been given the streams.
    pub(super) fn start(
        &self,
        context: &Context,
        id: &str,
        request: &Request,
        client: Client,
    ) -> Result<Option<Reply>, Refusal> {
        let inside = self.find(id)?;
        let start: Start = body(request)?;
        let container = context.container(inside.container.as_str())?;
        check_executable(&container, container.record()?.name.as_ref())?;
        if std::mem::replace(&mut locked(&inside.state).is_started, true) {
            let message = format!("exec {id} has been started already");
            return Err(Refusal::new(409, message));
        }
        let words = inside.asked.cmd.join(" ");
        context.tell_of(&container, &format!("exec_start: {words}"));
        let begun = inside.begin(context, &container, start.detach);
        let running = begun.inspect_err(|_| inside.end(launch::EXIT_DAEMON))?;
        if start.detach {
            let wait = move || inside.reap(running);
            let waiting = thread::Builder::new().name("exec".to_owned()).spawn(wait);
            waiting.map_err(broken("start a thread"))?;
            return Ok(Some(Reply::bare(200)));
        }
        let mut output = &client.output;
        // A client that has left is as one that leaves now.
        drop(http::upgrade(&mut output, request.header("upgrade")));
        inside.pump(running, client);
        Ok(None)
    }
}

/// The process, and what of its streams is ours.
#[derive(Debug)]
struct Running {
    child: Child,
    /// Of a terminal, to read from and to write to.
    terminal: Option<[std::fs::File; 2]>,
}

/// A terminal: our end and the command's.
fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{Mode, OFlags, open};

    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = open(name, flags, Mode::empty())?;
    Ok((ours, theirs))
}

impl Inside {
    fn begin(
        &self,
        context: &Context,
        container: &ContainerDir,
        detach: bool,
    ) -> Result<Running, Refusal> {
        let asked = &self.asked;
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let exec = Exec {
            tty: asked.tty,
            interactive: asked.attach_stdin && !detach,
            detach: false,
            privileged: asked.privileged,
            user: text(&asked.user),
            env: asked.env.clone().unwrap_or_default(),
            workdir: text(&asked.working_dir),
            detach_keys: text(&asked.detach_keys),
            timeout: None,
            command: asked.cmd.clone(),
        };
        let shim = launch::find_shim().map_err(CliError::from)?;
        let mut command = exec.command(&shim, &context.places(container)?);
        let mut terminals = None;
        if asked.tty {
            let (ours, theirs) = terminal().map_err(broken("make a terminal"))?;
            terminals = Some(
                self.share(&mut command, ours, theirs)
                    .map_err(broken("share a terminal"))?,
            );
        } else {
            let stream = |wanted: bool| match wanted && !detach {
                true => Stdio::piped(),
                false => Stdio::null(),
            };
            command
                .stdin(stream(asked.attach_stdin))
                .stdout(stream(asked.attach_stdout))
                .stderr(stream(asked.attach_stderr));
        }
        let child = sys::signal::spawn_unblocked(&mut command).map_err(broken("run the shim"))?;
        locked(&self.state).pid = Some(child.id());
        Ok(Running {
            child,
            terminal: terminals,
        })
    }

    /// Gives one end to the command, and keeps the other for what is to come.
    fn share(
        &self,
        command: &mut Command,
        ours: OwnedFd,
        theirs: OwnedFd,
    ) -> io::Result<[std::fs::File; 2]> {
        command
            .stdin(theirs.try_clone()?)
            .stdout(theirs.try_clone()?)
            .stderr(theirs);
        let both = [ours.try_clone()?.into(), ours.try_clone()?.into()];
        locked(&self.state).terminal = Some(ours);
        Ok(both)
    }

    fn end(&self, code: i32) {
        let mut state = locked(&self.state);
        state.code = Some(code);
        state.ended = Some(Instant::now());
        state.terminal = None;
    }

    fn reap(&self, mut running: Running) {
        let code = running.child.wait().map_or(launch::EXIT_DAEMON, code_of);
        self.end(code);
    }

    /// Moves streams until the command has ended and all it said is sent.
    fn pump(&self, mut running: Running, client: Client) {
        let Client { mut input, output } = client;
        let mut senders = Vec::new();
        let mut into: Option<Box<dyn Write + Send>> = None;
        if let Some([from, to]) = running.terminal.take() {
            senders.extend(send(from, &output, None));
            into = Some(Box::new(to));
        } else {
            let child = &mut running.child;
            let stdin = child.stdin.take();
            into = into.or_else(|| stdin.map(|stdin| Box::new(stdin) as _));
            let stdout = child.stdout.take();
            senders.extend(stdout.and_then(|from| send(from, &output, Some(Kind::Stdout))));
            let stderr = child.stderr.take();
            senders.extend(stderr.and_then(|from| send(from, &output, Some(Kind::Stderr))));
        }
        let wants_input = self.asked.attach_stdin;
        if let Some(mut into) = into.filter(|_| wants_input) {
            let feed = move || {
                let mut buffer = vec![0; 32 << 10];
                while let Ok(length @ 1..) = input.read(&mut buffer) {
                    if into.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            };
            // Without it the command waits for input that never comes, as if nobody typed.
            drop(thread::Builder::new().name("stdin".to_owned()).spawn(feed));
        }
        if self.asked.tty {
            // The terminal's other end goes with the process, and everything that is in it is read.
            self.reap(running);
            senders.into_iter().for_each(|sender| drop(sender.join()));
        } else {
            senders.into_iter().for_each(|sender| drop(sender.join()));
            self.reap(running);
        }
        // Clients ask for the exit code once the streams have ended. Also wakes who reads the input.
        drop(output.shutdown(Shutdown::Both));
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or(launch::EXIT_DAEMON)
}

/// Passes on what is written, in frames unless it is a terminal's.
fn send(
    mut from: impl Read + Send + 'static,
    output: &std::os::unix::net::UnixStream,
    kind: Option<Kind>,
) -> Option<JoinHandle<()>> {
    let mut output = output.try_clone().ok()?;
    let pass = move || {
        let mut buffer = vec![0; 32 << 10];
        // A terminal whose last user is gone reads as an error.
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..length];
            // Whatever nobody wants any more is read all the same: the command is not to wait.
            drop(match kind {
                None => output.write_all(bytes),
                Some(kind) => output.write_all(&encode(kind, bytes)),
            });
        }
    };
    thread::Builder::new()
        .name("output".to_owned())
        .spawn(pass)
        .ok()
}
