//! One member of an archive: its header and its extension records, put together strictly.
//!
//! Archive readers that disagree about where a member ends or what it is called can be made to see
//! different archives in one stream. Whatever POSIX (pax, "Extended Header") leaves to the reader is
//! therefore refused here: records given twice, names given two ways, sizes that differ.

use rustix::fs::Timespec;
use tar::Header;

use super::{Problem, acl};
use crate::recipe::Extent;
use crate::xattr;

/// The largest size an octal header field holds. Beyond it only a PAX record tells the truth.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// Target of a hard or symbolic link.
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timespec,
    /// Length of the file.
    pub(super) size: u64,
    pub(super) extents: Vec<Extent>,
    /// Those of `SCHILY.xattr.`, as they come.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) device: (u32, u32),
}

impl Member {
    /// Whether the archive holds data of the file.
    pub(super) fn has_content(&self) -> bool {
        self.extents.iter().any(|extent| extent.length > 0)
    }

    pub(super) fn has_acl(&self) -> bool {
        let is_acl = |(name, _): &(Vec<u8>, _)| xattr::ACLS.contains(&name.as_slice());
        self.xattrs.iter().any(is_acl)
    }
}

/// The extension records in front of a member.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// GNU `L`.
    pub(super) long_path: Option<Vec<u8>>,
    /// GNU `K`.
    pub(super) long_link: Option<Vec<u8>>,
    pub(super) pax: Option<Pax>,
}

impl Extensions {
    pub(super) fn is_empty(&self) -> bool {
        self.long_path.is_none() && self.long_link.is_none() && self.pax.is_none()
    }
}

/// The records of a PAX extended header that matter for a layer.
#[derive(Debug, Default)]
pub(super) struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Timespec>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Those of `SCHILY.acl.`, as attributes.
    acls: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: bool,
}

impl Pax {
    /// Parses `LENGTH KEY=VALUE\n` records by their lengths: values may hold any byte.
    pub(super) fn parse(mut text: &[u8]) -> Result<Self, Problem> {
        let mut pax = Self::default();
        while !text.is_empty() {
            let (key, value, rest) = record(text).ok_or(Problem::Field("PAX header"))?;
            pax.set(key, value)?;
            text = rest;
        }
        Ok(pax)
    }

    /// Whether a global header says nothing about members, like the one of git archives.
    pub(super) fn is_comment(&self) -> bool {
        let Self {
            path,
            link,
            size,
            uid,
            gid,
            mtime,
            xattrs,
            acls,
            sparse,
        } = self;
        path.is_none()
            && link.is_none()
            && size.is_none()
            && uid.is_none()
            && gid.is_none()
            && mtime.is_none()
            && xattrs.is_empty()
            && acls.is_empty()
            && !sparse
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        match key {
            b"path" => once(&mut self.path, "path", Some(value.to_vec())),
            b"linkpath" => once(&mut self.link, "link target", Some(value.to_vec())),
            b"size" => once(&mut self.size, "size", decimal(value)),
            b"uid" => once(&mut self.uid, "owner", decimal(value).and_then(owner)),
            b"gid" => once(&mut self.gid, "group", decimal(value).and_then(owner)),
            b"mtime" => once(&mut self.mtime, "time", timestamp(value)),
            b"SCHILY.acl.access" => self.set_acl(xattr::ACLS[0], value),
            b"SCHILY.acl.default" => self.set_acl(xattr::DEFAULT_ACL, value),
            // Of NFSv4, which nothing here could keep to.
            b"SCHILY.acl.ace" => Err(Problem::Field("access control list")),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
                self.sparse |= key.starts_with(b"GNU.sparse.");
                Ok(())
            }
        }
    }
}

impl Pax {
    fn set_acl(&mut self, attribute: &[u8], text: &[u8]) -> Result<(), Problem> {
        if self.acls.iter().any(|(known, _)| known == attribute) {
            return Err(Problem::Disagreement("access control list"));
        }
        if let Some(list) = acl::parse(text)? {
            self.acls.push((attribute.to_vec(), list));
        }
        Ok(())
    }

    /// Lists as attributes are exact; those in words, which may be beside them, are for readers that
    /// do not know attributes.
    fn attributes(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut attributes = self.xattrs;
        for (name, list) in self.acls {
            if !attributes.iter().any(|(known, _)| *known == name) {
                attributes.push((name, list));
            }
        }
        attributes
    }
}

fn once<T>(slot: &mut Option<T>, what: &'static str, value: Option<T>) -> Result<(), Problem> {
    if slot.is_some() {
        return Err(Problem::Disagreement(what));
    }
    *slot = Some(value.ok_or(Problem::Field(what))?);
    Ok(())
}

/// One record and what follows it.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&text[..space])?).ok()?;
    let body = text.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    Some((&body[..equals], &body[equals + 1..], &text[length..]))
}

fn decimal(text: &[u8]) -> Option<u64> {
    // `parse` would take a plus sign.
    text.iter()
        .all(u8::is_ascii_digit)
        .then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

/// An id the kernel has: all ones means "leave as it is" in `chown(2)`.
fn owner(id: u64) -> Option<u32> {
    u32::try_from(id).ok().filter(|id| *id != u32::MAX)
}

/// `[-]SECONDS[.FRACTION]`, the fraction cut to nanoseconds.
fn timestamp(text: &[u8]) -> Option<Timespec> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    let mut nanoseconds = 0;
    for place in 0..9 {
        let digit = fraction.get(place).copied().unwrap_or(b'0');
        nanoseconds = nanoseconds * 10 + i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    // Nanoseconds count upwards from the second below.
    Some(match (negative, nanoseconds) {
        (false, _) => Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        },
        (true, 0) => Timespec {
            tv_sec: -seconds,
            tv_nsec: 0,
        },
        (true, _) => Timespec {
            tv_sec: -seconds - 1,
            tv_nsec: 1_000_000_000 - nanoseconds,
        },
    })
}

/// A header read, and what it says about the data behind it.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) member: Member,
    /// Bytes of data in the archive, without padding.
    pub(super) stored: u64,
    /// The member is an old GNU sparse file: its map continues in the archive.
    pub(super) gnu_sparse: bool,
}

/// The path a header and its extensions give, for messages and for the member.
pub(super) fn path(header: &Header, extensions: &Extensions) -> Result<Vec<u8>, Problem> {
    let pax = extensions.pax.as_ref().and_then(|pax| pax.path.as_ref());
    one_name("path", extensions.long_path.as_ref(), pax, || {
        header.path_bytes().into_owned()
    })
}

fn one_name(
    what: &'static str,
    gnu: Option<&Vec<u8>>,
    pax: Option<&Vec<u8>>,
    header: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, Problem> {
    match (gnu, pax) {
        (Some(_), Some(_)) => Err(Problem::Disagreement(what)),
        (Some(name), None) | (None, Some(name)) => Ok(name.clone()),
        (None, None) => Ok(header()),
    }
}

pub(super) fn parse(
    header: &Header,
    extensions: Extensions,
    path: Vec<u8>,
) -> Result<Parsed, Problem> {
    let Extensions { long_link, pax, .. } = extensions;
    let pax = pax.unwrap_or_default();
    if pax.sparse {
        return Err(Problem::PaxSparse);
    }
    let (kind, gnu_sparse) = kind(header, &path)?;
    let link = one_name("link target", long_link.as_ref(), pax.link.as_ref(), || {
        header
            .link_name_bytes()
            .map(std::borrow::Cow::into_owned)
            .unwrap_or_default()
    })?;
    let stored = size(header, pax.size)?;
    if kind != Kind::File && stored != 0 {
        return Err(Problem::Content);
    }
    let member = Member {
        path,
        kind,
        link,
        mode: header.mode().map_err(|_why| Problem::Field("mode"))? & 0o7777,
        uid: id(pax.uid, header.uid(), "owner")?,
        gid: id(pax.gid, header.gid(), "group")?,
        mtime: match pax.mtime {
            Some(time) => time,
            None => seconds(header)?,
        },
        size: stored,
        extents: vec![Extent {
            offset: 0,
            length: stored,
        }],
        xattrs: pax.attributes(),
        device: (
            device(header.device_major())?,
            device(header.device_minor())?,
        ),
    };
    Ok(Parsed {
        member,
        stored,
        gnu_sparse,
    })
}

fn kind(header: &Header, path: &[u8]) -> Result<(Kind, bool), Problem> {
    let kind = match header.as_bytes()[156] {
        // Before POSIX a directory was a file whose name ends with a slash.
        b'\0' if path.ends_with(b"/") => Kind::Directory,
        b'\0' | b'0' | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'S' => return Ok((Kind::File, true)),
        other => return Err(Problem::Kind(char::from(other))),
    };
    Ok((kind, false))
}

/// A PAX size may only say what the header has no room for.
fn size(header: &Header, pax: Option<u64>) -> Result<u64, Problem> {
    let own = header.entry_size().map_err(|_why| Problem::Field("size"))?;
    match pax {
        Some(size) if size != own && size <= MAX_OCTAL_SIZE => Err(Problem::Disagreement("size")),
        Some(size) => Ok(size),
        None => Ok(own),
    }
}

fn id(pax: Option<u32>, header: std::io::Result<u64>, what: &'static str) -> Result<u32, Problem> {
    match pax {
        Some(id) => Ok(id),
        None => header.ok().and_then(owner).ok_or(Problem::Field(what)),
    }
}

fn seconds(header: &Header) -> Result<Timespec, Problem> {
    let seconds = header.mtime().map_err(|_why| Problem::Field("time"))?;
    // A negative number in base 256 arrives as its two's complement.
    Ok(Timespec {
        tv_sec: seconds.cast_signed(),
        tv_nsec: 0,
    })
}

/// Device numbers exist in ustar and GNU headers only.
fn device(number: std::io::Result<Option<u32>>) -> Result<u32, Problem> {
    // A blank field is as good as none.
    Ok(number.ok().flatten().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut text = Vec::new();
        for (key, value) in records {
            let body = [key.as_bytes(), b"=", value, b"\n"].concat();
            let digits = (1..)
                .find(|n| (n + 1 + body.len()).to_string().len() == *n)
                .unwrap();
            text.extend(format!("{} ", digits + 1 + body.len()).bytes());
            text.extend(body);
        }
        text
    }

    #[test]
    fn values_may_hold_line_ends() {
        let parsed =
            Pax::parse(&pax(&[("SCHILY.xattr.user.a", b"1\n2=\0"), ("size", b"7")])).unwrap();
        assert_eq!(parsed.xattrs, [(b"user.a".to_vec(), b"1\n2=\0".to_vec())]);
        assert_eq!(parsed.size, Some(7));
    }

    #[test]
    fn broken_and_repeated_records_are_refused() {
        for text in [
            "x", "5 a=b\n", "6 a=b", "6 ab\n\n", "99 a=b\n", " a=b\n", "+6 a=b\n", "0 a=b\n",
        ] {
            assert!(Pax::parse(text.as_bytes()).is_err(), "{text:?}");
        }
        for (key, value) in [
            ("size", &b"-1"[..]),
            ("size", b"+1"),
            ("uid", b"4294967295"),
            ("mtime", b"x"),
        ] {
            assert!(Pax::parse(&pax(&[(key, value)])).is_err(), "{key}");
        }
        assert!(Pax::parse(&pax(&[("path", b"a"), ("path", b"b")])).is_err());
    }

    #[test]
    fn times_before_1970_and_fractions() {
        let time = |text: &[u8]| timestamp(text).map(|t| (t.tv_sec, t.tv_nsec));
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"1.x"), None);
    }
}
