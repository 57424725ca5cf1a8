//! `--mount`: comma-separated `key=value` fields, quoted as in CSV.

use std::path::{Component, Path, PathBuf};

use api::id::VolumeName;

use crate::container::{IDMAP, Recursion};

use super::{MountError, MountSpec, PROPAGATIONS, Source, VolumeSpec, clean, destination_of};

/// Reads a `--mount` value. `directory` is what a relative bind source is relative to.
///
/// # Errors
/// [`MountError`] names the text.
pub fn parse_long(spec: &str, directory: &Path) -> Result<MountSpec, MountError> {
    let mut fields = Fields::default();
    for field in csv_fields(spec) {
        fields.read(spec, &field)?;
    }
    fields.into_mount(spec, directory)
}

/// What was typed, before it is known which type it must fit.
#[derive(Default)]
struct Fields {
    kind: Option<String>,
    source: String,
    destination: Option<String>,
    read_only: bool,
    propagation: String,
    recursion: Recursion,
    idmap: bool,
    volume: VolumeSpec,
    tmpfs: Vec<String>,
    /// Keys that only one type has, as typed.
    special: Vec<String>,
}

impl Fields {
    fn read(&mut self, spec: &str, field: &str) -> Result<(), MountError> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field, None),
        };
        let bad_value = || MountError::Value {
            spec: spec.to_owned(),
            key: key.to_owned(),
            value: value.unwrap_or_default().to_owned(),
        };
        let text = || value.filter(|v| !v.is_empty()).ok_or_else(bad_value);
        let switch = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(bad_value()),
        };
        if ["bind-", "volume-", "tmpfs-"]
            .iter()
            .any(|kind| key.starts_with(kind))
        {
            self.special.push(key.to_owned());
        }
        match key {
            "type" => self.kind = Some(text()?.to_owned()),
            "source" | "src" => text()?.clone_into(&mut self.source),
            "target" | "destination" | "dst" => self.destination = Some(text()?.to_owned()),
            "readonly" | "ro" => self.read_only = switch()?,
            IDMAP => self.idmap = switch()?,
            // A hint of other platforms.
            "consistency" => {}
            "bind-propagation" => {
                let word = text()?;
                if !PROPAGATIONS.contains(&word) {
                    return Err(bad_value());
                }
                word.clone_into(&mut self.propagation);
            }
            "bind-recursive" => {
                let word = text()?;
                let known = Recursion::WORDS.iter().find(|(name, _)| *name == word);
                self.recursion = known.ok_or_else(bad_value)?.1;
            }
            // What `bind-recursive=disabled` was called before.
            "bind-nonrecursive" => {
                if switch()? {
                    self.recursion = Recursion::Disabled;
                }
            }
            "volume-subpath" => {
                self.volume.subpath = subpath(text()?).ok_or_else(bad_value)?;
            }
            "volume-driver" => text()?.clone_into(&mut self.volume.driver),
            "volume-nocopy" => self.volume.no_copy = switch()?,
            "volume-opt" | "volume-label" => {
                let (name, value) = text()?.split_once('=').unwrap_or((text()?, ""));
                let map = if key == "volume-opt" {
                    &mut self.volume.options
                } else {
                    &mut self.volume.labels
                };
                map.insert(name.to_owned(), value.to_owned());
            }
            "tmpfs-size" => {
                let bytes = crate::cli::run::limit::bytes(text()?).ok_or_else(bad_value)?;
                self.tmpfs.push(format!("size={bytes}"));
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(text()?, 8).map_err(|_not_octal| bad_value())?;
                self.tmpfs.push(format!("mode={mode:o}"));
            }
            _ => {
                return Err(MountError::Key {
                    spec: spec.to_owned(),
                    key: key.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn into_mount(self, spec: &str, directory: &Path) -> Result<MountSpec, MountError> {
        let kind = match self.kind.as_deref() {
            None | Some("volume") => "volume",
            Some("bind") => "bind",
            Some("tmpfs") => "tmpfs",
            Some(other) => {
                return Err(MountError::Kind {
                    spec: spec.to_owned(),
                    kind: other.to_owned(),
                });
            }
        };
        let stray = self.special.iter().find(|key| {
            key.split_once('-')
                .is_some_and(|(prefix, _)| prefix != kind)
        });
        if let Some(field) = stray {
            return Err(MountError::Unfit {
                spec: spec.to_owned(),
                field: field.clone(),
                kind,
            });
        }
        self.check_recursion(spec)?;
        let destination = self.destination.as_deref().ok_or(MountError::Missing {
            spec: spec.to_owned(),
            field: "target",
        })?;
        let destination = destination_of(spec, destination)?;
        let mode = match (kind, self.idmap) {
            ("tmpfs", true) => {
                return Err(MountError::Unfit {
                    spec: spec.to_owned(),
                    field: IDMAP.to_owned(),
                    kind,
                });
            }
            (_, true) => IDMAP.to_owned(),
            (_, false) => self.tmpfs.join(","),
        };
        let source = match kind {
            "bind" => bind(spec, &self.source, directory)?,
            "tmpfs" if !self.source.is_empty() => {
                return Err(MountError::Unfit {
                    spec: spec.to_owned(),
                    field: "source".to_owned(),
                    kind,
                });
            }
            "tmpfs" => Source::Tmpfs {
                options: mode.clone(),
            },
            _ => volume(spec, &self.source, self.volume)?,
        };
        Ok(MountSpec {
            source,
            destination,
            read_only: self.read_only,
            mode,
            propagation: self.propagation,
            recursion: self.recursion,
        })
    }

    fn check_recursion(&self, spec: &str) -> Result<(), MountError> {
        let alone = |field, with| MountError::Alone {
            spec: spec.to_owned(),
            field,
            with,
        };
        match self.recursion {
            Recursion::Writable if !self.read_only => {
                Err(alone("bind-recursive=writable", "readonly"))
            }
            Recursion::ReadOnly if !self.read_only => {
                Err(alone("bind-recursive=readonly", "readonly"))
            }
            // What the host mounts there later would be writable.
            Recursion::ReadOnly if !matches!(self.propagation.as_str(), "" | "rprivate") => Err(
                alone("bind-recursive=readonly", "bind-propagation=rprivate"),
            ),
            _ => Ok(()),
        }
    }
}

/// A path that leads down from the top of a volume.
fn subpath(text: &str) -> Option<String> {
    let mut components = Path::new(text).components();
    let leads_down =
        components.all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    let cleaned = clean(&Path::new("/").join(text));
    let cleaned = cleaned.to_str()?.strip_prefix('/')?;
    (leads_down && !cleaned.is_empty()).then(|| cleaned.to_owned())
}

fn bind(spec: &str, source: &str, directory: &Path) -> Result<Source, MountError> {
    if source.is_empty() {
        return Err(MountError::Missing {
            spec: spec.to_owned(),
            field: "source",
        });
    }
    let path: PathBuf = clean(&directory.join(source));
    Ok(Source::Bind {
        path,
        create: false,
    })
}

fn volume(spec: &str, source: &str, volume: VolumeSpec) -> Result<Source, MountError> {
    if source.starts_with(['/', '.']) {
        return Err(MountError::Path {
            spec: spec.to_owned(),
            path: source.to_owned(),
        });
    }
    let name = (!source.is_empty())
        .then(|| VolumeName::parse(source))
        .transpose()
        .map_err(|source| MountError::Name {
            spec: spec.to_owned(),
            source,
        })?;
    Ok(Source::Volume(VolumeSpec { name, ..volume }))
}

/// Fields that commas part; a field in double quotes may hold commas (RFC 4180).
fn csv_fields(spec: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = spec.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(c),
        }
    }
    fields.push(field);
    fields
}
