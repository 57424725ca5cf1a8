//! Saying what differs between the records and the kernel, and repairing it on request.
//!
//! The differences are the steps that a reconcile would take, in words, and what only a look into
//! every sandbox tells.

mod environment;

use std::path::Path;

use api::doctor::{Diagnosis, Difference, Treatment};

use crate::error::NetError;
use crate::model::desired::Desired;
use crate::model::endpoint::Endpoint;
use crate::model::network::Stage;
use crate::model::observed::Observed;
use crate::model::step::{Change, Step};
use crate::model::{plan, words};
use crate::netd::{Netd, Writer};
use crate::reconcile::Report;

impl Netd {
    /// Compares everything; repairs it if asked to.
    ///
    /// # Errors
    /// [`NetError::Kernel`] when the kernel cannot be looked at. A repair that fails is no error:
    /// its difference says so.
    pub fn doctor(&self, repair: bool) -> Result<Diagnosis, NetError> {
        let mut writer = self.writer();
        let mut differences = self.dead(&mut writer, repair);
        let view = self.view();
        let mut observed = self.kernel.observe()?;
        observed.lost = self.lost_children(&view)?;
        let steps = plan::repair(&view, &observed);
        differences.extend(self.treat(&view, &observed, steps, repair));
        differences.extend(self.sandboxes(&view, &observed, repair));
        // As a reconcile does: a bridge made anew brings addresses of the host.
        let observed = if repair {
            self.kernel.observe()?
        } else {
            observed
        };
        let steps = plan::host(&view, &observed);
        differences.extend(self.treat(&view, &observed, steps, repair));
        let mut findings = environment::findings(&view, &observed);
        findings.extend(self.full_tables());
        Ok(Diagnosis {
            differences,
            findings,
            paths: self.data_path(),
        })
    }

    /// What is left of sandboxes that are gone, and of removals that failed.
    fn dead(&self, writer: &mut Writer, repair: bool) -> Vec<Difference> {
        let view = self.view();
        let mut differences = Vec::new();
        for endpoint in view.endpoints.values() {
            let name = endpoint.display_name();
            let ifname = &endpoint.attachment.ifname;
            let what = if endpoint.stage == Stage::Removing {
                format!("interface {ifname} of container {name} is not removed yet")
            } else if !self.kernel.is_alive(&endpoint.sandbox) {
                format!("the network namespace of container {name} is gone")
            } else {
                continue;
            };
            differences.push(found(what, format!("remove endpoint {}", endpoint.key())));
        }
        for network in view.networks.values() {
            if network.stage == Stage::Removing {
                let what = format!("network {} is not removed yet", network.name);
                differences.push(found(what, format!("remove network {}", network.name)));
            }
        }
        if repair && !differences.is_empty() {
            let mut report = Report::default();
            self.collect(writer, &mut report);
            let failure = report.failures.join("; ");
            for difference in &mut differences {
                settle(difference, &failure);
            }
        }
        differences
    }

    fn treat(
        &self,
        view: &Desired,
        observed: &Observed,
        steps: Vec<Step>,
        repair: bool,
    ) -> Vec<Difference> {
        let treat = |step: Step| {
            let what = words::difference(&step, view, observed);
            let mut difference = found(what, step.to_string());
            if repair {
                self.apply(&step, &mut difference);
            }
            difference
        };
        steps.into_iter().map(treat).collect()
    }

    fn apply(&self, step: &Step, difference: &mut Difference) {
        match self.kernel.apply(step) {
            Ok(Change::Done | Change::Unchanged) => settle(difference, ""),
            Err(error) => settle(difference, &error.to_string()),
        }
    }

    /// What differs inside the sandboxes: nobody tells of it, and it may be the container's own
    /// doing, so that it is repaired on request only.
    fn sandboxes(&self, view: &Desired, observed: &Observed, repair: bool) -> Vec<Difference> {
        let committed = view.endpoints.values().filter(|endpoint| {
            let host_end = endpoint.attachment.host_ifname.as_ref();
            endpoint.stage == Stage::Committed
                && host_end.is_some_and(|link| observed.links.contains_key(link))
        });
        committed
            .filter_map(|endpoint| self.sandbox_difference(view, endpoint, repair))
            .collect()
    }

    fn sandbox_difference(
        &self,
        view: &Desired,
        endpoint: &Endpoint,
        repair: bool,
    ) -> Option<Difference> {
        let network = view.networks.get(&endpoint.attachment.network_id);
        let own_mac = network.is_none_or(|network| network.driver.has_own_macs());
        let mac = endpoint.attachment.mac.filter(|_| own_mac);
        let (path, ifname) = (&endpoint.sandbox.path, &endpoint.attachment.ifname);
        let inside = self
            .kernel
            .inspect(Path::new(path), ifname)
            .ok()
            .flatten()?;
        let what = crate::check::difference(endpoint, Some(&inside), mac)?;
        let name = endpoint.display_name();
        let step = plan::configure(endpoint);
        let mut difference = found(
            format!("interface {ifname} of container {name}: {what}"),
            step.to_string(),
        );
        if repair {
            self.apply(&step, &mut difference);
            let inside = self.kernel.inspect(Path::new(path), ifname).ok().flatten();
            if let Some(still) = crate::check::difference(endpoint, inside.as_ref(), mac) {
                let way_out = format!("{still}; disconnect and connect the container");
                settle(&mut difference, &way_out);
            }
        }
        Some(difference)
    }
}

fn found(what: String, remedy: String) -> Difference {
    Difference {
        what,
        remedy,
        state: Treatment::Found,
        error: String::new(),
    }
}

fn settle(difference: &mut Difference, error: &str) {
    difference.state = if error.is_empty() {
        Treatment::Repaired
    } else {
        Treatment::Failed
    };
    error.clone_into(&mut difference.error);
}
