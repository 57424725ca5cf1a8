//! `--runtime`: what makes the container's processes, and what that rules out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::daemon::Runtime;

use crate::container::HostConfig;
use crate::shim::foreign::{self, Chosen, OWN, UnknownRuntime};

use super::mount::MountSpec;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    #[error(transparent)]
    Unknown(#[from] UnknownRuntime),
    #[error("{flag} needs hawser's own runtime: leave {flag} or --runtime {runtime} out")]
    OwnOnly { flag: &'static str, runtime: String },
}

/// Checks what `host` asks for, whose user namespace is settled, and names our own runtime if none
/// is named. Returns the program of one that is among the daemon's, the `known` ones.
///
/// # Errors
/// [`RuntimeError`]
pub(super) fn settle(
    host: &mut HostConfig,
    known: &BTreeMap<String, Runtime>,
) -> Result<Option<PathBuf>, RuntimeError> {
    let program = known.get(&host.runtime).map(|runtime| runtime.path.clone());
    let asked = match &program {
        Some(path) => &path.display().to_string(),
        None => &host.runtime,
    };
    if foreign::choose(asked)? == Chosen::Own {
        OWN.clone_into(&mut host.runtime);
        return Ok(None);
    }
    let only = [
        ("--init", host.init == Some(true)),
        // Our runtime alone enters the namespace that mapped owners are prepared in.
        (
            "--userns",
            !matches!(host.userns_mode.as_str(), "" | "host"),
        ),
    ];
    match only.into_iter().find(|(_, is_asked)| *is_asked) {
        None => Ok(program),
        Some((flag, _)) => Err(RuntimeError::OwnOnly {
            flag,
            runtime: host.runtime.clone(),
        }),
    }
}

/// Checks mounts for `host`, whose runtime is settled.
///
/// # Errors
/// [`RuntimeError::OwnOnly`]: our runtime alone mounts what it has looked up rather than a path.
pub(super) fn check_mounts(host: &HostConfig, mounts: &[MountSpec]) -> Result<(), RuntimeError> {
    if host.runtime != OWN && mounts.iter().any(MountSpec::is_part) {
        return Err(RuntimeError::OwnOnly {
            flag: "volume-subpath",
            runtime: host.runtime.clone(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::mount::parse_long;
    use super::*;

    #[test]
    fn what_only_our_own_runtime_does_is_refused_with_others() {
        let asked = |runtime: &str, init: bool, userns: &str| {
            let mut host = HostConfig {
                runtime: runtime.to_owned(),
                init: Some(init),
                userns_mode: userns.to_owned(),
                ..HostConfig::default()
            };
            let known = [("shell", "/bin/sh"), ("gone", "/nonexistent")].map(|(name, path)| {
                let path = path.into();
                (name.to_owned(), Runtime { path })
            });
            settle(&mut host, &known.into()).map(|program| (host.runtime, program))
        };
        assert_eq!(asked("", true, "private"), Ok((OWN.to_owned(), None)));
        // Any program will do here.
        let shell = || "/bin/sh".to_owned();
        assert_eq!(asked("/bin/sh", false, "host"), Ok((shell(), None)));
        let named = Ok(("shell".to_owned(), Some(shell().into())));
        assert_eq!(asked("shell", false, "host"), named);
        let message = asked("gone", false, "host").unwrap_err().to_string();
        assert!(message.contains("/nonexistent"), "{message}");
        for (init, userns, flag) in [(true, "", "--init"), (false, "auto", "--userns")] {
            let message = asked("/bin/sh", init, userns).unwrap_err().to_string();
            let expected = format!("{flag} needs hawser's own runtime");
            assert!(message.starts_with(&expected), "{message}");
        }
        let part = parse_long("src=site,dst=/m,volume-subpath=d", Path::new("/")).unwrap();
        let checked = |runtime: &str| {
            let host = HostConfig {
                runtime: runtime.to_owned(),
                ..HostConfig::default()
            };
            check_mounts(&host, std::slice::from_ref(&part))
        };
        assert_eq!(checked(OWN), Ok(()));
        let message = checked("/bin/sh").unwrap_err().to_string();
        assert!(message.starts_with("volume-subpath needs"), "{message}");
    }
}
