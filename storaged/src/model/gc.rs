//! Which layers nothing refers to.

use std::collections::BTreeSet;

use api::id::Digest;

use super::record::{LayerRow, Rows};

/// Layers that no image, no root filesystem and no chain in `kept` needs; children before their
/// parents, so that any prefix of the list can go and leave whole chains.
pub(crate) fn unreferenced(rows: &Rows, kept: &BTreeSet<Digest>) -> Vec<LayerRow> {
    let tops = rows
        .images
        .values()
        .map(|image| image.chain_id.as_ref())
        .chain(rows.rootfs.values().map(|rootfs| rootfs.chain_id.as_ref()))
        .chain(kept.iter().map(Some));
    let mut marked: BTreeSet<&Digest> = BTreeSet::new();
    for top in tops {
        for layer in rows.chain(top) {
            if !marked.insert(&layer.chain_id) {
                break;
            }
        }
    }
    let mut garbage: Vec<LayerRow> = rows
        .layers
        .values()
        .filter(|layer| !marked.contains(&layer.chain_id))
        .cloned()
        .collect();
    garbage.sort_by_key(|layer| std::cmp::Reverse(layer.depth));
    garbage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::chain::{chain_ids, sha256};
    use crate::model::layout::Key;
    use crate::model::record::{Change, ImageRow, RootfsRow};

    /// Rows with the layers of each chain of one-letter diffs.
    fn rows(chains: &[&str]) -> Rows {
        let mut rows = Rows::default();
        for chain in chains {
            let ids = ids(chain);
            for (at, id) in ids.iter().enumerate() {
                rows.apply(Change::PutLayer(LayerRow {
                    chain_id: id.clone(),
                    diff_id: sha256(&chain.as_bytes()[at..=at]),
                    parent: at.checked_sub(1).map(|below| ids[below].clone()),
                    key: Key::from_bytes([0; 16]),
                    size: 0,
                    archive_size: 0,
                    tree: None,
                    damaged: false,
                    entries: 0,
                    depth: u32::try_from(at + 1).unwrap(),
                }));
            }
        }
        rows
    }

    fn ids(chain: &str) -> Vec<Digest> {
        let diffs: Vec<Digest> = chain.bytes().map(|byte| sha256(&[byte])).collect();
        chain_ids(&diffs)
    }

    fn top(chain: &str) -> Digest {
        ids(chain).pop().unwrap()
    }

    fn image(rows: &mut Rows, chain: &str) {
        rows.apply(Change::PutImage(ImageRow {
            id: sha256(chain.as_bytes()),
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            config: String::new(),
            chain_id: Some(top(chain)),
            added: String::new(),
        }));
    }

    fn garbage(rows: &Rows, kept: &[Digest]) -> Vec<Digest> {
        let kept = kept.iter().cloned().collect();
        unreferenced(rows, &kept)
            .into_iter()
            .map(|layer| layer.chain_id)
            .collect()
    }

    #[test]
    fn shared_layers_stay_until_the_last_image_goes() {
        let mut rows = rows(&["abc", "abd"]);
        image(&mut rows, "abc");
        image(&mut rows, "abd");
        assert_eq!(garbage(&rows, &[]), []);
        rows.apply(Change::DropImage(sha256(b"abc")));
        assert_eq!(garbage(&rows, &[]), [top("abc")]);
        rows.apply(Change::DropImage(sha256(b"abd")));
        let all = garbage(&rows, &[]);
        assert_eq!(all.len(), 4);
        assert_eq!(all[2..], [top("ab"), top("a")], "parents last");
    }

    #[test]
    fn a_container_keeps_the_layers_of_an_image_that_is_gone() {
        let mut rows = rows(&["ab", "ac"]);
        rows.apply(Change::PutRootfs(RootfsRow {
            container: "c1".to_owned(),
            key: Key::from_bytes([1; 16]),
            image: sha256(b"gone"),
            chain_id: Some(top("ab")),
            ephemeral: false,
            mounted_in: None,
            taker: None,
            size: None,
            project: None,
            id_maps: None,
            metacopy: false,
        }));
        assert_eq!(garbage(&rows, &[]), [top("ac")]);
        assert_eq!(garbage(&rows, &[top("ac")]), []);
    }

    /// What must stay, told without marking: a layer is needed when a chain that is kept goes
    /// through it.
    fn is_needed(chain: &str, kept: &[&str]) -> bool {
        kept.iter().any(|kept| kept.starts_with(chain))
    }

    proptest::proptest! {
        #[test]
        fn exactly_what_nothing_stands_on_goes(
            chains in proptest::collection::vec("[abc]{1,5}", 1..12),
            kinds in proptest::collection::vec(0..4_u8, 12),
        ) {
            let names: Vec<&str> = chains.iter().map(String::as_str).collect();
            let mut rows = rows(&names);
            let (mut kept, mut leases) = (Vec::new(), Vec::new());
            for (at, (chain, kind)) in names.iter().zip(&kinds).enumerate() {
                match kind {
                    0 => image(&mut rows, chain),
                    1 => rows.apply(Change::PutRootfs(RootfsRow {
                        container: format!("c{at}"),
                        key: Key::from_bytes([1; 16]),
                        image: sha256(b"gone"),
                        chain_id: Some(top(chain)),
                        ephemeral: false,
                        mounted_in: None,
                        taker: None,
                        size: None,
                        project: None,
                        id_maps: None,
                        metacopy: false,
                    })),
                    2 => leases.push(top(chain)),
                    _ => continue,
                }
                kept.push(*chain);
            }
            let mut expected: BTreeSet<Digest> = BTreeSet::new();
            for chain in &names {
                for end in 1..=chain.len() {
                    if !is_needed(&chain[..end], &kept) {
                        expected.insert(top(&chain[..end]));
                    }
                }
            }
            let found = garbage(&rows, &leases);
            let set: BTreeSet<Digest> = found.iter().cloned().collect();
            proptest::prop_assert_eq!(&set, &expected);
            // Any prefix of the list leaves whole chains.
            let mut left = rows;
            for chain in found {
                left.apply(Change::DropLayer(chain));
                let whole = left.layers.keys().all(|layer| left.is_whole(Some(layer)));
                proptest::prop_assert!(whole);
            }
        }
    }
}
