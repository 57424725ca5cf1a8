//! A virtual machine: QEMU without hardware acceleration, so that it runs wherever the tests do.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::console::{Account, Verdict};
use super::kernel::Boot;
use super::userland::Userland;

/// `-cx16`: Linux 6.12 crashes at one start of nine when the emulator has that instruction.
const MACHINE: [&str; 16] = [
    "-accel",
    "tcg,thread=multi",
    "-machine",
    "q35",
    "-cpu",
    "max,-cx16",
    "-smp",
    "1",
    "-m",
    "1024",
    "-nodefaults",
    "-no-reboot",
    "-display",
    "none",
    "-monitor",
    "none",
];
/// Warnings of the kernel are shown, a panic ends the guest. Programs are always at the same
/// addresses: the emulator keeps what it has translated by address, and translates each process
/// anew where they are random, which takes twice the time.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 rdinit=/init norandmaps";
/// How much of a console is shown of a guest that failed.
const SHOWN_LINES: usize = 60;

/// A guest's place on the virtual switch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seat<'a> {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) of: usize,
    /// Directory of the switch's sockets.
    pub(super) wires: &'a Path,
}

#[derive(Debug)]
pub(super) struct Guest {
    process: Child,
    console: PathBuf,
}

/// What is booted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine<'a> {
    pub(super) boot: &'a Boot,
    pub(super) userland: &'a Userland,
    pub(super) programs: &'a Path,
    pub(super) scratch: Scratch<'a>,
    /// Of its first process, and of stories: `NAME=VALUE`s.
    pub(super) environment: &'a str,
}

/// Disks that stories may fill: `/dev/vdd` and what follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scratch<'a> {
    pub(super) disks: &'a [PathBuf],
    /// What is written to them is there in the next guest.
    pub(super) keeps: bool,
}

impl Guest {
    /// Starts a guest that is ended after `limit`; its console goes to a file in `logs`.
    pub(super) fn start(
        machine: Machine<'_>,
        seat: Seat<'_>,
        logs: &Path,
        limit: Duration,
    ) -> Result<Self> {
        fs::create_dir_all(logs).with_context(|| logs.display().to_string())?;
        let console = logs.join(format!("console-{}.log", seat.number));
        fs::write(&console, "").with_context(|| console.display().to_string())?;
        // One that is killed here leaves no guest behind.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig=TERM", "timeout", "--kill-after=5"])
            .arg(limit.as_secs().to_string())
            .arg("qemu-system-x86_64")
            .args(MACHINE)
            .arg("-kernel")
            .arg(&machine.boot.image)
            .arg("-initrd")
            .arg(&machine.boot.first_root)
            .arg("-append")
            // What the kernel does not know becomes environment of its first process.
            .arg(format!(
                "{COMMAND_LINE} GUEST={} GUESTS={} {}",
                seat.number, seat.of, machine.environment
            ))
            // Writes go to a file that nobody sees.
            .arg("-snapshot");
        let disks = [&machine.userland.image, &machine.boot.modules].map(PathBuf::as_path);
        let mut drive = |disk: &Path, more: &str| {
            let disk = disk.display();
            let options = format!("file={disk},if=virtio,format=raw,cache=unsafe{more}");
            qemu.arg("-drive").arg(options);
        };
        for disk in disks.into_iter().chain([machine.programs]) {
            drive(disk, "");
        }
        for disk in machine.scratch.disks {
            let keeps = machine.scratch.keeps;
            drive(disk, if keeps { ",snapshot=off" } else { "" });
        }
        qemu.arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"])
            .args(wiring(seat));
        let process = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("qemu-system-x86_64")?;
        Ok(Self { process, console })
    }

    /// Reads verdicts until the guest ends; `see` gets each.
    pub(super) fn follow(&mut self, mut see: impl FnMut(&Verdict)) -> Result<Account> {
        let stdout = self.process.stdout.take();
        let stdout = stdout.context("the guest has been followed already")?;
        let mut account = Account::default();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("the guest's verdicts")?;
            if let Some(verdict) = Verdict::read(&String::from_utf8_lossy(&line)) {
                see(&verdict);
                account.take(verdict);
            }
        }
        // A panic ends it like a reboot: its code tells nothing.
        self.process.wait().context("qemu-system-x86_64")?;
        Ok(account)
    }

    /// By which its power is cut.
    pub(super) fn plug(&self) -> Plug {
        Plug(self.process.id())
    }

    pub(super) fn console(&self) -> Result<String> {
        let bytes = fs::read(&self.console).with_context(|| self.console.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Prints the end of the console, for whoever has the output alone, and where the whole is.
    pub(super) fn show_end(&self) -> Result<()> {
        let console = self.console()?;
        let lines: Vec<&str> = console.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        println!("{}", shown.join("\n"));
        println!("console: {}", self.console.display());
        Ok(())
    }
}

/// A guest that is not waited for before it is pulled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plug(u32);

impl Plug {
    /// Ends the guest between two of its instructions. What it has not written to a disk is lost.
    pub(super) fn pull(self) {
        // It may have ended already; timeout(1) hands the signal on.
        drop(Command::new("kill").arg(self.0.to_string()).status());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            self.plug().pull();
            drop(self.process.wait());
        }
    }
}

/// Options that join a guest to the switch, which is a hub in the first guest's emulator with a
/// socket for each of the others.
fn wiring(seat: Seat<'_>) -> Vec<String> {
    if seat.of < 2 {
        return Vec::new();
    }
    let wire = |number: usize| {
        seat.wires
            .join(format!("wire-{number}"))
            .display()
            .to_string()
    };
    let card = |back: &str| {
        let mac = format!("52:54:00:00:00:{:02x}", seat.number);
        format!("virtio-net-pci,netdev={back},mac={mac},romfile=")
    };
    let mut options = Vec::new();
    if seat.number > 1 {
        let path = wire(seat.number);
        let stream = format!("stream,id=wire,server=off,addr.type=unix,addr.path={path}");
        options.extend([
            "-netdev".to_owned(),
            stream,
            "-device".to_owned(),
            card("wire"),
        ]);
        return options;
    }
    for number in 2..=seat.of {
        let path = wire(number);
        options.extend([
            "-netdev".to_owned(),
            format!("stream,id=wire{number},server=on,addr.type=unix,addr.path={path}"),
            "-netdev".to_owned(),
            format!("hubport,id=port{number},hubid=0,netdev=wire{number}"),
        ]);
    }
    options.extend(["-netdev".to_owned(), "hubport,id=port1,hubid=0".to_owned()]);
    options.extend(["-device".to_owned(), card("port1")]);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_guest_is_the_switch() {
        let wires = Path::new("/w");
        let options = |number, of| wiring(Seat { number, of, wires }).join(" ");
        assert_eq!(options(1, 1), "");
        assert!(options(3, 3).contains("server=off,addr.type=unix,addr.path=/w/wire-3"));
        let first = options(1, 3);
        for part in [
            "/w/wire-2",
            "/w/wire-3",
            "netdev=port1",
            "hubid=0,netdev=wire3",
        ] {
            assert!(first.contains(part), "{first}");
        }
        assert!(!first.contains("wire-1"), "{first}");
    }
}
