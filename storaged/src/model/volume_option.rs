//! Driver options of `local` volumes that mount something: `type`, `o` and `device`, with Docker's
//! meaning. The others are in [`super::volume_spec`].

use std::collections::BTreeMap;

use rustix::mount::{MountFlags, MountPropagationFlags};

/// A validated set of mount options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOptions {
    pub(crate) kind: String,
    pub(crate) device: String,
    pub(crate) flags: MountFlags,
    pub(crate) bind: Option<Bind>,
    pub(crate) propagation: Option<MountPropagationFlags>,
    /// Options of the filesystem itself, in order.
    pub(crate) data: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bind {
    Plain,
    Recursive,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidOption {
    #[error(
        "invalid option {0:?}: the local driver knows size, inodes, uid, gid, mode, encrypt, backend \
         and fs, and for what is mounted type, o and device"
    )]
    Unknown(String),
    #[error("option {0:?} is for volumes without a device; a filesystem takes its own as o={0}=…")]
    NotOfADevice(String),
    #[error("invalid {key} {value:?}: {expected} is expected")]
    Value {
        key: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error(
        "invalid backend {0:?}: \"dir\" is a directory, \"loop\" a filesystem in a file, \"thin\" one on a thin device"
    )]
    Backend(String),
    #[error("option {0:?} is not for backend=loop, but for directories and backend=thin")]
    NeedsDirectory(&'static str),
    #[error("option {0:?} needs backend=loop or backend=thin")]
    NeedsLoop(&'static str),
    #[error("invalid fs {0:?}: a volume with a filesystem of its own has ext4 or xfs")]
    Filesystem(String),
    #[error("size is too small: a volume with {filesystem} has at least {megabytes} MiB")]
    TooSmall {
        filesystem: &'static str,
        megabytes: u64,
    },
    #[error("xfs makes inodes as it needs them: option \"inodes\" needs fs=ext4")]
    InodesOfXfs,
    #[error("missing required option {missing:?}: {given:?} needs it")]
    Missing {
        missing: &'static str,
        given: &'static str,
    },
    #[error("option {0:?} holds a NUL byte")]
    Nul(String),
    #[error("invalid device {0:?}: a bind mount needs an absolute path without \"..\"")]
    BindDevice(String),
    #[error("invalid type {0:?}: a bind mount has type \"none\"")]
    BindType(String),
    #[error("type \"none\" is for bind mounts: add o=bind")]
    NoneWithoutBind,
    #[error("option o={0:?} is not allowed in a volume")]
    Flag(String),
}

const KNOWN: [&str; 3] = ["type", "o", "device"];

/// Checks the options of what is mounted; `None` when nothing is.
pub(crate) fn parse(
    options: &BTreeMap<String, String>,
) -> Result<Option<MountOptions>, InvalidOption> {
    for (key, value) in options {
        match key.as_str() {
            key if !KNOWN.contains(&key) => return Err(InvalidOption::Unknown(key.to_owned())),
            key if value.contains('\0') => return Err(InvalidOption::Nul(key.to_owned())),
            _ => {}
        }
    }
    let option = |key: &str| options.get(key).filter(|value| !value.is_empty());
    let (kind, device) = match (option("type"), option("device"), option("o")) {
        (None, None, None) => return Ok(None),
        (Some(kind), Some(device), _) => (kind.clone(), device.clone()),
        (None, Some(_), _) => {
            return Err(InvalidOption::Missing {
                missing: "type",
                given: "device",
            });
        }
        (Some(_), None, _) => {
            return Err(InvalidOption::Missing {
                missing: "device",
                given: "type",
            });
        }
        (None, None, Some(_)) => {
            return Err(InvalidOption::Missing {
                missing: "device",
                given: "o",
            });
        }
    };
    let mut mount = MountOptions {
        kind,
        device,
        flags: MountFlags::empty(),
        bind: None,
        propagation: None,
        data: Vec::new(),
    };
    for word in option("o")
        .map_or("", String::as_str)
        .split(',')
        .filter(|word| !word.is_empty())
    {
        mount.add(word)?;
    }
    mount.check()?;
    Ok(Some(mount))
}

impl MountOptions {
    /// One word of `o`, as mount(8) reads it.
    fn add(&mut self, word: &str) -> Result<(), InvalidOption> {
        use MountPropagationFlags as Propagation;
        match word {
            "defaults" => {}
            "bind" => self.bind = Some(Bind::Plain),
            "rbind" => self.bind = Some(Bind::Recursive),
            "private" => self.propagation = Some(Propagation::PRIVATE),
            "rprivate" => self.propagation = Some(Propagation::PRIVATE | Propagation::REC),
            "shared" => self.propagation = Some(Propagation::SHARED),
            "rshared" => self.propagation = Some(Propagation::SHARED | Propagation::REC),
            "slave" => self.propagation = Some(Propagation::DOWNSTREAM),
            "rslave" => self.propagation = Some(Propagation::DOWNSTREAM | Propagation::REC),
            "unbindable" | "runbindable" | "remount" | "move" => {
                return Err(InvalidOption::Flag(word.to_owned()));
            }
            _ => match mount_flag(word) {
                Some((flag, true)) => self.flags |= flag,
                Some((flag, false)) => self.flags &= !flag,
                None => self.data.push(word.to_owned()),
            },
        }
        Ok(())
    }

    fn check(&self) -> Result<(), InvalidOption> {
        if self.bind.is_none() {
            return if self.kind == "none" {
                Err(InvalidOption::NoneWithoutBind)
            } else {
                Ok(())
            };
        }
        if !matches!(self.kind.as_str(), "none" | "bind") {
            return Err(InvalidOption::BindType(self.kind.clone()));
        }
        if !self.device.starts_with('/') || self.device.split('/').any(|part| part == "..") {
            return Err(InvalidOption::BindDevice(self.device.clone()));
        }
        // A binding has no filesystem options; mount(8) would ignore them.
        match self.data.first() {
            Some(word) => Err(InvalidOption::Flag(word.clone())),
            None => Ok(()),
        }
    }

    /// The host of an `addr=` that is a name: nfs and cifs in the kernel want an address.
    pub(crate) fn host_to_resolve(&self) -> Option<&str> {
        let network = matches!(self.kind.as_str(), "nfs" | "nfs4" | "cifs");
        self.data
            .iter()
            .find_map(|word| word.strip_prefix("addr="))
            .filter(|host| network && host.parse::<std::net::IpAddr>().is_err())
    }

    /// The options page, with the address of `addr=` put in.
    pub(crate) fn data(&self, resolved: Option<std::net::IpAddr>) -> String {
        let word = |word: &String| match resolved {
            Some(address) if word.starts_with("addr=") => format!("addr={address}"),
            _ => word.clone(),
        };
        self.data.iter().map(word).collect::<Vec<_>>().join(",")
    }
}

/// The flag a word of mount(8) sets or clears.
fn mount_flag(word: &str) -> Option<(MountFlags, bool)> {
    Some(match word {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        _ => return None,
    })
}

/// The options with the values of secrets replaced, for listings and logs.
pub(crate) fn redacted(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let hide = |word: &str| match word.split_once('=') {
        Some((key @ ("password" | "pass" | "passwd"), _)) => format!("{key}=****"),
        _ => word.to_owned(),
    };
    let value = |value: &String| value.split(',').map(hide).collect::<Vec<_>>().join(",");
    options
        .iter()
        .map(|(key, text)| (key.clone(), value(text)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &[(&str, &str)]) -> BTreeMap<String, String> {
        text.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_directory_needs_no_options() {
        assert_eq!(parse(&BTreeMap::new()).unwrap(), None);
        assert_eq!(parse(&options(&[("o", "")])).unwrap(), None);
    }

    #[test]
    fn flags_and_filesystem_options_part() {
        let mount = parse(&options(&[
            ("type", "tmpfs"),
            ("device", "tmpfs"),
            ("o", "size=1m,nosuid,ro,rw"),
        ]))
        .unwrap()
        .unwrap();
        assert_eq!(mount.flags, MountFlags::NOSUID);
        assert_eq!(mount.data(None), "size=1m");
        assert_eq!(mount.bind, None);
        let bind = parse(&options(&[
            ("type", "none"),
            ("device", "/srv/x"),
            ("o", "rbind,ro,rslave"),
        ]))
        .unwrap()
        .unwrap();
        assert_eq!(bind.bind, Some(Bind::Recursive));
        assert_eq!(bind.flags, MountFlags::RDONLY);
        let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        assert_eq!(bind.propagation, Some(downstream));
    }

    #[test]
    fn a_network_host_name_is_to_be_resolved() {
        let nfs = |o: &str| {
            parse(&options(&[
                ("type", "nfs"),
                ("device", ":/export"),
                ("o", o),
            ]))
            .unwrap()
            .unwrap()
        };
        assert_eq!(nfs("addr=192.0.2.1,rw").host_to_resolve(), None);
        let named = nfs("vers=4,addr=filer.example");
        assert_eq!(named.host_to_resolve(), Some("filer.example"));
        let address = "192.0.2.7".parse().ok();
        assert_eq!(named.data(address), "vers=4,addr=192.0.2.7");
    }

    #[test]
    fn mount_gets_what_the_options_of_a_network_filesystem_say() {
        for (kind, device, o, flags, data) in [
            (
                "nfs",
                ":/export/site",
                "addr=192.0.2.1,ro,nosuid,vers=4.2,soft",
                MountFlags::RDONLY | MountFlags::NOSUID,
                "addr=192.0.2.1,vers=4.2,soft",
            ),
            (
                "cifs",
                "//192.0.2.1/share",
                "username=u,password=p:w=1,noexec,file_mode=0777,vers=3.0",
                MountFlags::NOEXEC,
                "username=u,password=p:w=1,file_mode=0777,vers=3.0",
            ),
        ] {
            let given = options(&[("type", kind), ("device", device), ("o", o)]);
            let mount = parse(&given).unwrap().unwrap();
            assert_eq!((&*mount.kind, &*mount.device), (kind, device));
            assert_eq!((mount.flags, mount.bind), (flags, None));
            assert_eq!(mount.data(None), data);
        }
    }

    #[test]
    fn wrong_options_are_named() {
        for (given, named) in [
            (&[("bogus", "1")][..], "bogus"),
            (&[("type", "tmpfs")], "device"),
            (&[("device", "/x")], "type"),
            (&[("o", "bind")], "device"),
            (&[("type", "none"), ("device", "/x")], "o=bind"),
            (&[("type", "none"), ("device", "x"), ("o", "bind")], "\"x\""),
            (
                &[("type", "none"), ("device", "/a/../b"), ("o", "bind")],
                "/a/../b",
            ),
            (&[("type", "ext4"), ("device", "/x"), ("o", "bind")], "ext4"),
            (
                &[("type", "none"), ("device", "/x"), ("o", "bind,size=1")],
                "size=1",
            ),
            (
                &[("type", "tmpfs"), ("device", "x"), ("o", "remount")],
                "remount",
            ),
            (&[("type", "tmpfs"), ("device", "a\0b")], "device"),
        ] {
            let error = parse(&options(given)).unwrap_err().to_string();
            assert!(error.contains(named), "{given:?}: {error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let shown = redacted(&options(&[
            ("o", "username=u,password=p,addr=h"),
            ("type", "cifs"),
        ]));
        assert_eq!(shown["o"], "username=u,password=****,addr=h");
        assert_eq!(shown["type"], "cifs");
    }
}
