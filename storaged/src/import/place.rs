//! Paths as archives give them: checked, and parted into a directory and a name.

use std::ffi::CString;

use rustix::io::Errno;

use super::Problem;
use crate::tree;

const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;

pub(super) type Placed<T> = Result<T, Problem>;

pub(super) fn io_problem<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Problem {
    move |error| Problem::Io {
        what,
        source: error.into(),
    }
}

/// A checked path: parent and name, neither with `.`, `..` or empty parts.
pub(super) struct Place {
    pub(super) parent: Vec<u8>,
    pub(super) name: CString,
}

impl Place {
    pub(super) fn path(&self) -> Vec<u8> {
        tree::join(&self.parent, self.name.as_bytes())
    }
}

/// Checks a member's path; `None` for the root itself.
pub(super) fn parse(path: &[u8]) -> Placed<Option<Place>> {
    if path.contains(&0) {
        return Err(Problem::Nul);
    }
    if path.starts_with(b"/") {
        return Err(Problem::Absolute);
    }
    if path.is_empty() {
        return Err(Problem::NoName);
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Problem::DotDot),
            part if part.len() > MAX_NAME => return Err(Problem::TooLong),
            part => parts.push(part),
        }
    }
    if path.len() > MAX_PATH {
        return Err(Problem::TooLong);
    }
    let Some(name) = parts.pop() else {
        return Ok(None);
    };
    Ok(Some(Place {
        parent: parts.join(&b'/'),
        name: c_string(name)?,
    }))
}

pub(super) fn c_string(bytes: &[u8]) -> Placed<CString> {
    CString::new(bytes).map_err(|_nul| Problem::Nul)
}

/// An error of a resolution that the kernel confined to the layer.
pub(super) fn leaves(error: Errno) -> Problem {
    match error {
        Errno::XDEV | Errno::LOOP => Problem::LeavesLayer,
        Errno::NAMETOOLONG => Problem::TooLong,
        error => io_problem("open its directory")(error),
    }
}

/// Whether a relative link climbs above the root. An absolute one starts at the container's root.
pub(super) fn escapes(parent: &[u8], target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return false;
    }
    let mut depth = parent
        .split(|b| *b == b'/')
        .filter(|part| !part.is_empty())
        .count();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_climb_above_the_root_escape() {
        for (parent, target, out) in [
            ("", "../x", true),
            ("a/b", "../../x", false),
            ("a/b", "../../../x", true),
            ("a", "/etc/passwd", false),
            ("a", "b/../../c", false),
            ("a", "../../a", true),
            ("", ".", false),
        ] {
            assert_eq!(
                escapes(parent.as_bytes(), target.as_bytes()),
                out,
                "{parent} {target}"
            );
        }
    }

    #[test]
    fn paths_part_into_a_parent_and_a_name() {
        let parts = |path: &str| {
            parse(path.as_bytes()).unwrap().map(|place| {
                (
                    String::from_utf8(place.parent.clone()).unwrap(),
                    place.name.into_string().unwrap(),
                )
            })
        };
        assert_eq!(parts("./"), None);
        assert_eq!(parts("./a//b/"), Some(("a".to_owned(), "b".to_owned())));
        assert_eq!(parts("a"), Some((String::new(), "a".to_owned())));
        for bad in [
            "",
            "/",
            "/a",
            "..",
            "a/../b",
            "a\0",
            &"x".repeat(256),
            &"y/".repeat(2100),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
