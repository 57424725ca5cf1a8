//! `hawser commit`: an image from what a container changed.

use api::path::{IMAGES, ROOTFS, ROOTFS_COMMIT};
use api::storage::{Image, ImageCreate, Layer};
use clap::{ArgAction, Args};
use serde_json::{Map, Value, json};

use super::pause;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::image::config::Section;
use crate::cli::output;
use crate::container::{Config, Record};
use crate::event;

/// `hawser commit`.
#[derive(Debug, Clone, Args)]
pub struct CommitFlags {
    /// Author of the image
    #[arg(short, long)]
    pub author: Option<String>,
    /// Dockerfile instruction for the image, such as CMD, ENV or EXPOSE
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Comment of the image
    #[arg(short, long)]
    pub message: Option<String>,
    /// Let the container stand still meanwhile
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value_t = true, default_missing_value = "true", action = ArgAction::Set)]
    pub pause: bool,
    /// Container to make the image from
    pub container: String,
    /// Reference of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
}

/// # Errors
/// There is no such container, or a change is none.
pub fn commit(context: &Context, flags: &CommitFlags) -> Result<i32, CliError> {
    output::line(make(context, flags, Section::default())?.id)?;
    Ok(0)
}

/// The image, whose containers start from `own` where that says something.
///
/// # Errors
/// As [`commit`].
pub(crate) fn make(
    context: &Context,
    flags: &CommitFlags,
    own: Section,
) -> Result<Image, CliError> {
    let container = context.container(&flags.container)?;
    let record = container.record()?;
    context.check_driver(&record)?;
    let mut section = section(&record.config);
    section.take_over(own);
    for change in &flags.change {
        section.change(change)?;
    }
    let base = context.image(record.image_id.as_str())?;
    let route = format!("{ROOTFS}/{}/{ROOTFS_COMMIT}", record.id);
    let read = || -> Result<Layer, CliError> { Ok(context.client().post(&route, &())?) };
    let layer = if flags.pause {
        pause::meanwhile(context, &container, read)?
    } else {
        read()?
    };
    let config = derived(&base, &record, section, &layer, flags).map_err(|source| {
        CliError::ImageConfig {
            reference: record.image.clone(),
            source,
        }
    })?;
    let request = ImageCreate {
        config,
        tags: flags.reference.iter().cloned().collect(),
    };
    let image: Image = context.client().post(IMAGES, &request)?;
    context.tell(&event::of_container(&record, "commit"));
    Ok(image)
}

/// What containers of the new image start from: what this one was started with.
fn section(config: &Config) -> Section {
    Section {
        user: config.user.clone(),
        exposed_ports: config.exposed_ports.clone(),
        env: config.env.clone(),
        cmd: config.cmd.clone(),
        volumes: config.volumes.clone().unwrap_or_default(),
        working_dir: config.working_dir.clone(),
        entrypoint: config.entrypoint.clone(),
        labels: config.labels.clone(),
        healthcheck: config.healthcheck.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
    }
}

/// The configuration of `base`, whatever else it says, with one layer more.
fn derived(
    base: &Image,
    record: &Record,
    section: Section,
    layer: &Layer,
    flags: &CommitFlags,
) -> Result<String, serde_json::Error> {
    let mut config: Map<String, Value> = serde_json::from_str(&base.config)?;
    let created = format!("{:.9}", jiff::Timestamp::now());
    let command = record.config.cmd.clone().unwrap_or_default().join(" ");
    let comment = flags.message.clone().unwrap_or_default();
    let mut step = json!({"created": created, "created_by": command});
    if !comment.is_empty() {
        step["comment"] = json!(comment);
    }
    let mut own = object(config.remove("config"));
    own.extend(object(Some(serde_json::to_value(section)?)));
    let mut rootfs = object(config.remove("rootfs"));
    let mut diff_ids = list(rootfs.remove("diff_ids"));
    diff_ids.push(json!(layer.diff_id));
    rootfs.insert("diff_ids".to_owned(), diff_ids.into());
    let mut history = list(config.remove("history"));
    history.push(step);
    config.insert("config".to_owned(), own.into());
    config.insert("rootfs".to_owned(), rootfs.into());
    config.insert("history".to_owned(), history.into());
    config.insert("created".to_owned(), json!(created));
    config.insert("comment".to_owned(), json!(comment));
    config.insert(
        "author".to_owned(),
        json!(flags.author.clone().unwrap_or_default()),
    );
    // Of the container that the base was made from.
    config.remove("container");
    config.remove("container_config");
    serde_json::to_string(&config)
}

/// Go writes `null` for an empty object or list.
fn object(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(members)) => members,
        _ => Map::new(),
    }
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(values)) => values,
        _ => Vec::new(),
    }
}
