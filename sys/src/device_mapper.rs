//! Device-mapper by its own system calls (`include/uapi/linux/dm-ioctl.h`).
//!
//! Devices are named as the caller likes; their nodes are those that the kernel makes, `/dev/dm-N`,
//! whether a udev runs or not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::check;

const CONTROL: &str = "/dev/mapper/control";
/// Version of the interface that is spoken; the kernel refuses a newer one than its own.
const VERSION: [u32; 3] = [4, 0, 0];
/// `sizeof(struct dm_ioctl)` and `sizeof(struct dm_target_spec)`.
const HEADER: usize = 312;
const SPEC: usize = 40;
/// Where members of `struct dm_ioctl` are.
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const OPEN_COUNT: usize = 24;
const FLAGS: usize = 28;
const EVENT: usize = 32;
const DEVICE: usize = 40;
const NAME: usize = 48;
const UUID: usize = 176;
const NAME_BYTES: usize = 128;
const UUID_BYTES: usize = 129;
/// What the kernel writes fits into this, or is asked for again with more room.
const ROOM: usize = 16 << 10;
const MOST_ROOM: usize = 16 << 20;

#[derive(Debug, Clone, Copy)]
enum Command {
    Version = 0,
    List = 2,
    Create = 3,
    Remove = 4,
    Suspend = 6,
    Info = 7,
    Load = 9,
    Table = 12,
    Message = 14,
    /// Linux 4.13: the control device becomes readable at the next event.
    ArmPoll = 16,
}

const READ_ONLY: u32 = 1;
const SUSPEND: u32 = 1 << 1;
const STATUS_TABLE: u32 = 1 << 4;
const ACTIVE: u32 = 1 << 5;
const BUFFER_FULL: u32 = 1 << 8;
const NO_FLUSH: u32 = 1 << 11;
const DEFERRED: u32 = 1 << 17;

/// The control device.
#[derive(Debug)]
pub struct DeviceMapper(File);

/// What the kernel says of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// As `stat(2)` has it.
    pub device: u64,
    pub open_count: u32,
    pub event: u32,
    pub is_suspended: bool,
    pub is_active: bool,
    /// It goes when its last user does.
    pub goes_when_closed: bool,
}

impl Info {
    /// Its node, which the kernel makes itself.
    pub fn node(&self) -> PathBuf {
        PathBuf::from(format!("/dev/dm-{}", rustix::fs::minor(self.device)))
    }

    /// As tables name it.
    pub fn number(&self) -> String {
        number(self.device)
    }
}

/// A device as tables name it.
pub fn number(device: u64) -> String {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    format!("{major}:{minor}")
}

/// A line of a table, or of what its targets say of themselves; in sectors of 512 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub start: u64,
    pub length: u64,
    pub kind: String,
    pub parameters: String,
}

impl DeviceMapper {
    /// # Errors
    /// `ENOENT` where the kernel has no device-mapper, or its module is not loaded.
    pub fn open() -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
        let mapper = Self(control);
        mapper.call(Command::Version, Request::default())?;
        Ok(mapper)
    }

    /// Names of all devices.
    ///
    /// # Errors
    /// The kernel's.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let reply = self.call(Command::List, Request::default())?;
        Ok(read_names(reply.data()))
    }

    /// Makes a device without a table.
    ///
    /// # Errors
    /// `EBUSY` when there is one of that name.
    pub fn create(&self, name: &str, uuid: &str) -> io::Result<Info> {
        let request = Request {
            name,
            uuid,
            ..Request::default()
        };
        Ok(self.call(Command::Create, request)?.info())
    }

    /// Removes a device, if there is one; `when_closed` once its last user has closed it.
    ///
    /// # Errors
    /// `EBUSY` while somebody has it open.
    pub fn remove(&self, name: &str, when_closed: bool) -> io::Result<()> {
        let request = Request {
            name,
            flags: if when_closed { DEFERRED } else { 0 },
            ..Request::default()
        };
        match self.call(Command::Remove, request) {
            Err(error) if is_missing(&error) => Ok(()),
            result => result.map(drop),
        }
    }

    /// What the kernel knows of a device; none if there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn info(&self, name: &str) -> io::Result<Option<Info>> {
        match self.call(Command::Info, Request::of(name)) {
            Ok(reply) => Ok(Some(reply.info())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Loads a table, which is used from the next [`Self::resume`].
    ///
    /// # Errors
    /// `EINVAL` for a table that a target refuses; the kernel's log says why.
    pub fn load(&self, name: &str, table: &[Target], read_only: bool) -> io::Result<()> {
        let mut data = Vec::new();
        for target in table {
            write_target(&mut data, target)?;
        }
        let request = Request {
            name,
            flags: if read_only { READ_ONLY } else { 0 },
            targets: u32::try_from(table.len()).map_err(io::Error::other)?,
            data,
            ..Request::default()
        };
        self.call(Command::Load, request).map(drop)
    }

    /// Holds up writers, once everything before is on the device.
    ///
    /// # Errors
    /// The kernel's.
    pub fn suspend(&self, name: &str) -> io::Result<()> {
        let request = Request {
            name,
            flags: SUSPEND,
            ..Request::default()
        };
        self.call(Command::Suspend, request).map(drop)
    }

    /// Lets a device work, by the table loaded last.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resume(&self, name: &str) -> io::Result<Info> {
        Ok(self.call(Command::Suspend, Request::of(name))?.info())
    }

    /// The table that a device works by.
    ///
    /// # Errors
    /// `ENXIO` where there is no such device.
    pub fn table(&self, name: &str) -> io::Result<Vec<Target>> {
        self.targets(name, STATUS_TABLE)
    }

    /// What the targets of a device say of themselves, as of now: nothing is written for it.
    ///
    /// # Errors
    /// `ENXIO` where there is no such device.
    pub fn status(&self, name: &str) -> io::Result<Vec<Target>> {
        self.targets(name, NO_FLUSH)
    }

    fn targets(&self, name: &str, flags: u32) -> io::Result<Vec<Target>> {
        let request = Request {
            name,
            flags,
            ..Request::default()
        };
        let reply = self.call(Command::Table, request)?;
        Ok(read_targets(reply.data(), reply.number(TARGET_COUNT)))
    }

    /// Tells the first target of a device something.
    ///
    /// # Errors
    /// The target's.
    pub fn message(&self, name: &str, text: &str) -> io::Result<()> {
        // `struct dm_target_msg`: a sector and a C string.
        let mut data = vec![0; 8];
        data.extend_from_slice(text.as_bytes());
        data.push(0);
        let request = Request {
            name,
            data,
            ..Request::default()
        };
        self.call(Command::Message, request).map(drop)
    }

    /// Waits until something has happened to any device since the last call, or until the time is up.
    /// Says whether it has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self, limit: std::time::Duration) -> io::Result<bool> {
        let mut control = [rustix::event::PollFd::new(
            &self.0,
            rustix::event::PollFlags::IN,
        )];
        let limit = rustix::event::Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let happened = match rustix::event::poll(&mut control, Some(&limit)) {
            Err(Errno::INTR) => false,
            count => count? > 0,
        };
        self.call(Command::ArmPoll, Request::default())?;
        Ok(happened)
    }

    fn call(&self, command: Command, request: Request<'_>) -> io::Result<Reply> {
        let mut room = ROOM;
        loop {
            let mut reply = request.encode(room)?;
            // _IOWR(0xfd, command, struct dm_ioctl).
            let number = 0xc138_fd00 | command as libc::Ioctl;
            // SAFETY: the kernel reads and writes as many bytes from the start of the buffer as its
            // member `data_size` says, which is the buffer's length.
            check(unsafe { libc::ioctl(self.0.as_raw_fd(), number, reply.0.as_mut_ptr()) })?;
            if reply.number(FLAGS) & BUFFER_FULL == 0 || room >= MOST_ROOM {
                return Ok(reply);
            }
            room *= 4;
        }
    }
}

/// A device that is suspended until this goes.
#[derive(Debug)]
pub struct Suspended<'a> {
    mapper: &'a DeviceMapper,
    name: String,
}

impl<'a> Suspended<'a> {
    /// Suspends a device that is active.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(mapper: &'a DeviceMapper, name: &str) -> io::Result<Self> {
        mapper.suspend(name)?;
        Ok(Self {
            mapper,
            name: name.to_owned(),
        })
    }
}

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        // There is nobody to tell; the kernel fails it for want of memory at most.
        drop(self.mapper.resume(&self.name));
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENXIO)
}

#[derive(Debug, Default)]
struct Request<'a> {
    name: &'a str,
    uuid: &'a str,
    flags: u32,
    targets: u32,
    data: Vec<u8>,
}

impl<'a> Request<'a> {
    fn of(name: &'a str) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    fn encode(&self, room: usize) -> io::Result<Reply> {
        if self.name.len() >= NAME_BYTES || self.uuid.len() >= UUID_BYTES {
            return Err(Errno::NAMETOOLONG.into());
        }
        let mut bytes = vec![0; HEADER + self.data.len().max(room)];
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        for (at, number) in VERSION.iter().enumerate() {
            put(4 * at, &number.to_ne_bytes());
        }
        put(DATA_SIZE, &length.to_ne_bytes());
        put(DATA_START, &312_u32.to_ne_bytes());
        put(TARGET_COUNT, &self.targets.to_ne_bytes());
        put(FLAGS, &self.flags.to_ne_bytes());
        put(NAME, self.name.as_bytes());
        put(UUID, self.uuid.as_bytes());
        put(HEADER, &self.data);
        Ok(Reply(bytes))
    }
}

/// What the kernel has made of a request.
struct Reply(Vec<u8>);

impl Reply {
    fn number(&self, at: usize) -> u32 {
        read_u32(&self.0, at).unwrap_or_default()
    }

    fn info(&self) -> Info {
        let flags = self.number(FLAGS);
        let device = read_u64(&self.0, DEVICE).unwrap_or_default();
        Info {
            device: decode_device(device),
            open_count: self.number(OPEN_COUNT),
            event: self.number(EVENT),
            is_suspended: flags & SUSPEND != 0,
            is_active: flags & ACTIVE != 0,
            goes_when_closed: flags & DEFERRED != 0,
        }
    }

    fn data(&self) -> &[u8] {
        let start = usize::try_from(self.number(DATA_START)).unwrap_or(HEADER);
        let end = usize::try_from(self.number(DATA_SIZE)).unwrap_or(usize::MAX);
        self.0.get(start..end.min(self.0.len())).unwrap_or_default()
    }
}

/// `huge_encode_dev` of the kernel's `include/linux/kdev_t.h`.
fn decode_device(encoded: u64) -> u64 {
    let major = (encoded >> 8) & 0xfff;
    let minor = (encoded & 0xff) | ((encoded >> 12) & 0xfff_ff00);
    let half = |number| u32::try_from(number).unwrap_or_default();
    rustix::fs::makedev(half(major), half(minor))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

fn read_text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// `struct dm_target_spec` and a C string, up to a multiple of eight bytes.
fn write_target(data: &mut Vec<u8>, target: &Target) -> io::Result<()> {
    let mut kind = [0; 16];
    if target.kind.len() >= kind.len() {
        return Err(Errno::NAMETOOLONG.into());
    }
    kind[..target.kind.len()].copy_from_slice(target.kind.as_bytes());
    let length = (SPEC + target.parameters.len() + 1).next_multiple_of(8);
    let next = u32::try_from(length).map_err(io::Error::other)?;
    let end = data.len() + length;
    data.extend(target.start.to_ne_bytes());
    data.extend(target.length.to_ne_bytes());
    data.extend(0_u32.to_ne_bytes());
    data.extend(next.to_ne_bytes());
    data.extend(kind);
    data.extend(target.parameters.as_bytes());
    data.resize(end, 0);
    Ok(())
}

/// What the kernel writes: `next` counts from the start of all of it.
fn read_targets(data: &[u8], count: u32) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let read = || {
            let spec = data.get(at..)?;
            let target = Target {
                start: read_u64(spec, 0)?,
                length: read_u64(spec, 8)?,
                kind: read_text(spec.get(24..SPEC)?),
                parameters: read_text(spec.get(SPEC..)?),
            };
            Some((target, usize::try_from(read_u32(spec, 20)?).ok()?))
        };
        let Some((target, next)) = read() else { break };
        targets.push(target);
        at = next;
    }
    targets
}

/// `struct dm_name_list`: `next` counts from the entry, and is 0 in the last one.
fn read_names(data: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = data;
    while let (Some(device), Some(next)) = (read_u64(rest, 0), read_u32(rest, 8)) {
        // There is no device with this number: the list is empty.
        if device == 0 {
            break;
        }
        names.push(read_text(&rest[12..]));
        let next = usize::try_from(next).unwrap_or(usize::MAX);
        match rest.get(next..) {
            Some(after) if next > 0 => rest = after,
            _ => break,
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(kind: &str, parameters: &str) -> Target {
        Target {
            start: 8,
            length: 16,
            kind: kind.to_owned(),
            parameters: parameters.to_owned(),
        }
    }

    #[test]
    fn a_request_is_as_the_kernel_has_it() {
        let mut data = Vec::new();
        write_target(&mut data, &target("thin", "253:0 7")).unwrap();
        assert_eq!(data.len() % 8, 0);
        let request = Request {
            name: "n",
            uuid: "u",
            flags: DEFERRED,
            targets: 1,
            data,
        };
        let reply = request.encode(0).unwrap();
        assert_eq!(reply.0[..12], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            reply.number(DATA_SIZE),
            u32::try_from(reply.0.len()).unwrap()
        );
        assert_eq!((reply.0[NAME], reply.0[UUID]), (b'n', b'u'));
        assert!(reply.info().goes_when_closed);
        // One target is read as it was written.
        assert_eq!(read_targets(reply.data(), 1), [target("thin", "253:0 7")]);
        let long = "n".repeat(NAME_BYTES);
        assert!(Request::of(&long).encode(0).is_err());
        assert!(write_target(&mut Vec::new(), &target("a-kind-that-is-long", "")).is_err());
    }

    #[test]
    fn replies_are_taken_apart_and_never_beyond_their_end() {
        assert_eq!(number(decode_device(0x0120_fd34)), "253:4660");
        let mut names = Vec::new();
        for (name, next) in [("one", 16_u32), ("two", 0)] {
            names.extend(0xfd00_u64.to_ne_bytes());
            names.extend(next.to_ne_bytes());
            names.extend(name.as_bytes());
            names.push(0);
        }
        assert_eq!(read_names(&names), ["one", "two"]);
        assert!(read_names(&[0; 16]).is_empty());
        assert!(read_names(&[1, 2]).is_empty());
        assert!(read_targets(&[1; 30], 3).is_empty());
    }
}
