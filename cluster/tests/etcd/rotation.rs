//! Another authority takes the place of a cluster's, with the etcd that its managers run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster::swarm::SwarmError;
use cluster::{ControlPlane, Role};
use tokio::runtime::Runtime;

use crate::rights::Node;

/// Each manager starts its etcd again, twice.
const LIMIT: Duration = Duration::from_secs(200);

fn files(node: &Node) -> PathBuf {
    node.home.join("certificates")
}

fn root(node: &Node) -> String {
    fs::read_to_string(files(node).join("swarm-root-ca.crt")).unwrap()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// All nodes look at their cluster again and again, until `done`.
fn attend(nodes: &mut [Node], mut done: impl FnMut(&mut [Node]) -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done(nodes) {
        let said: Vec<_> = nodes.iter().map(|node| node.swarm.attend()).collect();
        let progress = nodes[0].swarm.progress();
        assert!(Instant::now() < deadline, "{said:?} {progress:?}");
    }
}

fn is_over(nodes: &mut [Node]) -> bool {
    let progress = nodes[0].swarm.progress();
    progress.is_ok_and(|progress| !progress.rotating && progress.waits.is_empty())
}

#[test]
fn managers_and_workers_go_over_to_another_authority() {
    let runtime = Runtime::new().unwrap();
    let mut nodes: Vec<Node> = (1..=4).map(|number| Node::new(number, &runtime)).collect();
    nodes[0].begin();
    for (at, role) in [(1, Role::Manager), (2, Role::Manager), (3, Role::Worker)] {
        nodes[at].join(&nodes[0], role);
    }
    let before = root(&nodes[0]);
    let old = tempfile::tempdir().unwrap();
    copy(&files(&nodes[1]), old.path());
    let (token, _) = nodes[0].swarm.tokens().unwrap();

    nodes[1].swarm.rotate_authority(None).unwrap();
    let again = nodes[0].swarm.rotate_authority(None);
    assert!(matches!(again, Err(SwarmError::Rotating(_))), "{again:?}");
    // Whoever is ended goes on, one after the other.
    let mut ended = 0;
    attend(&mut nodes, |nodes| {
        if ended < 4 && root(&nodes[ended]).matches("BEGIN").count() == 2 {
            nodes[ended].restart(&runtime);
            ended += 1;
        }
        is_over(nodes)
    });
    assert_eq!(ended, 4);
    let after = root(&nodes[0]);
    assert_eq!(nodes[0].swarm.progress().unwrap().goal, after);
    assert_ne!(after, before);
    assert!(nodes.iter().all(|node| root(node) == after));

    // Papers of the one before open no etcd, and those of now do.
    for at in 0..3 {
        let now = nodes[at].asked_with(&files(&nodes[3]), &runtime);
        now.snapshot("cluster").unwrap();
        fs::write(old.path().join("swarm-root-ca.crt"), &after).unwrap();
        let then = nodes[at].asked_with(old.path(), &runtime);
        then.snapshot("cluster").expect_err("it is nobody's");
    }
    let (now, _) = nodes[0].swarm.tokens().unwrap();
    let mut half = now.clone();
    half.secret = token.secret.clone();
    let next = Node::new(5, &runtime);
    for bad in [token, half] {
        next.join_by(&nodes[0], bad).expect_err("it was rotated");
    }
    next.join_by(&nodes[0], now).unwrap();
    nodes.push(next);

    // One that is silent holds the next one up, until it is removed.
    nodes[0].swarm.rotate_authority(None).unwrap();
    let silent = nodes.pop().unwrap();
    attend(&mut nodes, |nodes| {
        let progress = nodes[0].swarm.progress();
        progress.is_ok_and(|progress| progress.waits == ["n5"])
    });
    assert!(nodes[0].swarm.progress().unwrap().rotating);
    nodes[0].swarm.remove_node("n5", true).unwrap();
    attend(&mut nodes, is_over);
    assert_ne!(root(&nodes[3]), after);
    drop(silent);
}
