//! Which kernel this is, for tests of what a kernel cannot do: daemons find that out by trying.

/// Whether it is as new as that.
pub fn is_linux(major: u32, minor: u32) -> bool {
    let name = rustix::system::uname();
    parse(&name.release().to_string_lossy()).is_some_and(|version| version >= (major, minor))
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_by_number() {
        assert_eq!(parse("5.10.0-32-cloud-amd64"), Some((5, 10)));
        assert_eq!(parse("6.9"), Some((6, 9)));
        assert_eq!(parse("next"), None);
        assert!(is_linux(5, 10) && !is_linux(99, 0));
    }
}
