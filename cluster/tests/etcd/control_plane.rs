//! etcd as a control plane.

use cluster::{Change, ControlError, ControlPlane, Outcome, Transaction, Watch};
use tokio::runtime::Runtime;

use crate::conformance;
use crate::server::{LEASE, SOON, Server, answer};

fn news(watch: &mut dyn Watch) -> Change {
    let changes = watch.next(SOON).unwrap();
    assert_eq!(changes.len(), 1, "{changes:?}");
    changes.into_iter().next().unwrap()
}

fn put(key: &str, value: &str) -> Transaction {
    Transaction::default().put(key, value)
}

#[test]
fn it_is_a_control_plane() {
    let runtime = Runtime::new().unwrap();
    let server = Server::start();
    let [one, other] = [server.connect(&runtime), server.connect(&runtime)];
    answer(|| one.snapshot(""));
    conformance::check(&one, &other);
}

#[test]
fn a_node_that_is_silent_loses_what_it_leased() {
    let runtime = Runtime::new().unwrap();
    let server = Server::start();
    let [node, other] = [server.connect(&runtime), server.connect(&runtime)];
    let leased = Transaction::default()
        .put_leased("alive/n", "1")
        .put("nodes/n", "1");
    answer(|| node.commit(&leased));
    let revision = other.snapshot("").unwrap().revision;
    let mut watch = other.watch("", revision).unwrap();
    // As long as it lives, it keeps its lease.
    assert!(watch.next(2 * LEASE).unwrap().is_empty());
    drop(node);
    let gone = news(&mut *watch);
    assert_eq!((gone.key.as_str(), gone.value), ("alive/n", None));
    let left = other.snapshot("").unwrap();
    assert_eq!(left.entries.keys().collect::<Vec<_>>(), ["nodes/n"]);
}

#[test]
fn a_node_that_leaves_is_gone_at_once() {
    let runtime = Runtime::new().unwrap();
    let server = Server::start();
    let [node, other] = [server.connect(&runtime), server.connect(&runtime)];
    answer(|| node.commit(&Transaction::default().put_leased("alive/n", "1")));
    node.give_back();
    assert!(other.snapshot("").unwrap().entries.is_empty());
}

#[test]
fn leases_that_were_lost_come_back_and_watches_go_on() {
    let runtime = Runtime::new().unwrap();
    let mut server = Server::start();
    let node = server.connect(&runtime);
    answer(|| node.commit(&Transaction::default().put_leased("alive/n", "1")));
    let before = node.snapshot("").unwrap();
    let mut watch = node.watch("", before.revision).unwrap();
    server.stop();
    let ended = loop {
        match watch.next(SOON) {
            Ok(none) => assert!(none.is_empty()),
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, ControlError::Unreachable(_)), "{ended}");
    let refused = node.commit(&put("a", "1")).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("the control plane does not answer")
    );

    // Whatever it loses with its memory, the entry is or comes again.
    server.start_again();
    answer(|| node.commit(&put("a", "2")));
    let mut watch = answer(|| node.watch("", before.revision));
    let seen = watch.next(SOON).unwrap();
    assert!(seen.iter().any(|change| change.key == "a"), "{seen:?}");
    // A lease that nobody keeps would be over by then.
    let mut later = node
        .watch("alive/", node.snapshot("").unwrap().revision)
        .unwrap();
    assert!(later.next(3 * LEASE).unwrap().is_empty());
    assert_eq!(node.snapshot("alive/").unwrap().entries.len(), 1);
}

#[test]
fn snapshots_longer_than_a_message_are_whole() {
    let runtime = Runtime::new().unwrap();
    let server = Server::start();
    let node = server.connect(&runtime);
    answer(|| node.snapshot(""));
    let text = "x".repeat(4000);
    for number in 0..25 {
        let many = (0..100).fold(Transaction::default(), |all, at| {
            all.put(format!("k/{number:02}-{at:02}"), text.as_str())
        });
        let made = node.commit(&many).unwrap();
        assert!(matches!(made, Outcome::Committed(_)));
    }
    node.commit(&put("l", "1")).unwrap();
    let all = node.snapshot("k/").unwrap();
    assert_eq!(all.entries.len(), 2500);
    assert!(all.entries.values().all(|entry| entry.value == text));
}
#[test]
fn history_that_is_compacted_is_said_to_be() {
    let runtime = Runtime::new().unwrap();
    let server = Server::start();
    let node = server.connect(&runtime);
    answer(|| node.commit(&put("a", "1")));
    let Outcome::Committed(last) = node.commit(&put("a", "2")).unwrap() else {
        panic!("nothing was compared");
    };
    let url = server.url();
    runtime.block_on(async {
        let mut client = etcd_client::Client::connect([url], None).await.unwrap();
        let revision = i64::try_from(last).unwrap();
        client.compact(revision, None).await.unwrap();
    });
    let mut watch = node.watch("", 1).unwrap();
    let told = watch.next(SOON).unwrap_err();
    assert!(matches!(told, ControlError::Compacted(1)), "{told}");
}
