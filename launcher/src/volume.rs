//! The client's side of the Docker volume-plugin protocol (wire types in [`api::volume_plugin`]).
//!
//! A driver is a socket `NAME.sock` in the plugin directory, or one that a file of Docker's plugin
//! directories names; `local` is the daemon's own, `hawser.sock`. Every mount has an id, the
//! container's, so that a plugin can tell who holds what and a repeated unmount changes nothing.
//!
//! A plugin is a stranger: it has a time to answer in, and an answer that makes no sense is an error
//! that names it.

mod discovery;
mod kept;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::Client;
use api::client::ClientError;
use api::volume_plugin::{
    ACTIVATE, CAPABILITIES, CREATE, GET, LIST, MOUNT, PATH, PluginVolume, REMOVE, Reply, Request,
    UNMOUNT,
};

pub use kept::{Kept, KeptVolume};

/// The driver that the daemon itself is.
pub const LOCAL: &str = "local";
/// Whether a volume's driver is the daemon itself; no name means it.
pub fn is_local(driver: &str) -> bool {
    matches!(driver, "" | LOCAL)
}

const LOCAL_SOCKET: &str = "hawser.sock";
/// What other engines call the daemon.
const OWN: &str = "hawser";
/// A plugin may have to mount something over a network; one that needs longer is taken for dead.
const TIMEOUT: Duration = Duration::from_secs(120);
/// For a question that goes to every plugin there is.
const SOON: Duration = Duration::from_secs(5);
/// Seconds instead of [`TIMEOUT`].
pub const TIMEOUT_ENV: &str = "HAWSER_PLUGIN_TIMEOUT";
/// What a plugin that keeps volumes says of itself.
const VOLUME_DRIVER: &str = "VolumeDriver";

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(
        "volume driver {driver:?} not found: no {} (start its plugin, or choose the driver local)",
        socket.display()
    )]
    NoDriver { driver: String, socket: PathBuf },
    #[error("volume driver {driver:?}: {}: {reason}", file.display())]
    Spec {
        driver: String,
        file: PathBuf,
        reason: String,
    },
    #[error("{TIMEOUT_ENV}={0:?}: a number of seconds from 1 on is expected")]
    Timeout(String),
    #[error("volume driver {driver:?} does not answer as a plugin does: {source}")]
    Activate { driver: String, source: ClientError },
    #[error("plugin {driver:?} keeps no volumes: it says that it is {}", found.join(", "))]
    NotVolumes { driver: String, found: Vec<String> },
    #[error("volume {volume}: driver {driver}: {source}")]
    Call {
        volume: String,
        driver: String,
        source: ClientError,
    },
    /// The plugin's own words.
    #[error("volume {volume}: {message}")]
    Refused { volume: String, message: String },
    #[error("volume driver {driver:?} answered what is no reply of a volume plugin: {text:?}")]
    Nonsense { driver: String, text: String },
    #[error("volume {volume}: driver {driver} answered without a mountpoint")]
    NoMountpoint { volume: String, driver: String },
}

impl VolumeError {
    /// Whether there is nobody who keeps volumes behind a plugin's name.
    pub fn is_nobody(&self) -> bool {
        match self {
            Self::NoDriver { .. } | Self::NotVolumes { .. } => true,
            Self::Activate { source, .. } => matches!(source, ClientError::Connect { .. }),
            _ => false,
        }
    }
}

/// The plugin directory.
#[derive(Debug, Clone)]
pub struct Plugins {
    dir: PathBuf,
    specs: Vec<PathBuf>,
}

impl Plugins {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            specs: discovery::SPEC_DIRS.map(PathBuf::from).into(),
        }
    }

    /// The driver of that name; empty means `local`. One that is not ours is asked whether it keeps
    /// volumes.
    ///
    /// # Errors
    /// [`VolumeError::NoDriver`] names the socket that is missing.
    pub fn driver(&self, name: &str) -> Result<Driver, VolumeError> {
        if is_local(name) {
            let socket = self.dir.join(LOCAL_SOCKET);
            if !socket.exists() {
                let driver = LOCAL.to_owned();
                return Err(VolumeError::NoDriver { driver, socket });
            }
            return Ok(Driver::at(LOCAL, socket, timeout()?));
        }
        self.plugin(name, timeout()?)
    }

    /// The plugin of that name, if it answers within five seconds, and each question as soon.
    ///
    /// # Errors
    /// As [`Self::driver`].
    pub fn driver_soon(&self, name: &str) -> Result<Driver, VolumeError> {
        self.plugin(name, timeout()?.min(SOON))
    }

    fn plugin(&self, name: &str, timeout: Duration) -> Result<Driver, VolumeError> {
        let socket = discovery::socket(&self.dir, &self.specs, name)?;
        let driver = Driver::at(name, socket, timeout);
        driver.activate()?;
        Ok(driver)
    }

    /// Names of all plugins that seem to be there, but for the daemon's own socket.
    pub fn names(&self) -> BTreeSet<String> {
        let mut names = discovery::names(&self.dir, &self.specs);
        names.remove(OWN);
        names
    }
}

/// How long a plugin may take for one answer.
fn timeout() -> Result<Duration, VolumeError> {
    let Some(text) = std::env::var_os(TIMEOUT_ENV) else {
        return Ok(TIMEOUT);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    match seconds.filter(|seconds| *seconds > 0) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(VolumeError::Timeout(text.to_string_lossy().into_owned())),
    }
}

/// One volume plugin.
#[derive(Debug, Clone)]
pub struct Driver {
    name: String,
    client: Client,
}

impl Driver {
    fn at(name: &str, socket: PathBuf, timeout: Duration) -> Self {
        Self {
            name: name.to_owned(),
            client: Client::new(socket).with_timeout(timeout),
        }
    }

    /// The handshake: what the plugin is.
    fn activate(&self) -> Result<(), VolumeError> {
        let failed = |source| VolumeError::Activate {
            driver: self.name.clone(),
            source,
        };
        let response = self
            .client
            .post_raw(ACTIVATE, &Request::default())
            .map_err(failed)?;
        let found = serde_json::from_slice::<Reply>(&response.body)
            .ok()
            .and_then(|reply| reply.implements)
            .ok_or_else(|| self.nonsense(&response.body))?;
        if found.iter().any(|what| what == VOLUME_DRIVER) {
            return Ok(());
        }
        let driver = self.name.clone();
        Err(VolumeError::NotVolumes { driver, found })
    }

    fn nonsense(&self, body: &[u8]) -> VolumeError {
        VolumeError::Nonsense {
            driver: self.name.clone(),
            text: String::from_utf8_lossy(body)
                .trim()
                .chars()
                .take(100)
                .collect(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates the volume; an existing one is kept.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn create(
        &self,
        volume: &str,
        options: BTreeMap<String, String>,
    ) -> Result<(), VolumeError> {
        let opts = (!options.is_empty()).then_some(options);
        self.call(
            CREATE,
            Request {
                opts,
                ..request(volume, "")
            },
        )
        .map(drop)
    }

    /// # Errors
    /// [`VolumeError::Refused`] when there is no such volume.
    pub fn get(&self, volume: &str) -> Result<PluginVolume, VolumeError> {
        let reply = self.call(GET, request(volume, ""))?;
        Ok(reply.volume.unwrap_or_else(|| PluginVolume {
            name: volume.to_owned(),
            ..PluginVolume::default()
        }))
    }

    /// All volumes that the plugin has.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn list(&self) -> Result<Vec<PluginVolume>, VolumeError> {
        let reply = self.call(LIST, Request::default())?;
        Ok(reply.volumes.unwrap_or_default())
    }

    /// `local`, or `global` when other hosts' plugins have the same volumes. A plugin that does not
    /// know the question has those of this host.
    pub fn scope(&self) -> String {
        let reply = self.call(CAPABILITIES, Request::default());
        let scope = reply.ok().and_then(|reply| reply.capabilities);
        scope.map_or_else(|| LOCAL.to_owned(), |capabilities| capabilities.scope)
    }

    /// Mounts the volume for `holder` and returns where. Again for the same holder is no error.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn mount(&self, volume: &str, holder: &str) -> Result<PathBuf, VolumeError> {
        let reply = self.call(MOUNT, request(volume, holder))?;
        let path = Path::new(&reply.mountpoint);
        if !path.is_absolute() {
            let (volume, driver) = (volume.to_owned(), self.name.clone());
            return Err(VolumeError::NoMountpoint { volume, driver });
        }
        Ok(path.to_owned())
    }

    /// Gives up `holder`'s mount of the volume.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn unmount(&self, volume: &str, holder: &str) -> Result<(), VolumeError> {
        self.call(UNMOUNT, request(volume, holder)).map(drop)
    }

    /// # Errors
    /// [`VolumeError::Refused`] when it is in use or gone.
    pub fn remove(&self, volume: &str) -> Result<(), VolumeError> {
        self.call(REMOVE, request(volume, "")).map(drop)
    }

    /// Where the volume is mounted now; empty when it is not.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub fn path(&self, volume: &str) -> Result<String, VolumeError> {
        Ok(self.call(PATH, request(volume, ""))?.mountpoint)
    }

    fn call(&self, verb: &str, request: Request) -> Result<Reply, VolumeError> {
        let failed = |source| VolumeError::Call {
            volume: request.name.clone(),
            driver: self.name.clone(),
            source,
        };
        let response = self.client.post_raw(verb, &request).map_err(failed)?;
        let is_success = (200..300).contains(&response.status);
        let reply = match serde_json::from_slice::<Reply>(&response.body) {
            Ok(reply) => reply,
            Err(_not_json) if response.body.is_empty() => Reply::default(),
            Err(_not_json) if is_success => {
                return Err(self.nonsense(&response.body));
            }
            // Some plugins tell an error in plain text.
            Err(_not_json) => Reply {
                err: String::from_utf8_lossy(&response.body)
                    .trim()
                    .chars()
                    .take(500)
                    .collect(),
                ..Reply::default()
            },
        };
        if reply.err.is_empty() && is_success {
            return Ok(reply);
        }
        let message = if reply.err.is_empty() {
            format!("driver {} answered {}", self.name, response.status)
        } else {
            reply.err
        };
        Err(VolumeError::Refused {
            volume: request.name,
            message,
        })
    }
}

fn request(volume: &str, holder: &str) -> Request {
    Request {
        name: volume.to_owned(),
        id: holder.to_owned(),
        opts: None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    use super::*;

    const VOLUMES: &str = r#"{"Implements":["VolumeDriver"]}"#;

    /// Answers one request after the other and hands back what was asked.
    fn answer(
        socket: &Path,
        replies: &'static [(u16, &'static str)],
    ) -> thread::JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            let mut asked = Vec::new();
            for (status, reply) in replies {
                let (stream, _) = listener.accept().unwrap();
                asked.push(read_request(&stream));
                let length = reply.len();
                let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n");
                let answer = format!("{head}{reply}");
                (&stream).write_all(answer.as_bytes()).unwrap();
            }
            asked
        })
    }

    fn read_request(stream: &UnixStream) -> String {
        let mut reader = BufReader::new(stream);
        let (mut asked, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            if asked.is_empty() {
                asked = line.trim().to_owned();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        format!("{asked} {}", String::from_utf8(body).unwrap())
    }

    #[test]
    fn mounts_by_holder_through_the_daemons_own_driver() {
        let dir = tempfile::tempdir().unwrap();
        let reply = &[(200, r#"{"Mountpoint":"/v/_data","Err":""}"#)];
        let server = answer(&dir.path().join("hawser.sock"), reply);
        let driver = Plugins::new(dir.path()).driver("").unwrap();
        assert_eq!(driver.mount("data", "c1").unwrap(), Path::new("/v/_data"));
        assert_eq!(
            server.join().unwrap(),
            [r#"POST /VolumeDriver.Mount HTTP/1.1 {"Name":"data","ID":"c1"}"#]
        );
    }

    /// What a plugin that is one says to a question about a volume.
    fn got(replies: &'static [(u16, &'static str)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let server = answer(&dir.path().join("nfs.sock"), replies);
        let driver = Plugins::new(dir.path()).driver("nfs");
        let error = driver.and_then(|driver| driver.get("data")).unwrap_err();
        server.join().unwrap();
        error.to_string()
    }

    #[test]
    fn a_plugins_refusal_keeps_its_words() {
        for error in [
            got(&[(200, VOLUMES), (200, r#"{"Err":"no such volume"}"#)]),
            got(&[(200, VOLUMES), (500, "no such volume\n")]),
        ] {
            assert_eq!(error, "volume data: no such volume");
        }
    }

    #[test]
    fn nonsense_is_an_error_that_names_the_plugin() {
        let page = got(&[(200, VOLUMES), (200, "<html>welcome</html>")]);
        assert!(page.contains("nfs") && page.contains("welcome"), "{page}");
        let other = got(&[(200, r#"{"Implements":["NetworkDriver"]}"#)]);
        assert!(other.contains("keeps no volumes"), "{other}");
        let none = got(&[(200, "{}")]);
        assert!(none.contains("no reply"), "{none}");
        let silent = got(&[(200, VOLUMES), (500, "")]);
        assert!(silent.contains("500"), "{silent}");
    }

    #[test]
    fn a_driver_that_is_not_there_is_named_with_its_socket() {
        let plugins = Plugins::new("/nonexistent");
        for name in ["nfs", "../x"] {
            let error = plugins.driver(name).unwrap_err().to_string();
            assert!(
                error.contains(&format!("/nonexistent/{name}.sock")),
                "{error}"
            );
        }
    }
}
