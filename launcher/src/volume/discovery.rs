//! Where a volume plugin listens, found as Docker finds it: a socket in the plugin directory, or a file
//! elsewhere that names one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::VolumeError;

/// Directories of files that name sockets, in the order in which they are looked at.
pub(super) const SPEC_DIRS: [&str; 2] = ["/etc/docker/plugins", "/usr/lib/docker/plugins"];

/// A `NAME.json`, as far as it is understood here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    addr: String,
}

/// The socket of the driver `name`.
pub(super) fn socket(
    sockets: &Path,
    specs: &[PathBuf],
    name: &str,
) -> Result<PathBuf, VolumeError> {
    let missing = || VolumeError::NoDriver {
        driver: name.to_owned(),
        socket: sockets.join(format!("{name}.sock")),
    };
    // A plugin may be called as where it is from is: vieux/sshfs.
    let leads_elsewhere = |part: &str| part.is_empty() || part.starts_with('.');
    if name.split('/').any(leads_elsewhere) {
        return Err(missing());
    }
    let direct = places(sockets, name, "sock");
    if let Some(socket) = direct.into_iter().find(|path| path.exists()) {
        return Ok(socket);
    }
    for directory in specs {
        for kind in ["spec", "json"] {
            for file in places(directory, name, kind) {
                match fs::read_to_string(&file) {
                    Ok(text) => return named(name, &file, kind, &text),
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(bad(name, &file, error.to_string())),
                }
            }
        }
    }
    Err(missing())
}

/// Names that [`socket`] finds something for.
pub(super) fn names(sockets: &Path, specs: &[PathBuf]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let described = specs
        .iter()
        .map(|directory| (directory.as_path(), &["spec", "json"][..]));
    for (directory, kinds) in [(sockets, &["sock"][..])].into_iter().chain(described) {
        for (path, name) in entries(directory) {
            names.extend(stem(&name, kinds).map(str::to_owned));
            for (_, within) in entries(&path) {
                names.extend(stem(&within, kinds).map(|stem| match stem == name {
                    true => name.clone(),
                    false => format!("{name}/{stem}"),
                }));
            }
        }
    }
    names
}

/// A directory's entries with names that a plugin may have; none of what is no directory.
fn entries(directory: &Path) -> impl Iterator<Item = (PathBuf, String)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        (!name.starts_with('.')).then(|| (entry.path(), name))
    })
}

fn stem<'n>(name: &'n str, kinds: &[&str]) -> Option<&'n str> {
    let (stem, kind) = name.rsplit_once('.')?;
    kinds.contains(&kind).then_some(stem)
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// `NAME.KIND`, or the same in a directory `NAME`.
fn places(directory: &Path, name: &str, kind: &str) -> [PathBuf; 2] {
    let file = format!("{name}.{kind}");
    [directory.join(&file), directory.join(name).join(file)]
}

fn named(name: &str, file: &Path, kind: &str, text: &str) -> Result<PathBuf, VolumeError> {
    let address = match kind {
        "json" => {
            serde_json::from_str::<Described>(text)
                .map_err(|error| bad(name, file, error.to_string()))?
                .addr
        }
        _ => text.trim().to_owned(),
    };
    match address.strip_prefix("unix://").map(PathBuf::from) {
        Some(socket) if socket.is_absolute() => Ok(socket),
        _ => Err(bad(
            name,
            file,
            format!("{address:?} is no address such as unix:///run/{name}.sock"),
        )),
    }
}

fn bad(driver: &str, file: &Path, reason: String) -> VolumeError {
    VolumeError::Spec {
        driver: driver.to_owned(),
        file: file.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_wins_over_files_and_files_over_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (sockets, etc, lib) = (
            root.path().join("run"),
            root.path().join("etc"),
            root.path().join("lib"),
        );
        for directory in [&sockets, &etc, &lib] {
            fs::create_dir(directory).unwrap();
        }
        let specs = [etc.clone(), lib.clone()];
        let find = || socket(&sockets, &specs, "nfs");
        let error = find().unwrap_err().to_string();
        assert!(error.contains("run/nfs.sock"), "{error}");
        fs::create_dir(lib.join("nfs")).unwrap();
        let json = r#"{"Name":"nfs","Addr":"unix:///run/json.sock","TLSConfig":{}}"#;
        fs::write(lib.join("nfs/nfs.json"), json).unwrap();
        assert_eq!(find().unwrap(), Path::new("/run/json.sock"));
        fs::write(etc.join("nfs.spec"), "unix:///run/spec.sock\n").unwrap();
        assert_eq!(find().unwrap(), Path::new("/run/spec.sock"));
        fs::create_dir(sockets.join("nfs")).unwrap();
        fs::write(sockets.join("nfs/nfs.sock"), "").unwrap();
        assert_eq!(find().unwrap(), sockets.join("nfs/nfs.sock"));
        fs::write(sockets.join("nfs.sock"), "").unwrap();
        assert_eq!(find().unwrap(), sockets.join("nfs.sock"));
    }

    #[test]
    fn a_name_may_have_a_directory_and_leads_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let sockets = root.path().join("run");
        fs::create_dir_all(sockets.join("vieux")).unwrap();
        for file in ["run/vieux/sshfs.sock", "run/.sock", "outside.sock"] {
            fs::write(root.path().join(file), "").unwrap();
        }
        let find = |name: &str| socket(&sockets, &[], name);
        assert_eq!(
            find("vieux/sshfs").unwrap(),
            sockets.join("vieux/sshfs.sock")
        );
        let outside = root.path().join("outside");
        let outside = outside.to_str().unwrap();
        for name in [
            "",
            "../outside",
            "vieux/../../outside",
            "vieux//sshfs",
            outside,
        ] {
            let error = find(name).unwrap_err();
            assert!(
                matches!(error, VolumeError::NoDriver { .. }),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn a_file_that_names_no_socket_is_named() {
        let root = tempfile::tempdir().unwrap();
        let specs = [root.path().to_owned()];
        for (file, text, words) in [
            ("a.spec", "tcp://localhost:8080", "tcp://localhost:8080"),
            ("b.spec", "", "unix:///run/b.sock"),
            ("c.spec", "unix://relative", "relative"),
            ("d.json", "{", "d.json"),
            ("e.json", r#"{"Name":"e"}"#, "Addr"),
        ] {
            fs::write(root.path().join(file), text).unwrap();
            let error = socket(Path::new("/nonexistent"), &specs, &file[..1]).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(words) && error.contains(file), "{error}");
        }
    }
}
