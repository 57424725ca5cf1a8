//! The Docker volume-plugin protocol, as a function from request to reply.
//!
//! The body is read as JSON whatever its media type is called, and an empty one as `{}`. Every verb
//! is idempotent, because clients repeat them when a reply is lost: `Create` of what exists,
//! `Remove` and `Unmount` of what does not, and `Mount` with an id that has mounted, all succeed.
//! `Get`, `List`, `Path` and `Capabilities` read memory and answer while a mount hangs.

use api::storage::{Volume, VolumeCreate};
use api::volume_plugin::{self as protocol, Capabilities, PluginVolume, Reply, Request};

use crate::Storaged;
use crate::volume::VolumeError;

impl Storaged {
    /// Answers one call: HTTP status and body.
    pub fn plugin_call(&self, path: &str, body: &[u8]) -> (u16, Reply) {
        match self.answer(path, body) {
            Ok(reply) => (200, reply),
            Err(refusal) => (
                refusal.status,
                Reply {
                    err: refusal.message,
                    ..Reply::default()
                },
            ),
        }
    }

    fn answer(&self, path: &str, body: &[u8]) -> Result<Reply, Refusal> {
        let Request { name, id, opts } = parse(body)?;
        match path {
            protocol::ACTIVATE => Ok(Reply {
                implements: Some(vec!["VolumeDriver".to_owned()]),
                ..Reply::default()
            }),
            // The data is on this host and nowhere else.
            protocol::CAPABILITIES => Ok(Reply {
                capabilities: Some(Capabilities {
                    scope: "local".to_owned(),
                }),
                ..Reply::default()
            }),
            protocol::CREATE => {
                let driver_opts = opts.unwrap_or_default();
                let request = VolumeCreate {
                    name: required(name)?,
                    driver_opts,
                    ..VolumeCreate::default()
                };
                self.create_volume(request)?;
                Ok(Reply::default())
            }
            protocol::GET => {
                let volume = self.volume(&required(name)?)?;
                Ok(Reply {
                    volume: Some(describe(volume)),
                    ..Reply::default()
                })
            }
            protocol::LIST => {
                let volumes = self.volumes().into_iter().map(describe).collect();
                Ok(Reply {
                    volumes: Some(volumes),
                    ..Reply::default()
                })
            }
            protocol::PATH => Ok(at(self.volume(&required(name)?)?.mountpoint)),
            protocol::MOUNT => {
                let mountpoint = self.mount_volume(&required(name)?, &id)?;
                Ok(at(mountpoint.to_string_lossy().into_owned()))
            }
            protocol::UNMOUNT => {
                self.unmount_volume(&required(name)?, &id)?;
                Ok(Reply::default())
            }
            protocol::REMOVE => match self.remove_volume(&required(name)?) {
                Ok(()) | Err(VolumeError::NotFound(_)) => Ok(Reply::default()),
                Err(error) => Err(error.into()),
            },
            _ => Err(Refusal {
                status: 404,
                message: format!("unknown call {path}"),
            }),
        }
    }
}

struct Refusal {
    status: u16,
    message: String,
}

impl From<VolumeError> for Refusal {
    fn from(error: VolumeError) -> Self {
        // What clients expect whatever the reason.
        Self {
            status: 500,
            message: error.to_string(),
        }
    }
}

fn parse(body: &[u8]) -> Result<Request, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(Request::default());
    }
    serde_json::from_slice(body).map_err(|error| Refusal {
        status: 400,
        message: format!("the request is not a JSON object of the volume-plugin protocol: {error}"),
    })
}

fn required(name: String) -> Result<String, Refusal> {
    if name.is_empty() {
        return Err(Refusal {
            status: 400,
            message: "the request names no volume".to_owned(),
        });
    }
    Ok(name)
}

fn at(mountpoint: String) -> Reply {
    Reply {
        mountpoint,
        ..Reply::default()
    }
}

fn describe(volume: Volume) -> PluginVolume {
    PluginVolume {
        name: volume.name.to_string(),
        mountpoint: volume.mountpoint,
        created_at: volume.created_at,
        status: Default::default(),
    }
}
