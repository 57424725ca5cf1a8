//! `hawser image pull`.

use api::id::Digest;
use api::path::LAYERS;
use api::reference::{Reference, Selector, names_version};
use api::storage::{Image, ImageCreate, Layer};
use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::event;
use crate::registry::download::BlobReader;
use crate::registry::known::{Known, Memory};
use crate::registry::manifest::{Content, Descriptor, Document, Manifest, Packing, Platform};
use crate::registry::{RegistryError, Repository};

use super::config::ImageConfig;
use super::progress::{Progress, Step, Voice};
use super::stack::{self, Stack};
use super::ways::{Errand, over_ways};

/// Docker's bound, and kind to registries.
const AT_ONCE: usize = 3;
const MAX_CONFIG: u64 = 8 << 20;

/// `hawser image pull`.
#[derive(Debug, Clone, Args)]
pub struct PullFlags {
    /// Pull all tags of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Pull for another platform than this host's, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Print the image's full name only
    #[arg(short, long)]
    pub quiet: bool,
    /// Taken for scripts; signatures are never asked for
    #[arg(long, hide = true)]
    pub disable_content_trust: bool,
    /// Image to pull
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub reference: String,
}

/// # Errors
/// The registry does not have it or cannot be reached, or the daemon refuses it.
pub fn pull(context: &Context, flags: &PullFlags) -> Result<i32, CliError> {
    let voice = if flags.quiet {
        Voice::Quiet
    } else {
        Voice::Out
    };
    let reference = Reference::parse(&flags.reference)?;
    let platform = flags.platform.as_deref().map(Platform::parse).transpose()?;
    let is_bare = !names_version(&flags.reference);
    if flags.all_tags {
        if !is_bare {
            return Err(CliError::Conflict("tag can't be used with --all-tags/-a"));
        }
        for tag in tags(context, &reference)? {
            fetch(
                context,
                &reference.with_tag(&tag)?,
                platform.as_ref(),
                voice,
            )?;
        }
        output::line(full_repository(&reference))?;
        return Ok(0);
    }
    if is_bare {
        voice.say("Using default tag: latest");
    }
    fetch(context, &reference, platform.as_ref(), voice)?;
    output::line(full_name(&reference))?;
    Ok(0)
}

fn full_repository(reference: &Reference) -> String {
    format!("{}/{}", reference.host(), reference.path())
}

/// With the registry that goes without saying.
fn full_name(reference: &Reference) -> String {
    let mark = match reference.selector() {
        Selector::Tag(_) => ':',
        Selector::Digest(_) => '@',
    };
    format!(
        "{}{mark}{}",
        full_repository(reference),
        reference.selector()
    )
}

/// Pulls an image by the first way to its registry that leads there.
///
/// # Errors
/// As [`pull`]: those of the last way.
pub(crate) fn fetch(
    context: &Context,
    reference: &Reference,
    platform: Option<&Platform>,
    voice: Voice,
) -> Result<Image, CliError> {
    let scopes = vec![format!("repository:{}:pull", reference.path())];
    let (path, host) = (reference.path(), reference.host());
    let place = (host, path.as_str());
    over_ways(context, place, &scopes, Errand::Pull, |repository| {
        Pull {
            context,
            repository,
            reference,
            platform,
            voice,
        }
        .run()
    })
}

/// The digest that the registry has the image by now.
///
/// # Errors
/// As [`pull`].
pub(crate) fn digest(context: &Context, reference: &Reference) -> Result<Digest, CliError> {
    let scopes = vec![format!("repository:{}:pull", reference.path())];
    let (path, host) = (reference.path(), reference.host());
    let place = (host, path.as_str());
    over_ways(context, place, &scopes, Errand::Pull, |repository| {
        Ok(repository.manifest(reference.selector())?.digest)
    })
}

fn tags(context: &Context, reference: &Reference) -> Result<Vec<String>, CliError> {
    let scopes = vec![format!("repository:{}:pull", reference.path())];
    let (path, host) = (reference.path(), reference.host());
    let place = (host, path.as_str());
    over_ways(context, place, &scopes, Errand::Pull, |repository| {
        Ok(repository.tags()?)
    })
}

struct Pull<'p> {
    context: &'p Context,
    repository: &'p Repository,
    reference: &'p Reference,
    platform: Option<&'p Platform>,
    voice: Voice,
}

impl Pull<'_> {
    fn run(&self) -> Result<Image, CliError> {
        let top = self.repository.manifest(self.reference.selector())?;
        self.voice.say(&format!(
            "{}: Pulling from {}",
            self.reference.selector(),
            self.reference.path()
        ));
        let manifest = self.image_of(&top)?;
        let config = self.config(&manifest)?;
        let diff_ids = diff_ids(&config, &manifest, self.reference)?;
        let before = self.context.image(&self.reference.to_string()).ok();
        let digest = self.reference.at_digest(top.digest.clone());
        let request = ImageCreate {
            config,
            tags: vec![self.reference.to_string(), digest.to_string()],
        };
        let image = stack::store(self.context, &request, || self.layers(&manifest, &diff_ids))?;
        self.voice.say(&format!("Digest: {}", top.digest));
        let is_new = before.is_none_or(|before| before.id != image.id);
        self.voice.say(&match is_new {
            true => format!("Status: Downloaded newer image for {}", self.reference),
            false => format!("Status: Image is up to date for {}", self.reference),
        });
        let name = self.reference.to_string();
        self.context
            .tell(&event::of_image("pull", &name, self.reference.repository()));
        Ok(image)
    }

    /// The manifest itself, or that of an index for the platform.
    fn image_of(&self, top: &Document) -> Result<Manifest, CliError> {
        let host = self.repository.host();
        let name = self.reference.to_string();
        let index = match top.content(host, &name)? {
            Content::Image(manifest) => return Ok(manifest),
            Content::Index(index) => index,
        };
        let platform = self.platform.cloned().unwrap_or_else(Platform::host);
        let chosen = platform
            .choose(&index)
            .ok_or_else(|| RegistryError::Platform {
                reference: name.clone(),
                platform: platform.to_string(),
                known: platforms(&index),
            })?;
        let document = self
            .repository
            .manifest(&Selector::Digest(chosen.digest.clone()))?;
        match document.content(host, &name)? {
            Content::Image(manifest) => Ok(manifest),
            Content::Index(_) => Err(RegistryError::NoImage {
                reference: name,
                kind: "an index within an index".to_owned(),
            }
            .into()),
        }
    }

    fn config(&self, manifest: &Manifest) -> Result<String, CliError> {
        let descriptor = &manifest.config;
        let bytes = self
            .repository
            .small_blob(descriptor, "the configuration", MAX_CONFIG)?;
        String::from_utf8(bytes).map_err(|_not_text| {
            RegistryError::NoImage {
                reference: self.reference.to_string(),
                kind: "one whose configuration is no text".to_owned(),
            }
            .into()
        })
    }

    fn layers(&self, manifest: &Manifest, diff_ids: &[Digest]) -> Result<(), CliError> {
        let names = manifest.layers.iter().map(short).collect();
        let progress = Progress::new(self.voice, names);
        let stack = Stack::of(diff_ids.iter());
        let present: Vec<Layer> = self.context.client().get(LAYERS)?;
        let is_present = |number| {
            let chain = stack.chain(number);
            present.iter().any(|layer| Some(&layer.chain_id) == chain)
        };
        let memory = Memory::new(std::path::Path::new(&self.context.info()?.state_dir));
        stack.send_all(AT_ONCE, |number, route| {
            let descriptor = &manifest.layers[number];
            if is_present(number) {
                progress.set(number, Step::Word("Already exists"));
            } else {
                self.layer(descriptor, route, &|step| progress.set(number, step))?;
            }
            memory.remember(&diff_ids[number], self.known(descriptor));
            Ok(())
        })
    }

    /// Streams a layer into the store, which keeps nothing of one that does not end well.
    fn layer(
        &self,
        descriptor: &Descriptor,
        route: &str,
        tell: &(dyn Fn(Step) + Sync),
    ) -> Result<(), CliError> {
        let seen = |done| {
            tell(match done {
                done if done < descriptor.size => {
                    Step::Moving("Downloading", done, descriptor.size)
                }
                _ => Step::Word("Download complete"),
            });
        };
        tell(Step::Word("Pulling fs layer"));
        let mut blob = BlobReader::new(self.repository, descriptor, &seen);
        let sent = self.context.client().post_stream::<Layer>(route, &mut blob);
        if let Some(failure) = blob.take_failure() {
            return Err(failure.into());
        }
        sent?;
        tell(Step::Word("Pull complete"));
        Ok(())
    }

    fn known(&self, descriptor: &Descriptor) -> Known {
        Known {
            digest: descriptor.digest.clone(),
            size: descriptor.size,
            packing: Packing::of(&descriptor.media_type),
            host: self.reference.host().to_owned(),
            path: self.reference.path(),
        }
    }
}

/// The layers' own digests, which the configuration has.
///
/// # Errors
/// It is none of an image, or of another number of layers.
pub(crate) fn diff_ids(
    config: &str,
    manifest: &Manifest,
    reference: &Reference,
) -> Result<Vec<Digest>, CliError> {
    let refused = |kind: String| RegistryError::NoImage {
        reference: reference.to_string(),
        kind,
    };
    let parsed = ImageConfig::parse(config).map_err(|source| CliError::ImageConfig {
        reference: reference.to_string(),
        source,
    })?;
    let diff_ids = parsed.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let kind = format!(
            "one of {} layers whose configuration names {}",
            manifest.layers.len(),
            diff_ids.len()
        );
        return Err(refused(kind).into());
    }
    diff_ids
        .iter()
        .map(|text| {
            Digest::parse(text)
                .map_err(|_invalid| refused(format!("one with a layer {text:?}")).into())
        })
        .collect()
}

/// Whom an index has images for.
pub(crate) fn platforms(index: &[Descriptor]) -> String {
    let known: Vec<String> = index
        .iter()
        .filter_map(|descriptor| descriptor.platform.as_ref())
        .filter(|platform| platform.os != "unknown")
        .map(|platform| platform.to_string().escape_debug().to_string())
        .collect();
    known.join(", ")
}

/// What listings show of a blob.
pub(super) fn short(descriptor: &Descriptor) -> String {
    descriptor.digest.hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_name_has_the_registry() {
        let full = |text| full_name(&Reference::parse(text).unwrap());
        assert_eq!(full("web"), "docker.io/library/web:latest");
        assert_eq!(full("host:5000/a/web:2"), "host:5000/a/web:2");
    }
}
