//! One program, timed, with an end to its time.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// What a program wrote, and how long it ran.
pub(super) struct Called {
    pub(super) took: Duration,
    pub(super) output: Vec<u8>,
}

/// Runs `command` with `input` on its standard input.
///
/// Its output has to fit into a pipe (64 KiB): one that says more runs into the limit.
pub(super) fn timed(command: &mut Command, input: &[u8], limit: Duration) -> Result<Called> {
    let program = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn().with_context(|| program.clone())?;
    let mut stdin = child.stdin.take().context("its input is piped")?;
    // One that fails without reading says why on its output.
    drop(stdin.write_all(input));
    drop(stdin);
    let is_done = wait(child.id(), limit)?;
    let took = begin.elapsed();
    let output = child.wait_with_output().with_context(|| program.clone())?;
    if !is_done {
        bail!("not finished in {} s", limit.as_secs());
    }
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    ensure!(
        output.status.success(),
        "{program}: {}: {}",
        output.status,
        String::from_utf8_lossy(&said).trim()
    );
    Ok(Called {
        took,
        output: output.stdout,
    })
}

/// Waits until a child of ours has ended, or kills it when `limit` has passed.
fn wait(pid: u32, limit: Duration) -> Result<bool> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("a process id")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let limit = Timespec::try_from(limit).context("limit of a program")?;
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    if poll(&mut ended, Some(&limit)).context("poll")? > 0 {
        return Ok(true);
    }
    pidfd_send_signal(&process, Signal::KILL).context("kill a program that goes on")?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn hands_over_the_input_and_returns_the_output() {
        let called = timed(&mut Command::new("cat"), b"hello", SOON).unwrap();
        assert_eq!(called.output, b"hello");
    }

    #[test]
    fn a_program_that_fails_says_why() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo because; exit 3"]);
        let error = timed(&mut command, b"", SOON).map(drop).unwrap_err();
        assert!(error.to_string().ends_with("3: because"), "{error}");
    }

    #[test]
    fn a_program_that_goes_on_is_ended() {
        let mut command = Command::new("sleep");
        let limit = Duration::from_millis(50);
        let called = timed(command.arg("600"), b"", limit).map(drop);
        assert_eq!(called.unwrap_err().to_string(), "not finished in 0 s");
    }
}
