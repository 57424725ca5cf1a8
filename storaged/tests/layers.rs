//! Archives become layers, and layers stack, as the OCI image specification says.

mod support;

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use support::{
    Entry, State, archive, dir, entry, file, gnu_sparse, hard_link, image, ls, mounted, read,
    symlink,
};

#[test]
fn layers_stack_as_images_mean_them() {
    let state = State::new();
    let storaged = state.open();
    let layers: [&[Entry]; 3] = [
        &[
            dir("d"),
            file("d/f1", "low1"),
            file("d/f2", "low2"),
            file("d/f3", "low3"),
            dir("d/keep"),
            file("d/keep/in", "x"),
            dir("o"),
            file("o/hidden", "hid"),
            dir("gone"),
            file("gone/f", "x"),
            dir("again"),
            file("again/old", "x"),
            file("plain", "file below"),
        ],
        &[
            file("d/f2", "up"),
            file("d/f4", "new"),
            file("d/.wh.f3", ""),
            file("o/.wh..wh..opq", ""),
            file("o/only", "seen"),
            file(".wh.gone", ""),
            // Deleted and made anew, in both orders.
            file(".wh.again", ""),
            file("again/new", "y"),
            dir("plain"),
            file("plain/f", "directory above"),
            file(".wh..wh.plnk", "aufs"),
            file(".wh.never-was", ""),
        ],
        &[
            dir("x"),
            symlink("x/link", "/d/f1"),
            file("x/h1", "a").mode(0o4755),
            hard_link("x/h2", "x/h1"),
            entry("x/p", b'6'),
        ],
    ];
    let merged = mounted(&storaged, "c1", &image(&storaged, "i", &layers));
    assert_eq!(ls(&merged), "again d o plain x");
    assert_eq!(ls(merged.join("d")), "f1 f2 f4 keep");
    assert_eq!(read(merged.join("d/f2")), "up");
    assert_eq!(read(merged.join("d/keep/in")), "x");
    assert_eq!(ls(merged.join("o")), "only");
    assert_eq!(ls(merged.join("again")), "new");
    assert_eq!(read(merged.join("plain/f")), "directory above");
    assert_eq!(
        std::fs::read_link(merged.join("x/link")).unwrap(),
        PathBuf::from("/d/f1")
    );
    let link = std::fs::metadata(merged.join("x/h2")).unwrap();
    assert_eq!((link.nlink(), link.mode() & 0o7777), (2, 0o4755));
    assert!(
        std::fs::metadata(merged.join("x/p"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
}

#[test]
fn owners_modes_times_and_attributes_are_kept() {
    let state = State::on_ext4();
    let storaged = state.open();
    // cap_net_bind_service+ep, as `setcap` writes it (struct vfs_cap_data, revision 2).
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let image = image(
        &storaged,
        "i",
        &[&[
            dir("./").mode(0o751).owner(5, 6),
            dir("d").mode(0o1777).owner(7, 8),
            file("d/f", "x")
                .mode(0o6711)
                .owner(1000, 1001)
                .pax("mtime", "1000000000.123456789"),
            file("cap", "x")
                .owner(9, 9)
                .pax("SCHILY.xattr.security.capability", capability)
                .pax("SCHILY.xattr.user.note", "line\nline")
                .pax("SCHILY.xattr.trusted.overlay.opaque", "y"),
            symlink("l", "d").owner(11, 12),
        ]],
    );
    let merged = mounted(&storaged, "c1", &image);
    let facts = |path: &str| {
        let stat = std::fs::symlink_metadata(merged.join(path)).unwrap();
        (stat.mode() & 0o7777, stat.uid(), stat.gid())
    };
    assert_eq!(facts(""), (0o751, 5, 6));
    assert_eq!(facts("d"), (0o1777, 7, 8));
    assert_eq!(facts("d/f"), (0o6711, 1000, 1001));
    assert_eq!(facts("l"), (0o777, 11, 12));
    let times = |path: &str| {
        let stat = std::fs::symlink_metadata(merged.join(path)).unwrap();
        (stat.mtime(), stat.mtime_nsec())
    };
    assert_eq!(times("d/f"), (1_000_000_000, 123_456_789));
    assert_eq!(
        times("d"),
        (1_700_000_000, 0),
        "making d/f does not change it"
    );
    let attribute = |name: &str| {
        let mut value = [0u8; 64];
        let length = rustix::fs::getxattr(merged.join("cap"), name, &mut value).ok()?;
        Some(value[..length].to_vec())
    };
    assert_eq!(attribute("security.capability"), Some(capability.to_vec()));
    assert_eq!(attribute("user.note"), Some(b"line\nline".to_vec()));
    let diff = state.layer_directories();
    let opaque = |path: &PathBuf| {
        rustix::fs::getxattr(
            path.join("diff/cap"),
            "trusted.overlay.opaque",
            &mut [0u8; 8],
        )
        .is_ok()
    };
    assert!(!diff.iter().any(opaque));
}

#[test]
fn a_parent_left_out_looks_as_it_does_below() {
    let state = State::new();
    let storaged = state.open();
    let base = [
        dir("./").mode(0o711),
        dir("tmp").mode(0o1777).owner(3, 4),
        dir("tmp/in").mode(0o700),
    ];
    let image = image(
        &storaged,
        "i",
        &[&base, &[file("tmp/in/f", "x"), file("new/g", "y")]],
    );
    let merged = mounted(&storaged, "c1", &image);
    let mode = |path: &str| {
        std::fs::metadata(merged.join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        (mode(""), mode("tmp"), mode("tmp/in"), mode("new")),
        (0o711, 0o1777, 0o700, 0o755)
    );
    assert_eq!(std::fs::metadata(merged.join("tmp")).unwrap().uid(), 3);
}

#[test]
fn the_last_of_several_members_of_one_name_wins() {
    let state = State::new();
    let storaged = state.open();
    let entries = [
        file("f", "first"),
        file("f", "second"),
        dir("d"),
        file("d/in", "x"),
        file("d", "now a file"),
        file("l", "x"),
        symlink("l", "f"),
        file("e", "x"),
        dir("e"),
        dir("k"),
        file("k/in", "kept"),
        dir("k").mode(0o700),
        file("h", "linked"),
        hard_link("h", "h"),
    ];
    let merged = mounted(&storaged, "c1", &image(&storaged, "i", &[&entries]));
    assert_eq!(read(merged.join("f")), "second");
    assert_eq!(read(merged.join("d")), "now a file");
    assert_eq!(read(merged.join("l")), "second");
    assert!(merged.join("e").is_dir());
    assert_eq!(read(merged.join("k/in")), "kept");
    assert_eq!(read(merged.join("h")), "linked");
}

#[test]
fn relative_links_inside_the_layer_are_followed() {
    let state = State::new();
    let storaged = state.open();
    let entries = [
        dir("usr/lib"),
        symlink("lib", "usr/lib"),
        file("lib/libc.so", "elf"),
    ];
    let merged = mounted(&storaged, "c1", &image(&storaged, "i", &[&entries]));
    assert_eq!(read(merged.join("usr/lib/libc.so")), "elf");
}

#[test]
fn every_compression_gives_the_same_layer() {
    let state = State::new();
    let storaged = state.open();
    let plain = archive(&[file("f", vec![3; 100_000])]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let layers: Vec<_> = [&plain, &gzip, &zstd]
        .map(|bytes| {
            storaged
                .import_layer(None, None, &mut bytes.as_slice())
                .unwrap()
        })
        .into_iter()
        .collect();
    assert_eq!(layers[0], layers[1]);
    assert_eq!(layers[0], layers[2]);
    assert_eq!(layers[0].size, 100_000);
    assert_eq!(state.layer_directories().len(), 1);
    assert_eq!(state.leftovers(), [] as [PathBuf; 0]);
}

#[test]
fn trailing_bytes_belong_to_the_diff_id() {
    use sha2::Digest as _;

    let state = State::new();
    let storaged = state.open();
    let mut bytes = archive(&[file("f", "x")]);
    bytes.extend([0; 9216]);
    let layer = storaged
        .import_layer(None, None, &mut bytes.as_slice())
        .unwrap();
    assert_eq!(
        layer.diff_id.hex(),
        hex::encode(sha2::Sha256::digest(&bytes))
    );
}

/// As umoci writes them; the digest tells that nothing is missing.
#[test]
fn an_archive_without_an_end_is_whole_if_its_digest_is_known() {
    use sha2::Digest as _;

    let state = State::new();
    let storaged = state.open();
    let mut bytes = archive(&[file("f", "x"), file("g", "y")]);
    // The header and the content of each.
    bytes.truncate(1024 + 512 + 1);
    let digest = api::id::Digest::from_sha256(sha2::Sha256::digest(&bytes).into());
    assert!(
        storaged
            .import_layer(None, None, &mut bytes.as_slice())
            .is_err()
    );
    let layer = storaged
        .import_layer(None, Some(&digest), &mut bytes.as_slice())
        .unwrap();
    assert_eq!(layer.diff_id, digest);
    let mut again = Vec::new();
    storaged.export_layer(&layer.chain_id, &mut again).unwrap();
    assert!(again == bytes, "to the byte");
    // One that was cut short has another digest, and within a member it is refused anyway.
    for length in [1024, 1200, 1536] {
        let cut = &mut &bytes[..length];
        assert!(storaged.import_layer(None, Some(&digest), cut).is_err());
    }
}

#[test]
fn sparse_files_keep_their_holes() {
    let state = State::new();
    let storaged = state.open();
    let bytes = gnu_sparse("s", &[(0, b"head"), (64 << 20, b"tail")], (64 << 20) + 4);
    storaged
        .import_layer(None, None, &mut bytes.as_slice())
        .unwrap();
    let path = state.layer_directories()[0].join("diff/s");
    let stat = std::fs::metadata(&path).unwrap();
    assert_eq!(stat.len(), (64 << 20) + 4);
    assert!(stat.blocks() * 512 < 1 << 20, "{} blocks", stat.blocks());
    let content = std::fs::read(path).unwrap();
    assert!(content.starts_with(b"head\0") && content.ends_with(b"\0tail"));
}

#[test]
fn simultaneous_imports_of_one_layer_end_with_one() {
    let state = State::new();
    let storaged = state.open();
    let bytes = archive(&[file("f", vec![1; 1 << 20])]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                storaged
                    .import_layer(None, None, &mut bytes.as_slice())
                    .unwrap()
            });
        }
    });
    assert_eq!(storaged.layers().len(), 1);
    assert_eq!(state.layer_directories().len(), 1);
    assert_eq!(state.leftovers(), [] as [PathBuf; 0]);
}
