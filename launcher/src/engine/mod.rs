//! `hawser api`: containers and images by the HTTP API of Docker Engine, for whatever speaks it.
//!
//! A request is a command with other words: [`wish`] says a creation as flags, and what the command
//! line does is done by the functions that it has. What is answered, and what is not, is in
//! docs/adr/0028-docker-engine-api.md.

mod archive;
mod describe;
mod exec;
mod http;
mod images;
mod life;
mod listen;
mod logs;
mod objects;
mod route;
mod wish;

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use api::client::ClientError;

use crate::cli::container::copy::CopyError;
use crate::cli::context::Context;
use crate::cli::error::{CliError, ContainerError};
use crate::registry::RegistryError;
use crate::shim::launch::{EXIT_DAEMON, LaunchError};
use crate::store::StoreError;
use http::{Reply, Request};
use life::Lives;

/// The newest version of Docker's API that is spoken here. Older ones differ in nothing that is.
const API_VERSION: &str = "1.41";
const OLDEST_VERSION: &str = "1.12";

/// Why a request is not done.
#[derive(Debug)]
struct Refusal {
    status: u16,
    message: String,
}

impl Refusal {
    fn new(status: u16, message: String) -> Self {
        Self { status, message }
    }

    fn no_such_page(request: &Request) -> Self {
        let message = format!(
            "{} /{} is not answered here: see the guide \"Docker's API\"",
            request.method,
            request.path.join("/")
        );
        Self::new(501, message)
    }
}

impl From<CliError> for Refusal {
    fn from(error: CliError) -> Self {
        Self::new(status_of(&error), error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        CliError::from(error).into()
    }
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        CliError::from(error).into()
    }
}

fn status_of(error: &CliError) -> u16 {
    use ContainerError as Of;
    match error {
        CliError::Client(error) => error.api().map_or(500, |error| error.code.http_status()),
        CliError::NoImage { .. }
        | CliError::NotTagged(_)
        | CliError::Registry(RegistryError::NotFound { .. } | RegistryError::Denied { .. })
        | CliError::NoObject(_)
        | CliError::Copy(CopyError::NotInContainer { .. })
        | CliError::Store(StoreError::NotFound { .. }) => 404,
        CliError::Store(StoreError::NameTaken { .. })
        | CliError::VolumeOf { .. }
        | CliError::VolumeInUse { .. }
        | CliError::Container(
            Of::NotRunning(_)
            | Of::Kill(_)
            | Of::RemoveRunning(_)
            | Of::Removing(_)
            | Of::Paused(_)
            | Of::Restarting(_)
            | Of::Refused(_)
            | Of::SameName(_),
        ) => 409,
        CliError::Registry(RegistryError::Login { .. }) => 401,
        // Docker says so of a command that is not there.
        CliError::Launch(LaunchError::Refused { exit_code, .. }) if *exit_code != EXIT_DAEMON => {
            400
        }
        CliError::Store(StoreError::Io { .. } | StoreError::Damaged { .. })
        | CliError::Container(Of::Immortal(..) | Of::Lost(_))
        | CliError::Launch(_)
        | CliError::Stream(_)
        | CliError::Cni(_)
        | CliError::Volume(_)
        | CliError::Registry(_)
        | CliError::File { .. }
        | CliError::Io { .. }
        | CliError::NotRoot => 500,
        _ => 400,
    }
}

/// Answers at `socket` until it is stopped. Whoever may use the daemon's socket may use it.
///
/// # Errors
/// Somebody answers there already, or the socket cannot be made.
pub(crate) fn serve(context: &Context, socket: &Path) -> Result<(), CliError> {
    context.require_root()?;
    let listener = listen::bind(socket, context.client().socket())?;
    let lives = Arc::new(Lives::default());
    for stream in listener.incoming() {
        let stream = match stream {
            Ok(stream) => stream,
            Err(source) => {
                let op = "accept a connection";
                return Err(CliError::Io { op, source });
            }
        };
        let (context, lives) = (context.another(), Arc::clone(&lives));
        let work = move || {
            // A client that hangs up is its own affair.
            drop(answer(&context, &lives, stream));
        };
        // A host without room for a thread has none for the request.
        drop(
            thread::Builder::new()
                .name("request".to_owned())
                .spawn(work),
        );
    }
    Ok(())
}

/// A command of ours for the same daemon.
fn hawser(context: &Context, words: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let host = format!("unix://{}", context.client().socket().display());
    command.args(["--host", &host]).args(words);
    command
}

/// A client, from which more may be read.
#[derive(Debug)]
struct Client {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

fn answer(context: &Context, lives: &Lives, stream: UnixStream) -> io::Result<()> {
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    let request = match Request::read(&mut input) {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(error) => return Reply::refusal(400, &error.to_string()).send(&mut output, false),
    };
    let is_head = request.method == "HEAD";
    let client = Client {
        input,
        output: output.try_clone()?,
    };
    match route::answer(context, lives, &request, client) {
        Ok(Some(reply)) => reply.send(&mut output, is_head),
        // It has been given what it is to have.
        Ok(None) => Ok(()),
        Err(refusal) => Reply::refusal(refusal.status, &refusal.message).send(&mut output, is_head),
    }
}
