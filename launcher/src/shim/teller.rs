//! Tells the daemon what happens to the container.

use api::Client;

use crate::container::Record;
use crate::event;
use crate::store::ContainerDir;

#[derive(Debug, Clone)]
pub(crate) struct Teller {
    client: Client,
    dir: ContainerDir,
    /// As it was at the start, for when there is none any more.
    record: Record,
}

impl Teller {
    pub(crate) fn new(client: &Client, dir: &ContainerDir, record: &Record) -> Self {
        Self {
            client: client.clone(),
            dir: dir.clone(),
            record: record.clone(),
        }
    }

    pub(crate) fn tell(&self, action: &str, attributes: &[(&str, &str)]) {
        // It may have another name by now.
        let now = self.dir.record();
        let mut told = event::of_container(now.as_ref().unwrap_or(&self.record), action);
        for (name, value) in attributes {
            told = told.with(name, *value);
        }
        event::tell(&self.client, &told);
    }
}
