//! `--runtime`: what makes the container's processes, and what that rules out.

use crate::container::HostConfig;
use crate::shim::foreign::{self, Chosen, OWN, UnknownRuntime};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    #[error(transparent)]
    Unknown(#[from] UnknownRuntime),
    #[error("{flag} needs hawser's own runtime: leave {flag} or --runtime {runtime} out")]
    OwnOnly { flag: &'static str, runtime: String },
}

/// Checks what `host` asks for, whose user namespace is settled, and names our own runtime if none
/// is named.
///
/// # Errors
/// [`RuntimeError`]
pub(super) fn settle(host: &mut HostConfig) -> Result<(), RuntimeError> {
    if foreign::choose(&host.runtime)? == Chosen::Own {
        OWN.clone_into(&mut host.runtime);
        return Ok(());
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
        None => Ok(()),
        Some((flag, _)) => Err(RuntimeError::OwnOnly {
            flag,
            runtime: host.runtime.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
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
            settle(&mut host).map(|()| host.runtime)
        };
        assert_eq!(asked("", true, "private"), Ok(OWN.to_owned()));
        // Any program will do here.
        assert_eq!(asked("/bin/sh", false, "host"), Ok("/bin/sh".to_owned()));
        for (init, userns, flag) in [(true, "", "--init"), (false, "auto", "--userns")] {
            let message = asked("/bin/sh", init, userns).unwrap_err().to_string();
            let expected = format!("{flag} needs hawser's own runtime");
            assert!(message.starts_with(&expected), "{message}");
        }
    }
}
