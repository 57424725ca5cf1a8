//! User namespaces: which ids of the host the ids in a container are.

use serde::{Deserialize, Serialize};

/// Ids in a row, in a container and on the host (user_namespaces(7), "uid_map").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub container: u32,
    pub host: u32,
    pub size: u32,
}

/// What the users and groups of a container are on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

impl IdMaps {
    /// The host's id of a container's user, if it has one.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        to_host(&self.uids, uid)
    }

    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        to_host(&self.gids, gid)
    }

    /// The container's id of a user of the host, if it has one.
    pub fn container_uid(&self, uid: u32) -> Option<u32> {
        to_container(&self.uids, uid)
    }

    pub fn container_gid(&self, gid: u32) -> Option<u32> {
        to_container(&self.gids, gid)
    }

    /// What `/proc/PID/uid_map` or `gid_map` says.
    pub fn ranges(text: &str) -> Option<Vec<IdRange>> {
        let number = |field: Option<&str>| field?.parse().ok();
        let range = |line: &str| {
            let mut fields = line.split_whitespace();
            let range = IdRange {
                container: number(fields.next())?,
                host: number(fields.next())?,
                size: number(fields.next())?,
            };
            fields.next().is_none().then_some(range)
        };
        text.lines().map(range).collect()
    }

    /// The content of `/proc/PID/uid_map`.
    pub fn uid_map(&self) -> String {
        lines(&self.uids)
    }

    /// The content of `/proc/PID/gid_map`.
    pub fn gid_map(&self) -> String {
        lines(&self.gids)
    }
}

fn to_host(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.container)?;
        (offset < range.size).then(|| range.host + offset)
    })
}

fn to_container(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.host)?;
        (offset < range.size).then(|| range.container + offset)
    })
}

fn lines(ranges: &[IdRange]) -> String {
    let line = |range: &IdRange| format!("{} {} {}\n", range.container, range.host, range.size);
    ranges.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_both_ways_and_no_further() {
        let range = |container, host, size| IdRange {
            container,
            host,
            size,
        };
        let maps = IdMaps {
            uids: vec![range(0, 100_000, 10), range(10, 500, 5)],
            gids: vec![range(0, 7, 1)],
        };
        for (container, host) in [(0, 100_000), (9, 100_009), (10, 500), (14, 504)] {
            assert_eq!(maps.host_uid(container), Some(host));
            assert_eq!(maps.container_uid(host), Some(container));
        }
        assert_eq!((maps.host_uid(15), maps.host_gid(1)), (None, None));
        assert_eq!(
            (maps.container_uid(505), maps.container_gid(0)),
            (None, None)
        );
        assert_eq!(maps.uid_map(), "0 100000 10\n10 500 5\n");
        assert_eq!(maps.gid_map(), "0 7 1\n");
        // The kernel aligns its columns.
        let padded = "         0     100000         10\n        10        500          5\n";
        assert_eq!(IdMaps::ranges(padded), Some(maps.uids));
        assert_eq!(IdMaps::ranges("0 7"), None);
        assert_eq!(IdMaps::ranges("0 7 1 2"), None);
    }
}
