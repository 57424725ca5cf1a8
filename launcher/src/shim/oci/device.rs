//! Which devices the container of a bundle may use. libcontainer says so to control groups of
//! version 1; those of version 2 have no files for it, and get a program.

use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::{OciError, failed, spec_of};
use crate::cgroup::Group;
use crate::cgroup::device::{Answer, decide};
use crate::container::DeviceRule;

/// Holds the control group of process `init` to the rules of its bundle, before it runs anything.
pub(super) fn restrict(bundle: &Path, init: u32) -> Result<(), OciError> {
    let process = init.to_string();
    let process = Path::new(&process);
    let group =
        Group::of_process(init).map_err(failed("read the control groups of process", process))?;
    if !group.is_unified {
        return Ok(());
    }
    let spec = spec_of(bundle)?;
    let resources = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let listed = resources.and_then(|resources| resources.devices().as_deref());
    let rules: Vec<_> = listed.unwrap_or_default().iter().map(rule).collect();
    decide(&group, &rules).map_err(failed(
        "attach a device policy to the group of process",
        process,
    ))
}

fn rule(listed: &LinuxDeviceCgroup) -> (Answer, DeviceRule) {
    let answer = match listed.allow() {
        true => Answer::Allow,
        false => Answer::Deny,
    };
    // Absent and negative numbers stand for all.
    let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
    let access = listed
        .access()
        .as_deref()
        .filter(|access| !access.is_empty());
    let rule = DeviceRule {
        kind: match listed.typ() {
            Some(LinuxDeviceType::B) => 'b',
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => 'c',
            _ => 'a',
        },
        major: number(listed.major()),
        minor: number(listed.minor()),
        access: access.unwrap_or("rwm").to_owned(),
    };
    (answer, rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rule_leaves_out_is_everything() {
        let of = |text: &str| rule(&serde_json::from_str(text).unwrap());
        let all = |access: &str| DeviceRule {
            kind: 'a',
            major: None,
            minor: None,
            access: access.to_owned(),
        };
        assert_eq!(of(r#"{"allow": false}"#), (Answer::Deny, all("rwm")));
        assert_eq!(
            of(r#"{"allow": true, "type": "a", "major": -1, "access": "rw"}"#),
            (Answer::Allow, all("rw"))
        );
        let (_, one) = of(r#"{"allow": true, "type": "b", "major": 8, "minor": 1}"#);
        assert_eq!(Some(one), DeviceRule::parse("b 8:1 rwm"));
    }
}
