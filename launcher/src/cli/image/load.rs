//! `hawser image load`.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use api::Client;
use api::id::Digest;
use api::path::{IMAGES, LAYERS};
use api::storage::{Image, ImageCreate, Layer};
use clap::Args;
use sha2::{Digest as _, Sha256};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::event;
use crate::format::human;

use super::archive::{self, ArchivedImage, Spool};

/// `hawser image load`.
#[derive(Debug, Clone, Args)]
pub struct LoadFlags {
    /// Read the archive from a file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Do not show progress
    #[arg(short, long)]
    pub quiet: bool,
}

/// # Errors
/// The archive is damaged or hostile, or the daemon refuses it.
pub fn load(context: &Context, flags: &LoadFlags) -> Result<i32, CliError> {
    let stream = open(flags.input.as_deref())?;
    let spool = Spool::read(spool_dir(context)?, stream)?;
    let quiet = flags.quiet || !io::stderr().is_terminal();
    for image in archive::images(&spool)? {
        let loaded = load_image(context, &spool, &image, quiet)?;
        if image.tags.is_empty() {
            output::line(format_args!("Loaded image ID: {}", loaded.id))?;
        }
        for tag in &image.tags {
            output::line(format_args!("Loaded image: {tag}"))?;
        }
    }
    Ok(0)
}

/// The file, or standard input when there is none or it is `-`.
pub(in crate::cli) fn open(file: Option<&Path>) -> Result<Box<dyn Read>, CliError> {
    match file {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path).map_err(|source| CliError::File {
                op: "open",
                path: path.to_owned(),
                source,
            })?;
            Ok(Box::new(file))
        }
        _ if io::stdin().is_terminal() => Err(CliError::Conflict(
            "there is no archive: name a file, or redirect standard input from one",
        )),
        _ => Ok(Box::new(io::stdin().lock())),
    }
}

/// Below the state directory: an archive may be larger than `/tmp`.
fn spool_dir(context: &Context) -> Result<PathBuf, CliError> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| CliError::Io {
        op: "read random bytes",
        source: io::Error::other(error),
    })?;
    let state = Path::new(&context.info()?.state_dir);
    Ok(state
        .join("tmp")
        .join(format!("load-{}", hex::encode(random))))
}

fn load_image(
    context: &Context,
    spool: &Spool,
    image: &ArchivedImage,
    quiet: bool,
) -> Result<Image, CliError> {
    let layers = Layers::of(spool, image, quiet);
    layers.load(context.client())?;
    let request = ImageCreate {
        config: image.config.clone(),
        tags: image.tags.clone(),
    };
    let image: Image = context.client().post(IMAGES, &request)?;
    let id = image.id.as_str();
    context.tell(&event::of_image("load", id, id));
    Ok(image)
}

/// Layers that are sent at once at most, however many cores there are: more would only hold more memory in the daemon.
const MAX_AT_ONCE: usize = 4;

/// The layers of one image on their way to the daemon, several at once. They are begun in order, so
/// that the one below is always done or on its way; the daemon commits them in order.
struct Layers<'a> {
    spool: &'a Spool,
    image: &'a ArchivedImage,
    quiet: bool,
    /// The chain below each layer, bottom first.
    parents: Vec<Option<Digest>>,
    next: AtomicUsize,
    failed: AtomicBool,
}

impl<'a> Layers<'a> {
    fn of(spool: &'a Spool, image: &'a ArchivedImage, quiet: bool) -> Self {
        let mut parents = Vec::new();
        let mut chain: Option<Digest> = None;
        for (_, diff_id) in &image.layers {
            let above = match &chain {
                None => diff_id.clone(),
                // OCI image specification, "Layer ChainID".
                Some(below) => Digest::from_sha256(
                    Sha256::digest(format!("{below} {diff_id}").as_bytes()).into(),
                ),
            };
            parents.push(chain.replace(above));
        }
        Self {
            spool,
            image,
            quiet,
            parents,
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        }
    }

    fn load(&self, client: &Client) -> Result<(), CliError> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let at_once = cores.min(MAX_AT_ONCE).min(self.image.layers.len());
        let failures = thread::scope(|scope| {
            let senders: Vec<_> = (0..at_once)
                .map(|_| scope.spawn(|| self.send_all(client)))
                .collect();
            let ended = senders.into_iter().map(|sender| {
                sender
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            ended.flatten().collect::<Vec<(usize, CliError)>>()
        });
        // What fails above follows from what failed below.
        match failures.into_iter().min_by_key(|(number, _)| *number) {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }

    /// Sends layers as long as there are any, and says which one failed.
    fn send_all(&self, client: &Client) -> Option<(usize, CliError)> {
        while !self.failed.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((name, diff_id)) = self.image.layers.get(number) else {
                break;
            };
            if let Err(error) = self.send(client, number, name, diff_id) {
                self.failed.store(true, Ordering::Relaxed);
                return Some((number, error));
            }
        }
        None
    }

    fn send(
        &self,
        client: &Client,
        number: usize,
        name: &str,
        diff_id: &Digest,
    ) -> Result<(), CliError> {
        let mut route = format!("{LAYERS}?meanwhile=true&diff_id={diff_id}");
        if let Some(parent) = &self.parents[number] {
            route.push_str(&format!("&parent={parent}"));
        }
        let file = self.spool.open(name)?;
        if !self.quiet {
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            let (number, total) = (number + 1, self.image.layers.len());
            output::warn(format_args!(
                "Loading layer {number}/{total} ({})",
                human::size(size, 4)
            ));
        }
        client.post_stream::<Layer>(&route, &mut &file)?;
        Ok(())
    }
}
