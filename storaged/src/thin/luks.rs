//! Devices that are encrypted: a LUKS header, made and opened by `cryptsetup`, and the device that the
//! kernel decrypts it to, which goes with its last mount like the one below.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use rustix::pipe::{PipeFlags, pipe_with};
use sys::device_mapper::{DeviceMapper, Info};

use crate::model::thin::SECTOR;
use crate::volume::image_file::{self, ImageFailure};

/// What the header takes of a device.
pub(crate) const HEADER: u64 = 16 << 20;
const PROGRAM: &str = "cryptsetup";

/// In the keyring.
pub(crate) fn name_of_key(id: &str) -> String {
    format!("hawser:{id}")
}

pub(super) fn format(node: &Path, key: &[u8]) -> Result<(), ImageFailure> {
    let mut command = Command::new(PROGRAM);
    command
        .args(["luksFormat", "--batch-mode", "--type", "luks2"])
        .args(["--cipher", "aes-xts-plain64", "--key-size", "512"])
        // A key of random bytes is not found by guessing, however fast.
        .args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"])
        .args([
            "--offset",
            &(HEADER / SECTOR).to_string(),
            "--key-file",
            "-",
        ])
        .arg(node);
    run(&mut command, key)
}

/// What is decrypted of the device at `node`, with all that it has by now.
pub(super) fn open(
    mapper: &DeviceMapper,
    node: &Path,
    name: &str,
    bytes: u64,
    key: &[u8],
) -> io::Result<Info> {
    let info = match mapper.info(name)?.filter(|info| info.is_active) {
        Some(info) => info,
        None => {
            let mut command = Command::new(PROGRAM);
            command
                // The kernel's own copy of the key is needed again when the device grows.
                .args([
                    "open",
                    "--type",
                    "luks2",
                    "--disable-keyring",
                    "--key-file",
                    "-",
                ])
                .arg(node)
                .arg(name);
            run(&mut command, key).map_err(io::Error::other)?;
            mapper.info(name)?.ok_or(rustix::io::Errno::NXIO)?
        }
    };
    let mut table = mapper.table(name)?;
    let sectors = (bytes - HEADER) / SECTOR;
    match table.as_mut_slice() {
        [target] if target.length < sectors => {
            target.length = sectors;
            mapper.load(name, &table, false)?;
            mapper.suspend(name)?;
            mapper.resume(name)
        }
        _ => Ok(info),
    }
}

/// With the key at its standard input, which nobody else sees.
fn run(command: &mut Command, key: &[u8]) -> Result<(), ImageFailure> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    send(&writer, key)?;
    drop(writer);
    image_file::run(PROGRAM, "cryptsetup-bin", command.stdin(reader))
}

/// A pipe takes more than any key at once.
fn send(writer: &OwnedFd, key: &[u8]) -> io::Result<()> {
    match rustix::io::write(writer, key)? {
        length if length == key.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
