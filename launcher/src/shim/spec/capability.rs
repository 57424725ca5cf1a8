//! Capabilities by name: Docker's default set, `--cap-add` and `--cap-drop`.

use serde_json::{Value, json};

use super::SpecError;
use crate::container::HostConfig;

/// What a container gets unless told otherwise.
const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// All of capabilities(7), by number.
const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The capability of that name, with or without `CAP_`, in any case.
fn named(name: &str) -> Result<&'static str, SpecError> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") {
        upper
    } else {
        format!("CAP_{upper}")
    };
    ALL.into_iter()
        .find(|known| *known == full)
        .ok_or_else(|| SpecError::Capability {
            name: name.to_owned(),
        })
}

/// Capabilities as the kernel numbers them, one bit each.
pub(crate) type Mask = u64;

/// The bounding set in the text of `/proc/PID/status`: what a process of this host can ever hold.
pub(crate) fn bounding(status: &str) -> Mask {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|mask| Mask::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(Mask::MAX)
}

/// All that `available` has.
pub(crate) fn all(available: Mask) -> Vec<&'static str> {
    ALL.into_iter()
        .filter(|name| is_in(name, available))
        .collect()
}

fn is_in(name: &str, mask: Mask) -> bool {
    ALL.iter()
        .position(|known| *known == name)
        .is_some_and(|number| mask >> number & 1 == 1)
}

/// The container's set, sorted. Adding `ALL` then dropping some, or dropping `ALL` then adding
/// some, work as with Docker: what is named by itself wins over `ALL`.
///
/// What this host does not have is left out, but an error if it is asked for by name.
pub(crate) fn of(host: &HostConfig, available: Mask) -> Result<Vec<&'static str>, SpecError> {
    let is_all = |name: &&String| name.eq_ignore_ascii_case("ALL");
    let (add, drop) = (
        host.cap_add.as_deref().unwrap_or_default(),
        host.cap_drop.as_deref().unwrap_or_default(),
    );
    let mut set: Vec<&'static str> = if host.privileged || add.iter().any(|name| is_all(&name)) {
        all(available)
    } else if drop.iter().any(|name| is_all(&name)) {
        Vec::new()
    } else {
        DEFAULT
            .into_iter()
            .filter(|name| is_in(name, available))
            .collect()
    };
    for name in drop.iter().filter(|name| !is_all(name)) {
        let dropped = named(name)?;
        set.retain(|held| *held != dropped);
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        let added = named(name)?;
        if !is_in(added, available) {
            return Err(SpecError::CapabilityUnavailable { name: added });
        }
        if !set.contains(&added) {
            set.push(added);
        }
    }
    set.sort_unstable();
    Ok(set)
}

/// The sets of the specification. The inheritable and ambient sets stay empty: a file capability
/// of the image would otherwise gain more than it names (CVE-2022-24769).
pub(crate) fn to_json(set: &[&str]) -> Value {
    json!({
        "bounding": set, "effective": set, "permitted": set, "inheritable": [], "ambient": []
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_on(
        available: Mask,
        add: &[&str],
        drop: &[&str],
    ) -> Result<Vec<&'static str>, SpecError> {
        let owned = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let host = HostConfig {
            cap_add: owned(add),
            cap_drop: owned(drop),
            ..HostConfig::default()
        };
        of(&host, available)
    }

    fn set(add: &[&str], drop: &[&str]) -> Result<Vec<&'static str>, SpecError> {
        set_on(Mask::MAX, add, drop)
    }

    #[test]
    fn what_the_host_lacks_is_left_out_or_named() {
        let without_kill = bounding("Name:\tx\nCapBnd:\t000001ffffffffdf\n");
        assert!(
            !set_on(without_kill, &["ALL"], &[])
                .unwrap()
                .contains(&"CAP_KILL")
        );
        assert_eq!(set_on(without_kill, &[], &[]).unwrap().len(), 13);
        let error = set_on(without_kill, &["KILL"], &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains("CAP_KILL"), "{error}");
    }

    #[test]
    fn the_default_is_dockers_fourteen() {
        assert_eq!(set(&[], &[]).unwrap(), DEFAULT);
    }

    #[test]
    fn adds_and_drops_by_either_spelling() {
        let changed = set(&["sys_ptrace", "CAP_NET_ADMIN"], &["chown", "CAP_KILL"]).unwrap();
        assert_eq!(changed.len(), 14);
        assert!(changed.contains(&"CAP_SYS_PTRACE") && !changed.contains(&"CAP_CHOWN"));
    }

    #[test]
    fn all_may_be_dropped_and_single_ones_kept() {
        assert_eq!(set(&["KILL"], &["ALL"]).unwrap(), ["CAP_KILL"]);
        assert_eq!(set(&["all"], &["BPF"]).unwrap().len(), 40);
    }

    #[test]
    fn an_unknown_name_is_named() {
        let error = set(&["SYS_WIZARD"], &[]).unwrap_err().to_string();
        assert!(error.contains("\"SYS_WIZARD\""), "{error}");
    }
}
