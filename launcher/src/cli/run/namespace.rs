//! `--ipc`, `--pid`, `--uts`, `--userns` and `--cgroupns`: which namespaces are shared. Pure.

use super::flags::CreateFlags;
use crate::container::HostConfig;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    #[error("{flag}: invalid {what} mode {text:?}: expected {expected}")]
    Mode {
        flag: &'static str,
        what: &'static str,
        text: String,
        expected: &'static str,
    },
    #[error("conflicting options: hostname and the UTS mode")]
    HostnameOfHost,
}

/// # Errors
/// [`NamespaceError`] of the first flag that cannot be.
pub(super) fn choose(flags: &CreateFlags, host: &mut HostConfig) -> Result<(), NamespaceError> {
    let mode = |flag, what, text: &Option<String>, words: &[&str], may_join, expected| {
        let text = text.clone().unwrap_or_default();
        let joins = text
            .strip_prefix("container:")
            .is_some_and(|key| !key.is_empty());
        if text.is_empty() || words.contains(&text.as_str()) || (may_join && joins) {
            return Ok(text);
        }
        Err(NamespaceError::Mode {
            flag,
            what,
            text,
            expected,
        })
    };
    host.ipc_mode = mode(
        "--ipc",
        "IPC",
        &flags.ipc,
        &["private", "shareable", "none", "host"],
        true,
        "private, shareable, none, host or container:NAME",
    )?;
    if host.ipc_mode.is_empty() {
        "private".clone_into(&mut host.ipc_mode);
    }
    let others = "host or container:NAME";
    host.pid_mode = mode("--pid", "PID", &flags.pid, &["host"], true, others)?;
    host.uts_mode = mode("--uts", "UTS", &flags.uts, &["host"], false, "host")?;
    host.userns_mode = flags.userns.clone().unwrap_or_default();
    host.cgroupns_mode = mode(
        "--cgroupns",
        "CGROUP",
        &flags.cgroupns,
        &["host", "private"],
        false,
        "host or private",
    )?;
    if host.uts_mode == "host" && (flags.hostname.is_some() || flags.domainname.is_some()) {
        return Err(NamespaceError::HostnameOfHost);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(change: impl FnOnce(&mut CreateFlags)) -> Result<HostConfig, NamespaceError> {
        let mut flags = CreateFlags::default();
        change(&mut flags);
        let mut host = HostConfig::default();
        choose(&flags, &mut host)?;
        Ok(host)
    }

    #[test]
    fn namespaces_are_the_containers_own_unless_told_otherwise() {
        let own = chosen(|_| {}).unwrap();
        assert_eq!(
            (own.ipc_mode.as_str(), own.pid_mode.as_str()),
            ("private", "")
        );
        let shared = chosen(|flags| {
            flags.pid = Some("container:web".to_owned());
            flags.ipc = Some("host".to_owned());
            flags.uts = Some("host".to_owned());
        })
        .unwrap();
        assert_eq!(shared.pid_mode, "container:web");
        assert_eq!(
            (shared.ipc_mode.as_str(), shared.uts_mode.as_str()),
            ("host", "host")
        );
    }

    #[test]
    fn what_is_no_mode_is_named() {
        let message = |change: fn(&mut CreateFlags)| chosen(change).unwrap_err().to_string();
        assert!(message(|f| f.pid = Some("private".into())).starts_with("--pid: invalid PID mode"));
        assert!(message(|f| f.ipc = Some("container:".into())).starts_with("--ipc: invalid IPC"));
        assert!(message(|f| f.uts = Some("container:x".into())).contains("UTS mode"));
        assert!(message(|f| f.cgroupns = Some("x".into())).contains("CGROUP mode"));
        let both = message(|f| {
            f.uts = Some("host".into());
            f.hostname = Some("h".into());
        });
        assert_eq!(both, "conflicting options: hostname and the UTS mode");
    }
}
