//! What the fuzz target of `fuzz/` runs, and the replay of its corpus.

use std::io;
use std::path::Path;

use crate::assemble::assemble;
use crate::config::{DeviceNodes, Driver, Limits};
use crate::import::{self, Stacking, Target};
use crate::model::layout::{Key, Layout};
use crate::tree;

/// A stream as a layer, below the empty directory `scratch`: it is refused in one line, or becomes a
/// tree that gives the same stream again. Either way nothing comes to lie beside the tree.
///
/// # Panics
/// When it does not, or the directory cannot be used.
pub fn layer(scratch: &Path, stream: &[u8]) {
    let limits = Limits {
        max_entries: 1000,
        max_bytes: 1 << 20,
        ..Limits::default()
    };
    let layout = Layout::new(scratch.to_owned(), Driver::Overlay2);
    let directory = layout.layer(&Key::from_bytes([1; 16]));
    std::fs::create_dir_all(directory.diff()).expect("the directory of a layer");
    let target = Target {
        diff: directory.diff(),
        record: directory.record(),
        replaced: directory.replaced(),
        stacking: Stacking::Differences(Box::new(|| Ok(Vec::new()))),
        limits: &limits,
        device_nodes: DeviceNodes::Refuse,
    };
    match import::unpack(&mut { stream }, target) {
        Ok(unpacked) => {
            let given = assemble(&directory, &mut io::sink(), &mut Err);
            assert_eq!(given.expect("an archive"), unpacked.diff_id);
        }
        Err(refusal) => {
            let text = refusal.to_string();
            assert!(!text.contains('\n'), "{text}");
        }
    }
    let own = [directory.diff(), directory.record(), directory.replaced()];
    for entry in std::fs::read_dir(directory.path()).expect("the directory of a layer") {
        let path = entry.expect("an entry").path();
        assert!(own.contains(&path), "{}", path.display());
    }
    tree::remove_path(&layout.store()).expect("the directory can be removed");
    let mut left = std::fs::read_dir(scratch).expect("the scratch directory");
    assert!(left.next().is_none(), "something is beside the layer");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_refused_or_comes_out_as_it_went_in() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/layer");
        let scratch = tempfile::tempdir().unwrap();
        let mut files = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let stream = std::fs::read(entry.unwrap().path()).unwrap();
            layer(scratch.path(), &stream);
            // Cut short, and with one byte something else, wherever that is in a header.
            for length in (0..stream.len()).step_by(97) {
                layer(scratch.path(), &stream[..length]);
                let mut other = stream.clone();
                other[length] ^= 0x15;
                layer(scratch.path(), &other);
            }
            files += 1;
        }
        assert!(files >= 8, "only {files} files in {}", corpus.display());
    }
}
