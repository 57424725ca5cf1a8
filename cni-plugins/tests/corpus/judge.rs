//! What holds for every call of a plugin, whatever it is given: no panic, and on standard output
//! either nothing or one JSON object, which for a failure has a code and words.
//!
//! An input is the environment, one `KEY=VALUE` a line, a NUL byte, and standard input.

use cni_plugins::{Role, run};
use serde_json::Value;

/// Where no daemon listens.
const SOCKET: &str = "/nonexistent/hawserd.sock";

/// # Panics
/// When something does not hold.
pub(crate) fn judge(data: &[u8]) {
    let at = data
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(data.len());
    let environment = String::from_utf8_lossy(&data[..at]);
    let stdin = data.get(at + 1..).unwrap_or_default();
    if names_a_socket(stdin) {
        return;
    }
    let lookup = |name: &str| {
        // Delegation would run programs.
        let allowed = name.starts_with("CNI_") && name != "CNI_PATH";
        let mut pairs = environment.lines().filter_map(|line| line.split_once('='));
        pairs
            .find(|(key, _)| allowed && *key == name)
            .map(|(_, value)| value.to_owned())
    };
    for role in [Role::Interface, Role::AddressManagement] {
        let outcome = run(role, &lookup, &mut &stdin[..]);
        if outcome.success {
            if !outcome.reply.is_empty() {
                let reply: Value = serde_json::from_str(&outcome.reply).expect("JSON");
                assert!(reply.is_object(), "{reply}");
            }
            continue;
        }
        let reply: Value = serde_json::from_str(&outcome.reply).expect("an error is JSON");
        let code = reply["code"].as_u64().expect("an error has a code");
        assert!((1..200).contains(&code), "{reply}");
        assert!(reply["cniVersion"].is_string(), "{reply}");
        for key in ["msg", "details"] {
            let words = reply[key].as_str().expect("an error has words");
            assert!(!words.is_empty() && !words.contains('\n'), "{reply}");
        }
    }
}

/// Of a daemon that might exist: what is tried out here must not reach one.
fn names_a_socket(stdin: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stdin);
    // Keys may be written with escapes.
    (text.contains("socket") || text.contains('\\')) && !text.contains(SOCKET)
}
