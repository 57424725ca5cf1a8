//! Another authority takes the place of the one that a cluster has.
//!
//! First all nodes learn to trust both, then all get certificates of the next one, then the one before
//! is trusted no more. What is to be is in the cluster's record; each node does the next thing that it
//! lacks and says what it has by then, for as long as it is heard of; the manager that leads goes on
//! when all have said so. Nobody needs to know how far anybody was.
//!
//! The etcd of a manager reads whom it trusts at its start alone: one manager after the other starts its
//! own again.

use std::sync::PoisonError;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::home::Papers;
use super::lock::Stored;
use super::record::{self, Rotation, Secrets, Stage};
use super::{Active, Cluster, Swarm, SwarmError, nodes, tls};
use crate::authority::{Authority, hex};
use crate::control_plane::{Outcome, Transaction};
use crate::key;
use crate::node::{Node, Role};

/// How long an etcd may take to answer again.
const START: Duration = Duration::from_secs(30);

/// What a node that is heard of has by now: [`key::alive`]. Nothing of one that has just begun, or is of
/// an earlier version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Word {
    /// Fingerprints of all the authorities that everything trusts which the node runs.
    #[serde(default)]
    roots: Vec<String>,
    /// That of the one which has given its certificate.
    #[serde(default)]
    issuer: String,
}

/// How far the nodes are on their way to an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The certificate of that authority, PEM.
    pub goal: String,
    /// SHA-256 of the same (DER).
    pub digest: String,
    /// Another one is trusted still.
    pub rotating: bool,
    pub nodes: usize,
    /// Nodes that have certificates of it.
    pub certificates: usize,
    /// Nodes that trust nobody else.
    pub roots: usize,
    /// Names of nodes that the next step waits for.
    pub waits: Vec<String>,
}

/// What a cluster's record asks of its nodes, in fingerprints.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    roots: Vec<String>,
    issuer: String,
}

impl Wanted {
    fn of(cluster: &Cluster) -> Result<Self, SwarmError> {
        Ok(Self {
            roots: tls::fingerprints(&cluster.roots())?,
            issuer: tls::fingerprints(cluster.issuer())?.concat(),
        })
    }

    fn is_met(&self, word: &Word) -> bool {
        word.roots == self.roots && word.issuer == self.issuer
    }
}

/// What a node lacks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lack {
    /// The authorities on its disk are others.
    Roots,
    /// Its etcd trusts others.
    Store,
    /// Its certificate is another one's.
    Certificate,
}

/// `served` is what its etcd trusts, if it has one.
fn lacks(wanted: &Wanted, has: &Word, served: Option<&[String]>) -> Option<Lack> {
    if has.roots != wanted.roots {
        Some(Lack::Roots)
    } else if served.is_some_and(|served| served != wanted.roots) {
        Some(Lack::Store)
    } else if has.issuer != wanted.issuer {
        Some(Lack::Certificate)
    } else {
        None
    }
}

/// The record after this step, if all nodes have done theirs.
fn next(cluster: &Cluster, words: &[Word]) -> Result<Option<Cluster>, SwarmError> {
    let Some(rotation) = &cluster.rotation else {
        return Ok(None);
    };
    let wanted = Wanted::of(cluster)?;
    if !words.iter().all(|word| wanted.is_met(word)) {
        return Ok(None);
    }
    let mut next = cluster.clone();
    match rotation.stage {
        Stage::Trust => {
            next.rotation = Some(Rotation {
                stage: Stage::Certificates,
                ..rotation.clone()
            });
        }
        Stage::Certificates => {
            next.authority.clone_from(&rotation.authority);
            next.rotation = None;
        }
    }
    Ok(Some(next))
}

/// Whether the cluster can do without one of its etcds for a moment. `answering` says who of the others
/// does; of two, both are needed anyway.
fn can_spare_one(answering: &[bool]) -> bool {
    let here = answering.iter().filter(|answers| **answers).count();
    let quorum = answering.len().div_ceil(2) + 1;
    here >= quorum.min(answering.len())
}

impl Swarm {
    /// Another authority is to take the place of the cluster's: one of these PEM texts, certificate and
    /// key, or a new one.
    ///
    /// # Errors
    /// As [`Self::tokens`]; [`SwarmError::Rotating`], [`SwarmError::Given`].
    pub fn rotate_authority(&self, given: Option<(&str, &str)>) -> Result<(), SwarmError> {
        let next = match given {
            Some((certificate, key)) => {
                Authority::given(certificate, key).map_err(SwarmError::Given)?
            }
            None => Authority::create()?,
        };
        let active = self.manager()?;
        let (mut cluster, known) = active.cluster()?;
        if cluster.rotation.is_some() {
            let waits = self.progress()?.waits;
            return Err(SwarmError::Rotating(waits.join(", ")));
        }
        if tls::fingerprints(next.certificate())? == tls::fingerprints(&cluster.authority)? {
            return Err(SwarmError::Given("it is the cluster's already".to_owned()));
        }
        cluster.rotation = Some(Rotation {
            authority: next.certificate().to_owned(),
            stage: Stage::Trust,
        });
        let edit = |secrets: &mut Secrets| {
            secrets.next_key = Some(next.key());
            Ok(())
        };
        match active.replace(&cluster, known, edit)? {
            Outcome::Refused => Err(SwarmError::Busy("the cluster".to_owned())),
            Outcome::Committed(_) => Ok(()),
        }
    }

    /// How far the nodes are with the authority that the cluster has, or is to have.
    ///
    /// # Errors
    /// As [`Self::tokens`].
    pub fn progress(&self) -> Result<Progress, SwarmError> {
        let active = self.manager()?;
        let (cluster, _) = active.cluster()?;
        let wanted = Wanted::of(&cluster)?;
        let goal = tls::fingerprints(cluster.goal())?;
        let words = active.words()?;
        let count = |is: &dyn Fn(&Word) -> bool| words.iter().filter(|(_, word)| is(word)).count();
        let waits = words.iter().filter(|(_, word)| !wanted.is_met(word));
        let mut waits: Vec<String> = waits.map(|(node, _)| node.hostname.clone()).collect();
        waits.sort_unstable();
        Ok(Progress {
            rotating: cluster.rotation.is_some(),
            nodes: words.len(),
            certificates: count(&|word| goal.contains(&word.issuer)),
            roots: count(&|word| word.roots == goal),
            waits,
            digest: goal.concat(),
            goal: cluster.goal().to_owned(),
        })
    }

    /// Trusts whom the cluster's record says, has a certificate of the one that gives them, and says so.
    ///
    /// # Errors
    /// [`SwarmError`]; the next look goes on where this one ended.
    pub(super) fn follow_authority(&self, active: &Active) -> Result<(), SwarmError> {
        let (cluster, _) = active.cluster()?;
        let wanted = Wanted::of(&cluster)?;
        // Each look does all that it can: as many steps as there are.
        for _ in 0..3 {
            let papers = self.home.papers()?;
            let has = word(&papers)?;
            let served = active.served(&cluster);
            match lacks(&wanted, &has, served.as_deref()) {
                None => return active.say(&has),
                Some(Lack::Roots) => self.take_roots(active, papers, cluster.roots())?,
                Some(Lack::Store) => {
                    if !active.restart_store()? {
                        return Ok(());
                    }
                }
                Some(Lack::Certificate) => {
                    // Whoever asks is told that this node trusts whom it is to trust.
                    active.say(&has)?;
                    if !self.renew(active)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn take_roots(
        &self,
        active: &Active,
        mut papers: Papers,
        roots: String,
    ) -> Result<(), SwarmError> {
        let _locking = self.locking();
        papers.authority = roots;
        self.home.keep_roots(&papers.authority)?;
        active.show(&self.home, &papers)?;
        tracing::info!("this node trusts other authorities");
        Ok(())
    }
}

/// What these papers say.
fn word(papers: &Papers) -> Result<Word, SwarmError> {
    Ok(Word {
        roots: tls::fingerprints(&papers.authority)?,
        issuer: tls::issuer(papers)?.map_or_else(String::new, |issuer| hex(&issuer)),
    })
}

impl Active {
    /// As the manager that leads, begins the next step of a rotation when all nodes have done theirs.
    pub(super) fn rotate_on(&self) -> Result<(), SwarmError> {
        let (cluster, known) = self.cluster()?;
        if cluster.rotation.is_none() {
            return Ok(());
        }
        let words: Vec<Word> = self.words()?.into_iter().map(|(_, word)| word).collect();
        let Some(next) = next(&cluster, &words)? else {
            return Ok(());
        };
        // Somebody else is first, otherwise.
        if next.rotation.is_some() {
            let put = Transaction::default().when(key::CLUSTER, known);
            self.control()
                .commit(&put.put(key::CLUSTER, record::write(&next)))?;
            tracing::info!("all nodes trust the next authority: it gives certificates from now on");
            return Ok(());
        }
        let (worker, manager) = (crate::random_node()?, crate::random_node()?);
        let edit = |secrets: &mut Secrets| {
            secrets.key = secrets.next_key.take().ok_or(SwarmError::Lost)?;
            // Who knew the tokens may be why.
            secrets.worker = worker.clone();
            secrets.manager = manager.clone();
            Ok(())
        };
        self.replace(&next, known, edit)?;
        tracing::info!("all nodes have certificates of the next authority: it is the only one");
        Ok(())
    }

    /// Puts the cluster's record and its secrets together, unless one of them has changed.
    fn replace(
        &self,
        cluster: &Cluster,
        known: u64,
        edit: impl Fn(&mut Secrets) -> Result<(), SwarmError>,
    ) -> Result<Outcome, SwarmError> {
        let (stored, modified) = self.stored()?;
        let lock = self.lock.key();
        let mut secrets = stored.open(lock.as_ref())?;
        edit(&mut secrets)?;
        let sealed = Stored::seal(secrets, lock.as_ref().filter(|_| stored.is_sealed()))?;
        let both = Transaction::default()
            .when(key::CLUSTER, known)
            .when(key::SECRETS, modified)
            .put(key::CLUSTER, record::write(cluster))
            .put(key::SECRETS, record::write(&sealed));
        Ok(self.control().commit(&both)?)
    }

    /// Every node, with what it has said. Nothing of those that are not heard of.
    fn words(&self) -> Result<Vec<(Node, Word)>, SwarmError> {
        let nodes = nodes::list(self.control())?;
        let alive = self.control().snapshot(key::ALIVE)?.entries;
        let said = |node: &Node| {
            let entry = alive.get(&key::alive(&node.id))?;
            serde_json::from_str(&entry.value).ok()
        };
        let nodes = nodes.into_iter().map(|(node, _)| {
            let word = said(&node).unwrap_or_default();
            (node, word)
        });
        Ok(nodes.collect())
    }

    /// Tells the others what this node has by now, if they do not know.
    fn say(&self, word: &Word) -> Result<(), SwarmError> {
        let text = record::write(word);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if *said != text {
            self.put_alive(&text)?;
            *said = text;
        }
        Ok(())
    }

    /// Whom this manager's etcd trusts; nothing where it has none.
    fn served(&self, cluster: &Cluster) -> Option<Vec<String>> {
        let own = self.own.as_ref()?;
        match own.server.roots() {
            // One that an earlier version has started has seen no rotation.
            Some(roots) if roots.is_empty() && cluster.rotation.is_none() => None,
            roots => Some(roots.unwrap_or_default()),
        }
    }

    /// Starts this manager's etcd again, unless the cluster needs it just now; whether it did.
    fn restart_store(&self) -> Result<bool, SwarmError> {
        let Some(own) = &self.own else {
            return Ok(true);
        };
        let answering = self.control.answering();
        if !can_spare_one(answering.get(1..).unwrap_or_default()) || !self.take_turn()? {
            return Ok(false);
        }
        tracing::info!("etcd starts again, with whom it trusts by now");
        own.restart()?;
        own.server
            .wait(START, || match self.control.answering().first() {
                Some(true) => Ok(()),
                _ => Err("it does not answer yet"),
            })?;
        // Kept by one that does not come back, so that no other one goes.
        let done = Transaction::default().delete(key::TURN);
        self.control().commit(&done)?;
        Ok(true)
    }

    fn is_manager(&self, node: &str) -> Result<bool, SwarmError> {
        let nodes = nodes::list(self.control())?;
        let is =
            |(other, _): &(Node, u64)| other.id.as_str() == node && other.role == Role::Manager;
        Ok(nodes.iter().any(is))
    }

    /// One manager at a time, for as long as it is heard of and one.
    fn take_turn(&self) -> Result<bool, SwarmError> {
        let own = self.state.node.as_str();
        let entry = self
            .control()
            .snapshot(key::TURN)?
            .entries
            .remove(key::TURN);
        let modified = match entry {
            Some(entry) if entry.value != own && self.is_manager(&entry.value)? => {
                return Ok(false);
            }
            Some(entry) => entry.modified,
            None => 0,
        };
        let take = Transaction::default().when(key::TURN, modified);
        let taken = self.control().commit(&take.put_leased(key::TURN, own))?;
        Ok(taken != Outcome::Refused)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cluster(authority: &Authority) -> Cluster {
        Cluster {
            id: crate::random_node().unwrap(),
            created: String::new(),
            authority: authority.certificate().to_owned(),
            cert_expiry: Duration::from_secs(60),
            data_port: 4789,
            settings: api::swarm::SwarmSettings::default(),
            rotation: None,
        }
    }

    fn begin(cluster: &mut Cluster, next: &Authority) {
        cluster.rotation = Some(Rotation {
            authority: next.certificate().to_owned(),
            stage: Stage::Trust,
        });
    }

    /// A node of a cluster that exists on paper.
    #[derive(Debug, Clone)]
    struct Sim {
        has: Word,
        served: Option<Vec<String>>,
        said: Word,
    }

    impl Sim {
        fn new(cluster: &Cluster, manages: bool) -> Self {
            let wanted = Wanted::of(cluster).unwrap();
            Self {
                served: manages.then(|| wanted.roots.clone()),
                has: Word {
                    roots: wanted.roots,
                    issuer: wanted.issuer,
                },
                said: Word::default(),
            }
        }

        /// One thing, after which it may be ended.
        fn step(&mut self, cluster: &Cluster) {
            let wanted = Wanted::of(cluster).unwrap();
            match lacks(&wanted, &self.has, self.served.as_deref()) {
                None => self.said = self.has.clone(),
                Some(Lack::Roots) => self.has.roots = wanted.roots,
                Some(Lack::Store) => self.served = Some(self.has.roots.clone()),
                // It says first what it trusts, and gets what is given when it asks.
                Some(Lack::Certificate) if self.said == self.has => {
                    self.has.issuer = wanted.issuer;
                }
                Some(Lack::Certificate) => self.said = self.has.clone(),
            }
        }

        fn trusts(&self, other: &Self) -> bool {
            let served = self.served.as_ref().unwrap_or(&self.has.roots);
            [&self.has.roots, served]
                .into_iter()
                .all(|roots| roots.contains(&other.has.issuer))
        }
    }

    #[test]
    fn all_nodes_trust_each_other_whoever_is_ended_when() {
        let [first, second, third] = [(); 3].map(|()| Authority::create().unwrap());
        for seed in 1..200_u64 {
            let mut cluster = cluster(&first);
            let mut nodes: Vec<Sim> = (0..4).map(|n| Sim::new(&cluster, n < 3)).collect();
            let mut random = seed;
            let mut roll = |sides: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (random >> 33) % sides
            };
            for goal in [&second, &third] {
                begin(&mut cluster, goal);
                let mut steps = 0;
                while cluster.rotation.is_some() {
                    steps += 1;
                    assert!(steps < 10_000, "it does not end: {cluster:?} {nodes:?}");
                    let node = roll(nodes.len() as u64) as usize;
                    match roll(10) {
                        // Ended: nothing of it is heard until it says so again.
                        0 => nodes[node].said = Word::default(),
                        1 if nodes.len() < 6 => {
                            let manages = roll(2) == 0;
                            nodes.push(Sim::new(&cluster, manages));
                        }
                        2 | 3 => {
                            let words: Vec<Word> = nodes.iter().map(|n| n.said.clone()).collect();
                            cluster = next(&cluster, &words).unwrap().unwrap_or(cluster);
                        }
                        _ => nodes[node].step(&cluster),
                    }
                    for one in &nodes {
                        assert!(nodes.iter().all(|other| one.trusts(other)), "{nodes:?}");
                    }
                }
                assert_eq!(cluster.authority, goal.certificate());
                for node in &mut nodes {
                    for _ in 0..4 {
                        node.step(&cluster);
                    }
                    let only = tls::fingerprints(goal.certificate()).unwrap();
                    assert_eq!((&node.said.roots, &node.said.issuer), (&only, &only[0]));
                    assert!(node.served.as_ref().is_none_or(|served| *served == only));
                }
            }
        }
    }

    #[test]
    fn a_node_that_is_silent_holds_everything_up() {
        let [first, second] = [(); 2].map(|()| Authority::create().unwrap());
        let mut cluster = cluster(&first);
        let mut nodes = [true, false].map(|manages| Sim::new(&cluster, manages));
        assert_eq!(next(&cluster, &[]).unwrap(), None, "nothing is asked");
        begin(&mut cluster, &second);
        for _ in 0..4 {
            nodes[0].step(&cluster);
        }
        let words = nodes.clone().map(|node| node.said);
        assert_eq!(next(&cluster, &words).unwrap(), None);
        // It is removed.
        let after = next(&cluster, &words[..1]).unwrap().unwrap();
        assert_eq!(after.rotation.unwrap().stage, Stage::Certificates);
    }

    #[test]
    fn an_etcd_goes_where_the_others_have_a_quorum() {
        for (others, can) in [
            (&[][..], true),
            (&[true], true),
            (&[false], false),
            (&[true, true], true),
            (&[true, false], false),
            (&[true, true, true, false], true),
            (&[true, true, false, false], false),
        ] {
            assert_eq!(can_spare_one(others), can, "{others:?}");
        }
    }

    #[test]
    fn records_of_earlier_versions_are_read() {
        let authority = Authority::create().unwrap();
        let before = cluster(&authority);
        let text = record::write(&before);
        assert!(!text.contains("rotation"));
        assert_eq!(serde_json::from_str::<Cluster>(&text).unwrap(), before);
        let key = "ABCDEFGHIJKLMNOPQRSTUVWXY";
        let id = before.id.as_str();
        let secrets = format!(r#"{{"key":"{key}","worker":"{id}","manager":"{id}"}}"#);
        let secrets: Secrets = serde_json::from_str(&secrets).unwrap();
        assert_eq!((secrets.key.as_str(), secrets.next_key), (key, None));
        assert!(secrets.logins.is_none());
        let said: Word = serde_json::from_str("{}").unwrap();
        assert_eq!(said, Word::default());
    }
}
