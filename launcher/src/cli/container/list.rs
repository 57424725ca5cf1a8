//! `hawser ps`.

use std::fs;
use std::path::Path;

use api::path::ROOTFS;
use api::reference::without_digest;
use api::storage::Rootfs;
use clap::Args;
use jiff::Timestamp;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::listing;
use crate::container::{Health, HealthStatus, MountKind, State, Status};
use crate::format::human;
use crate::format::table::{Columns, Row};

use super::filter::Filters;
use super::inspect::Sizes;
use super::ports;
use super::view::{self, View};

/// `hawser ps`.
#[derive(Debug, Clone, Default, Args)]
pub struct ListFlags {
    /// Show all containers, not only those that run
    #[arg(short, long)]
    pub all: bool,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Show the N newest containers, whatever their state
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// Show the newest container, whatever its state
    #[arg(short, long)]
    pub latest: bool,
    /// Show the size of the writable layer
    #[arg(short, long)]
    pub size: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Show only what fits: name=, id=, status=, exited=, label=, network=, volume=, ancestor=,
    /// expose=, publish=, health=, before=, since=
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("State", "STATE"),
        ("Ports", "PORTS"),
        ("Names", "NAMES"),
        ("Size", "SIZE"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("Networks", "NETWORKS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
    ],
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
};
const WITH_SIZE: Columns = Columns {
    headers: COLUMNS.headers,
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
};

/// # Errors
/// A bad filter or template, or no daemon.
pub fn list(context: &Context, flags: &ListFlags) -> Result<i32, CliError> {
    let filters = Filters::parse(&flags.filter)?;
    let views = filters.apply(view::all(context)?)?;
    let newest = if flags.latest { Some(1) } else { flags.last };
    let all = flags.all || newest.is_some() || filters.imply_all();
    let views: Vec<View> = views
        .into_iter()
        .filter(|view| all || view.is_running())
        .take(newest.unwrap_or(usize::MAX))
        .collect();
    let now = Timestamp::now();
    let needs_size = flags.size || flags.format.contains(".Size");
    let row = |view: &View| {
        let size = if needs_size {
            let sizes = sizes(context, view);
            format!(
                "{} (virtual {})",
                human::size(sizes.size_rw, 3),
                human::size(sizes.size_root_fs, 3)
            )
        } else {
            String::new()
        };
        row(view, now, flags.no_trunc, size)
    };
    let columns = if flags.size { &WITH_SIZE } else { &COLUMNS };
    let id = |view: &View| id(view, flags.no_trunc).to_owned();
    listing::print(&views, (flags.quiet, &flags.format), columns, id, row)
}

fn id(view: &View, no_trunc: bool) -> &str {
    if no_trunc {
        view.record.id.as_str()
    } else {
        view.record.id.short()
    }
}

fn row(view: &View, now: Timestamp, no_trunc: bool, size: String) -> Row {
    let record = &view.record;
    let mut command = view.command().join(" ");
    if !no_trunc {
        command = ellipsis(&command, 20);
    }
    Row::new([
        ("ID", id(view, no_trunc).into()),
        ("Image", shown_image(&record.image, no_trunc).into()),
        ("Command", format!("{command:?}").into()),
        ("CreatedAt", human::moment(&record.created, 0).into()),
        ("RunningFor", human::ago(&record.created, now).into()),
        (
            "Status",
            status(&view.state, view.health.as_ref(), now).into(),
        ),
        ("State", status_word(&view.state).into()),
        ("Ports", ports::column(view).into()),
        ("Names", record.name.as_str().into()),
        ("Size", size.into()),
        ("Mounts", mounts(view, no_trunc).into()),
        ("Networks", view.networks().join(",").into()),
        ("LocalVolumes", local_volumes(view).to_string().into()),
    ])
    .with_labels(&record.config.labels)
}

/// An image that was asked for by its whole id is shown by a short one.
fn shown_image(image: &str, no_trunc: bool) -> &str {
    match image.strip_prefix("sha256:") {
        Some(hex) if !no_trunc => hex.get(..12).unwrap_or(hex),
        _ if no_trunc => image,
        _ => without_digest(image),
    }
}

fn mounts(view: &View, no_trunc: bool) -> String {
    let texts: Vec<String> = view
        .record
        .mounts
        .iter()
        .filter(|mount| mount.kind != MountKind::Tmpfs)
        .map(|mount| {
            if mount.name.is_empty() {
                &mount.source
            } else {
                &mount.name
            }
        })
        .map(|text| {
            if no_trunc {
                text.clone()
            } else {
                ellipsis(text, 15)
            }
        })
        .collect();
    texts.join(",")
}

fn local_volumes(view: &View) -> usize {
    view.record
        .mounts
        .iter()
        .filter(|mount| mount.kind == MountKind::Volume && mount.driver == crate::volume::LOCAL)
        .count()
}

/// At most `length` characters, the last one an ellipsis if something was cut.
fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(length - 1).collect();
    cut.push('…');
    cut
}

/// Docker's word for a status, as filters and `inspect` use it.
pub fn status_word(state: &State) -> &'static str {
    match state.status {
        Status::Created => "created",
        Status::Running if state.restarting => "restarting",
        Status::Running if state.paused => "paused",
        Status::Running => "running",
        Status::Exited => "exited",
        Status::Removing => "removing",
    }
}

/// The STATUS column.
pub fn status(state: &State, health: Option<&Health>, now: Timestamp) -> String {
    let since = |time: &str| human::since(time, now).map(human::duration);
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running if state.restarting => match since(&state.finished_at) {
            Some(duration) => format!("Restarting ({}) {duration} ago", state.exit_code),
            None => format!("Restarting ({})", state.exit_code),
        },
        Status::Running => {
            let mut text = match since(&state.started_at) {
                Some(duration) => format!("Up {duration}"),
                None => "Up".to_owned(),
            };
            match health.map(|health| health.status) {
                _ if state.paused => text.push_str(" (Paused)"),
                Some(HealthStatus::Starting) => text.push_str(" (health: starting)"),
                Some(status) => text.push_str(&format!(" ({})", status.as_str())),
                None => {}
            }
            text
        }
        Status::Exited => match since(&state.finished_at) {
            Some(duration) => format!("Exited ({}) {duration} ago", state.exit_code),
            // Its shim was killed, or the host was: nobody saw when.
            None => format!("Exited ({})", state.exit_code),
        },
        Status::Removing => "Removal In Progress".to_owned(),
    }
}

/// What the writable layer holds, and that with the image.
pub(crate) fn sizes(context: &Context, view: &View) -> Sizes {
    let size_rw = context
        .client()
        .get::<Rootfs>(&format!("{ROOTFS}/{}", view.record.id))
        .ok()
        .and_then(|rootfs| rootfs.data.get("UpperDir").cloned())
        .map_or(0, |upper| tree_size(Path::new(&upper)));
    let image = context
        .image(view.record.image_id.as_str())
        .map_or(0, |image| image.size);
    Sizes {
        size_rw,
        size_root_fs: size_rw + image,
    }
}

/// Bytes of the files below `dir`. What vanishes while it is counted does not count.
fn tree_size(dir: &Path) -> u64 {
    let mut total = 0;
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => pending.push(entry.path()),
                Ok(metadata) => total += metadata.len(),
                Err(_) => {}
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_column_reads_as_dockers() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let state = |status, started: &str, finished: &str, exit_code| State {
            status,
            started_at: started.to_owned(),
            finished_at: finished.to_owned(),
            exit_code,
            ..State::default()
        };
        let start = "2026-11-21T09:59:57.000000000Z";
        let end = "2026-11-21T09:58:00.000000000Z";
        let rows = [
            (state(Status::Created, "", "", 0), "Created"),
            (state(Status::Running, start, "", 0), "Up 3 seconds"),
            (
                State {
                    paused: true,
                    ..state(Status::Running, start, "", 0)
                },
                "Up 3 seconds (Paused)",
            ),
            (
                State {
                    restarting: true,
                    ..state(Status::Running, start, end, 1)
                },
                "Restarting (1) 2 minutes ago",
            ),
            (
                state(Status::Exited, start, end, 0),
                "Exited (0) 2 minutes ago",
            ),
            (state(Status::Exited, start, "", 137), "Exited (137)"),
            (state(Status::Removing, "", "", 0), "Removal In Progress"),
        ];
        for (state, expected) in rows {
            assert_eq!(status(&state, None, now), expected);
        }
        let healthy = Health {
            status: HealthStatus::Healthy,
            ..Health::default()
        };
        let running = state(Status::Running, start, "", 0);
        let shown = |health: &Health| status(&running, Some(health), now);
        assert_eq!(shown(&healthy), "Up 3 seconds (healthy)");
        assert_eq!(shown(&Health::default()), "Up 3 seconds (health: starting)");
    }

    #[test]
    fn long_commands_are_cut_at_twenty_characters() {
        assert_eq!(
            ellipsis("echo a-long-command-line-that-has-to-be-cut", 20),
            "echo a-long-command…"
        );
        assert_eq!(ellipsis("sleep 1000", 20), "sleep 1000");
    }

    #[test]
    fn an_image_id_is_shown_short() {
        let id = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(shown_image(&id, false), "abababababab");
        assert_eq!(shown_image(&id, true), id);
        assert_eq!(shown_image("web:1", false), "web:1");
        let pinned = "web:1@sha256:ab";
        assert_eq!(shown_image(pinned, false), "web:1");
        assert_eq!(shown_image(pinned, true), pinned);
        assert_eq!(shown_image("web@sha256:ab", false), "web@sha256:ab");
    }
}
