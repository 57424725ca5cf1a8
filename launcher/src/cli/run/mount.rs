//! `-v`, `--mount` and `--tmpfs`: what is mounted into a container.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use api::id::{InvalidId, VolumeName};

use super::limit::bytes;
use crate::container::{IDMAP, Recursion};

mod long;
pub use long::parse_long;

/// One mount as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    pub source: Source,
    /// Absolute path in the container, without `.`, `..` and doubled slashes.
    pub destination: String,
    pub read_only: bool,
    /// Mode words as typed: what `inspect` shows.
    pub mode: String,
    /// Bind propagation; empty for the default.
    pub propagation: String,
    pub recursion: Recursion,
}

impl MountSpec {
    /// A volume that nobody asked for but the image.
    pub fn is_image_default(&self) -> bool {
        self.mode.is_empty() && self.source == Source::Volume(VolumeSpec::default())
    }

    /// A volume of which a part is mounted.
    pub fn is_part(&self) -> bool {
        matches!(&self.source, Source::Volume(volume) if !volume.subpath.is_empty())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path of the host. `-v` makes a missing directory, `--mount` refuses it.
    Bind {
        path: PathBuf,
        create: bool,
    },
    Volume(VolumeSpec),
    /// Mount options, such as `size=1m,mode=1777`.
    Tmpfs {
        options: String,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Absent for an anonymous volume.
    pub name: Option<VolumeName>,
    /// Empty for `local`.
    pub driver: String,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Do not copy what the image has at the destination into a new volume.
    pub no_copy: bool,
    /// What of it is mounted, from its top on; empty for all of it.
    pub subpath: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    #[error("invalid volume specification: {spec:?}: expected [SOURCE:]DESTINATION[:MODE]")]
    Shape { spec: String },
    #[error("invalid volume specification: {spec:?}: {source}")]
    Name { spec: String, source: InvalidId },
    #[error("invalid mount {spec:?}: {path:?} is a path, no volume's name: say type=bind")]
    Path { spec: String, path: String },
    #[error("invalid mount path: {path:?} in {spec:?}: mount path must be absolute")]
    Relative { spec: String, path: String },
    #[error("invalid mount {spec:?}: destination can't be '/'")]
    Root { spec: String },
    #[error("invalid mode: {word} in {spec:?}")]
    Mode { spec: String, word: String },
    #[error("invalid mount {spec:?}: unexpected key {key:?}")]
    Key { spec: String, key: String },
    #[error("invalid mount {spec:?}: invalid value for {key}: {value:?}")]
    Value {
        spec: String,
        key: String,
        value: String,
    },
    #[error("invalid mount {spec:?}: mount type unknown: {kind:?} (bind, volume or tmpfs)")]
    Kind { spec: String, kind: String },
    #[error("invalid mount {spec:?}: {field} is required")]
    Missing { spec: String, field: &'static str },
    #[error("invalid mount {spec:?}: {field} does not go with type {kind}")]
    Unfit {
        spec: String,
        field: String,
        kind: &'static str,
    },
    #[error("invalid mount {spec:?}: {field} goes with {with} only")]
    Alone {
        spec: String,
        field: &'static str,
        with: &'static str,
    },
    #[error("invalid tmpfs option {option:?} for {path}")]
    TmpfsOption { path: String, option: String },
    #[error("duplicate mount point: {destination}")]
    Duplicate { destination: String },
}

const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

/// Reads a `-v` value. `directory` is what a relative source such as `./x` is relative to.
///
/// # Errors
/// [`MountError`] names the text.
pub fn parse_short(spec: &str, driver: &str, directory: &Path) -> Result<MountSpec, MountError> {
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, destination, mode) = match parts.as_slice() {
        [destination] => ("", *destination, ""),
        [source, destination] => (*source, *destination, ""),
        [source, destination, mode] => (*source, *destination, *mode),
        _ => {
            return Err(MountError::Shape {
                spec: spec.to_owned(),
            });
        }
    };
    if parts.len() > 1 && source.is_empty() {
        return Err(MountError::Shape {
            spec: spec.to_owned(),
        });
    }
    let destination = destination_of(spec, destination)?;
    let mut source = source_of(spec, source, driver, directory)?;
    let words = Mode::parse(spec, mode, &source)?;
    if let Source::Volume(volume) = &mut source {
        volume.no_copy = words.no_copy;
    }
    Ok(MountSpec {
        source,
        destination,
        read_only: words.read_only,
        mode: mode.to_owned(),
        propagation: words.propagation,
        recursion: Recursion::default(),
    })
}

fn source_of(
    spec: &str,
    source: &str,
    driver: &str,
    directory: &Path,
) -> Result<Source, MountError> {
    let is_path = source.starts_with('/')
        || matches!(source, "." | "..")
        || source.starts_with("./")
        || source.starts_with("../");
    if is_path {
        return Ok(Source::Bind {
            path: clean(&directory.join(source)),
            create: true,
        });
    }
    let name = (!source.is_empty())
        .then(|| VolumeName::parse(source))
        .transpose()
        .map_err(|source| MountError::Name {
            spec: spec.to_owned(),
            source,
        })?;
    Ok(Source::Volume(VolumeSpec {
        name,
        driver: driver.to_owned(),
        ..VolumeSpec::default()
    }))
}

#[derive(Default)]
struct Mode {
    read_only: bool,
    no_copy: bool,
    propagation: String,
}

impl Mode {
    fn parse(spec: &str, mode: &str, source: &Source) -> Result<Self, MountError> {
        let is_bind = matches!(source, Source::Bind { .. });
        let mut parsed = Self::default();
        let mut has_access = false;
        for word in mode.split(',').filter(|_| !mode.is_empty()) {
            let fits = match word {
                "ro" | "rw" => {
                    parsed.read_only = word == "ro";
                    !std::mem::replace(&mut has_access, true)
                }
                "nocopy" => {
                    parsed.no_copy = true;
                    !is_bind
                }
                _ if PROPAGATIONS.contains(&word) => {
                    is_bind
                        && std::mem::replace(&mut parsed.propagation, word.to_owned()).is_empty()
                }
                IDMAP => true,
                // SELinux labels and consistency hints of other platforms have no effect here.
                "z" | "Z" | "consistent" | "cached" | "delegated" => true,
                _ => false,
            };
            if !fits {
                return Err(MountError::Mode {
                    spec: spec.to_owned(),
                    word: word.to_owned(),
                });
            }
        }
        Ok(parsed)
    }
}

/// Reads a `--tmpfs` value into path and options.
///
/// # Errors
/// [`MountError`] names the text.
pub fn parse_tmpfs(spec: &str) -> Result<(String, String), MountError> {
    let (path, options) = spec.split_once(':').unwrap_or((spec, ""));
    let path = destination_of(spec, path)?;
    for option in options.split(',').filter(|_| !options.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let known = match name {
            "ro" | "rw" | "suid" | "nosuid" | "dev" | "nodev" | "exec" | "noexec" | "sync"
            | "async" | "dirsync" | "atime" | "noatime" | "diratime" | "nodiratime"
            | "relatime" | "norelatime" | "strictatime" => value.is_empty(),
            "size" if value.ends_with('%') => value[..value.len() - 1].parse::<u32>().is_ok(),
            "size" | "nr_inodes" | "nr_blocks" => bytes(value).is_some(),
            "mode" => u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777),
            "uid" | "gid" => value.parse::<u32>().is_ok(),
            "mpol" | "huge" => !value.is_empty(),
            _ => false,
        };
        if !known {
            return Err(MountError::TmpfsOption {
                path,
                option: option.to_owned(),
            });
        }
    }
    Ok((path, options.to_owned()))
}

/// No two mounts may be at the same place.
///
/// # Errors
/// [`MountError::Duplicate`] names the place.
pub fn check_distinct<'d>(
    destinations: impl IntoIterator<Item = &'d str>,
) -> Result<(), MountError> {
    let mut seen = std::collections::BTreeSet::new();
    for destination in destinations {
        if !seen.insert(destination) {
            return Err(MountError::Duplicate {
                destination: destination.to_owned(),
            });
        }
    }
    Ok(())
}

fn destination_of(spec: &str, path: &str) -> Result<String, MountError> {
    if !path.starts_with('/') {
        return Err(MountError::Relative {
            spec: spec.to_owned(),
            path: path.to_owned(),
        });
    }
    let cleaned = clean(Path::new(path));
    match cleaned.to_str() {
        Some("/") | None => Err(MountError::Root {
            spec: spec.to_owned(),
        }),
        Some(cleaned) => Ok(cleaned.to_owned()),
    }
}

/// An absolute path without `.`, `..` and doubled slashes; `..` of the root is the root.
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::Normal(name) => cleaned.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests;
