//! systemd's journal in a mount namespace of its own.

use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::cli_support::soon;

const PROGRAM: &str = "/lib/systemd/systemd-journald";

pub(super) struct Journal {
    /// Keeps the namespace until its standard input ends.
    holder: Child,
    journald: Option<Child>,
}

impl Journal {
    pub(super) fn new() -> Self {
        let script = "mount -t tmpfs none /run && mkdir -p /run/log/journal \
                      && mount -t tmpfs none /var/log && touch /run/ready && exec cat";
        let holder = Command::new("unshare")
            .args(["--mount", "--", "sh", "-ec", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut journal = Self {
            holder,
            journald: None,
        };
        soon(|| journal.has("/run/ready"));
        journal.start();
        journal
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let target = format!("--target={}", self.holder.id());
        command.args([&target, "--mount", "--", program]);
        command
    }

    fn has(&self, path: &str) -> bool {
        let mut test = self.command("test");
        let status = test.args(["-e", path]).stderr(Stdio::null()).status();
        status.unwrap().success()
    }

    pub(super) fn start(&mut self) {
        let mut journald = self.command(PROGRAM);
        journald.stdout(Stdio::null()).stderr(Stdio::null());
        self.journald = Some(journald.spawn().unwrap());
        soon(|| self.has("/run/systemd/journal/socket"));
    }

    /// It takes its sockets with it, as one does that a service manager does not keep them for.
    pub(super) fn stop(&mut self) {
        if let Some(mut journald) = self.journald.take() {
            journald.kill().unwrap();
            journald.wait().unwrap();
            let mut remove = self.command("rm");
            let gone = remove.args(["-f", "/run/systemd/journal/socket"]).status();
            assert!(gone.unwrap().success());
        }
    }

    /// Runs a command where the journal is.
    pub(super) fn inside(&self, command: &Command) -> Output {
        let program = command.get_program().to_str().unwrap();
        let mut inside = self.command(program);
        let variables = command.get_envs();
        inside
            .args(command.get_args())
            .envs(variables.filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::null());
        inside.output().unwrap()
    }

    /// What the journal has by a match, once there is so much.
    #[track_caller]
    pub(super) fn entries(&self, wanted: &str, count: usize) -> Vec<Value> {
        let mut entries = Vec::new();
        soon(|| {
            let mut journalctl = self.command("journalctl");
            journalctl.args([
                "--directory=/run/log/journal",
                "-o",
                "json",
                "--all",
                wanted,
            ]);
            let output = journalctl.stderr(Stdio::null()).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            entries = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            entries.len() >= count
        });
        entries
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop();
        drop(self.holder.stdin.take());
        drop(self.holder.wait());
    }
}
