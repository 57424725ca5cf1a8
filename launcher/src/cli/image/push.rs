//! `hawser image push`.

use std::collections::BTreeSet;
use std::io::{self, PipeWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use api::id::Digest;
use api::path::{LAYER_ARCHIVE, LAYERS};
use api::reference::{Reference, Selector, names_version};
use api::storage::{Image, ImageCreate, Layer};
use clap::Args;
use serde_json::json;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::event;
use crate::registry::Repository;
use crate::registry::known::{Known, Memory};
use crate::registry::manifest::{Descriptor, OCI_CONFIG, OCI_MANIFEST, Packing};

use super::progress::{Progress, Step, Voice};
use super::stack::Stack;
use super::ways::{Errand, over_ways};

/// Compressing takes a core for each.
const AT_ONCE: usize = 3;
const MAX_ATTEMPTS: usize = 3;

/// `hawser image push`.
#[derive(Debug, Clone, Args)]
pub struct PushFlags {
    /// Push all tags of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Print the image's name only
    #[arg(short, long)]
    pub quiet: bool,
    /// Taken for scripts; images are never signed
    #[arg(long, hide = true)]
    pub disable_content_trust: bool,
    /// Image to push; its name says where to
    #[arg(value_name = "NAME[:TAG]")]
    pub reference: String,
}

/// # Errors
/// There is no such image, or the registry refuses it or cannot be reached.
pub fn push(context: &Context, flags: &PushFlags) -> Result<i32, CliError> {
    let voice = if flags.quiet {
        Voice::Quiet
    } else {
        Voice::Out
    };
    let typed = Reference::parse(&flags.reference)?;
    if matches!(typed.selector(), Selector::Digest(_)) {
        return Err(CliError::Conflict("cannot push a digest reference"));
    }
    let is_bare = !names_version(&flags.reference);
    if flags.all_tags && !is_bare {
        return Err(CliError::Conflict("tag can't be used with --all-tags/-a"));
    }
    let references = if flags.all_tags {
        all_tags(context, &typed)?
    } else {
        if is_bare {
            voice.say("Using default tag: latest");
        }
        vec![typed.clone()]
    };
    let loads = loads(context, references)?;
    let memory = Memory::new(Path::new(&context.info()?.state_dir));
    voice.say(&format!(
        "The push refers to repository [{}/{}]",
        typed.host(),
        typed.path()
    ));
    let scopes = scopes(&typed, &loads, &memory);
    let path = typed.path();
    let place = (typed.host(), path.as_str());
    over_ways(context, place, &scopes, Errand::Push, |repository| {
        loads
            .iter()
            .try_for_each(|load| load.send(context, repository, &memory, voice))
    })?;
    if flags.quiet {
        output::line(&typed)?;
    }
    Ok(0)
}

fn all_tags(context: &Context, typed: &Reference) -> Result<Vec<Reference>, CliError> {
    let images: Vec<Image> = context.client().get(api::path::IMAGES)?;
    let tags = images.iter().flat_map(|image| &image.tags);
    let references: Vec<Reference> = tags
        .filter_map(|tag| Reference::parse(tag).ok())
        .filter(|reference| reference.repository() == typed.repository())
        .collect();
    if references.is_empty() {
        return Err(CliError::NotTagged(typed.repository().to_owned()));
    }
    Ok(references)
}

/// What is sent under one tag.
struct Load {
    reference: Reference,
    image: Image,
    /// Lowest first.
    layers: Vec<Layer>,
}

/// All of it is there before anything is sent.
fn loads(context: &Context, references: Vec<Reference>) -> Result<Vec<Load>, CliError> {
    let stored: Vec<Layer> = context.client().get(LAYERS)?;
    let load = |reference: Reference| {
        let image = match context.image(&reference.to_string()) {
            Err(CliError::Client(error)) if error.is_not_found() => {
                return Err(CliError::NotTagged(reference.to_string()));
            }
            found => found?,
        };
        let layers = chain(&stored, &image)?;
        Ok(Load {
            reference,
            image,
            layers,
        })
    };
    references.into_iter().map(load).collect()
}

/// Lowest first.
fn chain(stored: &[Layer], image: &Image) -> Result<Vec<Layer>, CliError> {
    let mut chain = Vec::new();
    let mut at = image.chain_id.clone();
    while let Some(id) = at {
        let layer = stored.iter().find(|layer| layer.chain_id == id);
        let layer = layer.ok_or_else(|| CliError::NoObject(id.to_string()))?;
        at = layer.parent.clone();
        chain.push(layer.clone());
    }
    chain.reverse();
    Ok(chain)
}

/// Layers that further repositories of the registry have are taken over from there: to read from
/// them takes a leave of its own.
fn scopes(typed: &Reference, loads: &[Load], memory: &Memory) -> Vec<String> {
    let layers = loads.iter().flat_map(|load| &load.layers);
    let sources: BTreeSet<String> = layers
        .filter_map(|layer| {
            let mut known = memory.of(&layer.diff_id).into_iter();
            known.find(|known| is_elsewhere(known, typed))
        })
        .map(|known| format!("repository:{}:pull", known.path))
        .collect();
    let own = format!("repository:{}:pull,push", typed.path());
    [own].into_iter().chain(sources).collect()
}

fn is_elsewhere(known: &Known, reference: &Reference) -> bool {
    known.host == reference.host() && known.path != reference.path()
}

impl Load {
    fn send(
        &self,
        context: &Context,
        repository: &Repository,
        memory: &Memory,
        voice: Voice,
    ) -> Result<(), CliError> {
        let Self {
            reference,
            image,
            layers,
        } = self;
        let names = layers
            .iter()
            .map(|layer| layer.diff_id.hex()[..12].to_owned());
        let push = Push {
            context,
            repository,
            reference,
            memory,
            progress: Progress::new(voice, names.collect()),
        };
        let descriptors = push.layers(layers)?;
        let config = repository.put_blob(image.config.as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor {
                media_type: OCI_CONFIG.to_owned(),
                digest: config.digest,
                size: config.size,
                platform: None,
            },
            "layers": descriptors,
        })
        .to_string();
        let tag = reference.selector().to_string();
        let digest = repository.put_manifest(&tag, OCI_MANIFEST, manifest.as_bytes())?;
        voice.say(&format!("{tag}: digest: {digest} size: {}", manifest.len()));
        let name = reference.to_string();
        // The image is known by the manifest from now on, as everywhere it is pulled to.
        let request = ImageCreate {
            config: image.config.clone(),
            tags: vec![reference.at_digest(digest).to_string()],
        };
        context
            .client()
            .post::<Image>(api::path::IMAGES, &request)?;
        context.tell(&event::of_image("push", &name, reference.repository()));
        Ok(())
    }
}

struct Push<'p> {
    context: &'p Context,
    repository: &'p Repository,
    reference: &'p Reference,
    memory: &'p Memory,
    progress: Progress,
}

impl Push<'_> {
    fn layers(&self, layers: &[Layer]) -> Result<Vec<Descriptor>, CliError> {
        let sent = Mutex::new(vec![None; layers.len()]);
        let stack = Stack::of(layers.iter().map(|layer| &layer.diff_id));
        stack.send_all(AT_ONCE, |number, _| {
            let known = self.layer(number, &layers[number])?;
            self.memory.remember(&layers[number].diff_id, known.clone());
            let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            sent[number] = Some(known.descriptor());
            Ok(())
        })?;
        let sent = sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(sent.into_iter().flatten().collect())
    }

    /// Sends a layer, unless the registry has it in a form that was seen before.
    fn layer(&self, number: usize, layer: &Layer) -> Result<Known, CliError> {
        let tell = |step| self.progress.set(number, step);
        tell(Step::Word("Preparing"));
        let known = self.memory.of(&layer.diff_id);
        let (mut tried, mut elsewhere): (Vec<&Digest>, _) = (Vec::new(), None);
        for blob in &known {
            if blob.host != self.reference.host() || tried.contains(&&blob.digest) {
                continue;
            }
            tried.push(&blob.digest);
            if self.repository.has_blob(&blob.digest)? {
                tell(Step::Word("Layer already exists"));
                return Ok(self.here(blob.digest.clone(), blob.size, blob.packing));
            }
            elsewhere = elsewhere.or_else(|| {
                known.iter().find(|other| {
                    other.digest == blob.digest && is_elsewhere(other, self.reference)
                })
            });
        }
        if let Some(blob) = elsewhere
            && self.repository.mount_blob(&blob.digest, &blob.path)?
        {
            tell(Step::Word("Mounted from another repository"));
            return Ok(self.here(blob.digest.clone(), blob.size, blob.packing));
        }
        let mut attempt = 1;
        loop {
            match self.upload(layer, &tell) {
                Err(CliError::Registry(error))
                    if attempt < MAX_ATTEMPTS && error.is_transient() =>
                {
                    attempt += 1;
                }
                outcome => {
                    let known = outcome?;
                    tell(Step::Word("Pushed"));
                    return Ok(known);
                }
            }
        }
    }

    /// Compresses the layer's tar, as it came in, on its way from the daemon to the registry.
    fn upload(&self, layer: &Layer, tell: &(dyn Fn(Step) + Sync)) -> Result<Known, CliError> {
        let failed = |source| CliError::Io {
            op: "pass on a layer",
            source,
        };
        let (reader, writer) = io::pipe().map_err(failed)?;
        let sent = thread::scope(|scope| {
            let packer = scope.spawn(move || self.pack(layer, writer, tell));
            self.repository.put_stream(reader, || {
                packer
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        Ok(self.here(sent.digest, sent.size, Packing::Gzip))
    }

    fn pack(
        &self,
        layer: &Layer,
        out: PipeWriter,
        tell: &(dyn Fn(Step) + Sync),
    ) -> Result<(), CliError> {
        let route = format!("{LAYERS}/{}/{LAYER_ARCHIVE}", layer.chain_id);
        let mut out = Counted {
            out: flate2::write::GzEncoder::new(out, flate2::Compression::default()),
            done: 0,
            total: layer.archive_size,
            tell,
        };
        self.context.client().get_into(&route, &mut out)?;
        out.out.finish().map(drop).map_err(|source| CliError::Io {
            op: "compress a layer",
            source,
        })
    }

    fn here(&self, digest: Digest, size: u64, packing: Packing) -> Known {
        Known {
            digest,
            size,
            packing,
            host: self.reference.host().to_owned(),
            path: self.reference.path(),
        }
    }
}

/// Tells how much of a layer has gone into it.
struct Counted<'t, W> {
    out: W,
    done: u64,
    total: u64,
    tell: &'t (dyn Fn(Step) + Sync),
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.done += written as u64;
        (self.tell)(Step::Moving("Pushing", self.done, self.total));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
