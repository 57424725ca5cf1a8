use std::io::{Cursor, Write};

use sha2::{Digest as _, Sha256};

use super::*;

fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        append(&mut builder, name, tar::EntryType::Regular, content, "");
    }
    builder.into_inner().unwrap()
}

/// Writes the name as it is: the builder's own functions refuse hostile ones.
fn append(
    builder: &mut tar::Builder<Vec<u8>>,
    name: &str,
    kind: tar::EntryType,
    content: &[u8],
    link: &str,
) {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

fn read(archive: &[u8]) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spool");
    let outcome = Spool::read(path.clone(), Cursor::new(archive)).and_then(|s| images(&s));
    assert!(!path.exists(), "the spool is removed");
    outcome
}

fn config(layers: &[&[u8]]) -> String {
    let ids: Vec<String> = layers
        .iter()
        .map(|layer| format!("\"sha256:{}\"", digest(layer)))
        .collect();
    format!(
        r#"{{"architecture":"amd64","rootfs":{{"diff_ids":[{}]}}}}"#,
        ids.join(",")
    )
}

const MANIFEST: &[u8] = br#"[{"Config":"c.json","RepoTags":["web:1"],"Layers":["l0/layer.tar"]}]"#;

#[test]
fn a_docker_archive_in_any_order_and_compression() {
    let config = config(&[b"layer"]);
    let plain = tar(&[
        ("./l0/layer.tar", b"layer"),
        ("./c.json", config.as_bytes()),
        ("./manifest.json", MANIFEST),
    ]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
    for archive in [plain, gzip.finish().unwrap(), zstd] {
        let images = read(&archive).unwrap();
        assert_eq!(images[0].tags, ["web:1"]);
        assert_eq!(images[0].config, config);
        let (name, diff_id) = &images[0].layers[0];
        assert_eq!(
            (name.as_str(), diff_id.hex()),
            ("l0/layer.tar", digest(b"layer").as_str())
        );
    }
}

/// An OCI layout of one image with one layer, with the digest of `blob` in place of the layer's.
fn oci(layer: &[u8], announced: &[u8]) -> Vec<u8> {
    let config = config(&[layer]);
    let manifest = format!(
        r#"{{"config":{{"digest":"sha256:{}"}},"layers":[{{"digest":"sha256:{}"}}]}}"#,
        digest(config.as_bytes()),
        digest(announced),
    );
    let nested = format!(
        r#"{{"manifests":[
            {{"digest":"sha256:{0}","platform":{{"os":"windows","architecture":"amd64"}}}},
            {{"digest":"sha256:{0}"}}]}}"#,
        digest(manifest.as_bytes()),
    );
    let index = format!(
        r#"{{"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json",
            "digest":"sha256:{}",
            "annotations":{{"io.containerd.image.name":"docker.io/library/web:1"}}}}]}}"#,
        digest(nested.as_bytes()),
    );
    let name = |content: &[u8]| format!("blobs/sha256/{}", digest(content));
    tar(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        (&name(announced), layer),
        (&name(config.as_bytes()), config.as_bytes()),
        (&name(manifest.as_bytes()), manifest.as_bytes()),
        (&name(nested.as_bytes()), nested.as_bytes()),
        ("index.json", index.as_bytes()),
    ])
}

#[test]
fn an_oci_layout_through_a_nested_index() {
    let images = read(&oci(b"layer", b"layer")).unwrap();
    assert_eq!(images[0].tags, ["web:1"]);
    assert_eq!(images[0].layers.len(), 1);
}

#[test]
fn a_blob_that_is_not_its_digest_is_refused() {
    let error = read(&oci(b"layer", b"other")).unwrap_err();
    assert!(matches!(error, ArchiveError::Digest { .. }), "{error}");
}

#[test]
fn damaged_archives_are_refused() {
    let good = config(&[b"layer"]);
    let whole = tar(&[
        ("manifest.json", MANIFEST),
        ("c.json", good.as_bytes()),
        ("l0/layer.tar", &[b'x'; 4096]),
    ]);
    let rows: [(&str, Vec<u8>, &str); 9] = [
        ("junk", b"junk\n".to_vec(), "cannot read the archive"),
        ("empty", Vec::new(), "no image archive"),
        (
            "a rootfs tar",
            tar(&[("etc/passwd", b"")]),
            "no image archive",
        ),
        (
            "no images",
            tar(&[("manifest.json", b"[]")]),
            "describes no image",
        ),
        (
            "cut short",
            whole[..whole.len() - 3000].to_vec(),
            "ends in the middle",
        ),
        (
            "no config",
            tar(&[("manifest.json", MANIFEST)]),
            "\"c.json\" but has not",
        ),
        (
            "no layer",
            tar(&[("manifest.json", MANIFEST), ("c.json", good.as_bytes())]),
            "\"l0/layer.tar\" but has not",
        ),
        (
            "too few diff ids",
            tar(&[
                ("manifest.json", MANIFEST),
                ("c.json", b"{}"),
                ("l0/layer.tar", b"layer"),
            ]),
            "1 layers but 0 diff ids",
        ),
        (
            "no JSON",
            tar(&[("manifest.json", b"{"), ("c.json", b"{}")]),
            "manifest.json cannot be read",
        ),
    ];
    for (what, archive, part) in rows {
        let message = read(&archive).unwrap_err().to_string();
        assert!(message.contains(part), "{what}: {message}");
    }
}

#[test]
fn hostile_entries_are_refused() {
    use tar::EntryType;
    let rows = [
        ("/etc/passwd", EntryType::Regular, "", "leaves the archive"),
        ("../x", EntryType::Regular, "", "leaves the archive"),
        ("a/../../x", EntryType::Regular, "", "leaves the archive"),
        (
            "link",
            EntryType::Symlink,
            "/etc/passwd",
            "leaves the archive",
        ),
        (
            "a/link",
            EntryType::Symlink,
            "../../x",
            "leaves the archive",
        ),
        ("link", EntryType::Link, "../x", "leaves the archive"),
        (
            "dev",
            EntryType::Block,
            "",
            "files, directories and links only",
        ),
        ("manifest.json", EntryType::Regular, "", "it is there twice"),
    ];
    for (name, kind, link, part) in rows {
        let mut builder = tar::Builder::new(Vec::new());
        append(
            &mut builder,
            "manifest.json",
            EntryType::Regular,
            MANIFEST,
            "",
        );
        append(&mut builder, name, kind, b"", link);
        let message = read(&builder.into_inner().unwrap())
            .unwrap_err()
            .to_string();
        assert!(message.contains(part), "{name} {link}: {message}");
    }
}

#[test]
fn links_inside_the_archive_are_followed_but_not_for_ever() {
    let with_layer = |target: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        let config = config(&[b"layer"]);
        append(
            &mut builder,
            "manifest.json",
            tar::EntryType::Regular,
            MANIFEST,
            "",
        );
        append(
            &mut builder,
            "c.json",
            tar::EntryType::Regular,
            config.as_bytes(),
            "",
        );
        append(
            &mut builder,
            "real/layer.tar",
            tar::EntryType::Regular,
            b"layer",
            "",
        );
        append(
            &mut builder,
            "l0/layer.tar",
            tar::EntryType::Symlink,
            b"",
            target,
        );
        read(&builder.into_inner().unwrap())
    };
    assert_eq!(with_layer("../real/layer.tar").unwrap().len(), 1);
    assert!(with_layer("layer.tar").is_err());
}
