//! What happens to containers and images, told to the daemon, which passes it on to whoever listens.

use std::time::Duration;

use api::Client;
use api::event::Event;
use api::path::EVENTS;
use serde_json::Value;

use crate::container::Record;

/// A daemon that hangs costs an event, and no more time than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// An event of a container, with its image, its name and its labels.
pub fn of_container(record: &Record, action: &str) -> Event {
    let mut event = Event::new("container", action, record.id.to_string());
    event.actor.attributes = record.config.labels.clone();
    event
        .with("image", &record.image)
        .with("name", record.name.to_string())
}

/// An event of an image.
pub fn of_image(action: &str, id: &str, name: &str) -> Event {
    Event::new("image", action, id).with("name", name)
}

/// Tells the daemon. What it does not hear is nobody's loss but the listeners': the records hold
/// what is.
pub fn tell(client: &Client, event: &Event) {
    let client = client.clone().with_timeout(PATIENCE);
    drop(client.post::<Value>(EVENTS, event));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_event_has_its_name_image_and_labels() {
        let record: Record = serde_json::from_value(serde_json::json!({
            "schema": 1, "id": "ab".repeat(32), "name": "web", "created": "", "image": "site:1",
            "image_id": format!("sha256:{}", "cd".repeat(32)),
            "config": {"Labels": {"tier": "front"}}, "host_config": {}, "mounts": [],
            "networks": [],
        }))
        .unwrap();
        let event = of_container(&record, "die").with("exitCode", "0");
        assert_eq!(
            (event.kind.as_str(), event.action.as_str()),
            ("container", "die")
        );
        let texts: Vec<String> = event
            .actor
            .attributes
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            texts,
            ["exitCode=0", "image=site:1", "name=web", "tier=front"]
        );
    }
}
