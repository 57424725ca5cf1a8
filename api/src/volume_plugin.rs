//! The Docker volume-plugin protocol, version 1: every call is a `POST` of JSON to
//! `/VolumeDriver.…` on the plugin's socket.
//!
//! Source: the Docker Engine "Volume plugin protocol" page. Clients differ: dockerd sends no
//! `Content-Type`, podman announces v1.1; a server reads the body as JSON whatever it is called.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Media type of replies.
pub const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

pub const ACTIVATE: &str = "/Plugin.Activate";
pub const CAPABILITIES: &str = "/VolumeDriver.Capabilities";
pub const CREATE: &str = "/VolumeDriver.Create";
pub const GET: &str = "/VolumeDriver.Get";
pub const LIST: &str = "/VolumeDriver.List";
pub const MOUNT: &str = "/VolumeDriver.Mount";
pub const PATH: &str = "/VolumeDriver.Path";
pub const REMOVE: &str = "/VolumeDriver.Remove";
pub const UNMOUNT: &str = "/VolumeDriver.Unmount";

/// Body of every request; each verb uses what it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Request {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Who mounts: one holder of the volume.
    #[serde(rename = "ID", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Docker sends `null` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opts: Option<BTreeMap<String, String>>,
}

/// Body of every reply; each verb fills what it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Reply {
    /// Empty on success.
    pub err: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mountpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<PluginVolume>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<PluginVolume>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub implements: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PluginVolume {
    pub name: String,
    pub mountpoint: String,
    pub created_at: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub status: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Capabilities {
    /// `local` or `global`.
    pub scope: String,
}
