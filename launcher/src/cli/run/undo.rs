//! Takes back what a failed `create` had made.

use std::fs;
use std::path::PathBuf;

use api::client::{ClientError, escape};
use api::id::{ContainerName, Id, VolumeName};
use api::path::{ROOTFS, VOLUME_USERS, VOLUMES};

use crate::cli::context::Context;
use crate::cli::output;
use crate::cli::volume::plugin;
use crate::store::Store;

/// One thing that was made and has an inverse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    Name(ContainerName),
    Directory,
    Rootfs,
    /// A volume that was not there before.
    Volume(String),
    /// A volume of another driver that was not there before.
    PluginVolume {
        driver: String,
        name: String,
    },
    /// This container as a user of a volume.
    User(String),
    /// The file of `--cidfile`.
    CidFile(PathBuf),
}

#[derive(Debug)]
pub struct Undo<'c> {
    context: &'c Context,
    store: Store,
    id: Id,
    made: Vec<Made>,
}

impl<'c> Undo<'c> {
    pub fn new(context: &'c Context, store: Store, id: Id) -> Self {
        Self {
            context,
            store,
            id,
            made: Vec::new(),
        }
    }

    pub fn made(&mut self, made: Made) {
        self.made.push(made);
    }

    /// Takes everything back, latest first. What cannot be taken back is reported and stays for
    /// `hawser rm`; the cause of the failure is what the user needs to read last.
    pub fn run(self) {
        for made in self.made.iter().rev() {
            if let Err(reason) = self.take_back(made) {
                output::warn(format_args!(
                    "hawser: clean-up after a failure: {made:?}: {reason}"
                ));
            }
        }
    }

    fn take_back(&self, made: &Made) -> Result<(), String> {
        let client = self.context.client();
        match made {
            Made::Name(name) => self
                .store
                .release_name(name, &self.id)
                .map_err(|error| error.to_string()),
            Made::Directory => self
                .store
                .container(&self.id)
                .remove()
                .map_err(|error| error.to_string()),
            Made::Rootfs => gone(client.delete(&format!("{ROOTFS}/{}", self.id))),
            Made::Volume(name) => gone(client.delete(&format!("{VOLUMES}/{}", escape(name)))),
            Made::User(name) => {
                let name = escape(name);
                gone(client.delete(&format!("{VOLUMES}/{name}/{VOLUME_USERS}/{}", self.id)))
            }
            Made::CidFile(path) => fs::remove_file(path).map_err(|error| error.to_string()),
            Made::PluginVolume { driver, name } => {
                let plugins = self.context.plugins().map_err(|error| error.to_string())?;
                plugins
                    .driver(driver)
                    .and_then(|driver| driver.remove(name))
                    .map_err(|error| error.to_string())?;
                let name = VolumeName::parse(name).map_err(|error| error.to_string())?;
                plugin::forget(self.context, &name).map_err(|error| error.to_string())
            }
        }
    }
}

/// Already gone is as good as removed.
fn gone(outcome: Result<(), ClientError>) -> Result<(), String> {
    match outcome {
        Err(error) if !error.is_not_found() => Err(error.to_string()),
        _ => Ok(()),
    }
}
