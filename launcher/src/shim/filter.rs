//! Filters of system calls: what a specification says, as a program for the kernel.
//!
//! libcontainer's own filters are not used. It takes the two operands of `SCMP_CMP_MASKED_EQ` for
//! each other (`translate_op`), by which Docker's rule for clone(2) holds for any flags and lets a
//! container make user namespaces. And it compiles at every start, which takes longer than anything
//! else there; here a program is kept for the next one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

#[derive(Debug, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("understand the seccomp profile: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("seccomp profile: {what:?}: {source}")]
    Rule { what: String, source: SeccompError },
    #[error("seccomp profile: unknown flag {0:?}")]
    Flag(String),
    #[error("compile the seccomp profile: {0}")]
    Compile(io::Error),
}

/// As the specification has it (`linux.seccomp`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<i32>,
    architectures: Option<Vec<String>>,
    flags: Option<Vec<String>>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<i32>,
    args: Option<Vec<Argument>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// A program for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    program: Vec<u8>,
    flags: u32,
}

/// Whether somebody else is to decide about calls, which libcontainer arranges.
pub(crate) fn asks_somebody(profile: &Value) -> bool {
    let rules = profile["syscalls"].as_array().into_iter().flatten();
    rules
        .into_iter()
        .any(|rule| rule["action"] == "SCMP_ACT_NOTIFY")
}

impl Filter {
    /// What `profile` is for the kernel, from the directory `kept` if it has been compiled on this
    /// host before.
    ///
    /// # Errors
    /// [`FilterError`], which names the rule that cannot be.
    pub(crate) fn of(profile: &Value, kept: &Path) -> Result<Self, FilterError> {
        let text = profile.to_string();
        let profile: Profile = serde_json::from_value(profile.clone())?;
        let flags = flags(profile.flags.iter().flatten())?;
        let path = kept.join(key(&text));
        if let Ok(program) = fs::read(&path)
            && !program.is_empty()
        {
            return Ok(Self { program, flags });
        }
        let program = compile(&profile)?;
        // It is compiled again where there is no room for it.
        drop(keep(&program, &path));
        Ok(Self { program, flags })
    }

    /// # Errors
    /// As [`sys::seccomp::load`].
    pub(crate) fn load(&self) -> io::Result<()> {
        sys::seccomp::load(&self.program, self.flags)
    }
}

/// Names what a program depends on.
fn key(profile: &str) -> String {
    let library = libseccomp::ScmpVersion::current();
    let kernel = rustix::system::uname();
    let mut hash = Sha256::new();
    hash.update(format!("{library:?} {:?}\n", kernel.release()));
    hash.update(profile);
    hex::encode(hash.finalize())
}

/// By rename, so that nobody reads half a program.
fn keep(program: &[u8], path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let part = path.with_extension(std::process::id().to_string());
    fs::write(&part, program)?;
    fs::rename(&part, path)
}

/// Flags of seccomp(2) (`linux/seccomp.h`).
fn flags<'a>(names: impl Iterator<Item = &'a String>) -> Result<u32, FilterError> {
    let flag = |name: &String| {
        Ok(match name.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => libc::SECCOMP_FILTER_FLAG_TSYNC,
            "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // It says how those are waited for who decide about calls; here nobody does.
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 0,
            _ => return Err(FilterError::Flag(name.clone())),
        })
    };
    let flags: Vec<_> = names.map(flag).collect::<Result<_, _>>()?;
    Ok(flags.into_iter().fold(0, |all, flag| all | flag as u32))
}

fn rule<'a>(what: &'a str) -> impl Fn(SeccompError) -> FilterError + 'a {
    move |source| FilterError::Rule {
        what: what.to_owned(),
        source,
    }
}

fn compile(profile: &Profile) -> Result<Vec<u8>, FilterError> {
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut context = ScmpFilterContext::new(default).map_err(rule(&profile.default_action))?;
    for name in profile.architectures.iter().flatten() {
        ScmpArch::from_str(name)
            .and_then(|architecture| context.add_arch(architecture).map(drop))
            .map_err(rule(name))?;
    }
    for asked in profile.syscalls.iter().flatten() {
        let action = action(&asked.action, asked.errno_ret)?;
        // What happens anyway is no rule for the library.
        if action == default {
            continue;
        }
        let conditions = asked.conditions()?;
        for name in &asked.names {
            // A profile may name calls that are newer than the library.
            if let Ok(call) = ScmpSyscall::from_name(name) {
                for conditions in &conditions {
                    let added = context.add_rule_conditional(action, call, conditions);
                    added.map_err(rule(name))?;
                }
            }
        }
    }
    export(&context).map_err(FilterError::Compile)
}

fn action(name: &str, errno: Option<i32>) -> Result<ScmpAction, FilterError> {
    ScmpAction::from_str(name, Some(errno.unwrap_or(libc::EPERM))).map_err(rule(name))
}

impl Rule {
    /// What must hold together. The library compares an argument only once in a rule, so that several
    /// conditions about one are alternatives, as in runc.
    fn conditions(&self) -> Result<Vec<Vec<ScmpArgCompare>>, FilterError> {
        let arguments = self.args.as_deref().unwrap_or_default();
        let conditions: Vec<_> = arguments
            .iter()
            .map(Argument::condition)
            .collect::<Result<_, _>>()?;
        let indices: BTreeSet<u32> = arguments.iter().map(|argument| argument.index).collect();
        if indices.len() < arguments.len() {
            return Ok(conditions.into_iter().map(|one| vec![one]).collect());
        }
        Ok(vec![conditions])
    }
}

impl Argument {
    fn condition(&self) -> Result<ScmpArgCompare, FilterError> {
        let operator = ScmpCompareOp::from_str(&self.op).map_err(rule(&self.op))?;
        Ok(match operator {
            ScmpCompareOp::MaskedEqual(_) => ScmpArgCompare::new(
                self.index,
                ScmpCompareOp::MaskedEqual(self.value),
                self.value_two,
            ),
            operator => ScmpArgCompare::new(self.index, operator, self.value),
        })
    }
}

/// The library writes to a descriptor only.
fn export(context: &ScmpFilterContext) -> io::Result<Vec<u8>> {
    use std::io::{Read, Seek};

    let memory = rustix::fs::memfd_create("filter", rustix::fs::MemfdFlags::CLOEXEC)?;
    context.export_bpf(&memory).map_err(io::Error::other)?;
    let mut file = fs::File::from(memory);
    file.rewind()?;
    let mut program = Vec::new();
    file.read_to_end(&mut program)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::shim::spec::seccomp::default_profile;

    const CLONE: i64 = libc::SYS_clone;
    const ALLOW: u32 = 0x7fff_0000;
    const NOT_PERMITTED: u32 = 0x0005_0000 | libc::EPERM as u32;

    /// What a program says to a call: the machine of `Documentation/networking/filter.rst`, as far as
    /// the library uses it.
    fn verdict(filter: &Filter, number: i64, argument: u64) -> u32 {
        let mut call = [0; 64];
        call[..4].copy_from_slice(&u32::try_from(number).unwrap().to_ne_bytes());
        // `AUDIT_ARCH_X86_64` or `AUDIT_ARCH_AARCH64` (`linux/audit.h`).
        let architecture: u32 = if cfg!(target_arch = "x86_64") {
            0xc000_003e
        } else {
            0xc000_00b7
        };
        call[4..8].copy_from_slice(&architecture.to_ne_bytes());
        call[16..24].copy_from_slice(&argument.to_ne_bytes());
        let (program, _) = filter.program.as_chunks::<8>();
        let (mut at, mut value) = (0, 0);
        loop {
            let [c0, c1, yes, no, k @ ..] = program[at];
            let (code, k) = (u16::from_ne_bytes([c0, c1]), u32::from_ne_bytes(k));
            let index = usize::try_from(k).unwrap();
            at += 1;
            let is_met = match code {
                0x06 => return k,
                0x20 => {
                    value = u32::from_ne_bytes(call[index..index + 4].try_into().unwrap());
                    continue;
                }
                0x54 => {
                    value &= k;
                    continue;
                }
                0x05 => {
                    at += index;
                    continue;
                }
                0x15 => value == k,
                0x25 => value > k,
                0x35 => value >= k,
                other => panic!("instruction {other:#x}"),
            };
            at += usize::from(if is_met { yes } else { no });
        }
    }

    #[test]
    fn no_namespace_is_made_without_the_capability_for_it() {
        let kept = tempfile::tempdir().unwrap();
        let flags = |flags: i32| u64::try_from(flags | libc::SIGCHLD).unwrap();
        let filter = Filter::of(&default_profile(&[]), kept.path()).unwrap();
        assert_eq!(verdict(&filter, CLONE, flags(0)), ALLOW);
        let thread = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_FILES;
        assert_eq!(verdict(&filter, CLONE, flags(thread)), ALLOW);
        for namespace in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWPID | thread,
        ] {
            let verdict = verdict(&filter, CLONE, flags(namespace));
            assert_eq!(verdict, NOT_PERMITTED, "{namespace:#x}");
        }
        assert_eq!(verdict(&filter, libc::SYS_read, 0), ALLOW);
        assert_eq!(verdict(&filter, libc::SYS_mount, 0), NOT_PERMITTED);
        let capable = Filter::of(&default_profile(&["CAP_SYS_ADMIN"]), kept.path()).unwrap();
        assert_eq!(verdict(&capable, CLONE, flags(libc::CLONE_NEWUSER)), ALLOW);
        assert_eq!(verdict(&capable, libc::SYS_mount, 0), ALLOW);
    }

    #[test]
    fn several_conditions_about_one_argument_are_alternatives() {
        let kept = tempfile::tempdir().unwrap();
        let equals = |value: u64| json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" });
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                { "names": ["personality", "nosuch"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
                  "args": [equals(1), equals(2)] },
                { "names": ["read"], "action": "SCMP_ACT_ALLOW" },
            ],
        });
        let filter = Filter::of(&profile, kept.path()).unwrap();
        let verdicts = [1, 2, 3].map(|value| verdict(&filter, libc::SYS_personality, value));
        assert_eq!(verdicts, [0x0005_0026, 0x0005_0026, ALLOW]);
    }

    #[test]
    fn a_program_is_compiled_once_and_again_if_it_is_lost() {
        let kept = tempfile::tempdir().unwrap();
        let profile = default_profile(&[]);
        let filter = Filter::of(&profile, kept.path()).unwrap();
        let files: Vec<_> = fs::read_dir(kept.path()).unwrap().flatten().collect();
        assert_eq!(files.len(), 1, "{files:?}");
        let path = files[0].path();
        let program = fs::read(&path).unwrap();
        assert_eq!(program, filter.program);
        // What is kept is what is used.
        fs::write(&path, &program[..8]).unwrap();
        let again = Filter::of(&profile, kept.path()).unwrap();
        assert_eq!(again.program, program[..8]);
        fs::write(&path, "").unwrap();
        assert_eq!(Filter::of(&profile, kept.path()).unwrap(), filter);
        // A directory that cannot be written costs nothing but time.
        let nowhere = Path::new("/proc/nowhere");
        assert_eq!(Filter::of(&profile, nowhere).unwrap(), filter);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let kept = tempfile::tempdir().unwrap();
        for (profile, part) in [
            (
                json!({ "defaultAction": "SCMP_ACT_MAYBE" }),
                "SCMP_ACT_MAYBE",
            ),
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["PDP11"] }),
                "PDP11",
            ),
            (
                json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["FAST"] }),
                "FAST",
            ),
            (json!({}), "defaultAction"),
        ] {
            let error = Filter::of(&profile, kept.path()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
