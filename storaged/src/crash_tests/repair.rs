//! A repair that is broken off is as good as one that has yet to begin.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use api::storage::StorageCheck;

use super::stories::{FILES, diffs, is_complete, write};
use super::{How, NEVER, assert_tidy, in_state, open, with_volume};
use crate::Storaged;
use crate::lock::lock;

const REPAIR: StorageCheck = StorageCheck {
    deep: false,
    repair: true,
};

/// Everything there is, and then no database.
fn lose_rows(state: &Path) {
    let (storaged, _) = open(state, NEVER, How::Crash);
    with_volume(&storaged);
    write(&storaged, "precious");
    drop(storaged);
    std::fs::remove_file(state.join("meta.redb")).unwrap();
}

fn assert_all_there(storaged: &Storaged, state: &Path) {
    assert!(storaged.image("web").is_ok());
    assert!(diffs(storaged).iter().all(|diff| is_complete(diff, &FILES)));
    let root = storaged.mount_rootfs("c1").unwrap().path;
    assert!(is_complete(Path::new(&root), &FILES));
    assert!(storaged.volume("data").is_ok());
    let data = state.join("volumes/data/_data");
    assert!(is_complete(&data, &[("f", "precious")]));
}

#[test]
fn a_crash_at_any_step_of_a_repair_leaves_what_the_next_one_ends() {
    let mut steps = usize::MAX;
    let mut at = 0;
    while at < steps {
        in_state(|state| {
            lose_rows(state);
            let (storaged, log) = open(state, at, How::Crash);
            let ended = catch_unwind(AssertUnwindSafe(|| storaged.check(&REPAIR).is_ok()));
            if ended.is_ok() {
                steps = lock(&log).len();
            }
            drop(storaged);
            let (storaged, _) = open(state, NEVER, How::Crash);
            storaged.check(&REPAIR).unwrap();
            assert_all_there(&storaged, state);
            assert_tidy(&storaged, state);
        });
        at += 1;
    }
    assert!(steps > 3, "{steps}");
}
