//! Joins a container to its networks, and takes it off them again.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use api::net::Network;

use super::{Setup, SetupError};
use crate::cni::{CniError, ConfList, RuntimeConfig, Sandbox};
use crate::container::{Attachments, Health, Healthcheck, Joined};
use crate::joining::{self, Joining};
use crate::shim::daemon::patiently;
use crate::shim::drain::Drainer;
use crate::shim::health::HealthWatch;
use crate::shim::healthcheck::Check;

impl Setup {
    fn sandbox<'a>(&'a self, netns: &'a Path, ifname: &'a str) -> Sandbox<'a> {
        Sandbox {
            container_id: self.dir.id().as_str(),
            container_name: self.record.name.as_str(),
            netns,
            ifname,
        }
    }

    /// The services that the container is a member of, each once.
    fn services(&self) -> BTreeSet<String> {
        let requests = self.record.networks.iter();
        let joins = requests.flat_map(|request| &request.services);
        joins.map(|join| join.service.clone()).collect()
    }

    pub(crate) fn drainer(&self) -> Option<Drainer> {
        let client = self.daemon.client().clone();
        let is_member = !self.services().is_empty();
        is_member.then(|| Drainer::new(client, self.dir.id().as_str()))
    }

    pub(crate) fn watch_health(&self) -> io::Result<HealthWatch> {
        let services = self.services().into_iter();
        let mut watch = HealthWatch::begin(&self.places, services, self.dir.id().as_str())?;
        let check = self.record.config.healthcheck.as_ref();
        if let Some(schedule) = check.and_then(Healthcheck::schedule) {
            // What an earlier life was like counts no more.
            self.dir
                .write_health(&Health::default())
                .map_err(io::Error::other)?;
            let check = Check {
                dir: self.dir.clone(),
                places: self.places.clone(),
                schedule,
                teller: self.teller(),
            };
            watch.spawn(move |stopped| check.watch(stopped))?;
        }
        Ok(watch)
    }

    /// Joins every network of the record and says what became of it.
    pub(super) fn join_networks(&self, pid: u32) -> Result<Attachments, SetupError> {
        let netns = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let mut joined = Attachments::default();
        let networks = self.networks()?;
        let asked: Vec<_> = self.record.networks.iter().zip(&networks).collect();
        for ((request, _), Joining { ifname, publishes }) in asked.iter().zip(joining::all(&asked))
        {
            let list = ConfList::hawser(&request.network, &self.places.socket);
            let runtime = RuntimeConfig::of(&self.dir.store(), &self.record, request, publishes)?;
            let result = self
                .cni
                .add(&list, self.sandbox(&netns, &ifname), &runtime)?;
            joined.joined.insert(
                ifname,
                Joined {
                    list,
                    runtime,
                    result,
                },
            );
            // Written at once, so that a killed shim's networks are known to the next start.
            self.dir.write_attachments(&joined)?;
        }
        if !joined.joined.is_empty() {
            for attachment in self.daemon.endpoints()? {
                joined
                    .interfaces
                    .insert(attachment.ifname.to_string(), attachment);
            }
            self.dir.write_attachments(&joined)?;
        }
        Ok(joined)
    }

    /// The networks of the record.
    fn networks(&self) -> Result<Vec<Network>, SetupError> {
        let requests = self.record.networks.iter();
        let networks = requests.map(|request| self.daemon.network(&request.network));
        Ok(networks.collect::<Result<_, _>>()?)
    }

    /// Leaves all networks, those joined later by `network connect` too.
    pub(super) fn leave_networks(&self) -> Result<(), SetupError> {
        let mut held = self.dir.attachments()?;
        if held.joined.is_empty() {
            return Ok(());
        }
        let mut outcome = Ok(());
        for (ifname, joined) in held.joined.clone() {
            // The namespace's path names a process, and processes' ids are used again: no path is
            // better than another container's.
            let sandbox = self.sandbox(Path::new(""), &ifname);
            let left = patiently(is_daemon_away, || {
                self.cni
                    .del(&joined.list, sandbox, &joined.runtime, Some(&joined.result))
            });
            match left {
                Ok(()) => {
                    held.joined.remove(&ifname);
                    held.interfaces.remove(&ifname);
                }
                Err(error) => outcome = outcome.and(Err(SetupError::from(error))),
            }
        }
        self.dir.write_attachments(&held)?;
        outcome
    }
}

/// Code 11 asks for another try later (CNI specification, "Error").
fn is_daemon_away(error: &CniError) -> bool {
    matches!(error, CniError::Refused { code: 11, .. })
}
