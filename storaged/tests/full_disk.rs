//! A disk that fills up, in bytes or in inodes, at whatever step: the call fails in words, nothing of
//! it stays, nothing that was acknowledged is gone, and with room again everything works.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use api::storage::{Image, RootfsCreate};
use rustix::mount::MountFlags;
use storaged::{RootfsError, Storaged};
use support::{Entry, State, archive, dir, file, image, is_well, mounted, read};

/// Remounts the tmpfs of a state with other limits.
fn limit(state: &State, options: &str) {
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount_remount(state.path(), MountFlags::empty(), options.as_c_str()).unwrap();
}

fn used(state: &Path) -> (u64, u64) {
    let stat = rustix::fs::statvfs(state).unwrap();
    (
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize / 1024,
        stat.f_files - stat.f_ffree,
    )
}

fn small() -> Vec<Entry> {
    let mut entries = vec![dir("d")];
    entries.extend((0..40).map(|n| file(format!("d/{n}"), vec![b'x'; 9000])));
    entries
}

#[test]
fn an_import_into_a_full_disk_leaves_nothing_and_breaks_nothing() {
    let kept: &[Entry] = &[file("kept", "k")];
    let stream = archive(&small());
    for (unit, steps) in [("k", 24_u64), ("inodes", 24)] {
        for step in 0..=steps {
            let state = State::new();
            let storaged = state.open();
            image(&storaged, "kept", &[kept]);
            let (kilobytes, inodes) = used(state.path());
            let free = |whole: u64| whole * step / steps;
            match unit {
                // The layer takes 480 KiB and more, and 1 MiB is kept back.
                "k" => limit(&state, &format!("size={}k", kilobytes + free(1700))),
                _ => limit(&state, &format!("nr_inodes={}", inodes + free(48))),
            }
            let imported = storaged.import_layer(None, None, &mut stream.as_slice());
            if let Err(error) = &imported {
                let error = error.to_string();
                assert!(
                    error.contains("No space left on device") || error.contains("no room in"),
                    "{unit} {step}: {error}"
                );
            }
            assert!(storaged.image("kept").is_ok());
            limit(&state, "size=0,nr_inodes=0");
            // Without a restart: the database has seen no failed write.
            image(&storaged, "after", &[&[file("after", "")]]);
            storaged.remove_image("after", false).unwrap();
            drop(storaged);
            let storaged = state.open();
            is_well(&storaged);
            assert!(state.leftovers().is_empty(), "{unit} {step}");
            assert_eq!(storaged.layers().len(), 1 + usize::from(imported.is_ok()));
            image(&storaged, "again", &[&small()]);
        }
    }
}

type Operation = fn(&Storaged, &Image) -> Result<(), RootfsError>;

/// Each with ever more inodes, until there are enough.
#[test]
fn a_container_is_made_and_committed_whole_or_not_at_all() {
    let operations: [(&str, Operation); 2] = [
        ("make", |storaged, base| {
            let request = RootfsCreate {
                container: "c2".to_owned(),
                image: base.id.clone(),
                ephemeral: false,
                storage_opt: BTreeMap::new(),
                user_namespace: String::new(),
            };
            storaged.create_rootfs(request).map(drop)
        }),
        ("commit", |storaged, _base| {
            storaged.commit_rootfs("c1").map(drop)
        }),
    ];
    for (what, operation) in operations {
        let mut failures = 0;
        for inodes in 0.. {
            let state = State::new();
            let storaged = state.open();
            let base = image(&storaged, "base", &[&[file("kept", "k")]]);
            let root = mounted(&storaged, "c1", &base);
            for n in 0..8 {
                std::fs::write(root.join(n.to_string()), "x").unwrap();
            }
            let (_, taken) = used(state.path());
            limit(&state, &format!("nr_inodes={}", taken + inodes));
            let result = operation(&storaged, &base);
            limit(&state, "nr_inodes=0");
            assert_eq!(read(root.join("7")), "x", "{what}, {inodes} inodes");
            is_well(&storaged);
            let Err(error) = result else {
                break;
            };
            failures += 1;
            let error = error.to_string();
            assert!(error.contains("df -i"), "{what}, {inodes} inodes: {error}");
            assert!(state.leftovers().is_empty(), "{what}, {inodes} inodes");
            operation(&storaged, &base).unwrap();
            drop(storaged);
            is_well(&state.open());
        }
        assert!(failures > 3, "{what} failed {failures} times");
    }
}
