//! Who the users of a container are on the host.
//!
//! On disk a container's files belong to the ids that they have in it, whatever these are on the
//! host: layers are shared by containers with different maps, and nothing is ever changed on disk.
//! The mounts show the mapped owners (`sys::owner`).

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use api::owner::IdMaps;
use sys::owner::Owners;

use crate::Storaged;
use crate::model::record::{RootfsRow, Rows};
use crate::model::subordinate::{self, Span};

/// Has the ids of containers when the configuration says `default`.
const REMAP_USER: &str = "hawsremap";

#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    #[error(
        "{user} has no subordinate ids: add a line like {user}:100000:65536 to {}",
        file.display()
    )]
    NoIds { user: String, file: PathBuf },
    #[error(
        "every block of ids that {user} has is another container's: remove containers, or give \
         {user} more than 65536 ids in /etc/subuid and /etc/subgid, 65536 for each container"
    )]
    Taken { user: String },
    #[error("invalid user {0:?} for a user namespace: expected USER or USER:GROUP")]
    User(String),
    #[error("cannot join the user namespace of container {0}: it has no root filesystem")]
    NoPeer(String),
    #[error(
        "cannot show mapped owners in {} on {filesystem} with Linux {kernel}: {source}; put the \
         state directory on ext4, xfs or btrfs of Linux 5.19 or later, or tmpfs of 6.3, or run with \
         --userns host",
        directory.display()
    )]
    Unmappable {
        directory: PathBuf,
        filesystem: String,
        kernel: String,
        source: std::io::Error,
    },
}

/// A user and a group by whose names lines of subuid(5) and subgid(5) count.
struct Holder<'a> {
    user: &'a str,
    group: &'a str,
}

impl<'a> Holder<'a> {
    fn parse(text: &'a str) -> Result<Self, OwnerError> {
        let (user, group) = match text {
            "default" => (REMAP_USER, REMAP_USER),
            text => text.split_once(':').unwrap_or((text, text)),
        };
        let is_name = |name: &str| {
            let mut bytes = name.bytes();
            !name.is_empty()
                && name.len() <= 32
                && !name.starts_with('-')
                && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-$".contains(&b))
        };
        if is_name(user) && is_name(group) {
            Ok(Self { user, group })
        } else {
            Err(OwnerError::User(text.chars().take(64).collect()))
        }
    }
}

impl Storaged {
    /// Checks what the configuration says of user namespaces.
    ///
    /// # Errors
    /// [`OwnerError`]: no container could be made.
    pub fn check_remap(&self) -> Result<(), OwnerError> {
        match self.config.userns_remap.as_deref() {
            None => Ok(()),
            Some(user) => self.shared_maps(user).map(drop),
        }
    }

    /// Who the users of containers are that ask for nothing else, if they are not the host's.
    pub fn remap(&self) -> Option<(String, IdMaps)> {
        let user = self.config.userns_remap.as_deref()?;
        let maps = self.shared_maps(user).ok()?;
        let name = Holder::parse(user).ok()?.user.to_owned();
        Some((name, maps))
    }

    /// The maps of a new container. To be called while nobody else is made.
    pub(crate) fn id_maps(&self, rows: &Rows, mode: &str) -> Result<Option<IdMaps>, OwnerError> {
        let remap = self.config.userns_remap.as_deref();
        let user = remap.unwrap_or("default");
        let maps = match (mode, mode.strip_prefix("container:")) {
            ("host", _) => None,
            ("", _) => remap.map(|user| self.shared_maps(user)).transpose()?,
            ("private", _) => Some(self.shared_maps(user)?),
            ("auto", _) => Some(self.own_maps(rows, user)?),
            (_, Some(peer)) => match rows.rootfs.get(peer) {
                Some(row) => row.id_maps.clone(),
                None => return Err(OwnerError::NoPeer(peer.chars().take(64).collect())),
            },
            (user, None) => Some(self.shared_maps(user)?),
        };
        if maps.is_some() {
            self.check_mappable()?;
        }
        Ok(maps)
    }

    fn check_mappable(&self) -> Result<(), OwnerError> {
        let directory = self.layout.store();
        self.driver
            .can_map_owners()
            .map_err(|source| OwnerError::Unmappable {
                filesystem: crate::driver::overlay::backing(&directory),
                kernel: rustix::system::uname()
                    .release()
                    .to_string_lossy()
                    .into_owned(),
                directory,
                source,
            })
    }

    fn shared_maps(&self, user: &str) -> Result<IdMaps, OwnerError> {
        let (uids, gids) = self.spans(&Holder::parse(user)?)?;
        Ok(subordinate::shared(&uids, &gids))
    }

    fn own_maps(&self, rows: &Rows, user: &str) -> Result<IdMaps, OwnerError> {
        let holder = Holder::parse(user)?;
        let (uids, gids) = self.spans(&holder)?;
        let maps = rows.rootfs.values().filter_map(|row| row.id_maps.as_ref());
        let taken: BTreeSet<u32> = maps.filter_map(|maps| maps.host_uid(0)).collect();
        subordinate::own(&uids, &gids, &taken).ok_or_else(|| OwnerError::Taken {
            user: holder.user.to_owned(),
        })
    }

    fn spans(&self, holder: &Holder<'_>) -> Result<(Vec<Span>, Vec<Span>), OwnerError> {
        let uids = self.granted("subuid", "passwd", holder.user)?;
        let gids = self.granted("subgid", "group", holder.group)?;
        Ok((uids, gids))
    }

    /// What one of the files grants: by name, or by the number that the name has.
    fn granted(&self, file: &str, names: &str, who: &str) -> Result<Vec<Span>, OwnerError> {
        let file = self.config.id_files.join(file);
        let text = fs::read_to_string(&file).unwrap_or_default();
        let accounts = fs::read_to_string(self.config.id_files.join(names)).unwrap_or_default();
        let other = other_name(&accounts, who).unwrap_or(who);
        let spans = subordinate::parse(&text, &[who, other]);
        if spans.is_empty() {
            return Err(OwnerError::NoIds {
                user: who.to_owned(),
                file,
            });
        }
        Ok(spans)
    }
}

/// The number of a name and the name of a number (passwd(5), group(5)).
fn other_name<'a>(accounts: &'a str, who: &str) -> Option<&'a str> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        match who {
            who if who == name => Some(number),
            who if who == number => Some(name),
            _ => None,
        }
    })
}

/// For a mount. A container without a root has none that could write, and is none.
pub(crate) fn owners(row: &RootfsRow) -> Option<Owners> {
    let maps = row.id_maps.as_ref()?;
    Some(Owners {
        uid_map: maps.uid_map(),
        gid_map: maps.gid_map(),
        root: (maps.host_uid(0)?, maps.host_gid(0)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_users_with_or_without_a_group() {
        let holder = |text| Holder::parse(text).map(|holder| (holder.user, holder.group));
        assert_eq!(holder("default").unwrap(), ("hawsremap", "hawsremap"));
        assert_eq!(holder("ann").unwrap(), ("ann", "ann"));
        assert_eq!(holder("ann:staff").unwrap(), ("ann", "staff"));
        assert_eq!(holder("1000:100").unwrap(), ("1000", "100"));
        for bad in ["", ":", "ann:", "a b", "-x", "a:b:c", "../x"] {
            assert!(holder(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_have_numbers_and_numbers_names() {
        let accounts = "root:x:0:0::/root:/bin/sh\nann:x:1000:100::/:/bin/sh\n";
        assert_eq!(other_name(accounts, "ann"), Some("1000"));
        assert_eq!(other_name(accounts, "1000"), Some("ann"));
        assert_eq!(other_name(accounts, "eve"), None);
    }
}
