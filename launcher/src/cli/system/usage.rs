//! `hawser system df`: what images, containers and volumes take.

use std::collections::BTreeMap;

use api::path::{STORAGE_USAGE, VOLUMES};
use api::storage::{ImageUsage, StorageUsage, Volume, VolumeUsage};
use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::cli::container::view::{self, View};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::image::list::split_tag;
use crate::cli::output;
use crate::container::Status;
use crate::format::human;
use crate::format::table::{self, Columns, Row};

/// `hawser system df`.
#[derive(Debug, Clone, Args)]
pub struct UsageFlags {
    /// Show every image, container and volume
    #[arg(short, long)]
    pub verbose: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
}

const SUMMARY: Columns = Columns {
    headers: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    default: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
};
const IMAGES: Columns = Columns {
    headers: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Containers", "CONTAINERS"),
    ],
    default: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
};
const CONTAINERS: Columns = Columns {
    headers: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("RunningFor", "CREATED"),
        ("State", "STATUS"),
        ("Names", "NAMES"),
    ],
    default: "{{.ID}}\t{{.Image}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.State}}\t{{.Names}}",
};
const LOCAL_VOLUMES: Columns = Columns {
    headers: &[
        ("Name", "VOLUME NAME"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
    ],
    default: "{{.Name}}\t{{.Links}}\t{{.Size}}",
};

/// # Errors
/// A bad template, or no daemon.
pub fn usage(context: &Context, flags: &UsageFlags) -> Result<i32, CliError> {
    let usage: StorageUsage = context.client().get(STORAGE_USAGE)?;
    let containers = view::all(context)?;
    if flags.verbose && flags.format == "json" {
        output::line(json!(usage))?;
    } else if flags.verbose {
        verbose(context, &usage, &containers)?;
    } else {
        let rows = summary(&usage, &containers);
        output::write(table::list(&SUMMARY, &rows, &flags.format)?)?;
    }
    Ok(0)
}

/// Docker's four lines; there is no build cache to speak of.
fn summary(usage: &StorageUsage, containers: &[View]) -> Vec<Row> {
    let unused = usage.layers_size.saturating_sub(usage.layers_used);
    let running: Vec<&str> = containers
        .iter()
        .filter(is_running)
        .map(|view| view.record.id.as_str())
        .collect();
    let sizes: BTreeMap<&str, u64> = sizes(usage);
    let written: u64 = sizes.values().sum();
    let kept: u64 = running.iter().filter_map(|id| sizes.get(id)).sum();
    let stored = |volumes: &mut dyn Iterator<Item = &VolumeUsage>| -> u64 {
        volumes.filter_map(|volume| volume.size).sum()
    };
    let free = |volume: &&VolumeUsage| volume.holders == 0;
    vec![
        line(
            "Images",
            (
                usage.images.len(),
                usage
                    .images
                    .iter()
                    .filter(|image| image.containers > 0)
                    .count(),
            ),
            (usage.layers_size, unused),
        ),
        line(
            "Containers",
            (containers.len(), running.len()),
            (written, written - kept),
        ),
        line(
            "Local Volumes",
            (
                usage.volumes.len(),
                usage
                    .volumes
                    .iter()
                    .filter(|volume| volume.holders > 0)
                    .count(),
            ),
            (
                stored(&mut usage.volumes.iter()),
                stored(&mut usage.volumes.iter().filter(free)),
            ),
        ),
        line("Build Cache", (0, 0), (0, 0)),
    ]
}

fn sizes(usage: &StorageUsage) -> BTreeMap<&str, u64> {
    let known = |rootfs: &'_ api::storage::RootfsUsage| rootfs.size;
    usage
        .rootfs
        .iter()
        .filter_map(|rootfs| Some((rootfs.container.as_str(), known(rootfs)?)))
        .collect()
}

fn is_running(view: &&View) -> bool {
    view.state.status == Status::Running
}

fn line(kind: &str, (total, active): (usize, usize), (size, reclaimable): (u64, u64)) -> Row {
    let mut free = human::size(reclaimable, 4);
    if let Some(percent) = (reclaimable * 100).checked_div(size) {
        free.push_str(&format!(" ({percent}%)"));
    }
    Row::new([
        ("Type", kind.into()),
        ("TotalCount", total.to_string().into()),
        ("Active", active.to_string().into()),
        ("Size", human::size(size, 4).into()),
        ("Reclaimable", free.into()),
    ])
}

fn verbose(context: &Context, usage: &StorageUsage, containers: &[View]) -> Result<(), CliError> {
    let now = Timestamp::now();
    let images: Vec<Row> = usage
        .images
        .iter()
        .flat_map(|image| image_rows(image, now))
        .collect();
    section("Images space usage:", &IMAGES, &images)?;
    let sizes = sizes(usage);
    let local: Vec<Volume> = context.client().get(VOLUMES)?;
    let volumes_of = |view: &View| {
        local
            .iter()
            .filter(|volume| {
                volume
                    .holders
                    .iter()
                    .any(|holder| *holder == *view.record.id.as_str())
            })
            .count()
    };
    let rows: Vec<Row> = containers
        .iter()
        .map(|view| {
            let size = sizes.get(view.record.id.as_str()).copied();
            Row::new([
                ("ID", view.record.id.short().into()),
                ("Image", view.record.image.as_str().into()),
                ("LocalVolumes", volumes_of(view).to_string().into()),
                ("Size", shown(size).into()),
                ("RunningFor", human::ago(&view.record.created, now).into()),
                ("State", json!(view.state.status)),
                ("Names", view.record.name.as_str().into()),
            ])
        })
        .collect();
    section("\nContainers space usage:", &CONTAINERS, &rows)?;
    let rows: Vec<Row> = usage
        .volumes
        .iter()
        .map(|volume| {
            Row::new([
                ("Name", volume.name.as_str().into()),
                ("Links", volume.holders.to_string().into()),
                ("Size", shown(volume.size).into()),
            ])
        })
        .collect();
    section("\nLocal Volumes space usage:", &LOCAL_VOLUMES, &rows)
}

fn section(title: &str, columns: &Columns, rows: &[Row]) -> Result<(), CliError> {
    output::line(title)?;
    output::line("")?;
    output::write(table::list(columns, rows, "")?)
}

fn image_rows(image: &ImageUsage, now: Timestamp) -> Vec<Row> {
    let row = |repository: &str, tag: &str| {
        Row::new([
            ("Repository", repository.into()),
            ("Tag", tag.into()),
            ("ID", image.id.hex()[..12].into()),
            ("CreatedSince", human::ago(&image.created, now).into()),
            ("Size", human::size(image.size, 4).into()),
            ("SharedSize", human::size(image.shared, 4).into()),
            (
                "UniqueSize",
                human::size(image.size - image.shared, 4).into(),
            ),
            ("Containers", image.containers.to_string().into()),
        ])
    };
    if image.tags.is_empty() {
        return vec![row("<none>", "<none>")];
    }
    let tags = image.tags.iter().map(|tag| split_tag(tag));
    tags.map(|(repository, tag)| row(repository, tag)).collect()
}

/// What was not measured yet is not zero.
fn shown(size: Option<u64>) -> String {
    size.map_or_else(|| "N/A".to_owned(), |size| human::size(size, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_container_uses_can_be_reclaimed() {
        let image = |containers, size, shared| ImageUsage {
            id: api::id::Digest::from_sha256([1; 32]),
            tags: Vec::new(),
            created: String::new(),
            size,
            shared,
            containers,
        };
        let usage = StorageUsage {
            layers_size: 1500,
            layers_used: 1000,
            images: vec![image(1, 1000, 500), image(0, 1000, 500)],
            volumes: vec![
                VolumeUsage {
                    name: api::id::VolumeName::parse("a1").unwrap(),
                    size: Some(2000),
                    inodes: None,
                    holders: 0,
                },
                VolumeUsage {
                    name: api::id::VolumeName::parse("b1").unwrap(),
                    size: None,
                    inodes: None,
                    holders: 1,
                },
            ],
            ..StorageUsage::default()
        };
        let text = table::list(&SUMMARY, &summary(&usage, &[]), "").unwrap();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1], ["Images", "2", "1", "1.5kB", "500B", "(33%)"]);
        assert_eq!(lines[2], ["Containers", "0", "0", "0B", "0B"]);
        assert_eq!(
            lines[3],
            ["Local", "Volumes", "2", "1", "2kB", "2kB", "(100%)"]
        );
    }
}
