//! Whose attachments these are (docs/adr/0013-owners-of-attachments.md).
//!
//! `GC` names the attachments that one runtime still knows; all others of that runtime may go. The
//! specification has no name for a runtime, so the configuration's name and the program that runs
//! the plugin stand for it. Taking two for different that are one is harmless: the daemon collects
//! what belongs to namespaces that are gone by itself.

use std::fs;
use std::os::unix::process::parent_id;

use crate::config::Target;

/// The owner, as `configuration@program`, or what the configuration says. `levels` is how many
/// processes up the runtime is: a delegated plugin's parent is a plugin.
pub(crate) fn of(target: &Target, levels: u32) -> String {
    if let Some(owner) = &target.owner {
        return owner.clone();
    }
    let mut pid = Some(parent_id());
    for _ in 1..levels {
        pid = pid.and_then(parent_of);
    }
    match pid.and_then(program) {
        Some(program) => format!("{}@{program}", target.name),
        None => target.name.clone(),
    }
}

/// The file name of the program that `pid` runs: a runtime is upgraded in its place.
fn program(pid: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_str()?;
    // The kernel's mark of a replaced file (`d_path`, fs/d_path.c).
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

/// proc_pid_stat(5): the fourth field, the second after the parenthesised name, which may itself
/// contain parentheses.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(json: &str) -> Target {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_configuration_and_the_program_that_runs_the_plugin_make_an_owner() {
        let owner = of(&target(r#"{"name":"shop"}"#), 1);
        let (name, program) = owner.split_once('@').unwrap();
        assert_eq!(name, "shop");
        assert!(!program.is_empty());
        let above = of(&target(r#"{"name":"shop"}"#), 2);
        assert!(above.starts_with("shop"), "{above}");
    }

    #[test]
    fn an_owner_may_be_given() {
        assert_eq!(of(&target(r#"{"name":"shop","owner":"blue"}"#), 1), "blue");
    }
}
