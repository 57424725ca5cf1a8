//! What the driver options of a `local` volume ask for: where its content lies, how much of it there
//! may be, and whose its top directory is.

use std::collections::BTreeMap;

use super::size;
pub(crate) use super::thin::Filesystem;
use super::volume_option::{self, InvalidOption, MountOptions};

/// A volume as its options describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) content: Content,
    pub(crate) owner: Owner,
    pub(crate) encryption: Option<Encryption>,
}

/// That a directory is encrypted, and where its key comes from when it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// With the request.
    KeyGiven,
    /// From a file, unless it comes with the request.
    KeyFile(String),
}

impl Spec {
    pub(crate) fn is_image(&self) -> bool {
        matches!(self.content, Content::Image(_))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// A directory of the state directory's filesystem.
    Directory(Limit),
    /// A filesystem of its own in a file, mounted while somebody has the volume mounted.
    Image(ImageSpec),
    /// A filesystem of its own on a thin device of the pool that layers are in, mounted while somebody
    /// has the volume mounted.
    Thin(ImageSpec),
    /// What `device` names, mounted while somebody has the volume mounted.
    Device(MountOptions),
}

/// What a directory may take; zero of nothing is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) bytes: Option<u64>,
    pub(crate) inodes: Option<u64>,
}

impl Limit {
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageSpec {
    pub(crate) filesystem: Filesystem,
    pub(crate) bytes: u64,
    pub(crate) inodes: Option<u64>,
}

/// Owner and mode of the top directory, as far as they were asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mode: Option<u32>,
}

impl Owner {
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// Options of content that is ours.
const OWN: [&str; 8] = [
    "backend", "encrypt", "fs", "gid", "inodes", "mode", "size", "uid",
];

/// Checks the options of a new volume.
pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<Spec, InvalidOption> {
    let (own, device): (BTreeMap<_, _>, BTreeMap<_, _>) = options
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .partition(|(key, _)| OWN.contains(&key.as_str()));
    let given = Given(own);
    if let Some(mount) = volume_option::parse(&device)? {
        return match OWN.iter().find(|key| given.get(key).is_some()) {
            Some(key) => Err(InvalidOption::NotOfADevice((*key).to_owned())),
            None => Ok(Spec {
                content: Content::Device(mount),
                owner: Owner::default(),
                encryption: None,
            }),
        };
    }
    let content = match given.get("backend") {
        None | Some("dir") => {
            if given.get("fs").is_some() {
                return Err(InvalidOption::NeedsLoop("fs"));
            }
            Content::Directory(Limit {
                bytes: given.size()?,
                inodes: given.inodes()?,
            })
        }
        Some("loop") => Content::Image(given.image("backend=loop")?),
        Some("thin") => Content::Thin(given.image("backend=thin")?),
        Some(other) => return Err(InvalidOption::Backend(other.to_owned())),
    };
    let encryption = given.encryption()?;
    if encryption.is_some() && matches!(content, Content::Image(_)) {
        return Err(InvalidOption::NeedsDirectory("encrypt"));
    }
    Ok(Spec {
        content,
        encryption,
        owner: Owner {
            uid: given.id("uid")?,
            gid: given.id("gid")?,
            mode: given.mode()?,
        },
    })
}

struct Given(BTreeMap<String, String>);

impl Given {
    /// An empty value is none, as for `type` and `device`.
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    fn value<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, InvalidOption> {
        let wrong = |text: &str| InvalidOption::Value {
            key,
            value: text.chars().take(64).collect(),
            expected,
        };
        let parsed = self
            .get(key)
            .map(|text| parse(text).ok_or_else(|| wrong(text)));
        parsed.transpose()
    }

    fn size(&self) -> Result<Option<u64>, InvalidOption> {
        self.value("size", "a size such as 10g or 512m", |text| {
            size::parse(text).filter(|bytes| (1..=MAX).contains(bytes))
        })
    }

    fn inodes(&self) -> Result<Option<u64>, InvalidOption> {
        self.value("inodes", "a number of files", |text| {
            number(text).filter(|inodes| (1..=u64::from(u32::MAX)).contains(inodes))
        })
    }

    fn id(&self, key: &'static str) -> Result<Option<u32>, InvalidOption> {
        // All ones means "leave as it is" in `chown(2)`.
        let id = |text: &str| u32::try_from(number(text)?).ok().filter(|id| *id != !0);
        self.value(key, "a numeric id", id)
    }

    fn mode(&self) -> Result<Option<u32>, InvalidOption> {
        let mode = |text: &str| {
            let digits = text.bytes().all(|digit| digit.is_ascii_digit());
            let mode = u32::from_str_radix(text, 8).ok()?;
            (digits && mode <= 0o7777).then_some(mode)
        };
        self.value("mode", "an octal mode such as 0750", mode)
    }

    fn encryption(&self) -> Result<Option<Encryption>, InvalidOption> {
        self.value(
            "encrypt",
            "\"on\", or the path of a file with the key",
            |text| match text {
                "on" => Some(Encryption::KeyGiven),
                path => path
                    .starts_with('/')
                    .then(|| Encryption::KeyFile(path.to_owned())),
            },
        )
    }

    fn image(&self, backend: &'static str) -> Result<ImageSpec, InvalidOption> {
        let filesystem = match self.get("fs") {
            None | Some("ext4") => Filesystem::Ext4,
            Some("xfs") => Filesystem::Xfs,
            Some(other) => return Err(InvalidOption::Filesystem(other.to_owned())),
        };
        let bytes = self.size()?.ok_or(InvalidOption::Missing {
            missing: "size",
            given: backend,
        })?;
        if bytes < filesystem.least() {
            return Err(InvalidOption::TooSmall {
                filesystem: filesystem.name(),
                megabytes: filesystem.least() >> 20,
            });
        }
        let inodes = self.inodes()?;
        if inodes.is_some() && filesystem != Filesystem::Ext4 {
            return Err(InvalidOption::InodesOfXfs);
        }
        Ok(ImageSpec {
            filesystem,
            // Filesystems count in blocks.
            bytes: bytes.next_multiple_of(4096),
            inodes,
        })
    }
}

/// The largest file there can be.
const MAX: u64 = i64::MAX.cast_unsigned() - 4096;

fn number(text: &str) -> Option<u64> {
    // `parse` would take a plus sign.
    text.bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &[(&str, &str)]) -> Result<Spec, InvalidOption> {
        let options = text
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        parse(&options.collect())
    }

    #[test]
    fn a_directory_may_have_limits_and_an_owner() {
        let nothing = spec(&[("size", ""), ("backend", "")]).unwrap();
        assert_eq!(nothing.content, Content::Directory(Limit::default()));
        assert!(nothing.owner.is_none());
        let limited = spec(&[
            ("size", "1.5g"),
            ("inodes", "1000"),
            ("uid", "0"),
            ("gid", "4294967294"),
            ("mode", "2770"),
        ])
        .unwrap();
        let limit = Limit {
            bytes: Some(3 << 29),
            inodes: Some(1000),
        };
        assert_eq!(limited.content, Content::Directory(limit));
        let owner = Owner {
            uid: Some(0),
            gid: Some(u32::MAX - 1),
            mode: Some(0o2770),
        };
        assert_eq!(limited.owner, owner);
    }

    #[test]
    fn an_image_is_sized_in_blocks() {
        let sized = |backend| {
            spec(&[("backend", backend), ("size", "10000001"), ("inodes", "50")]).unwrap()
        };
        let expected = ImageSpec {
            filesystem: Filesystem::Ext4,
            bytes: 10_002_432,
            inodes: Some(50),
        };
        assert_eq!(sized("loop").content, Content::Image(expected));
        assert_eq!(sized("thin").content, Content::Thin(expected));
    }

    #[test]
    fn a_device_has_options_of_its_own() {
        let device = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "uid=5")];
        assert!(matches!(spec(&device).unwrap().content, Content::Device(_)));
    }

    #[test]
    fn wrong_options_are_named_with_the_way_out() {
        for (given, named) in [
            (&[("bogus", "1")][..], "bogus"),
            (&[("size", "big")], "10g"),
            (&[("size", "0")], "size"),
            (&[("size", "9e")], "\"9e\""),
            (&[("inodes", "-1")], "inodes"),
            (&[("uid", "root")], "numeric"),
            (&[("uid", "4294967295")], "uid"),
            (&[("mode", "0800")], "octal"),
            (&[("mode", "+755")], "octal"),
            (&[("mode", "17777")], "octal"),
            (&[("backend", "zfs")], "zfs"),
            (&[("fs", "ext4")], "backend=loop"),
            (&[("encrypt", "yes")], "path of a file"),
            (
                &[("backend", "loop"), ("size", "1g"), ("encrypt", "on")],
                "encrypt",
            ),
            (&[("backend", "loop")], "size"),
            (&[("backend", "thin")], "backend=thin"),
            (&[("backend", "loop"), ("size", "1m")], "8 MiB"),
            (
                &[("backend", "loop"), ("size", "1g"), ("fs", "ntfs")],
                "ntfs",
            ),
            (
                &[("backend", "loop"), ("size", "200m"), ("fs", "xfs")],
                "300 MiB",
            ),
            (
                &[
                    ("backend", "loop"),
                    ("size", "1g"),
                    ("fs", "xfs"),
                    ("inodes", "9"),
                ],
                "fs=ext4",
            ),
            (
                &[("type", "tmpfs"), ("device", "tmpfs"), ("size", "1g")],
                "o=size=",
            ),
        ] {
            let error = spec(given).unwrap_err().to_string();
            assert!(error.contains(named), "{given:?}: {error}");
        }
    }
}
