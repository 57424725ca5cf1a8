//! What the daemon itself does, as events.

use api::event::Event;
use api::net::{Attachment, Network};
use api::service::Service;
use api::volume_plugin::{self, MOUNT, REMOVE, UNMOUNT};
use axum::body::Bytes;
use netd::Judged;

use crate::daemon::Daemon;

impl Daemon {
    /// Tells of a network that was made or removed.
    pub(crate) fn told_of_network(&self, action: &str, network: &Network) {
        let event = Event::new("network", action, network.id.to_string())
            .with("name", network.name.to_string())
            .with("type", &network.driver);
        self.events.record(event);
    }

    /// Tells of a container that joined or left a network.
    pub(crate) fn told_of_endpoint(&self, action: &str, endpoint: &Attachment) {
        let event = Event::new("network", action, endpoint.network_id.to_string())
            .with("container", &endpoint.container_id)
            .with("name", endpoint.network.to_string());
        self.events.record(event);
    }

    /// All managers hear of services of the cluster, wherever they were changed.
    pub(crate) fn told_of_service(&self, action: &str, service: &Service) {
        if service.revision.is_some() {
            return;
        }
        let event = Event::new("service", action, service.id.to_string())
            .with("name", service.spec.name.to_string());
        self.events.record(event);
    }

    /// Tells of a member of a service that probes find well or down, and did not before.
    pub(crate) fn told_of_verdict(&self, judged: &Judged) {
        let found = match judged.error {
            None => "healthy",
            Some(_) => "unhealthy",
        };
        let action = format!("health_status: {found}");
        let mut event = Event::new("service", &action, judged.service.to_string())
            .with("container", &judged.container)
            .with("name", &judged.name);
        if let Some(error) = &judged.error {
            event = event.with("error", error);
        }
        self.events.record(event);
    }

    pub(crate) fn told_of_volume(&self, action: &str, name: &str, driver: &str) {
        let event = Event::new("volume", action, name).with("driver", driver);
        self.events.record(event);
    }

    /// Tells of the verb of a volume plugin's protocol that has succeeded.
    pub(crate) fn told_of_plugin_call(&self, verb: &str, body: &Bytes) {
        let action = match verb {
            MOUNT => "mount",
            UNMOUNT => "unmount",
            REMOVE => "destroy",
            _ => return,
        };
        let Ok(request) = serde_json::from_slice::<volume_plugin::Request>(body) else {
            return;
        };
        let mut event = Event::new("volume", action, &request.name).with("driver", "local");
        if !request.id.is_empty() {
            event = event.with("container", &request.id);
        }
        self.events.record(event);
    }

    /// Tells of the lines of a removal of images: `Untagged: NAME` and `Deleted: ID`, in any case.
    pub(crate) fn told_of_removed_images(&self, lines: &[String]) {
        for line in lines {
            let (action, name) = match line.split_once(": ") {
                Some(("Untagged" | "untagged", name)) => ("untag", name),
                Some(("Deleted" | "deleted", name)) => ("delete", name),
                _ => continue,
            };
            let event = Event::new("image", action, name).with("name", name);
            self.events.record(event);
        }
    }
}
