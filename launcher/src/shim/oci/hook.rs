//! Hooks of the runtime specification, where libcontainer does otherwise than it says
//! (`config.md`, "POSIX-platform Hooks"; `runtime.md`, "Lifecycle").
//!
//! * libcontainer may be given another bundle than the caller's, and tells hooks of the one that it was
//!   given. A hook that is run while a container is made is therefore this program, which puts the
//!   right one into the state and becomes the hook.
//! * libcontainer fails a delete by a `poststop` hook that fails, and runs none after it; the container
//!   is gone by then, and a warning is what the specification asks for.

use std::ffi::OsString;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use libcontainer::config::YoukiConfig;
use libcontainer::container::Container;
use libcontainer::hooks::run_hooks;
use libcontainer::oci_spec::runtime::Hook;
use rustix::fs::MemfdFlags;
use serde_json::{Value, json};

/// The first argument of the program that becomes a hook.
pub(crate) const VERB: &str = "hook";

/// The hooks of a container that is being made, which have this program's file in reach. Those of
/// `startContainer` have not: the root is the container's by then.
const EARLY: [&str; 3] = ["prestart", "createRuntime", "createContainer"];

/// Has the hooks of `config` told of `bundle`.
pub(super) fn tell_of(bundle: &Path, config: &mut Value) {
    for kind in EARLY {
        let hooks = config["hooks"].get_mut(kind).and_then(Value::as_array_mut);
        for hook in hooks.into_iter().flatten() {
            let path = hook["path"].take();
            let own = hook["args"].take();
            // The first argument is the program's name, and its path where there is none.
            let own = own.as_array().filter(|own| !own.is_empty()).cloned();
            let own = own.unwrap_or_else(|| vec![path.clone()]);
            let mut arguments = vec![json!("hawser-shim"), json!(VERB), json!(bundle), path];
            arguments.extend(own);
            hook["path"] = json!("/proc/self/exe");
            hook["args"] = json!(arguments);
        }
    }
}

/// Becomes the hook: `BUNDLE PATH NAME ARGUMENT…`, with the state on standard input.
pub(crate) fn main(mut arguments: impl Iterator<Item = OsString>) -> i32 {
    let (Some(bundle), Some(path), Some(name)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return 1;
    };
    let error = match state_of(Path::new(&bundle)) {
        Ok(state) => Command::new(&path)
            .arg0(name)
            .args(arguments)
            .stdin(state)
            .exec(),
        Err(error) => error,
    };
    eprintln!("hawser-shim: hook {}: {error}", Path::new(&path).display());
    1
}

/// The state that comes by standard input, with `bundle` in it.
fn state_of(bundle: &Path) -> io::Result<Stdio> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let mut state: Value = serde_json::from_str(&text)?;
    state["bundle"] = json!(bundle);
    // Not a pipe: nobody is left who would write more than it holds.
    let mut file = std::fs::File::from(rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(state.to_string().as_bytes())?;
    file.rewind()?;
    Ok(file.into())
}

/// Puts `hooks` in the place of the `poststop` hooks of the container whose state is in `directory`,
/// and returns those.
pub(super) fn exchange_last(directory: &Path, hooks: Option<Vec<Hook>>) -> Option<Vec<Hook>> {
    // A create that was cut short has left none.
    let mut config = YoukiConfig::load(directory).ok()?;
    let last = config.hooks.as_mut()?;
    let before = last.poststop().clone();
    last.set_poststop(hooks);
    // Where that cannot be written they stay, and libcontainer runs them.
    config.save(directory).ok()?;
    before
}

/// Runs them all for a container that is gone.
pub(super) fn run_last(hooks: Vec<Hook>, gone: &Container) {
    for hook in hooks {
        let path = hook.path().clone();
        if let Err(error) = run_hooks(Some(&vec![hook]), Some(&gone.state), None, None, None) {
            eprintln!("hawser-shim: poststop hook {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_of_a_container_that_is_made_are_told_of_the_callers_bundle() {
        let mut config = json!({ "hooks": {
            "prestart": [{ "path": "/a", "args": ["b", "c"], "timeout": 3 }],
            "createRuntime": [{ "path": "/a" }],
            "startContainer": [{ "path": "/a" }],
            "poststop": [{ "path": "/a" }],
        }});
        tell_of(Path::new("/bundle"), &mut config);
        let own = |hook: &Value| hook["path"] == "/proc/self/exe";
        let hooks = &config["hooks"];
        assert!(own(&hooks["prestart"][0]), "{hooks}");
        let words = ["hawser-shim", "hook", "/bundle", "/a", "b", "c"];
        assert_eq!(hooks["prestart"][0]["args"], json!(words));
        assert_eq!(hooks["prestart"][0]["timeout"], 3);
        let words = ["hawser-shim", "hook", "/bundle", "/a", "/a"];
        assert_eq!(hooks["createRuntime"][0]["args"], json!(words));
        assert_eq!(hooks["startContainer"], json!([{ "path": "/a" }]));
        assert_eq!(hooks["poststop"], json!([{ "path": "/a" }]));
        assert!(hooks.get("createContainer").is_none(), "{hooks}");
    }

    #[test]
    fn a_configuration_without_hooks_gets_none() {
        let mut config = json!({ "root": { "path": "/r" } });
        tell_of(Path::new("/bundle"), &mut config);
        assert!(config.get("hooks").is_none_or(Value::is_null), "{config}");
    }
}
