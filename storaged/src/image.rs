//! Images: a configuration, the chain of layers it names, and the tags that name it.

use std::collections::BTreeSet;

use api::id::Digest;
use api::reference::{self, Reference};
use api::storage::{Image, ImageCreate};

use crate::Storaged;
use crate::disk::{Step, StepError};
use crate::lock::lock;
use crate::model::chain::{self, chain_ids, sha256};
use crate::model::layout::Key;
use crate::model::record::{Change, ImageRow, Intent, RootfsRow, Rows};

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{0}")]
    Reference(String),
    #[error("no such image: {0}")]
    NotFound(String),
    #[error("{0:?} is the start of more than one image id; give more digits")]
    Ambiguous(String),
    #[error("the image configuration is not valid: {0}")]
    Config(String),
    #[error("layer {0} of the image is not here; import it first")]
    LayerMissing(Digest),
    #[error(
        "conflict: unable to remove repository reference {reference:?} (must force) - container {container} is using its referenced image {image}"
    )]
    ReferenceInUse {
        reference: String,
        container: String,
        image: String,
    },
    #[error("conflict: unable to delete {image} ({}) - image is being used by {} container {container}",
        if *running { "cannot be forced" } else { "must be forced" },
        if *running { "running" } else { "stopped" })]
    InUse {
        image: String,
        container: String,
        running: bool,
    },
    #[error(
        "conflict: unable to delete {0} (must be forced) - image is referenced in multiple repositories"
    )]
    ManyTags(String),
    #[error("{0:?} is no time of the form 2026-01-02T15:04:05Z")]
    Moment(String),
    #[error(transparent)]
    Step(#[from] StepError),
}

impl Storaged {
    /// Registers an image whose layers are all committed and moves its tags to it. An image that
    /// exists gets the tags.
    ///
    /// # Errors
    /// [`ImageError`]; nothing is changed.
    pub fn create_image(&self, request: ImageCreate) -> Result<Image, ImageError> {
        let ImageCreate { config, tags } = request;
        let names = tags
            .iter()
            .map(|name| normalize(name))
            .collect::<Result<BTreeSet<_>, _>>()?;
        // A tag never has an @ (the grammar of references), and a name by digest always.
        let (digests, tags): (BTreeSet<_>, BTreeSet<_>) =
            names.into_iter().partition(|name| name.contains('@'));
        let diff_ids =
            chain::diff_ids(&config).map_err(|problem| ImageError::Config(problem.to_string()))?;
        let chain = chain_ids(&diff_ids);
        let id = sha256(config.as_bytes());

        let mut leases = lock(&self.graph);
        let (image, changes) = {
            let rows = self.store.rows();
            let present = |layer: &Digest| rows.layers.contains_key(layer);
            if let Some(at) = chain.iter().position(|layer| !present(layer)) {
                return Err(ImageError::LayerMissing(diff_ids[at].clone()));
            }
            let mut image = rows.images.get(&id).cloned().unwrap_or_else(|| ImageRow {
                id,
                tags: BTreeSet::new(),
                digests: BTreeSet::new(),
                config,
                chain_id: chain.last().cloned(),
                added: crate::now(),
            });
            let mut changes = untag_others(&rows, &image.id, &tags);
            image.tags.extend(tags);
            image.digests.extend(digests);
            changes.push(Change::PutImage(image.clone()));
            (image, changes)
        };
        self.record_images(changes)?;
        leases.end(&chain);
        Ok(self.describe(&self.store.rows(), &image))
    }

    /// All images.
    pub fn images(&self) -> Vec<Image> {
        let rows = self.store.rows();
        rows.images
            .values()
            .map(|image| self.describe(&rows, image))
            .collect()
    }

    /// The image that a name, an id or an unambiguous start of an id means.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], [`ImageError::Reference`].
    pub fn image(&self, reference: &str) -> Result<Image, ImageError> {
        let rows = self.store.rows();
        let (image, _) = find(&rows, reference)?;
        Ok(self.describe(&rows, image))
    }

    /// Removes a tag, and with the last tag the image and the layers nothing else needs. Returns
    /// what Docker prints: `Untagged: …` and `Deleted: …`.
    ///
    /// `force` also removes several tags at once, and an image that stopped containers use; their
    /// layers stay.
    ///
    /// # Errors
    /// [`ImageError`]; nothing is changed.
    pub fn remove_image(&self, reference: &str, force: bool) -> Result<Vec<String>, ImageError> {
        let mut leases = lock(&self.graph);
        let plan = {
            let rows = self.store.rows();
            let (image, tag) = find(&rows, reference)?;
            let users: Vec<&RootfsRow> = rows.users_of(&image.id).collect();
            Removal {
                image,
                asked: reference,
                tag,
                users,
            }
            .plan(force)?
        };
        let mut report: Vec<String> = plan
            .untagged
            .iter()
            .map(|tag| format!("Untagged: {tag}"))
            .collect();
        let change = match plan.kept {
            Some(image) => Change::PutImage(image),
            None => Change::DropImage(plan.id.clone()),
        };
        let deleted = matches!(change, Change::DropImage(_));
        self.record_images(vec![change])?;
        if !deleted {
            return Ok(report);
        }
        report.push(format!("Deleted: {}", plan.id));
        let layers = self.collect(&mut leases);
        report.extend(
            layers
                .iter()
                .map(|layer| format!("Deleted: {}", layer.chain_id)),
        );
        let garbage: Vec<Key> = layers.into_iter().map(|layer| layer.key).collect();
        drop(leases);
        self.settle_all(&garbage);
        Ok(report)
    }

    /// Commits changes of images; their sidecars follow.
    pub(crate) fn record_images(&self, mut changes: Vec<Change>) -> Result<(), StepError> {
        let mut keys = Vec::new();
        let ids: Vec<Digest> = changes.iter().filter_map(image_of).cloned().collect();
        for id in ids {
            let key = crate::new_key()?;
            changes.push(Change::PutIntent(key.clone(), Intent::ImageSidecar(id)));
            keys.push(key);
        }
        self.apply(Step::Record(changes))?;
        self.settle_all(&keys);
        Ok(())
    }

    /// Makes the sidecar of an image say what its row says.
    pub(crate) fn settle_sidecar(&self, id: &Digest) -> Result<(), StepError> {
        let path = self.layout.image_sidecar(id);
        let row = self.store.rows().images.get(id).cloned();
        self.apply(match row {
            Some(row) => Step::replace_sidecar(path, &row)?,
            None => Step::RemoveTree { path },
        })?;
        self.apply(Step::SyncDir {
            path: self.layout.images(),
        })
    }

    fn describe(&self, rows: &Rows, image: &ImageRow) -> Image {
        Image {
            id: image.id.clone(),
            tags: image.tags.iter().cloned().collect(),
            digests: image.digests.iter().cloned().collect(),
            config: image.config.clone(),
            chain_id: image.chain_id.clone(),
            size: rows
                .chain(image.chain_id.as_ref())
                .map(|layer| layer.size)
                .sum(),
            added: image.added.clone(),
        }
    }
}

fn image_of(change: &Change) -> Option<&Digest> {
    match change {
        Change::PutImage(row) => Some(&row.id),
        Change::DropImage(id) => Some(id),
        _ => None,
    }
}

fn normalize(tag: &str) -> Result<String, ImageError> {
    Reference::parse(tag)
        .map(|reference| reference.to_string())
        .map_err(|problem| ImageError::Reference(problem.to_string()))
}

/// A tag belongs to one image: the changes that take `tags` from all others.
fn untag_others(rows: &Rows, id: &Digest, tags: &BTreeSet<String>) -> Vec<Change> {
    rows.images
        .values()
        .filter(|image| image.id != *id && !image.tags.is_disjoint(tags))
        .map(|image| {
            let mut image = image.clone();
            image.tags.retain(|tag| !tags.contains(tag));
            Change::PutImage(image)
        })
        .collect()
}

/// The image, and the tag or digest by which it was named if it was by one. Names come first: a repository
/// may be called `cafe`.
fn find<'a>(rows: &'a Rows, reference: &str) -> Result<(&'a ImageRow, Option<String>), ImageError> {
    let name = Reference::parse(reference);
    if let Ok(name) = &name {
        let name = name.to_string();
        if let Some(image) = rows.images.values().find(|image| image.is_named(&name)) {
            return Ok((image, Some(name)));
        }
    }
    let Some(prefix) = reference::id_prefix(reference) else {
        return Err(match name {
            Ok(_) => ImageError::NotFound(reference.to_owned()),
            Err(problem) => ImageError::Reference(problem.to_string()),
        });
    };
    let mut matches = rows
        .images
        .values()
        .filter(|image| image.id.hex().starts_with(prefix));
    match (matches.next(), matches.next()) {
        (Some(image), None) => Ok((image, None)),
        (Some(_), Some(_)) => Err(ImageError::Ambiguous(reference.to_owned())),
        (None, _) => Err(ImageError::NotFound(reference.to_owned())),
    }
}

/// Everything that decides whether and how an image is removed.
struct Removal<'a> {
    image: &'a ImageRow,
    asked: &'a str,
    tag: Option<String>,
    users: Vec<&'a RootfsRow>,
}

struct RemovalPlan {
    id: Digest,
    untagged: Vec<String>,
    /// What stays of the image.
    kept: Option<ImageRow>,
}

impl Removal<'_> {
    /// Whether the image keeps a name without this one. A digest stands for itself only where the
    /// image has no tag.
    fn has_others(&self, name: &str) -> bool {
        let (tags, digests) = (&self.image.tags, &self.image.digests);
        match tags.contains(name) {
            true => tags.len() > 1,
            false => !tags.is_empty() || digests.len() > 1,
        }
    }

    /// Docker's rules (`docker image rm`): a tag among several goes without question; the last one,
    /// or an id, only if no container uses the image; force overrides stopped containers only.
    fn plan(&self, force: bool) -> Result<RemovalPlan, ImageError> {
        let running = self.users.iter().find(|user| user.mounted_in.is_some());
        match &self.tag {
            Some(name) if self.has_others(name) => Ok(self.untag(name)),
            Some(_) if !force && !self.users.is_empty() => Err(ImageError::ReferenceInUse {
                reference: self.asked.to_owned(),
                container: short(&self.users[0].container),
                image: short(self.image.id.hex()),
            }),
            // The name goes, the image stays for its container.
            Some(tag) if running.is_some() => Ok(self.untag(tag)),
            Some(_) => Ok(self.delete()),
            None if self.image.tags.len() > 1 && !force => {
                Err(ImageError::ManyTags(short(self.image.id.hex())))
            }
            None => match running.or(self.users.first()) {
                Some(user) if running.is_some() || !force => Err(ImageError::InUse {
                    image: short(self.image.id.hex()),
                    container: short(&user.container),
                    running: running.is_some(),
                }),
                _ => Ok(self.delete()),
            },
        }
    }

    /// With the last tag of a repository its digests go, which only say where the image came from.
    fn untag(&self, name: &str) -> RemovalPlan {
        let mut kept = self.image.clone();
        let was_tag = kept.tags.remove(name);
        kept.digests.remove(name);
        let mut untagged = vec![name.to_owned()];
        let repository = repository(name);
        if was_tag
            && !kept
                .tags
                .iter()
                .any(|tag| self::repository(tag) == repository)
        {
            let orphans: Vec<String> = kept
                .digests
                .iter()
                .filter(|digest| self::repository(digest) == repository)
                .cloned()
                .collect();
            kept.digests.retain(|digest| !orphans.contains(digest));
            untagged.extend(orphans);
        }
        RemovalPlan {
            id: kept.id.clone(),
            untagged,
            kept: Some(kept),
        }
    }

    fn delete(&self) -> RemovalPlan {
        RemovalPlan {
            id: self.image.id.clone(),
            untagged: self
                .image
                .tags
                .iter()
                .chain(&self.image.digests)
                .cloned()
                .collect(),
            kept: None,
        }
    }
}

/// The repository of a normalized name.
fn repository(name: &str) -> String {
    Reference::parse(name).map_or_else(
        |_foreign| String::new(),
        |name| name.repository().to_owned(),
    )
}

/// What listings show of an id.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}
