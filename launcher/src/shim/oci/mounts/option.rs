//! The words that say how something is mounted, as libcontainer understands them (`parse_mount`).

use rustix::mount::{MountAttrFlags, MountFlags};

/// Each with the word that takes it back.
const FLAGS: [(&str, &str, MountFlags); 8] = [
    ("ro", "rw", MountFlags::RDONLY),
    ("nosuid", "suid", MountFlags::NOSUID),
    ("nodev", "dev", MountFlags::NODEV),
    ("noexec", "exec", MountFlags::NOEXEC),
    ("noatime", "atime", MountFlags::NOATIME),
    ("nodiratime", "diratime", MountFlags::NODIRATIME),
    ("relatime", "norelatime", MountFlags::RELATIME),
    ("strictatime", "nostrictatime", MountFlags::STRICTATIME),
];
/// They change nothing here. How events pass through a bind mount is seen to on the stage.
const SILENT: [&str; 18] = [
    "defaults",
    "sync",
    "async",
    "dirsync",
    "remount",
    "mand",
    "nomand",
    "bind",
    "rbind",
    "unbindable",
    "runbindable",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "rw",
];

/// What the words of a mount ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) flags: MountFlags,
    /// Of what is mounted below as well.
    pub(super) below: MountFlags,
    pub(super) recursive: bool,
    /// For the filesystem.
    pub(super) data: Vec<String>,
}

impl Options {
    pub(super) fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut options = Self {
            flags: MountFlags::empty(),
            below: MountFlags::empty(),
            recursive: false,
            data: Vec::new(),
        };
        for word in words {
            options.recursive |= word == "rbind";
            let below = word.strip_prefix('r').unwrap_or_default();
            if change(&mut options.flags, word) || SILENT.contains(&word) {
                continue;
            }
            if !change(&mut options.below, below) {
                options.data.push(word.to_owned());
            }
        }
        options
    }

    /// The flags for a mount that is being made.
    pub(super) fn attributes(&self) -> MountAttrFlags {
        let asked = self.flags | self.below;
        let attributes = [
            (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
            (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
            (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
            (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
            (
                MountFlags::NODIRATIME,
                MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            ),
        ];
        let mut all = MountAttrFlags::empty();
        for (flag, attribute) in attributes {
            all.set(attribute, asked.contains(flag));
        }
        // Of these the kernel takes one.
        if asked.contains(MountFlags::STRICTATIME) {
            all |= MountAttrFlags::MOUNT_ATTR_STRICTATIME;
        } else if asked.contains(MountFlags::NOATIME) {
            all |= MountAttrFlags::MOUNT_ATTR_NOATIME;
        }
        all
    }
}

fn change(flags: &mut MountFlags, word: &str) -> bool {
    for (set, clear, flag) in FLAGS {
        if word == set || word == clear {
            flags.set(flag, word == set);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Options {
        Options::parse(words.split(','))
    }

    #[test]
    fn words_are_flags_or_the_filesystems() {
        let options = parse("rbind,rprivate,ro,nosuid,rro,rnodev,mode=755,newinstance");
        assert_eq!(options.flags, MountFlags::RDONLY | MountFlags::NOSUID);
        assert_eq!(options.below, MountFlags::RDONLY | MountFlags::NODEV);
        assert_eq!(options.data, ["mode=755", "newinstance"]);
        assert!(options.recursive);
        let options = parse("bind,ro,noexec,rw,relatime");
        assert_eq!(options.flags, MountFlags::NOEXEC | MountFlags::RELATIME);
        assert!(options.below.is_empty() && !options.recursive && options.data.is_empty());
    }

    #[test]
    fn a_new_mount_has_one_way_to_keep_access_times() {
        let attributes = parse("nosuid,strictatime,noatime").attributes();
        let expected = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
        assert_eq!(attributes, expected);
        assert_eq!(parse("relatime,rw").attributes(), MountAttrFlags::empty());
    }
}
