//! The network configuration list that other runtimes read. Pure.

use std::path::Path;

use api::id::NetworkName;
use api::path::{RUN_DIR, SOCKET_NAME};
use serde_json::{Value, json};

/// What containerd 1.6 and podman 4 know.
const CNI_VERSION: &str = "1.0.0";
const PREFIX: &str = "10-hawser-";
const SUFFIX: &str = ".conflist";

/// Runtimes that use one network take the first file, in the order of names.
pub fn file_name(network: &NetworkName) -> String {
    format!("{PREFIX}{network}{SUFFIX}")
}

pub fn is_file_name(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// The list for `network`, which is made on first use if need be.
pub fn render(network: &NetworkName, socket: &Path) -> String {
    let mut plugin = json!({
        "type": "hawser",
        "network": network,
        "driver": "bridge",
        "capabilities": {
            "portMappings": true, "bandwidth": true, "ips": true, "mac": true, "dns": true,
            "aliases": true
        },
    });
    if socket != Path::new(RUN_DIR).join(SOCKET_NAME) {
        plugin["socket"] = json!(socket);
    }
    let list = json!({ "cniVersion": CNI_VERSION, "name": network, "plugins": [plugin] });
    format!("{list:#}\n")
}

/// Whether `text` is a list with a plugin of ours: others are not for us to replace.
pub fn is_ours(text: &[u8]) -> bool {
    let Ok(list) = serde_json::from_slice::<Value>(text) else {
        return false;
    };
    let plugins = list.get("plugins").and_then(Value::as_array);
    plugins.is_some_and(|plugins| {
        plugins
            .iter()
            .any(|plugin| plugin.get("type") == Some(&json!("hawser")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_the_socket_only_where_it_is_not_the_usual_one() {
        let network = NetworkName::parse("shop").unwrap();
        let usual = render(&network, Path::new("/run/hawser/hawserd.sock"));
        assert!(!usual.contains("socket"), "{usual}");
        let other = render(&network, Path::new("/run/x.sock"));
        assert!(other.contains(r#""socket": "/run/x.sock""#), "{other}");
        assert!(is_ours(other.as_bytes()));
        assert!(is_file_name(&file_name(&network)));
    }

    #[test]
    fn lists_of_others_are_told_apart() {
        let theirs = br#"{"name":"shop","plugins":[{"type":"bridge"}]}"#;
        assert!(!is_ours(theirs));
        assert!(!is_ours(b"# a note"));
        assert!(!is_file_name("87-podman.conflist"));
    }
}
