//! Programs at the kernel's tracepoints: what passes there, as the record that the kernel describes.
//!
//! The description is asked of a tracefs that is mounted nowhere, so that it does not matter whether
//! and where the host has one.

use std::fs::File;
use std::io::{self, Read as _};
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::program::{self, Instruction, Load};
use crate::check;

// include/uapi/linux/bpf.h
const BPF_PROG_TYPE_TRACEPOINT: u32 = 5;
// include/uapi/linux/perf_event.h
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;

/// The first version of `struct perf_event_attr` (`PERF_ATTR_SIZE_VER0`).
#[repr(C)]
#[derive(Default)]
struct EventAttributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

const _: () = assert!(size_of::<EventAttributes>() == 64);

/// A tracepoint of this kernel.
#[derive(Debug)]
pub struct Tracepoint {
    id: u64,
    format: String,
}

impl Tracepoint {
    /// # Errors
    /// Of the kernel: `ENODEV` where it has no tracefs, `NotFound` where it has no such tracepoint,
    /// `EPERM` under lockdown.
    pub fn find(group: &str, name: &str) -> io::Result<Self> {
        let root = crate::mount::detached_virtual("tracefs")?;
        let read = |file: &str| -> io::Result<String> {
            let path = format!("events/{group}/{name}/{file}");
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(&root, path, flags, Mode::empty())?);
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(text)
        };
        let id = read("id")?.trim().parse().map_err(io::Error::other)?;
        let format = read("format")?;
        Ok(Self { id, format })
    }

    /// Where a field of that size is in the record.
    ///
    /// # Errors
    /// `Unsupported` where the kernel's record has no such field.
    pub fn offset(&self, field: &str, size: u32) -> io::Result<i16> {
        offset(&self.format, field, size).ok_or_else(|| {
            let missing = format!("the kernel's tracepoint has no field {field} of {size} bytes");
            io::Error::new(io::ErrorKind::Unsupported, missing)
        })
    }

    /// Runs a program whenever the tracepoint is passed, on any CPU, until the descriptor is closed.
    ///
    /// # Errors
    /// Of the kernel: `EINVAL` or `EACCES` when its verifier refuses the program.
    pub fn attach(&self, name: &str, instructions: &[Instruction]) -> io::Result<OwnedFd> {
        let program = program::load(&Load {
            kind: BPF_PROG_TYPE_TRACEPOINT,
            attach: 0,
            name,
            instructions,
        })?;
        let event = self.event()?;
        // SAFETY: the ioctl takes a descriptor of a program, of which the event keeps a reference.
        check(unsafe {
            libc::ioctl(
                event.as_raw_fd(),
                PERF_EVENT_IOC_SET_BPF,
                program.as_raw_fd(),
            )
        })?;
        // SAFETY: the ioctl takes flags, of which there are none.
        check(unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) })?;
        Ok(event)
    }

    /// An event of one CPU is enough: a program belongs to the tracepoint, and runs on all of them
    /// (`perf_event_attach_bpf_prog`, kernel/trace/bpf_trace.c).
    fn event(&self) -> io::Result<OwnedFd> {
        const ANY_PROCESS: libc::pid_t = -1;
        const FIRST_CPU: libc::c_int = 0;
        const NO_GROUP: libc::c_int = -1;
        let attributes = EventAttributes {
            kind: PERF_TYPE_TRACEPOINT,
            size: size_of::<EventAttributes>() as u32,
            config: self.id,
            ..EventAttributes::default()
        };
        // SAFETY: the kernel reads as many bytes of the attributes as they say they have.
        let event = check(unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                ANY_PROCESS,
                FIRST_CPU,
                NO_GROUP,
                PERF_FLAG_FD_CLOEXEC,
            )
        })?;
        let event = libc::c_int::try_from(event).map_err(io::Error::other)?;
        // SAFETY: the call returns a new descriptor, which nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(event) })
    }
}

/// A line is `field:dev_t dev; offset:8; size:4; signed:0;` (`f_show`,
/// kernel/trace/trace_events.c); an array's name has its length behind it.
fn offset(format: &str, field: &str, size: u32) -> Option<i16> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().split(';').map(str::trim);
        let declared = parts.next()?.strip_prefix("field:")?.rsplit(' ').next()?;
        let name = declared.split('[').next()?;
        let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
        let found: u32 = parts.next()?.strip_prefix("size:")?.parse().ok()?;
        let is_array = name.len() < declared.len();
        let fits = if is_array {
            found >= size
        } else {
            found == size
        };
        (name == field && fits).then_some(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: block_rq_issue\nID: 2104\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:dev_t dev;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:sector_t sector;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;\n\
        \tfield:__data_loc char[] cmd;\toffset:60;\tsize:4;\tsigned:0;\n\n\
        print fmt: \"%d,%d\", REC->dev\n";

    #[test]
    fn fields_are_found_by_name_and_size() {
        assert_eq!(offset(FORMAT, "dev", 4), Some(8));
        assert_eq!(offset(FORMAT, "sector", 8), Some(16));
        assert_eq!(offset(FORMAT, "rwbs", 2), Some(34));
        assert_eq!(offset(FORMAT, "sector", 4), None);
        assert_eq!(offset(FORMAT, "rwbs", 11), None);
        assert_eq!(offset(FORMAT, "bytes", 4), None);
    }

    #[test]
    fn a_tracepoint_that_is_not_there_is_an_error() {
        let error = Tracepoint::find("block", "no_such_point").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
