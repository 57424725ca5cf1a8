//! `--userns`: whose ids the container's users have on the host, and what that rules out.

use api::owner::IdMaps;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::container::HostConfig;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsernsError {
    #[error(
        "privileged mode is incompatible with user namespaces: run the container in the host's \
         with --userns host"
    )]
    Privileged,
    #[error(
        "cannot share the host's {what} when user namespaces are enabled: run the container in \
         the host's user namespace, too, with --userns host"
    )]
    Shared { what: &'static str },
    #[error(
        "conflicting options: a container that shares a namespace of another has that one's user \
         namespace; leave --userns out"
    )]
    Joins,
    #[error("cannot share namespaces of containers whose user namespaces differ")]
    Peers,
}

/// A container that another one shares something of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Peer {
    id: String,
    maps: Option<IdMaps>,
}

/// Writes into `host` what the daemon is to be asked for.
///
/// # Errors
/// [`UsernsError`]: something else cannot be together with it.
pub(super) fn settle(context: &Context, host: &mut HostConfig) -> Result<(), CliError> {
    let modes = [&host.network_mode, &host.ipc_mode, &host.pid_mode];
    let mut peers = Vec::new();
    for key in modes
        .iter()
        .filter_map(|mode| mode.strip_prefix("container:"))
    {
        let record = context.container(key)?.record()?;
        peers.push(Peer {
            id: record.id.to_string(),
            maps: record.id_maps,
        });
    }
    let is_remapped = context.info()?.userns_remap.is_some();
    host.userns_mode = choose(host, &peers, is_remapped)?;
    Ok(())
}

fn choose(host: &HostConfig, peers: &[Peer], is_remapped: bool) -> Result<String, UsernsError> {
    let mode = host.userns_mode.as_str();
    if let Some(first) = peers.first() {
        // A namespace can be joined only from the user namespace that it was made in.
        if peers.iter().any(|peer| peer.maps != first.maps) {
            return Err(UsernsError::Peers);
        }
        return match (&first.maps, mode) {
            (None, "" | "host") => Ok("host".to_owned()),
            (Some(_), "") if peers.iter().any(|peer| peer.id != first.id) => {
                Err(UsernsError::Peers)
            }
            (Some(_), "") => Ok(format!("container:{}", first.id)),
            _ => Err(UsernsError::Joins),
        };
    }
    let has_own = match mode {
        "host" => false,
        "" => is_remapped,
        _ => true,
    };
    let shared = [
        (&host.network_mode, "network"),
        (&host.pid_mode, "PID namespace"),
        (&host.ipc_mode, "IPC namespace"),
    ];
    match shared.into_iter().find(|(mode, _)| *mode == "host") {
        _ if !has_own => Ok(mode.to_owned()),
        _ if host.privileged => Err(UsernsError::Privileged),
        Some((_, what)) => Err(UsernsError::Shared { what }),
        None => Ok(mode.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(userns: &str, change: impl FnOnce(&mut HostConfig)) -> HostConfig {
        let mut host = HostConfig {
            userns_mode: userns.to_owned(),
            ..HostConfig::default()
        };
        change(&mut host);
        host
    }

    #[test]
    fn what_needs_the_host_is_refused_as_in_docker() {
        let privileged = |userns| host(userns, |host| host.privileged = true);
        assert_eq!(
            choose(&privileged(""), &[], true),
            Err(UsernsError::Privileged)
        );
        assert_eq!(
            choose(&privileged("auto"), &[], false),
            Err(UsernsError::Privileged)
        );
        assert_eq!(choose(&privileged("host"), &[], true).unwrap(), "host");
        assert_eq!(choose(&privileged(""), &[], false).unwrap(), "");
        let network = host("private", |host| "host".clone_into(&mut host.network_mode));
        let message = choose(&network, &[], false).unwrap_err().to_string();
        assert!(message.starts_with("cannot share the host's network when"));
        let plain = host("ann:staff", |_| {});
        assert_eq!(choose(&plain, &[], false).unwrap(), "ann:staff");
    }

    #[test]
    fn who_shares_a_namespace_shares_the_users_too() {
        let peer = |id: &str, maps: bool| Peer {
            id: id.to_owned(),
            maps: maps.then(IdMaps::default),
        };
        let asked = |userns, peers: &[Peer]| choose(&host(userns, |_| {}), peers, true);
        assert_eq!(asked("", &[peer("a", true)]).unwrap(), "container:a");
        let twice = [peer("a", true), peer("a", true)];
        assert_eq!(asked("", &twice).unwrap(), "container:a");
        assert_eq!(asked("", &[peer("a", false)]).unwrap(), "host");
        assert_eq!(asked("auto", &[peer("a", true)]), Err(UsernsError::Joins));
        assert_eq!(asked("host", &[peer("a", true)]), Err(UsernsError::Joins));
        for other in [peer("b", true), peer("b", false)] {
            assert_eq!(
                asked("", &[peer("a", true), other]),
                Err(UsernsError::Peers)
            );
        }
    }
}
