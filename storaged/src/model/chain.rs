//! Chain ids (OCI image specification, "Layer ChainID") and the images that name chains.

use api::id::Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The id of the chain that ends with the layer `diff_id` on top of `parent`.
pub(crate) fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => diff_id.clone(),
        Some(parent) => sha256(format!("{parent} {diff_id}").as_bytes()),
    }
}

/// The chain ids of a list of layers, bottom first.
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(chain_id(chain.last(), diff_id));
    }
    chain
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

/// Why a text is not an image configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigProblem {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("rootfs.type is {0:?}, expected \"layers\"")]
    RootfsType(String),
}

/// The layers that an image configuration names, bottom first.
pub(crate) fn diff_ids(config: &str) -> Result<Vec<Digest>, ConfigProblem> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: Rootfs,
    }
    #[derive(Deserialize)]
    struct Rootfs {
        #[serde(rename = "type")]
        kind: String,
        diff_ids: Vec<Digest>,
    }
    let Config { rootfs } = serde_json::from_str(config)?;
    if rootfs.kind != "layers" {
        return Err(ConfigProblem::RootfsType(rootfs.kind));
    }
    Ok(rootfs.diff_ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_hashes_the_parent_a_space_and_the_diff() {
        let (a, b, c) = (sha256(b"a"), sha256(b"b"), sha256(b"c"));
        let chain = chain_ids(&[a.clone(), b.clone(), c.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], sha256(format!("{a} {b}").as_bytes()));
        assert_eq!(chain[2], sha256(format!("{} {c}", chain[1]).as_bytes()));
    }

    #[test]
    fn layers_come_from_the_configuration() {
        let digest = sha256(b"x");
        let config =
            format!(r#"{{"os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#);
        assert_eq!(diff_ids(&config).unwrap(), [digest]);
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"rootfs":{"type":"layers","diff_ids":["sha256:12"]}}"#,
            r#"{"rootfs":{"type":"base","diff_ids":[]}}"#,
        ] {
            assert!(diff_ids(bad).is_err(), "{bad}");
        }
    }
}
