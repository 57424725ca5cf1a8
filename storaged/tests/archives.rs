//! What goes in comes out, byte for byte; and what a damaged layer gives is never taken for whole.

mod support;

use std::io::Write;

use api::id::Digest;
use sha2::{Digest as _, Sha256};
use storaged::Storaged;
use support::{
    Entry, State, archive, dir, entry, file, gnu_sparse, hard_link, symlink, unfinished,
};

fn export(storaged: &Storaged, chain: &Digest) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match storaged.export_layer(chain, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

#[track_caller]
fn comes_back(storaged: &Storaged, stream: &[u8], plain: &[u8]) -> Digest {
    let layer = storaged
        .import_layer(None, None, &mut &*stream)
        .expect("the archive is fine");
    assert_eq!(layer.archive_size, plain.len() as u64);
    let digest = hex::encode(Sha256::digest(plain));
    assert_eq!(layer.diff_id.hex(), digest);
    assert!(export(storaged, &layer.chain_id) == Ok(plain.to_vec()));
    layer.chain_id
}

fn long(name: &str) -> Vec<u8> {
    [name.as_bytes(), &b"x".repeat(90)].concat()
}

fn everything() -> Vec<Entry> {
    vec![
        dir("./").mode(0o755),
        dir("d").owner(3, 4),
        file("d/empty", ""),
        file("d/one", "1"),
        file("d/block", "b".repeat(512)),
        file("d/large", "l".repeat(200_000)),
        file("d/zeros", [0; 300_000]),
        file(long("d/"), "long").pax("path", [b"d/".as_slice(), &b"y".repeat(200)].concat()),
        symlink("l", "d"),
        file("l/through-a-link", "content"),
        hard_link("d/again", "d/one"),
        entry("d/fifo", b'6'),
        entry("d/disk", b'4').device(8, 0),
        file("d/attributes", "x").pax("SCHILY.xattr.user.a", "b"),
        file(".wh.gone", ""),
        file(".wh..wh.plnk", "what aufs kept here"),
        file("d/.wh..wh..opq", ""),
    ]
}

#[test]
fn every_kind_of_member_comes_back() {
    let state = State::new();
    let storaged = state.open();
    let plain = archive(&everything());
    comes_back(&storaged, &plain, &plain);
    let sparse = gnu_sparse("sparse", &[(4096, b"data"), (1 << 20, b"more")], 5 << 20);
    comes_back(&storaged, &sparse, &sparse);
}

#[test]
fn compressed_streams_come_back_plain() {
    let state = State::new();
    let storaged = state.open();
    let plain = archive(&[file("f", "content")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&plain).unwrap();
    comes_back(&storaged, &gzip.finish().unwrap(), &plain);
    let other = archive(&[file("f", "other")]);
    comes_back(
        &storaged,
        &zstd::encode_all(other.as_slice(), 3).unwrap(),
        &other,
    );
}

#[test]
fn what_follows_the_end_of_an_archive_comes_back() {
    let state = State::new();
    let storaged = state.open();
    for (at, tail) in [vec![0; 10240], b"not a tar at all".to_vec()]
        .into_iter()
        .enumerate()
    {
        let mut plain = archive(&[file(format!("f{at}"), "x")]);
        plain.extend(tail);
        comes_back(&storaged, &plain, &plain);
    }
}

/// Archives that say a name twice are odd but real: the last one wins, the first one's bytes are
/// part of the stream all the same.
#[test]
fn members_that_the_archive_itself_replaces_come_back() {
    let state = State::new();
    let storaged = state.open();
    let rows: [&[Entry]; 5] = [
        &[file("f", "first"), file("f", "second"), file("f", "third")],
        &[file("f", "file"), dir("f"), file("f/in", "in")],
        &[
            dir("t"),
            dir("t/u"),
            file("t/u/deep", "deep"),
            file("t", "file now"),
        ],
        &[
            file("a", "shared"),
            hard_link("b", "a"),
            file("a", "own"),
            file("b", "own too"),
        ],
        &[
            dir("real"),
            symlink("way", "real"),
            file("way/f", "by the link"),
            symlink("way", "elsewhere"),
        ],
    ];
    for entries in rows {
        let plain = archive(entries);
        comes_back(&storaged, &plain, &plain);
    }
}

#[test]
fn layers_above_others_come_back() {
    let state = State::new();
    let storaged = state.open();
    let lower = support::import(&storaged, None, &everything());
    let upper = archive(&[file("d/one", "2"), file("d/.wh.large", ""), dir("d/new")]);
    let layer = storaged
        .import_layer(Some(&lower.chain_id), None, &mut upper.as_slice())
        .unwrap();
    assert!(export(&storaged, &layer.chain_id).unwrap() == upper);
}

#[test]
fn a_changed_file_makes_the_export_fail_and_is_named() {
    let state = State::new();
    let storaged = state.open();
    for (name, damage) in [
        ("changed", "has other content now"),
        ("short", "has other content now"),
        ("gone", "is missing"),
        ("pipe", "is something else now"),
    ] {
        let entries = [file(format!("etc/{name}"), "content"), file("other", name)];
        let layer = support::import(&storaged, None, &entries);
        let directories = state.layer_directories();
        let path = directories
            .iter()
            .map(|directory| directory.join("diff/etc").join(name))
            .find(|path| path.exists())
            .unwrap();
        match name {
            "changed" => std::fs::write(&path, "CONTENT").unwrap(),
            "short" => std::fs::write(&path, "").unwrap(),
            _ => std::fs::remove_file(&path).unwrap(),
        }
        if name == "pipe" {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            )
            .unwrap();
        }
        let error = export(&storaged, &layer.chain_id).unwrap_err();
        assert!(
            error.contains(&format!("\"etc/{name}\" {damage}")),
            "{error}"
        );
    }
}

#[test]
fn a_layer_that_does_not_exist_cannot_be_exported() {
    let state = State::new();
    let error = export(&state.open(), &Digest::from_sha256([1; 32])).unwrap_err();
    assert!(error.starts_with("no such layer: sha256:0101"), "{error}");
}

#[test]
fn an_archive_without_an_end_leaves_no_record() {
    let state = State::new();
    let storaged = state.open();
    let stream = unfinished(&everything());
    storaged
        .import_layer(None, None, &mut stream.as_slice())
        .unwrap_err();
    assert!(state.layer_directories().is_empty() && state.leftovers().is_empty());
}
