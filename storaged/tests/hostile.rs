//! Archives that no honest tool makes. Each is refused with an error that names the member, and
//! leaves nothing: no layer, no directory, no change outside.

mod support;

use std::io::{Read, Write};

use api::{ApiError, ErrorCode};
use storaged::{DeviceNodes, Limits, StorageConfig, Storaged};
use support::{
    Entry, State, archive, dir, entry, file, gnu_sparse, hard_link, symlink, unfinished,
};

/// Imports `bytes`, expects a refusal, and returns its message.
#[track_caller]
fn refused(state: &State, storaged: &Storaged, bytes: &[u8]) -> String {
    let error = storaged
        .import_layer(None, None, &mut &*bytes)
        .expect_err("it was accepted");
    let error = ApiError::from(error);
    assert_eq!(error.code, ErrorCode::InvalidInput, "{error}");
    assert!(!error.message.contains('\n'), "one line: {error}");
    assert_eq!(storaged.layers(), []);
    assert_eq!(state.leftovers(), [] as [std::path::PathBuf; 0], "{error}");
    assert_eq!(
        state.layer_directories(),
        [] as [std::path::PathBuf; 0],
        "{error}"
    );
    error.message
}

#[test]
fn members_that_reach_outside_are_refused_by_name() {
    let state = State::new();
    let storaged = state.open();
    let outside = state.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "untouched").unwrap();
    let out = outside.to_str().unwrap();
    let cases: &[(&str, Vec<Entry>, &str)] = &[
        ("absolute path", vec![file("/etc/passwd", "x")], "absolute"),
        ("dot-dot", vec![file("../x", "x")], "\"..\""),
        (
            "dot-dot inside",
            vec![dir("a"), file("a/../../x", "x")],
            "\"..\"",
        ),
        ("dot-dot as the name", vec![dir("a/..")], "\"..\""),
        (
            "dot-dot by pax",
            vec![file("x", "x").pax("path", "a/../../x")],
            "\"..\"",
        ),
        (
            "NUL by pax",
            vec![file("x", "x").pax("path", "a\0b")],
            "NUL",
        ),
        (
            "empty by pax",
            vec![file("x", "x").pax("path", "")],
            "no name",
        ),
        ("file as the root", vec![file("./", "x")], "no name"),
        (
            "climbing symlink",
            vec![symlink("a", "../x")],
            "symbolic link",
        ),
        (
            "climbing deep symlink",
            vec![symlink("a/b", "c/../../../x")],
            "symbolic link",
        ),
        (
            "through an absolute symlink",
            vec![symlink("a", out), file("a/file", "x")],
            "symbolic link",
        ),
        (
            "directory through a symlink",
            vec![symlink("a", out), dir("a/d")],
            "symbolic link",
        ),
        (
            "hard link through a symlink",
            vec![symlink("a", out), hard_link("b", "a/file")],
            "symbolic link",
        ),
        (
            "deletion through a symlink",
            vec![symlink("a", out), file("a/.wh..wh..opq", "")],
            "symbolic link",
        ),
        (
            "symlink loop",
            vec![symlink("a", "b"), symlink("b", "a"), file("a/x", "x")],
            "symbolic link",
        ),
        (
            "dangling symlink",
            vec![symlink("a", "b"), file("a/x", "x")],
            "not a directory",
        ),
        (
            "below a file",
            vec![file("a", "x"), file("a/x", "x")],
            "not a directory",
        ),
        (
            "absolute hard link",
            vec![hard_link("a", "/etc/passwd")],
            "absolute",
        ),
        ("climbing hard link", vec![hard_link("a", "../x")], "\"..\""),
        (
            "dangling hard link",
            vec![hard_link("a", "b")],
            "no such file",
        ),
        (
            "hard link to a directory",
            vec![dir("d"), hard_link("a", "d")],
            "directory",
        ),
        (
            "hard link to the root",
            vec![hard_link("a", "./")],
            "directory",
        ),
        ("deletion of dot-dot", vec![file(".wh...", "")], "deletion"),
        ("deletion of nothing", vec![file(".wh.", "")], "deletion"),
        ("deletion as a device", vec![entry("a", b'3')], "0:0"),
        (
            "device name as content",
            vec![Entry {
                data: vec![1; 10],
                ..dir("d")
            }],
            "content",
        ),
        ("unknown member type", vec![entry("a", b'V')], "unknown"),
        (
            "owner out of range",
            vec![file("a", "").pax("uid", "4294967295")],
            "owner",
        ),
        (
            "sparse by pax",
            vec![file("a", "").pax("GNU.sparse.major", "1")],
            "--sparse",
        ),
        (
            "too long a name",
            vec![file("x", "").pax("path", "y".repeat(300))],
            "longer",
        ),
        (
            "too long a path",
            vec![file("x", "").pax("path", "y/".repeat(3000))],
            "longer",
        ),
    ];
    for (what, entries, named) in cases {
        let message = refused(&state, &storaged, &archive(entries));
        assert!(message.contains(named), "{what}: {message}");
        assert!(message.starts_with("archive entry "), "{what}: {message}");
    }
    assert_eq!(support::read(outside.join("file")), "untouched");
    assert_eq!(support::ls(&outside), "file");
}

#[test]
fn headers_that_disagree_are_refused() {
    let state = State::new();
    let storaged = state.open();
    // Read by the header, the data holds another member; read by the record it does not.
    let smuggled = unfinished(&[file("evil", "x")]);
    let cases: &[(&str, Vec<Entry>)] = &[
        (
            "pax size above the header's",
            vec![file("a", "").pax("size", "1024")],
        ),
        (
            "pax size below the header's",
            vec![file("a", smuggled).pax("size", "0")],
        ),
        (
            "two pax sizes",
            vec![file("a", "x").pax("size", "1").pax("size", "1")],
        ),
        (
            "two pax paths",
            vec![file("a", "x").pax("path", "b").pax("path", "c")],
        ),
        (
            "long name and pax path",
            vec![
                file("././@LongLink", "b\0").kind(b'L'),
                file("a", "").pax("path", "c"),
            ],
        ),
    ];
    for (what, entries) in cases {
        let message = refused(&state, &storaged, &archive(entries));
        assert!(message.contains("disagree"), "{what}: {message}");
    }
}

impl Entry {
    fn kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }
}

#[test]
fn an_archive_that_ends_early_is_refused_wherever_it_ends() {
    let state = State::new();
    let storaged = state.open();
    let whole = archive(&[
        dir("d"),
        file("d/f", [7; 700]),
        file("g", "x").pax("path", "long"),
    ]);
    // Every block boundary, and around them: up to the last byte of the end marker.
    for length in (0..whole.len()).filter(|n| n % 512 < 2 || n % 512 == 511) {
        refused(&state, &storaged, &whole[..length]);
    }
    assert!(
        storaged
            .import_layer(None, None, &mut whole.as_slice())
            .is_ok()
    );
}

#[test]
fn a_damaged_stream_is_refused() {
    let state = State::new();
    let storaged = state.open();
    let plain = archive(&[file("f", [7; 5000])]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
    for whole in [&gzip, &zstd] {
        for length in [5, whole.len() / 2, whole.len() - 1] {
            refused(&state, &storaged, &whole[..length]);
        }
    }
    let mut flipped = plain.clone();
    flipped[3] ^= 1;
    assert!(refused(&state, &storaged, &flipped).contains("checksum"));
    assert!(refused(&state, &storaged, &[b'x'; 2000]).contains("tar archive"));
    assert!(refused(&state, &storaged, b"BZh91AY&SY").contains("bzip2"));
    assert!(refused(&state, &storaged, b"\xfd7zXZ\0").contains("xz"));
}

#[test]
fn an_expected_digest_is_checked() {
    let state = State::new();
    let storaged = state.open();
    let other = support::import(&storaged, None, &[file("a", "other")]).diff_id;
    let bytes = archive(&[file("a", "this")]);
    // Once against a layer that is not there, once against one that is.
    let parent = support::import(&storaged, None, &[dir("p")]).chain_id;
    for parent in [Some(&parent), None] {
        let error = storaged
            .import_layer(parent, Some(&other), &mut bytes.as_slice())
            .unwrap_err();
        assert!(error.to_string().contains(other.as_str()), "{error}");
    }
    assert_eq!(storaged.layers().len(), 2);
    assert_eq!(state.leftovers(), [] as [std::path::PathBuf; 0]);
}

#[test]
fn limits_hold() {
    let state = State::new();
    let limits = Limits {
        max_entries: 3,
        max_bytes: 100_000,
        max_ratio: 500,
    };
    let storaged = state.open_with(StorageConfig {
        limits,
        ..StorageConfig::default()
    });
    let many: Vec<Entry> = (0..4).map(|n| file(format!("f{n}"), "")).collect();
    assert!(refused(&state, &storaged, &archive(&many)).contains("max-entries"));
    assert!(
        refused(&state, &storaged, &archive(&[file("f", vec![1; 100_000])])).contains("max-bytes")
    );
    let sparse = gnu_sparse("s", &[(1 << 40, b"x")], (1 << 40) + 1);
    assert!(refused(&state, &storaged, &sparse).contains("max-bytes"));
    assert!(
        storaged
            .import_layer(None, None, &mut archive(&many[..3]).as_slice())
            .is_ok()
    );
}

#[test]
fn device_nodes_follow_the_policy() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    let bytes = archive(&[entry("dev/null", b'3').device(1, 3), file("f", "")]);
    for (policy, made) in [(DeviceNodes::Skip, false), (DeviceNodes::Create, true)] {
        let state = State::new();
        let storaged = state.open_with(StorageConfig {
            device_nodes: policy,
            ..StorageConfig::default()
        });
        storaged
            .import_layer(None, None, &mut bytes.as_slice())
            .unwrap();
        let node = state.layer_directories()[0].join("diff/dev/null");
        match std::fs::symlink_metadata(node) {
            Ok(node) => assert!(made && node.file_type().is_char_device() && node.rdev() == 0x103),
            Err(_absent) => assert!(!made),
        }
    }
    let state = State::new();
    let refuse = StorageConfig {
        device_nodes: DeviceNodes::Refuse,
        ..StorageConfig::default()
    };
    let storaged = state.open_with(refuse);
    assert!(refused(&state, &storaged, &bytes).contains("dev/null"));
}

#[test]
fn a_decompression_bomb_stops_early() {
    let state = State::new();
    let storaged = state.open();
    // One member of 512 MiB of zeros in some 20 KB.
    let mut bomb = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut header = file("zeros", "").header();
    header.set_size(512 << 20);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(512 << 20), &mut bomb).unwrap();
    bomb.write_all(&[0; 1024]).unwrap();
    let bomb = bomb.finish().unwrap();
    let message = refused(&state, &storaged, &bomb);
    assert!(message.contains("max-ratio"), "{message}");
}

/// Any bytes at all: an answer, no panic, and nothing outside the state directory.
#[test]
fn mutated_archives_do_no_harm() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    let state = State::new();
    let storaged = state.open();
    let outside = state.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let seed = archive(&[
        dir("d"),
        symlink("d/up", outside.to_str().unwrap()),
        file("d/f", "content")
            .pax("path", "d/longer")
            .pax("SCHILY.xattr.user.a", "b"),
        hard_link("h", "d/longer"),
        file("d/.wh.x", ""),
        entry("p", b'6'),
    ]);
    let changes = proptest::collection::vec((0..seed.len(), any::<u8>()), 1..6);
    let mut runner = TestRunner::new(Config {
        cases: 500,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&(changes, any::<bool>()), |(changes, repair)| {
        let mut bytes = seed.clone();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if repair {
            repair_checksums(&mut bytes);
        }
        // Either answer is right.
        drop(storaged.import_layer(None, None, &mut bytes.as_slice()));
        prop_assert_eq!(support::ls(&outside), "");
        prop_assert_eq!(state.leftovers(), [] as [std::path::PathBuf; 0]);
        Ok(())
    });
    result.unwrap();
}

/// Makes every block pass as a header, so that mutations get beyond the checksum.
fn repair_checksums(bytes: &mut [u8]) {
    for block in bytes
        .chunks_exact_mut(512)
        .filter(|block| &block[257..262] == b"ustar")
    {
        let mut header = tar::Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
}
