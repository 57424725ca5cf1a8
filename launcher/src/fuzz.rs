//! What the fuzz targets `image`, `manifest` and `log` run, and the replay of their corpora.
//!
//! An archive is described in text, since checksums of headers and names of blobs would keep a fuzzer
//! from ever getting to the descriptions inside: a line `= NAME` begins a file, `= blob` one that is
//! named by its digest, and `@N` stands for the hexadecimal digest of the file N places further down.

use std::io::Cursor;
use std::path::Path;

use api::reference::Reference;
use sha2::{Digest as _, Sha256};

use crate::cli::image::archive::{ArchivedImage, Spool, images};
use crate::cli::image::config::ImageConfig;
use crate::cli::image::pull::{diff_ids, platforms};
use crate::log::decoder::Decoder;
use crate::log::{Entry, Format, json, local};
use crate::registry::manifest::{Content, Document, Platform};

/// An image archive: it is refused in one line, or describes images whose parts are all in it.
///
/// # Panics
/// When it does not, or the directory `scratch` cannot be used.
pub fn image(scratch: &Path, text: &[u8]) {
    let spool = scratch.join("spool");
    match Spool::read(spool.clone(), Cursor::new(archive(text))) {
        Ok(read) => match images(&read) {
            Ok(images) => images.iter().for_each(|image| check(&read, image)),
            Err(refusal) => check_refusal(&refusal.to_string()),
        },
        Err(refusal) => check_refusal(&refusal.to_string()),
    }
    assert!(!spool.exists(), "the spool is removed");
}

/// What a registry answers: a line with the media type, the manifest or index, and after a line `=` the
/// configuration. It is refused in one line, or everything that is said of it is one.
///
/// # Panics
/// When it is not.
pub fn manifest(bytes: &[u8]) {
    let line = bytes.iter().position(|byte| *byte == b'\n');
    let (header, rest) = bytes.split_at(line.unwrap_or_default());
    let end = rest.windows(3).position(|part| part == b"\n=\n");
    let (document, config) = rest.split_at(end.unwrap_or(rest.len()));
    let config = String::from_utf8_lossy(config.get(3..).unwrap_or_default());
    let header = String::from_utf8_lossy(header);
    let digest = api::id::Digest::from_sha256(Sha256::digest(document).into());
    let document = Document::new(document.to_vec(), &header, digest);
    let reference = Reference::parse("r.example/web:1").expect("a reference");
    match document.content("r.example", "web:1") {
        Ok(Content::Index(index)) => {
            check_refusal(&platforms(&index));
            let platform = Platform::host();
            if let Some(chosen) = platform.choose(&index) {
                let of = chosen.platform.as_ref().expect("a platform");
                assert_eq!(of.architecture, platform.architecture);
            }
        }
        Ok(Content::Image(manifest)) => match diff_ids(&config, &manifest, &reference) {
            Ok(layers) => assert_eq!(layers.len(), manifest.layers.len()),
            Err(refusal) => check_refusal(&refusal.to_string()),
        },
        Err(refusal) => check_refusal(&refusal.to_string()),
    }
}

/// The bytes of a log after a letter for its format: they have the same entries however they come, and
/// an entry is itself again when it is written and read.
///
/// # Panics
/// When they have not.
pub fn log(bytes: &[u8]) {
    let Some((letter, bytes)) = bytes.split_first() else {
        return;
    };
    let format = match letter {
        b'j' => Format::Json,
        _ => Format::Local,
    };
    let whole = entries(format, bytes, bytes.len().max(1));
    for size in [1, 7, 64] {
        assert_eq!(entries(format, bytes, size), whole, "in pieces of {size}");
    }
    let mut written = Vec::new();
    for entry in &whole {
        match format {
            Format::Json => {
                let attributes = json::attributes(&entry.attributes.iter().cloned().collect());
                let time = entry.time.to_string();
                json::encode(&mut written, entry.stream, &entry.line, &attributes, &time);
            }
            Format::Local => local::encode(&mut written, entry.stream, &entry.line, entry.time),
        }
    }
    assert_eq!(entries(format, &written, 64), whole, "written again");
}

fn entries(format: Format, bytes: &[u8], size: usize) -> Vec<Entry> {
    let mut decoder = Decoder::new(format);
    let mut entries = Vec::new();
    for piece in bytes.chunks(size) {
        decoder.push(piece);
        entries.extend(std::iter::from_fn(|| decoder.next(false)));
    }
    entries.extend(std::iter::from_fn(|| decoder.next(true)));
    entries
}

fn check(spool: &Spool, image: &ArchivedImage) {
    let config = ImageConfig::parse(&image.config).expect("a configuration");
    assert_eq!(config.rootfs.diff_ids.len(), image.layers.len());
    for (name, diff_id) in &image.layers {
        assert!(spool.has(name), "{name}");
        assert!(config.rootfs.diff_ids.contains(&diff_id.to_string()));
    }
}

fn check_refusal(text: &str) {
    assert!(!text.contains('\n'), "{text:?}");
    assert!(!text.contains('\x1b'), "{text:?}");
}

/// The tar that the text describes.
fn archive(text: &[u8]) -> Vec<u8> {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        match (line.strip_prefix(b"= "), files.last_mut()) {
            (Some(name), _) => {
                let name = String::from_utf8_lossy(name.trim_ascii_end());
                files.push((name.chars().take(90).collect(), Vec::new()));
            }
            (None, Some((_, content))) => content.extend_from_slice(line),
            (None, None) => {}
        }
    }
    // From the end, since files refer to those behind them.
    let mut digests: Vec<String> = Vec::new();
    for (name, content) in files.iter_mut().rev() {
        *content = with_digests(content, &digests);
        let digest = hex::encode(Sha256::digest(&*content));
        if name == "blob" {
            *name = format!("blobs/sha256/{digest}");
        }
        digests.push(digest);
    }
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in &files {
        let mut header = tar::Header::new_ustar();
        let length = name.len().min(100);
        header.as_old_mut().name[..length].copy_from_slice(&name.as_bytes()[..length]);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, content.as_slice()).expect("memory");
    }
    tar.into_inner().expect("memory")
}

/// `digests` are those of the files behind, last one first.
fn with_digests(content: &[u8], digests: &[String]) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut bytes = content.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let place = bytes.peek().filter(|_| byte == b'@');
        let place = place.and_then(|digit| usize::from(*digit).checked_sub(usize::from(b'0')));
        let digest = place
            .filter(|place| (1..10).contains(place))
            .and_then(|place| digests.get(digests.len().checked_sub(place)?));
        if let Some(digest) = digest {
            bytes.next();
            whole.extend_from_slice(digest.as_bytes());
        } else {
            whole.push(byte);
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_refused_or_describes_whole_images() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/image");
        let scratch = tempfile::tempdir().unwrap();
        let mut files = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let text = std::fs::read(entry.unwrap().path()).unwrap();
            image(scratch.path(), &text);
            for at in (0..text.len()).step_by(13) {
                image(scratch.path(), &text[..at]);
                let mut other = text.clone();
                other[at] ^= 0x11;
                image(scratch.path(), &other);
            }
            files += 1;
        }
        assert!(files >= 8, "only {files} files in {}", corpus.display());
    }

    /// Every file of a corpus, cut and bent at every place.
    fn replay(target: &str, run: impl Fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(target);
        let mut files = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            run(&bytes);
            for at in 0..bytes.len() {
                run(&bytes[..at]);
                let mut other = bytes.clone();
                other[at] ^= 0x11;
                run(&other);
            }
            files += 1;
        }
        assert!(files >= 8, "only {files} files in {}", corpus.display());
    }

    #[test]
    fn the_logs_of_the_corpus_are_read_however_they_come() {
        replay("log", log);
    }

    #[test]
    fn what_registries_answer_is_refused_or_is_an_image() {
        replay("manifest", manifest);
    }

    #[test]
    fn a_described_archive_is_one() {
        let text = std::fs::read(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/image/oci-index"),
        );
        let scratch = tempfile::tempdir().unwrap();
        let archive = archive(&text.unwrap());
        let spool = Spool::read(scratch.path().join("spool"), Cursor::new(archive)).unwrap();
        let found = images(&spool).unwrap();
        assert_eq!(found[0].tags, ["web:1"]);
        assert_eq!(found[0].layers.len(), 1);
    }
}
