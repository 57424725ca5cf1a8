//! Another OCI runtime in the place of our own: any program with runc's command line.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::launch::EXIT_DAEMON;

/// What `inspect` calls the runtime of containers that ask for no other.
pub(crate) const OWN: &str = "hawser-shim";

/// The program of a runtime by name, which is looked up in `PATH`, or by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chosen {
    Own,
    Foreign(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown runtime {0:?}: there is no such program in PATH; install it, or give its absolute path"
)]
pub struct UnknownRuntime(String);

pub(crate) fn choose(name: &str) -> Result<Chosen, UnknownRuntime> {
    choose_in(name, &env::var_os("PATH").unwrap_or_default())
}

fn choose_in(name: &str, search_path: &std::ffi::OsStr) -> Result<Chosen, UnknownRuntime> {
    if name.is_empty() || name == OWN {
        return Ok(Chosen::Own);
    }
    let is_there = |path: &PathBuf| path.is_absolute() && path.is_file();
    let mut candidates: Vec<PathBuf> = match name.contains('/') {
        true => vec![name.into()],
        false => env::split_paths(search_path)
            .map(|dir| dir.join(name))
            .collect(),
    };
    candidates.retain(is_there);
    let first = candidates.into_iter().next();
    first
        .map(Chosen::Foreign)
        .ok_or_else(|| UnknownRuntime(name.to_owned()))
}

/// `PROGRAM ARGUMENTS…`, in a copy of the shim; returns only if it cannot be run.
pub(super) fn main(arguments: Vec<OsString>) -> i32 {
    let Some((program, arguments)) = arguments.split_first() else {
        return EXIT_DAEMON;
    };
    // The shim blocks signals that its container must get.
    let error = match sys::signal::unblock_all() {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    };
    eprintln!("{}: {error}", Path::new(program).display());
    EXIT_DAEMON
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_found_by_name_or_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("runx");
        std::fs::write(&program, "").unwrap();
        let path = env::join_paths([Path::new("relative"), dir.path()]).unwrap();
        let find = |name: &str| choose_in(name, &path);
        assert_eq!(find(""), Ok(Chosen::Own));
        assert_eq!(find(OWN), Ok(Chosen::Own));
        assert_eq!(find("runx"), Ok(Chosen::Foreign(program.clone())));
        let named = program.to_str().unwrap();
        assert_eq!(find(named), Ok(Chosen::Foreign(program.clone())));
        for unknown in ["runy", "./runx", "/nonexistent/runx"] {
            let message = find(unknown).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("unknown runtime {unknown:?}")),
                "{message}"
            );
        }
    }
}
