//! The default seccomp profile as an OCI `linux.seccomp` object.
//!
//! The list itself is `assets/seccomp.json`, which explains its layout.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

const LIST: &str = include_str!("../../../assets/seccomp.json");

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    allow: BTreeMap<&'a str, Vec<&'a str>>,
    when: Vec<Condition<'a>>,
    capable: BTreeMap<&'a str, Vec<&'a str>>,
    absent: Vec<&'a str>,
}

#[derive(Deserialize)]
struct Condition<'a> {
    #[serde(borrow)]
    names: Vec<&'a str>,
    argument: u8,
    #[serde(default)]
    masked: Option<u64>,
    #[serde(default)]
    equals: Vec<u64>,
    #[serde(default)]
    differs: Option<u64>,
}

/// The profile of a container that holds `capabilities`.
pub(crate) fn default_profile(capabilities: &[&str]) -> Value {
    // The list is part of the program, and the tests read it.
    let Ok(list) = serde_json::from_str::<List<'_>>(LIST) else {
        unreachable!("the built-in seccomp list is valid")
    };
    let capable: Vec<&str> = list
        .capable
        .iter()
        .filter(|(capability, _)| capabilities.contains(capability))
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    let mut allowed: Vec<&str> = list
        .allow
        .values()
        .flatten()
        .chain(&capable)
        .copied()
        .collect();
    allowed.sort_unstable();
    allowed.dedup();
    let mut rules = vec![json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" })];
    for condition in &list.when {
        if !condition.names.iter().any(|name| capable.contains(name)) {
            rules.extend(condition.rules());
        }
    }
    let absent: Vec<&str> = list
        .absent
        .iter()
        .filter(|name| !capable.contains(name))
        .copied()
        .collect();
    if !absent.is_empty() {
        rules.push(json!({
            "names": absent, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS
        }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": ARCHITECTURES,
        "syscalls": rules,
    })
}

impl Condition<'_> {
    fn rules(&self) -> Vec<Value> {
        let rule = |argument: Value| json!({ "names": self.names, "action": "SCMP_ACT_ALLOW", "args": [argument] });
        let index = self.argument;
        let mut rules: Vec<Value> = self
            .equals
            .iter()
            .map(|value| match self.masked {
                // The runtime calls the mask `value` and what it must equal `valueTwo`.
                Some(mask) => rule(json!({
                    "index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"
                })),
                None => rule(json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" })),
            })
            .collect();
        rules.extend(
            self.differs
                .map(|value| rule(json!({ "index": index, "value": value, "op": "SCMP_CMP_NE" }))),
        );
        rules
    }
}

/// The native one first, then the 32-bit one that the same kernel runs. A call by any other is
/// killed by libseccomp.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [&str; 2] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [&str; 2] = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: [&str; 1] = ["SCMP_ARCH_NATIVE"];

#[cfg(test)]
mod tests {
    use libcontainer::oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

    use super::*;

    fn rules_for(name: &str, capabilities: &[&str]) -> Vec<(LinuxSeccompAction, usize)> {
        let profile: LinuxSeccomp = serde_json::from_value(default_profile(capabilities)).unwrap();
        let rules = profile.syscalls().clone().unwrap();
        rules
            .iter()
            .filter(|rule| rule.names().iter().any(|listed| listed == name))
            .map(|rule| (rule.action(), rule.args().as_ref().map_or(0, Vec::len)))
            .collect()
    }

    const ALLOW: LinuxSeccompAction = LinuxSeccompAction::ScmpActAllow;

    #[test]
    fn ordinary_calls_are_allowed_and_dangerous_ones_are_not() {
        for name in ["read", "execve", "futex", "openat2", "clock_gettime64"] {
            assert_eq!(rules_for(name, &[]), [(ALLOW, 0)], "{name}");
        }
        for name in [
            "mount",
            "bpf",
            "keyctl",
            "io_uring_setup",
            "userfaultfd",
            "unshare",
            "reboot",
        ] {
            assert_eq!(rules_for(name, &[]), [], "{name}");
        }
    }

    #[test]
    fn arguments_decide_where_they_matter() {
        assert_eq!(rules_for("clone", &[]), [(ALLOW, 1)]);
        assert_eq!(rules_for("socket", &[]), [(ALLOW, 1)]);
        assert_eq!(rules_for("personality", &[]).len(), 5);
    }

    #[test]
    fn a_capability_lifts_what_it_is_for() {
        assert_eq!(rules_for("clone", &["CAP_SYS_ADMIN"]), [(ALLOW, 0)]);
        assert_eq!(rules_for("clone3", &["CAP_SYS_ADMIN"]), [(ALLOW, 0)]);
        assert_eq!(
            rules_for("clone3", &[]),
            [(LinuxSeccompAction::ScmpActErrno, 0)]
        );
        assert_eq!(rules_for("settimeofday", &["CAP_SYS_TIME"]), [(ALLOW, 0)]);
    }
}
