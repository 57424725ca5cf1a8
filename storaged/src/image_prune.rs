//! Removing the images that no container uses.

use std::collections::BTreeMap;

use api::daemon::Pruned;
use api::storage::ImagePrune;
use jiff::Timestamp;
use serde::Deserialize;

use crate::Storaged;
use crate::image::ImageError;
use crate::lock::lock;
use crate::model::layout::Key;
use crate::model::record::{Change, ImageRow, Rows};

impl Storaged {
    /// Removes images without tags, or all, as `request` says, unless a container has them; and the
    /// layers that nothing needs then. All of it is one transaction.
    ///
    /// # Errors
    /// [`ImageError`]; nothing is changed.
    pub fn prune_images(&self, request: &ImagePrune) -> Result<Pruned, ImageError> {
        let until = request.until.as_deref().map(moment).transpose()?;
        let mut leases = lock(&self.graph);
        let garbage = select(&self.store.rows(), request, until);
        if !garbage.is_empty() {
            let drops = garbage
                .iter()
                .map(|image| Change::DropImage(image.id.clone()));
            self.record_images(drops.collect())?;
        }
        let layers = self.collect(&mut leases);
        drop(leases);
        let keys: Vec<Key> = layers.iter().map(|layer| layer.key.clone()).collect();
        self.settle_all(&keys);
        let mut deleted = Vec::new();
        for image in &garbage {
            let names = image.tags.iter().chain(&image.digests);
            deleted.extend(names.map(|name| format!("untagged: {name}")));
            deleted.push(format!("deleted: {}", image.id));
        }
        let chains = layers.iter().map(|layer| &layer.chain_id);
        deleted.extend(chains.map(|chain| format!("deleted: {chain}")));
        Ok(Pruned {
            deleted,
            space_reclaimed: layers.iter().map(|layer| layer.size).sum(),
            restorable_hours: None,
        })
    }
}

fn moment(text: &str) -> Result<Timestamp, ImageError> {
    text.parse()
        .map_err(|_no_time| ImageError::Moment(text.to_owned()))
}

fn select(rows: &Rows, request: &ImagePrune, until: Option<Timestamp>) -> Vec<ImageRow> {
    rows.images
        .values()
        .filter(|image| request.all || image.tags.is_empty())
        .filter(|image| rows.users_of(&image.id).next().is_none())
        .filter(|image| fits(image, request, until))
        .cloned()
        .collect()
}

/// What a filter looks at. An image whose configuration says nothing has no labels.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Facts {
    created: Option<String>,
    config: Option<Section>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Section {
    labels: Option<BTreeMap<String, String>>,
}

fn fits(image: &ImageRow, request: &ImagePrune, until: Option<Timestamp>) -> bool {
    let facts: Facts = serde_json::from_str(&image.config).unwrap_or_default();
    let labels = facts
        .config
        .and_then(|section| section.labels)
        .unwrap_or_default();
    let has = |wanted: &String| match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    };
    let created = facts.created.unwrap_or_else(|| image.added.clone());
    let created: Option<Timestamp> = created.parse().ok();
    request.labels.iter().all(has)
        && !request.without_labels.iter().any(has)
        && until.is_none_or(|until| created.is_some_and(|created| created < until))
}

/// When the image was made, if its configuration says so.
pub(crate) fn created(image: &ImageRow) -> Option<String> {
    let facts: Facts = serde_json::from_str(&image.config).ok()?;
    facts.created
}
