//! Layers of one image that are imported at once: unpacked in any order, committed from the bottom.

mod support;

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use api::id::Digest;
use api::storage::{ImageCreate, Layer};
use sha2::{Digest as _, Sha256};
use storaged::{LayerError, Storaged};
use support::{Entry, State, archive, config, dir, file, ls, mounted, read};

/// A stream that comes when it is sent.
struct Wire(Receiver<Vec<u8>>, Vec<u8>);

fn wire() -> (Sender<Vec<u8>>, Wire) {
    let (sender, receiver) = mpsc::channel();
    (sender, Wire(receiver, Vec::new()))
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.is_empty() {
            match self.0.recv() {
                Ok(bytes) => self.1 = bytes,
                Err(_closed) => return Ok(0),
            }
        }
        let length = buffer.len().min(self.1.len());
        buffer[..length].copy_from_slice(&self.1[..length]);
        self.1.drain(..length);
        Ok(length)
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

fn chain(parent: &Digest, diff_id: &Digest) -> Digest {
    sha256(format!("{parent} {diff_id}").as_bytes())
}

fn bottom() -> Vec<u8> {
    let root = dir(".").mode(0o751).owner(7, 8);
    archive(&[
        root,
        dir("d").mode(0o2750).owner(3, 4),
        file("d/gone", "x"),
        file("d/kept", "low"),
    ])
}

fn top() -> Vec<u8> {
    archive(&[file("d/.wh.gone", ""), file("d/new", "up")])
}

fn import(
    storaged: &Storaged,
    parent: Option<&Digest>,
    expected: &Digest,
    mut stream: impl Read + Send,
) -> Result<Layer, LayerError> {
    storaged.import_layer_meanwhile(parent, expected, &mut stream)
}

#[test]
fn a_layer_is_unpacked_while_the_one_below_is_on_its_way() {
    let state = State::new();
    let storaged = state.open();
    let (below, above) = (bottom(), top());
    let (low, high) = (sha256(&below), sha256(&above));
    let (sender, slow) = wire();
    let (begun, begins) = mpsc::channel();
    thread::scope(|scope| {
        let lower = scope.spawn(|| import(&storaged, None, &low, slow));
        let upper = scope.spawn(|| {
            begun.send(()).unwrap();
            import(&storaged, Some(&low), &high, above.as_slice())
        });
        begins.recv().unwrap();
        // Whatever the upper one does meanwhile: it is not committed before the lower one.
        sender.send(below[..700].to_vec()).unwrap();
        assert!(storaged.layers().is_empty());
        sender.send(below[700..].to_vec()).unwrap();
        drop(sender);
        assert_eq!(lower.join().unwrap().unwrap().chain_id, low);
        assert_eq!(upper.join().unwrap().unwrap().chain_id, chain(&low, &high));
    });
    let request = ImageCreate {
        config: config("a", &[low, high]),
        tags: vec!["i:1".to_owned()],
    };
    let image = storaged.create_image(request).unwrap();
    let merged = mounted(&storaged, "c1", &image);
    assert_eq!(ls(merged.join("d")), "kept new");
    assert_eq!(read(merged.join("d/new")), "up");
    // What the upper archive does not say is as below.
    use std::os::unix::fs::MetadataExt as _;
    for (path, mode, owner) in [("", 0o751, (7, 8)), ("d", 0o2750, (3, 4))] {
        let stat = merged.join(path).metadata().unwrap();
        assert_eq!(stat.mode() & 0o7777, mode, "{path}");
        assert_eq!((stat.uid(), stat.gid()), owner, "{path}");
    }
    storaged.unmount_rootfs("c1").unwrap();
    drop(storaged);
    assert!(state.leftovers().is_empty());
}

#[test]
fn what_stands_on_a_layer_that_fails_fails_with_it() {
    let state = State::new();
    let storaged = state.open();
    let (below, above, third) = (bottom(), top(), archive(&[file("z", "")]));
    let (low, high, highest) = (sha256(&below), sha256(&above), sha256(&third));
    let middle = chain(&low, &high);
    let (sender, slow) = wire();
    thread::scope(|scope| {
        let lower = scope.spawn(|| import(&storaged, None, &low, slow));
        let upper = scope.spawn(|| import(&storaged, Some(&low), &high, above.as_slice()));
        let third = scope.spawn(|| import(&storaged, Some(&middle), &highest, third.as_slice()));
        sender.send(below[..700].to_vec()).unwrap();
        // The client goes away.
        drop(sender);
        assert!(matches!(lower.join().unwrap(), Err(LayerError::Content(_))));
        for waits in [upper, third] {
            let error = waits.join().unwrap().unwrap_err();
            assert!(matches!(error, LayerError::NoParent(_)), "{error}");
        }
    });
    assert!(storaged.layers().is_empty());
    let entries: &[Entry] = &[file("f", "x")];
    support::image(&storaged, "after", &[entries]);
    drop(storaged);
    assert!(state.leftovers().is_empty());
}
