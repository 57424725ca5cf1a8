//! Manifests and indexes: Docker's (version 2, schema 2) and OCI's, which differ in names only.

use std::fmt;

use api::id::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::RegistryError;

/// The specification's advice for registries, and so for clients.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// More layers than any storage driver can stack.
const MAX_LAYERS: usize = 1000;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// What a registry may answer with.
pub const ACCEPTED: [&str; 4] = [OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST];

pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A manifest or an index as a registry gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub bytes: Vec<u8>,
    pub media_type: String,
    pub digest: Digest,
}

/// A blob or a manifest that another one names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub variant: Option<String>,
}

/// The parts of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// What a document turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Image(Manifest),
    /// One image for each platform.
    Index(Vec<Descriptor>),
}

impl Document {
    /// What the document says of itself goes before what the registry says of it.
    pub fn new(bytes: Vec<u8>, header: &str, digest: Digest) -> Self {
        let own: Option<Value> = serde_json::from_slice(&bytes).ok();
        let own = own
            .as_ref()
            .and_then(|json| json.get("mediaType")?.as_str());
        let header = header.split(';').next().unwrap_or_default().trim();
        Self {
            media_type: own.unwrap_or(header).to_owned(),
            bytes,
            digest,
        }
    }

    /// # Errors
    /// It describes no image for containers.
    pub fn content(&self, host: &str, reference: &str) -> Result<Content, RegistryError> {
        #[derive(Deserialize)]
        struct Index {
            manifests: Vec<Descriptor>,
        }
        let json_error = |source| RegistryError::Json {
            host: host.to_owned(),
            what: "the manifest",
            source,
        };
        let refused = |kind: &str| RegistryError::NoImage {
            reference: reference.to_owned(),
            kind: kind.escape_debug().to_string(),
        };
        match self.media_type.as_str() {
            OCI_INDEX | DOCKER_INDEX => {
                let index: Index = serde_json::from_slice(&self.bytes).map_err(json_error)?;
                Ok(Content::Index(index.manifests))
            }
            OCI_MANIFEST | DOCKER_MANIFEST => {
                let manifest: Manifest = serde_json::from_slice(&self.bytes).map_err(json_error)?;
                match manifest.config.media_type.as_str() {
                    OCI_CONFIG | DOCKER_CONFIG if manifest.layers.len() <= MAX_LAYERS => {
                        Ok(Content::Image(manifest))
                    }
                    OCI_CONFIG | DOCKER_CONFIG => Err(refused("a stack of too many layers")),
                    other => Err(refused(other)),
                }
            }
            old if old.starts_with("application/vnd.docker.distribution.manifest.v1") => Err(
                refused("a manifest of schema 1, which is no longer used: push it anew"),
            ),
            other => Err(refused(other)),
        }
    }
}

impl Platform {
    /// This host's.
    pub fn host() -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: api::daemon::host_architecture().to_owned(),
            variant: None,
        }
    }

    /// # Errors
    /// [`RegistryError::BadPlatform`].
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let bad = || RegistryError::BadPlatform(text.to_owned());
        let lower = text.to_ascii_lowercase();
        let mut parts = lower.split('/');
        let (os, architecture) = match (parts.next(), parts.next()) {
            (Some("linux"), None) => return Ok(Self::host()),
            (Some(architecture), None) => ("linux", architecture),
            (Some(os), Some(architecture)) => (os, architecture),
            (None, _) => return Err(bad()),
        };
        let is_word = |word: &str| {
            word.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
                && word.starts_with(|first: char| first.is_ascii_alphanumeric())
        };
        let variant = parts.next();
        let is_good = [Some(os), Some(architecture), variant]
            .into_iter()
            .flatten()
            .all(is_word);
        if !is_good || parts.next().is_some() {
            return Err(bad());
        }
        let (architecture, usual) = match architecture {
            "x86_64" | "x86-64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "armhf" => ("arm", Some("v7")),
            "armel" => ("arm", Some("v6")),
            other => (other, None),
        };
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.or(usual).map(str::to_owned),
        })
    }

    /// The best of what an index has: of several for the architecture one with the variant asked
    /// for, else one without, else the first.
    pub fn choose<'d>(&self, descriptors: &'d [Descriptor]) -> Option<&'d Descriptor> {
        let fits = |descriptor: &&Descriptor| {
            let platform = descriptor.platform.as_ref();
            platform.is_some_and(|has| has.os == self.os && has.architecture == self.architecture)
        };
        let variant = |descriptor: &Descriptor| descriptor.platform.as_ref()?.variant.clone();
        let fitting: Vec<&Descriptor> = descriptors.iter().filter(fits).collect();
        if let Some(wanted) = &self.variant {
            // v8 is what arm64 means without a variant.
            let usual = (self.architecture == "arm64").then_some("v8");
            return fitting.into_iter().find(|descriptor| {
                variant(descriptor).as_deref().or(usual) == Some(wanted.as_str())
            });
        }
        let plain = fitting
            .iter()
            .find(|descriptor| variant(descriptor).is_none());
        plain.or(fitting.first()).copied()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// How a layer's blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    None,
    Gzip,
    Zstd,
}

impl Packing {
    /// By the media type; Docker's own layers are gzip.
    pub fn of(media_type: &str) -> Self {
        match media_type {
            zstd if zstd.ends_with("zstd") => Self::Zstd,
            tar if tar.ends_with(".tar") => Self::None,
            _ => Self::Gzip,
        }
    }

    pub fn media_type(self) -> String {
        let suffix = match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        };
        format!("{OCI_LAYER}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::from_sha256([byte; 32])
    }

    fn document(json: &str, header: &str) -> Document {
        Document::new(json.as_bytes().to_vec(), header, digest(0))
    }

    fn descriptor(byte: u8, platform: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: digest(byte),
            size: 1,
            platform: platform.map(|text| {
                let mut parts = text.split('/').map(str::to_owned);
                Platform {
                    os: parts.next().unwrap(),
                    architecture: parts.next().unwrap(),
                    variant: parts.next(),
                }
            }),
        }
    }

    #[test]
    fn a_document_knows_its_own_kind_best() {
        let config = format!(
            r#"{{"mediaType": "{OCI_CONFIG}", "digest": "{}", "size": 2}}"#,
            digest(1)
        );
        let own =
            format!(r#"{{"mediaType": "{DOCKER_MANIFEST}", "config": {config}, "layers": []}}"#);
        assert!(matches!(
            document(&own, "text/plain").content("h", "r"),
            Ok(Content::Image(_))
        ));
        let header = format!(r#"{{"config": {config}, "layers": []}}"#);
        let typed = format!("{OCI_MANIFEST}; charset=utf-8");
        assert!(matches!(
            document(&header, &typed).content("h", "r"),
            Ok(Content::Image(_))
        ));
    }

    #[test]
    fn what_is_no_image_is_refused_in_words() {
        let artifact = format!(
            r#"{{"config": {{"mediaType": "application/vnd.cncf.helm.config.v1+json",
                "digest": "{}", "size": 2}}, "layers": []}}"#,
            digest(1)
        );
        for (json, header, words) in [
            (artifact.as_str(), OCI_MANIFEST, "helm"),
            (
                "{}",
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                "schema 1",
            ),
            ("<html>", "text/html", "text/html"),
            (r#"{"manifests": 3}"#, OCI_INDEX, "cannot be read"),
            (
                r#"{"manifests": [{"mediaType": "x", "digest": "sha256:../../x", "size": 1}]}"#,
                OCI_INDEX,
                "cannot be read",
            ),
            (
                r#"{"manifests": [{"mediaType": "x", "digest": "sha512:00", "size": -1}]}"#,
                DOCKER_INDEX,
                "cannot be read",
            ),
        ] {
            let error = document(json, header)
                .content("h", "r")
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_platform_picks_from_an_index() {
        let index = [
            descriptor(1, Some("linux/amd64")),
            descriptor(2, Some("linux/arm/v6")),
            descriptor(3, Some("linux/arm/v7")),
            descriptor(4, Some("linux/arm64/v8")),
            descriptor(5, Some("windows/amd64")),
            descriptor(6, Some("unknown/unknown")),
            descriptor(7, None),
        ];
        for (platform, expected) in [
            ("amd64", Some(1)),
            ("linux/x86_64", Some(1)),
            ("linux/arm", Some(2)),
            ("linux/arm/v7", Some(3)),
            ("armhf", Some(3)),
            ("linux/arm64", Some(4)),
            ("aarch64/v8", None),
            ("linux/arm64/v8", Some(4)),
            ("windows/amd64", Some(5)),
            ("linux/s390x", None),
        ] {
            let platform = Platform::parse(platform).unwrap();
            let chosen = platform
                .choose(&index)
                .map(|descriptor| descriptor.digest.clone());
            assert_eq!(chosen, expected.map(digest), "{platform}");
        }
    }

    #[test]
    fn platforms_are_words() {
        for text in [
            "",
            "linux/",
            "/amd64",
            "linux/amd64/v1/x",
            "li nux/amd64",
            "linux/../x",
        ] {
            assert!(Platform::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Platform::parse("linux").unwrap(), Platform::host());
    }

    #[test]
    fn packing_follows_the_media_type() {
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", Packing::None),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Packing::Gzip),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Packing::Zstd),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Packing::Gzip,
            ),
        ] {
            assert_eq!(Packing::of(media_type), expected, "{media_type}");
        }
    }
}
