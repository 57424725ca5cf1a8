//! The journal's native protocol (systemd's "Native Journal Protocol").

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::cmsg_space;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::queue::Waiting;
use crate::container::Record;
use crate::log::Stream;

pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// What all messages of a container have in common.
#[derive(Debug)]
pub(super) struct Fields {
    /// Encoded.
    common: Vec<u8>,
    /// Distinguishes the numbers of this start from those of others.
    epoch: String,
}

impl Fields {
    pub(super) fn of(
        record: &Record,
        tag: &str,
        attributes: &BTreeMap<String, String>,
        epoch: String,
    ) -> Self {
        let mut common = Vec::new();
        for (name, value) in attributes {
            if let Some(name) = field_name(name) {
                put(&mut common, &name, value.as_bytes());
            }
        }
        for (name, value) in [
            ("CONTAINER_ID", record.id.short()),
            ("CONTAINER_ID_FULL", record.id.as_str()),
            ("CONTAINER_NAME", record.name.as_str()),
            ("CONTAINER_TAG", tag),
            ("IMAGE_NAME", &record.image),
            ("SYSLOG_IDENTIFIER", tag),
        ] {
            put(&mut common, name, value.as_bytes());
        }
        Self { common, epoch }
    }

    pub(super) fn message(&self, waiting: &Waiting) -> Vec<u8> {
        let (piece, mut message) = (&waiting.piece, self.common.clone());
        let line = piece.line.strip_suffix(b"\n").unwrap_or(&piece.line);
        let mut field = |name: &str, value: &str| put(&mut message, name, value.as_bytes());
        field(
            "PRIORITY",
            match piece.stream {
                Stream::Stdout => "6",
                Stream::Stderr => "3",
            },
        );
        field("SYSLOG_TIMESTAMP", &format!("{:.9}", waiting.time));
        field("CONTAINER_LOG_EPOCH", &self.epoch);
        field("CONTAINER_LOG_ORDINAL", &waiting.number.to_string());
        if let Some(part) = piece.part {
            field(
                "CONTAINER_PARTIAL_ID",
                &format!("{}-{}", self.epoch, part.id),
            );
            field("CONTAINER_PARTIAL_ORDINAL", &part.ordinal.to_string());
            field("CONTAINER_PARTIAL_LAST", &part.is_last.to_string());
            if !part.is_last {
                field("CONTAINER_PARTIAL_MESSAGE", "true");
            }
        }
        put(&mut message, "MESSAGE", line);
        message
    }
}

/// A field: on one line if it can be, else with its length in front.
fn put(message: &mut Vec<u8>, name: &str, value: &[u8]) {
    message.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        message.push(b'\n');
        message.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        message.push(b'=');
    }
    message.extend_from_slice(value);
    message.push(b'\n');
}

/// The journal takes upper case, digits and underscores, no digit or underscore in front
/// (`journal_field_valid`), and no more than 64 of them.
fn field_name(name: &str) -> Option<String> {
    let letter = |character: char| match character.to_ascii_uppercase() {
        letter @ ('A'..='Z' | '0'..='9') => letter,
        _ => '_',
    };
    let name: String = name.chars().map(letter).collect();
    let name = name.trim_start_matches(|c: char| c == '_' || c.is_ascii_digit());
    (!name.is_empty()).then(|| name.chars().take(64).collect())
}

/// For messages that are larger than a datagram may be: a sealed file in memory.
pub(super) fn send_as_file(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("log", flags)?);
    file.write_all(message)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, seals)?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let nothing = [IoSlice::new(&[])];
    sendmsg(socket, &nothing, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_lines_unless_they_have_some() {
        let mut message = Vec::new();
        put(&mut message, "A", b"x=y");
        put(&mut message, "B", b"1\n2");
        assert_eq!(message, b"A=x=y\nB\n\x03\0\0\0\0\0\0\x001\n2\n");
    }

    #[test]
    fn names_become_what_the_journal_takes() {
        for (name, expected) in [
            ("com.example.tier", Some("COM_EXAMPLE_TIER")),
            ("__internal", Some("INTERNAL")),
            ("9lives", Some("LIVES")),
            ("_1", None),
            ("é", None),
        ] {
            assert_eq!(field_name(name).as_deref(), expected, "{name}");
        }
    }
}
