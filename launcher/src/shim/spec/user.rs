//! `--user`: names are looked up in the image's own `passwd` and `group`.

use serde_json::{Value, json};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum UserError {
    #[error("unable to find user {name}: no matching entries in the image's passwd file")]
    NoUser { name: String },
    #[error("unable to find group {name}: no matching entries in the image's group file")]
    NoGroup { name: String },
}

/// Who the first process is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl User {
    pub(crate) fn to_json(&self) -> Value {
        json!({ "uid": self.uid, "gid": self.gid, "additionalGids": self.groups })
    }
}

/// The contents of the image's files; empty where it has none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

/// A line of passwd(5) or group(5), split at colons.
fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.trim().split(':').collect())
}

impl Accounts {
    /// Understands `USER[:GROUP]`, each a name or a number. Empty is root. A number need not have
    /// an entry. The groups a named user is a member of count unless a group is given.
    pub(crate) fn resolve(&self, user: &str, group_add: &[String]) -> Result<User, UserError> {
        let (name, group) = match user.split_once(':') {
            Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
            None => (user, None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let mut resolved = self.user(name)?;
        match group {
            Some(group) => resolved.gid = self.group_id(group)?,
            None => resolved.groups = self.memberships(resolved.uid, name),
        }
        for group in group_add {
            resolved.groups.push(self.group_id(group)?);
        }
        // The primary group counts as a supplementary one too; otherwise a file that is closed to
        // it alone (mode 0707) would be open (CVE-2022-36109).
        resolved.groups.push(resolved.gid);
        resolved.groups.sort_unstable();
        resolved.groups.dedup();
        Ok(resolved)
    }

    fn user(&self, name: &str) -> Result<User, UserError> {
        let number = name.parse::<u32>().ok();
        let found = entries(&self.passwd).find_map(|entry| {
            let [entry_name, _password, uid, gid, _comment, home, ..] = entry.as_slice() else {
                return None;
            };
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            let is_it = *entry_name == name || number == Some(uid);
            is_it.then(|| User {
                uid,
                gid,
                groups: Vec::new(),
                home: (*home).to_owned(),
            })
        });
        match (found, number) {
            (Some(mut user), _) => {
                if user.home.is_empty() {
                    user.home = "/".to_owned();
                }
                Ok(user)
            }
            (None, Some(uid)) => {
                let home = if uid == 0 { "/root" } else { "/" };
                Ok(User {
                    uid,
                    gid: 0,
                    groups: Vec::new(),
                    home: home.to_owned(),
                })
            }
            (None, None) => Err(UserError::NoUser {
                name: name.to_owned(),
            }),
        }
    }

    fn group_id(&self, name: &str) -> Result<u32, UserError> {
        let found = entries(&self.group).find_map(|entry| match entry.as_slice() {
            [entry_name, _password, gid, ..] if *entry_name == name => gid.parse().ok(),
            _ => None,
        });
        found
            .or_else(|| name.parse().ok())
            .ok_or_else(|| UserError::NoGroup {
                name: name.to_owned(),
            })
    }

    fn memberships(&self, uid: u32, name: &str) -> Vec<u32> {
        let known = entries(&self.passwd)
            .find(|entry| entry.get(2).and_then(|field| field.parse().ok()) == Some(uid));
        let name = known
            .as_ref()
            .and_then(|entry| entry.first())
            .copied()
            .unwrap_or(name);
        entries(&self.group)
            .filter_map(|entry| match entry.as_slice() {
                [_, _, gid, members, ..] if members.split(',').any(|member| member == name) => {
                    gid.parse().ok()
                }
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(user: &str) -> Result<User, UserError> {
        let accounts = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\n\
                     www:x:33:34::/srv/www:/bin/false\nbroken\n"
                .to_owned(),
            group: "root:x:0:\nadm:x:4:www,root\nwww:x:34:\nstaff:x:50:www\n".to_owned(),
        };
        accounts.resolve(user, &[])
    }

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        }
    }

    #[test]
    fn names_numbers_and_groups_resolve_as_dockers() {
        for (text, expected) in [
            ("", user(0, 0, &[0, 4], "/root")),
            ("www", user(33, 34, &[4, 34, 50], "/srv/www")),
            ("33", user(33, 34, &[4, 34, 50], "/srv/www")),
            ("www:staff", user(33, 50, &[50], "/srv/www")),
            ("1000:1000", user(1000, 1000, &[1000], "/")),
            ("1000", user(1000, 0, &[0], "/")),
            (":adm", user(0, 4, &[4], "/root")),
        ] {
            assert_eq!(resolve(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn who_is_not_there_is_named() {
        assert_eq!(
            resolve("bob"),
            Err(UserError::NoUser {
                name: "bob".to_owned()
            })
        );
        assert_eq!(
            resolve("www:crew"),
            Err(UserError::NoGroup {
                name: "crew".to_owned()
            })
        );
    }

    #[test]
    fn an_image_without_accounts_still_has_root() {
        assert_eq!(
            Accounts::default().resolve("", &[]).unwrap(),
            user(0, 0, &[0], "/root")
        );
    }
}
