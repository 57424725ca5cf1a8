//! What the fuzz targets `layer` and `volume` run, and the replay of their corpora.

use std::io;
use std::path::Path;

use api::id::{Digest, VolumeName};
use api::storage::VolumeImport;
use sha2::{Digest as _, Sha256};

use crate::assemble::assemble;
use crate::config::{DeviceNodes, Driver, Limits};
use crate::import::{
    self, CHECKSUM, Checksum, EntryError, MANIFEST, Stacking, Target, VolumeArchive,
};
use crate::model::layout::{Key, Layout};
use crate::model::volume_spec::Content;
use crate::tree;
use crate::volume::archive::{imported, understand};

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
        may_lack_end: false,
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

/// A volume's export whose description is the text up to the first NUL, and whose content is what
/// follows, below the empty directory `scratch`: refused in one line, or a volume of its own. A checksum
/// that fits is added, since nobody would come by one.
///
/// # Panics
/// When it is not, or the directory cannot be used.
pub fn volume(scratch: &Path, text: &[u8]) {
    let end = text.iter().position(|byte| *byte == 0);
    let (description, members) = text.split_at(end.unwrap_or(text.len()));
    let members = members.get(1..).unwrap_or_default();
    let stream = export(description, &members[..members.len() / BLOCK * BLOCK]);
    let data = scratch.join("data");
    std::fs::create_dir(&data).expect("an empty directory");
    if let Err(refusal) = import_volume(&data, &stream) {
        assert!(!refusal.contains('\n'), "{refusal}");
    }
    tree::remove_path(&data).expect("the directory can be removed");
    let mut left = std::fs::read_dir(scratch).expect("the scratch directory");
    assert!(left.next().is_none(), "something is beside the volume");
}

const BLOCK: usize = 512;

fn import_volume(data: &Path, mut stream: &[u8]) -> Result<(), String> {
    let limits = Limits {
        max_entries: 1000,
        max_bytes: 1 << 20,
        ..Limits::default()
    };
    let text = |error: EntryError| error.to_string();
    let (archive, manifest) = VolumeArchive::open(&mut stream, &limits).map_err(text)?;
    let manifest = understand(&manifest).map_err(text)?;
    let name = VolumeName::parse("data").expect("a name");
    let row = imported(&name, VolumeImport::default(), manifest).map_err(|e| e.to_string())?;
    assert_eq!(row.name, name);
    let spec = row.spec().expect("options that were understood before");
    assert!(
        !matches!(spec.content, Content::Device(_)),
        "a place of its own"
    );
    let root = tree::open_root(data).expect("the directory");
    archive.unpack(root, DeviceNodes::Refuse).map_err(text)
}

/// The archive around a description and the blocks of its content.
fn export(description: &[u8], members: &[u8]) -> Vec<u8> {
    let member = |name: &[u8], content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        let padding = content.len().next_multiple_of(BLOCK) - content.len();
        [header.as_bytes(), content, &[0; BLOCK][..padding]].concat()
    };
    let covered = [&member(MANIFEST, description), members].concat();
    let digest = Digest::from_sha256(Sha256::digest(&covered).into());
    let checksum = serde_json::to_vec(&Checksum { digest }).expect("text");
    let end = [0; 2 * BLOCK];
    [&covered, &member(CHECKSUM, &checksum), &end[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_exports_is_refused_or_a_volume() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/volume");
        let scratch = tempfile::tempdir().unwrap();
        let mut files = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let text = std::fs::read(entry.unwrap().path()).unwrap();
            volume(scratch.path(), &text);
            for at in (0..text.len()).step_by(37) {
                volume(scratch.path(), &text[..at]);
                let mut other = text.clone();
                other[at] ^= 0x11;
                volume(scratch.path(), &other);
            }
            files += 1;
        }
        assert!(files >= 8, "only {files} files in {}", corpus.display());
    }

    #[test]
    fn an_export_by_the_fuzzer_is_one() {
        let manifest = br#"{"format":1,"name":"data","created_at":"2026-01-01T00:00:00Z"}"#;
        let scratch = tempfile::tempdir().unwrap();
        import_volume(scratch.path(), &export(manifest, b"")).unwrap();
    }

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
