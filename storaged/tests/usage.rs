//! Sizes are answered from what is on record, and measured without anybody waiting for it.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use api::storage::VolumeCreate;
use storaged::Storaged;
use support::{Entry, State, file, image, mounted};

/// Asks until the answer is what is waited for.
fn wait(storaged: &Storaged, mut done: impl FnMut(&Storaged) -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done(storaged) {
        assert!(Instant::now() < end, "{:?}", storaged.usage());
        std::thread::yield_now();
    }
}

fn volume(storaged: &Storaged, name: &str) -> String {
    let request = VolumeCreate {
        name: name.to_owned(),
        ..VolumeCreate::default()
    };
    storaged.create_volume(request).unwrap().mountpoint
}

#[test]
fn shared_layers_count_once_and_what_is_written_is_seen() {
    let state = State::new();
    let storaged = state.open();
    let base: &[Entry] = &[file("base", "b".repeat(1000))];
    let top: &[Entry] = &[file("top", "t".repeat(500))];
    let web = image(&storaged, "web", &[base, top]);
    image(&storaged, "base", &[base]);
    // Two that nobody uses have a layer in common, which can go with them.
    let idle: &[Entry] = &[file("idle", "i".repeat(700))];
    image(&storaged, "idle", &[base, idle]);
    image(&storaged, "idler", &[base, idle, top]);
    assert_eq!(storaged.usage().layers_used, 0);
    let root = mounted(&storaged, "c1", &web);
    let data = volume(&storaged, "data");
    let usage = storaged.usage();
    assert_eq!((usage.layers_size, usage.layers_used), (2700, 1500));
    let found = usage.images.iter().find(|one| one.id == web.id).unwrap();
    assert_eq!(
        (found.size, found.shared, found.containers),
        (1500, 1000, 1)
    );

    std::fs::write(root.join("written"), vec![1; 100_000]).unwrap();
    std::fs::write(Path::new(&data).join("f"), vec![1; 200_000]).unwrap();
    let at_least = |size: Option<u64>, wanted: u64| size.is_some_and(|size| size >= wanted);
    wait(&storaged, |storaged| {
        let usage = storaged.usage();
        at_least(usage.rootfs[0].size, 100_000) && at_least(usage.volumes[0].size, 200_000)
    });
    let usage = storaged.usage();
    assert!(usage.volumes[0].inodes.unwrap() >= 2 && usage.volumes[0].holders == 0);
    let mut metrics = String::new();
    storaged.metrics(&mut metrics);
    let (bytes, inodes) = (
        usage.rootfs[0].size.unwrap(),
        usage.rootfs[0].inodes.unwrap(),
    );
    for line in [
        format!("hawser_container_bytes{{container=\"c1\"}} {bytes}\n"),
        format!("hawser_container_inodes{{container=\"c1\"}} {inodes}\n"),
    ] {
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
}

#[test]
fn an_answer_does_not_wait_for_a_thousand_volumes() {
    let state = State::new();
    let storaged = state.open();
    for number in 0..1000 {
        let data = volume(&storaged, &format!("v{number}"));
        std::fs::write(Path::new(&data).join("f"), "x").unwrap();
    }
    // Every answer comes at once, the first one too; a debug build on a busy host is given time.
    wait(&storaged, |storaged| {
        let start = Instant::now();
        let usage = storaged.usage();
        assert!(
            start.elapsed() < Duration::from_millis(500),
            "{:?}",
            start.elapsed()
        );
        assert_eq!(usage.volumes.len(), 1000);
        usage.volumes.iter().all(|volume| volume.size.is_some())
    });
}
