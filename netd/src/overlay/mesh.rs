//! Keeping the way to members of services on other nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::id::Id;

use crate::apply;
use crate::model::desired::Desired;
use crate::model::mesh;
use crate::model::observed::Observed;
use crate::model::service::plan;
use crate::netd::Netd;

impl Netd {
    /// Brings the way from where it led to where it has to lead. What the kernel refuses is repaired by
    /// the next reconcile.
    pub(super) fn settle_mesh(&self, before: &Desired, after: &mut Desired) {
        let is_wanted = mesh::is_wanted(after);
        if is_wanted == mesh::is_wanted(before) && is_wanted == after.mesh_end.is_some() {
            let step = mesh::lead(&before.mesh_nodes(), &after.mesh_nodes());
            apply::run_all(&*self.kernel, &step.into_iter().collect::<Vec<_>>());
            return;
        }
        let mut look = || -> Result<(), crate::kernel::KernelError> {
            let steps = mesh::repair(after, &self.kernel.observe()?);
            apply::run_all(&*self.kernel, &steps);
            let observed = self.kernel.observe()?;
            apply::run_all(&*self.kernel, &mesh::attach(after, &observed));
            after.mesh_end = mesh::end(after, &observed);
            Ok(())
        };
        if let Err(error) = look() {
            tracing::warn!(%error, "services do not reach other nodes yet");
        }
    }

    /// Knows the interface as it is, which a reconcile may have made anew.
    pub(crate) fn follow_mesh(&self, observed: &Observed) -> Arc<Desired> {
        let view = self.view();
        let end = mesh::end(&view, observed);
        if end == view.mesh_end {
            return view;
        }
        let mut after = Desired::clone(&view);
        after.mesh_end = end;
        self.publish_view(after);
        self.view()
    }

    /// Leads to members on other nodes by the interface that there is now.
    pub(crate) fn follow_mesh_anew(&self, observed: &Observed) -> usize {
        let before = self.view();
        let after = self.follow_mesh(observed);
        if before.mesh_end == after.mesh_end {
            return 0;
        }
        let shared = after.services.values().filter(|s| s.shared.is_some());
        let services: BTreeSet<Id> = shared.map(|service| service.id.clone()).collect();
        let steps = plan::balance(&before, &after, services.iter());
        apply::run_all(&*self.kernel, &steps).0
    }
}
