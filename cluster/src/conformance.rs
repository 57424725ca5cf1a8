//! What every control plane does: one script for all of them.

use std::time::Duration;

use cluster::{Change, ControlPlane, Outcome, Transaction, Watch};

const SOON: Duration = Duration::from_secs(10);

fn committed(control: &dyn ControlPlane, transaction: &Transaction) -> u64 {
    match control.commit(transaction).unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Refused => panic!("refused: {transaction:?}"),
    }
}

/// The keys of the next changes, in order, with a `-` before those that are gone.
fn news(watch: &mut dyn Watch) -> Vec<String> {
    let changes = watch.next(SOON).unwrap();
    let name = |change: Change| match change.value {
        Some(_) => change.key,
        None => format!("-{}", change.key),
    };
    changes.into_iter().map(name).collect()
}

/// Two nodes of one empty store.
pub(crate) fn check(one: &dyn ControlPlane, other: &dyn ControlPlane) {
    let start = one.snapshot("").unwrap();
    assert!(start.entries.is_empty());
    let mut watch = other.watch("a/", start.revision).unwrap();

    // One transaction is one change, and others see all of it.
    let both = Transaction::default().put("a/1", "x").put("b/1", "y");
    let first = committed(one, &both);
    assert_eq!(news(&mut *watch), ["a/1"], "of its prefix alone");
    let seen = other.snapshot("").unwrap();
    assert_eq!(seen.entries.len(), 2);
    assert_eq!(seen.entries["a/1"].value, "x");
    assert_eq!(seen.entries["a/1"].modified, first);

    // Two that want the same: one gets it, and the other has changed nothing.
    let claim = |who: &str| {
        Transaction::default()
            .when("a/2", 0)
            .put("a/2", who)
            .put(format!("b/{who}"), "")
    };
    committed(one, &claim("one"));
    assert_eq!(other.commit(&claim("other")).unwrap(), Outcome::Refused);
    let after = one.snapshot("b/").unwrap();
    assert_eq!(after.entries.keys().collect::<Vec<_>>(), ["b/1", "b/one"]);
    assert_eq!(news(&mut *watch), ["a/2"]);

    // As read, or not at all.
    let update = Transaction::default().when("a/1", first).put("a/1", "z");
    committed(other, &update);
    assert_eq!(one.commit(&update).unwrap(), Outcome::Refused);
    assert_eq!(news(&mut *watch), ["a/1"]);
    let gone = Transaction::default().delete("a/1").delete("a/none");
    let last = committed(one, &gone);
    assert_eq!(
        news(&mut *watch),
        ["-a/1"],
        "what was not there does not go"
    );

    // Whoever comes late gets all that it has missed, once.
    let mut late = other.watch("a/", first).unwrap();
    let mut missed = Vec::new();
    while missed.len() < 3 {
        missed.extend(news(&mut *late));
    }
    assert_eq!(missed, ["a/2", "a/1", "-a/1"]);
    assert!(late.next(Duration::ZERO).unwrap().is_empty());
    let mut quiet = one.watch("", last).unwrap();
    assert!(quiet.next(Duration::from_millis(50)).unwrap().is_empty());

    // Leased entries are entries.
    committed(one, &Transaction::default().put_leased("a/3", "l"));
    assert_eq!(news(&mut *watch), ["a/3"]);
    assert_eq!(other.snapshot("a/3").unwrap().entries["a/3"].value, "l");
}
