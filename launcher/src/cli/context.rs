//! What every command works with: the daemon's socket, and the directories it tells.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use api::Client;
use api::client::escape;
use api::daemon::Info;
use api::event::Event;
use api::path::{IMAGES, INFO};
use api::storage::{Image, Secret};

use crate::cni::Cni;
use crate::container::Record;
use crate::event;
use crate::shim::launch::Places;
use crate::store::{ContainerDir, Store};
use crate::stream;
use crate::volume::Plugins;

use super::error::{CliError, ContainerError};
use super::image::config::ImageConfig;

#[derive(Debug)]
pub struct Context {
    client: Client,
    info: OnceLock<Info>,
    logins: BTreeMap<String, Secret>,
}

impl Context {
    /// # Errors
    /// `-H` or `HAWSER_HOST` is no address.
    pub fn new(host: Option<&str>) -> Result<Self, CliError> {
        Ok(Self {
            client: Client::from_host(host)?,
            info: OnceLock::new(),
            logins: BTreeMap::new(),
        })
    }

    /// The same daemon, for another thread.
    #[must_use]
    pub fn another(&self) -> Self {
        Self {
            client: self.client.clone(),
            info: self.info.clone(),
            logins: self.logins.clone(),
        }
    }

    /// The same with logins for registries, by host, that count before the user's own.
    #[must_use]
    pub fn with_logins(&self, logins: BTreeMap<String, Secret>) -> Self {
        Self {
            logins,
            ..self.another()
        }
    }

    pub fn logins(&self) -> &BTreeMap<String, Secret> {
        &self.logins
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The daemon's account of itself, asked once.
    ///
    /// # Errors
    /// The daemon cannot be reached.
    pub fn info(&self) -> Result<&Info, CliError> {
        if let Some(info) = self.info.get() {
            return Ok(info);
        }
        let info = self.client.get(INFO)?;
        Ok(self.info.get_or_init(|| info))
    }

    /// # Errors
    /// The daemon cannot be reached, or its state directory cannot be used.
    pub fn store(&self) -> Result<Store, CliError> {
        Ok(Store::open(Path::new(&self.info()?.state_dir))?)
    }

    /// Tells those who listen what was done.
    pub fn tell(&self, told: &Event) {
        event::tell(&self.client, told);
    }

    /// The same of a container; one that is gone has had its last event.
    pub fn tell_of(&self, container: &ContainerDir, action: &str) {
        if let Ok(record) = container.record() {
            self.tell(&event::of_container(&record, action));
        }
    }

    /// A container by name, id or unambiguous id prefix.
    ///
    /// # Errors
    /// There is none.
    pub fn container(&self, key: &str) -> Result<ContainerDir, CliError> {
        Ok(self.store()?.find(key)?)
    }

    /// Whether the storage driver that the daemon uses has the container's root file system.
    ///
    /// # Errors
    /// [`ContainerError::OtherDriver`] names the one that has it.
    pub fn check_driver(&self, record: &Record) -> Result<(), CliError> {
        if !record.is_of_other_driver(&self.info()?.driver) {
            return Ok(());
        }
        Err(ContainerError::OtherDriver {
            container: record.name.to_string(),
            driver: record.driver.clone(),
        }
        .into())
    }

    /// What the shim of a container is told.
    ///
    /// # Errors
    /// The daemon cannot be reached.
    pub fn places(&self, container: &ContainerDir) -> Result<Places, CliError> {
        let info = self.info()?;
        Ok(Places {
            container_dir: container.path().to_owned(),
            run_dir: PathBuf::from(&info.run_dir),
            socket: self.client.socket().to_owned(),
            plugin_dir: PathBuf::from(&info.plugin_dir),
            cni_bin_dir: PathBuf::from(&info.cni_bin_dir),
        })
    }

    /// Where the shim of a container listens.
    ///
    /// # Errors
    /// The daemon cannot be reached.
    pub fn shim_socket(&self, container: &ContainerDir) -> Result<PathBuf, CliError> {
        Ok(stream::socket_path(
            Path::new(&self.info()?.run_dir),
            container.id(),
        ))
    }

    /// # Errors
    /// The daemon cannot be reached.
    pub fn plugins(&self) -> Result<Plugins, CliError> {
        Ok(Plugins::new(&self.info()?.plugin_dir))
    }

    /// # Errors
    /// The daemon cannot be reached.
    pub fn cni(&self) -> Result<Cni, CliError> {
        Ok(Cni::new(&self.info()?.cni_bin_dir))
    }

    /// An image by reference, id or unambiguous id prefix.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub fn image(&self, reference: &str) -> Result<Image, CliError> {
        Ok(self
            .client
            .get(&format!("{IMAGES}/{}", escape(reference)))?)
    }

    /// Fails early, and in words, where the kernel would refuse later.
    ///
    /// # Errors
    /// [`CliError::NotRoot`].
    pub fn require_root(&self) -> Result<(), CliError> {
        if rustix::process::geteuid().is_root() {
            Ok(())
        } else {
            Err(CliError::NotRoot)
        }
    }
}

/// # Errors
/// [`CliError::ImageConfig`].
pub fn image_config(image: &Image, reference: &str) -> Result<ImageConfig, CliError> {
    ImageConfig::parse(&image.config).map_err(|source| CliError::ImageConfig {
        reference: reference.to_owned(),
        source,
    })
}
