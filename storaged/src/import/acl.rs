//! Access control lists in words, as star and GNU tar write them (`SCHILY.acl.access`).
//!
//! `user::rwx,user:1000:r-x,group::r-x,mask::r-x,other::---`, by commas or line ends; star adds the
//! number behind a name as a fourth field. A name without a number is a name of the host that wrote
//! it, which nobody knows here: it is refused, for to leave an entry out could let more people in.

use super::Problem;
use crate::acl::{GROUP, MASK, NOBODY, OTHER, OWNER, OWNING_GROUP, USER, VERSION};

const INVALID: Problem = Problem::Field("access control list");

/// The kernel's form; nothing for a list without entries.
pub(super) fn parse(text: &[u8]) -> Result<Option<Vec<u8>>, Problem> {
    let text = std::str::from_utf8(text).map_err(|_not_text| INVALID)?;
    let mut entries = Vec::new();
    for line in text.split([',', '\n']) {
        // Behind the number sign is what the mask leaves of the entry.
        let words = line.split('#').next().unwrap_or_default().trim();
        if !words.is_empty() {
            entries.push(entry(words)?);
        }
    }
    if entries.is_empty() {
        return Ok(None);
    }
    entries.sort_unstable_by_key(|(tag, id, _)| (*tag, *id));
    let mut list = VERSION.to_vec();
    for (tag, id, permissions) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    Ok(Some(list))
}

/// Tag, id and permissions.
fn entry(words: &str) -> Result<(u16, u32, u16), Problem> {
    let fields: Vec<&str> = words.split(':').map(str::trim).collect();
    let (kind, who, rights, number) = match fields.as_slice() {
        [kind, who, rights] => (*kind, *who, *rights, *who),
        [kind, who, rights, number] if !who.is_empty() => (*kind, *who, *rights, *number),
        _ => return Err(INVALID),
    };
    let (own, named) = match kind {
        "user" | "u" => (OWNER, Some(USER)),
        "group" | "g" => (OWNING_GROUP, Some(GROUP)),
        "mask" | "m" => (MASK, None),
        "other" | "o" => (OTHER, None),
        _ => return Err(INVALID),
    };
    let permissions = permissions(rights).ok_or(INVALID)?;
    match (who, named) {
        ("", _) => Ok((own, NOBODY, permissions)),
        (_, None) => Err(INVALID),
        (who, Some(tag)) => {
            let id = number.parse().ok().filter(|id| *id != NOBODY);
            let id = id.ok_or_else(|| Problem::AclName(who.chars().take(64).collect()))?;
            Ok((tag, id, permissions))
        }
    }
}

fn permissions(rights: &str) -> Option<u16> {
    rights.chars().try_fold(0, |sum, right| match right {
        'r' => Some(sum | 4),
        'w' => Some(sum | 2),
        'x' => Some(sum | 1),
        '-' => Some(sum),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(u16, u16, u32)> {
        let list = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!(list[..4], 2_u32.to_le_bytes());
        let number = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        let entry = |bytes: &[u8]| {
            let id = u32::from_le_bytes(bytes[4..].try_into().unwrap());
            (number(bytes), number(&bytes[2..]), id)
        };
        list[4..].chunks_exact(8).map(entry).collect()
    }

    #[test]
    fn entries_are_ordered_as_the_kernel_wants_them() {
        let star = "user::rwx,group::r-x,other::--x,user:lisa:r-x:502,user:joe:rw-:7,mask::r-x";
        assert_eq!(
            read(star),
            [
                (OWNER, 7, NOBODY),
                (USER, 6, 7),
                (USER, 5, 502),
                (OWNING_GROUP, 5, NOBODY),
                (MASK, 5, NOBODY),
                (OTHER, 1, NOBODY),
            ]
        );
        let gnu = "user::rw-\nuser:1234:rwx\t#effective:r--\ngroup::r--\nmask::r--\nother::---\n";
        assert_eq!(read(gnu)[1], (USER, 7, 1234));
        assert_eq!(read("u::rw,g:5:r,g::-,m::r,o::")[2], (GROUP, 4, 5));
    }

    #[test]
    fn what_is_no_list_or_names_somebody_is_refused() {
        assert_eq!(parse(b"").unwrap(), None);
        assert_eq!(parse(b"\n").unwrap(), None);
        for text in [
            "user",
            "user:",
            "user::rwz",
            "users::rwx",
            "mask:5:r--",
            "user::rwx:5",
            "a:b:c:d:e",
            "\u{7f}",
        ] {
            let problem = parse(text.as_bytes()).unwrap_err();
            assert!(matches!(problem, Problem::Field(_)), "{text}: {problem}");
        }
        assert!(parse(b"\xff").is_err());
        for text in [
            "user:lisa:rwx",
            "group:-1:r",
            "user:4294967295:r",
            "user:x:rw-:y",
        ] {
            let problem = parse(text.as_bytes()).unwrap_err();
            assert!(matches!(problem, Problem::AclName(_)), "{text}: {problem}");
        }
    }
}
