//! The client's side of the Docker volume-plugin protocol (wire types in [`api::volume_plugin`]).
//!
//! A driver is a socket `NAME.sock` in the plugin directory; `local` is the daemon's own,
//! `hawser.sock`. Every mount has an id, the container's, so that a plugin can tell who holds what
//! and a repeated unmount changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::Client;
use api::client::ClientError;
use api::volume_plugin::{CREATE, GET, MOUNT, PATH, PluginVolume, REMOVE, Reply, Request, UNMOUNT};

/// The driver that the daemon itself is.
pub const LOCAL: &str = "local";
const LOCAL_SOCKET: &str = "hawser.sock";
/// A plugin may have to mount something over a network; one that needs longer is taken for dead.
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(
        "volume driver {driver:?} not found: no {} (start its plugin, or choose the driver local)",
        socket.display()
    )]
    NoDriver { driver: String, socket: PathBuf },
    #[error("volume {volume}: driver {driver}: {source}")]
    Call {
        volume: String,
        driver: String,
        source: ClientError,
    },
    /// The plugin's own words.
    #[error("volume {volume}: {message}")]
    Refused { volume: String, message: String },
    #[error("volume {volume}: driver {driver} answered without a mountpoint")]
    NoMountpoint { volume: String, driver: String },
}

/// The plugin directory.
#[derive(Debug, Clone)]
pub struct Plugins {
    dir: PathBuf,
}

impl Plugins {
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The driver of that name; empty means `local`.
    ///
    /// # Errors
    /// [`VolumeError::NoDriver`] names the socket that is missing.
    pub fn driver(&self, name: &str) -> Result<Driver, VolumeError> {
        let name = if name.is_empty() { LOCAL } else { name };
        let file = if name == LOCAL {
            LOCAL_SOCKET.to_owned()
        } else {
            format!("{name}.sock")
        };
        let socket = self.dir.join(file);
        if name.contains('/') || !socket.exists() {
            return Err(VolumeError::NoDriver {
                driver: name.to_owned(),
                socket,
            });
        }
        let client = Client::new(socket).with_timeout(TIMEOUT);
        Ok(Driver {
            name: name.to_owned(),
            client,
        })
    }
}

/// One volume plugin.
#[derive(Debug, Clone)]
pub struct Driver {
    name: String,
    client: Client,
}

impl Driver {
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
        let reply = match serde_json::from_slice::<Reply>(&response.body) {
            Ok(reply) => reply,
            // Some plugins answer an error, or nothing, in plain text.
            Err(_not_json) => Reply {
                err: String::from_utf8_lossy(&response.body).trim().to_owned(),
                ..Reply::default()
            },
        };
        if reply.err.is_empty() && (200..300).contains(&response.status) {
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
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Answers one request with `reply` and hands back what was asked.
    fn answer(socket: &Path, status: u16, reply: &'static str) -> thread::JoinHandle<String> {
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(&stream);
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
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n",
                reply.len()
            );
            (&stream)
                .write_all(format!("{head}{reply}").as_bytes())
                .unwrap();
            format!("{asked} {}", String::from_utf8(body).unwrap())
        })
    }

    #[test]
    fn mounts_by_holder_through_the_daemons_own_driver() {
        let dir = tempfile::tempdir().unwrap();
        let reply = r#"{"Mountpoint":"/v/_data","Err":""}"#;
        let server = answer(&dir.path().join("hawser.sock"), 200, reply);
        let driver = Plugins::new(dir.path()).driver("").unwrap();
        assert_eq!(driver.mount("data", "c1").unwrap(), Path::new("/v/_data"));
        assert_eq!(
            server.join().unwrap(),
            r#"POST /VolumeDriver.Mount HTTP/1.1 {"Name":"data","ID":"c1"}"#
        );
    }

    #[test]
    fn a_plugins_refusal_keeps_its_words() {
        for (status, reply) in [
            (200, r#"{"Err":"no such volume"}"#),
            (500, "no such volume\n"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let server = answer(&dir.path().join("nfs.sock"), status, reply);
            let driver = Plugins::new(dir.path()).driver("nfs").unwrap();
            let error = driver.get("data").unwrap_err().to_string();
            assert_eq!(error, "volume data: no such volume");
            server.join().unwrap();
        }
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
