//! `hawser image history`: the steps an image was made by, last one first.

use api::path::LAYERS;
use api::storage::{Image, Layer};
use clap::Args;
use jiff::Timestamp;

use crate::cli::context::{Context, image_config};
use crate::cli::error::CliError;
use crate::cli::listing;
use crate::format::human;
use crate::format::table::{Columns, Row};

use super::config::{History, ImageConfig};

/// `hawser image history`.
#[derive(Debug, Clone, Args)]
pub struct HistoryFlags {
    /// Show sizes and dates for people; --human=false shows bytes and times
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", value_parser = crate::cli::usage::truth, action = clap::ArgAction::Set)]
    pub human: bool,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
    /// Image whose history to show
    pub image: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    default: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
};
/// Steps have no image of their own, as in Docker.
const MISSING: &str = "<missing>";
/// Longest command of a shortened line.
const SHOWN: usize = 45;

/// A step.
#[derive(Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) created: String,
    pub(crate) created_by: String,
    pub(crate) comment: String,
    pub(crate) size: u64,
}

/// # Errors
/// There is no such image, or the template is bad.
pub fn history(context: &Context, flags: &HistoryFlags) -> Result<i32, CliError> {
    let image = context.image(&flags.image)?;
    let lines = steps(context, &image, flags.no_trunc)?;
    let now = Timestamp::now();
    listing::print(
        &lines,
        (flags.quiet, &flags.format),
        &COLUMNS,
        |line| line.id.clone(),
        |line| row(line, now, flags),
    )
}

/// Last one first.
///
/// # Errors
/// The image's configuration is damaged.
pub(crate) fn steps(
    context: &Context,
    image: &Image,
    no_trunc: bool,
) -> Result<Vec<Line>, CliError> {
    let config = image_config(image, image.id.as_str())?;
    let layers: Vec<Layer> = context.client().get(LAYERS)?;
    Ok(lines(image, &config, &sizes(image, &layers), no_trunc))
}

/// Sizes of the image's layers, lowest first.
fn sizes(image: &Image, layers: &[Layer]) -> Vec<u64> {
    let mut sizes = Vec::new();
    let mut at = image.chain_id.as_ref();
    while let Some(layer) = at.and_then(|id| layers.iter().find(|layer| layer.chain_id == *id)) {
        sizes.push(layer.size);
        at = layer.parent.as_ref();
    }
    sizes.reverse();
    sizes
}

/// One line a step that the configuration tells of; layers it does not tell of get one each.
fn lines(image: &Image, config: &ImageConfig, sizes: &[u64], no_trunc: bool) -> Vec<Line> {
    let mut sizes = sizes.iter();
    let line = |step: &History, size| Line {
        id: MISSING.to_owned(),
        created: step
            .created
            .clone()
            .unwrap_or_else(|| created(image, config)),
        created_by: step.created_by.clone().unwrap_or_default(),
        comment: step.comment.clone().unwrap_or_default(),
        size,
    };
    let mut lines: Vec<Line> = config
        .history
        .iter()
        .map(|step| {
            let size = if step.empty_layer { None } else { sizes.next() };
            line(step, size.copied().unwrap_or_default())
        })
        .collect();
    lines.extend(sizes.map(|size| line(&History::default(), *size)));
    lines.reverse();
    if let Some(first) = lines.first_mut() {
        first.id = if no_trunc {
            image.id.to_string()
        } else {
            image.id.hex()[..12].to_owned()
        };
    }
    lines
}

fn created(image: &Image, config: &ImageConfig) -> String {
    config
        .created
        .clone()
        .unwrap_or_else(|| image.added.clone())
}

fn row(line: &Line, now: Timestamp, flags: &HistoryFlags) -> Row {
    let since = if flags.human {
        human::ago(&line.created, now)
    } else {
        line.created.clone()
    };
    let size = if flags.human {
        human::size(line.size, 3)
    } else {
        line.size.to_string()
    };
    let command = line.created_by.replace('\t', " ");
    Row::new([
        ("ID", line.id.as_str().into()),
        ("CreatedSince", since.into()),
        ("CreatedAt", line.created.as_str().into()),
        ("CreatedBy", shortened(&command, flags.no_trunc).into()),
        ("Size", size.into()),
        ("Comment", line.comment.as_str().into()),
    ])
}

fn shortened(command: &str, no_trunc: bool) -> String {
    match command.char_indices().nth(SHOWN - 1) {
        Some((at, _)) if !no_trunc && command.chars().count() > SHOWN => {
            format!("{}…", &command[..at])
        }
        _ => command.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        Image {
            id: api::id::Digest::from_sha256([7; 32]),
            tags: Vec::new(),
            digests: Vec::new(),
            config: String::new(),
            chain_id: None,
            size: 0,
            added: "2026-11-21T00:00:00Z".to_owned(),
        }
    }

    #[test]
    fn steps_come_last_first_and_empty_ones_have_no_size() {
        let config = ImageConfig::parse(
            r#"{"history":[{"created_by":"a"},{"created_by":"b","empty_layer":true},{"created_by":"c"}]}"#,
        )
        .unwrap();
        let lines = lines(&image(), &config, &[10, 20, 30], false);
        let rows: Vec<(&str, &str, u64)> = lines
            .iter()
            .map(|line| (line.id.as_str(), line.created_by.as_str(), line.size))
            .collect();
        assert_eq!(
            rows,
            [
                ("070707070707", "", 30),
                (MISSING, "c", 20),
                (MISSING, "b", 0),
                (MISSING, "a", 10)
            ]
        );
    }

    #[test]
    fn long_commands_are_shortened() {
        assert_eq!(shortened(&"x".repeat(45), false).chars().count(), 45);
        let long = "ü".repeat(46);
        assert_eq!(shortened(&long, false), format!("{}…", "ü".repeat(44)));
        assert_eq!(shortened(&long, true), long);
    }
}
