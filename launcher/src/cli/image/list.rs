//! `hawser image ls`.

use api::path::IMAGES;
use api::storage::Image;
use clap::Args;
use jiff::Timestamp;

use crate::cli::context::{Context, image_config};
use crate::cli::error::CliError;
use crate::cli::filter::Filter;
use crate::cli::listing;
use crate::format::human;
use crate::format::table::{Columns, Row};

use super::config::ImageConfig;

/// `hawser image ls`.
#[derive(Debug, Clone, Args)]
pub struct ListFlags {
    /// Show all images; there are no intermediate ones to hide
    #[arg(short, long)]
    pub all: bool,
    /// Print ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub no_trunc: bool,
    /// Show the digests that registries have the images by
    #[arg(long)]
    pub digests: bool,
    /// Show only what fits: reference=, label=, dangling=, before=, since=
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
    /// Show only images of this repository
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("Labels", "LABELS"),
    ],
    default: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
};
const DIGESTS: Columns = Columns {
    default: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    ..COLUMNS
};
const NONE: &str = "<none>";

/// One line: an image under one of its tags.
struct Line<'i> {
    image: &'i Image,
    config: &'i ImageConfig,
    created: String,
    repository: &'i str,
    tag: &'i str,
}

const KEYS: [&str; 6] = [
    "reference",
    "label",
    "label!",
    "dangling",
    "before",
    "since",
];

fn configs_of(images: &[Image]) -> Result<Vec<ImageConfig>, CliError> {
    let configs = images.iter();
    configs
        .map(|image| image_config(image, image.id.as_str()))
        .collect()
}

/// The images that pass, each with the tags that do.
///
/// # Errors
/// A bad filter, or no daemon.
pub(crate) fn passing(context: &Context, filter: &[String]) -> Result<Vec<Image>, CliError> {
    let filter = Filter::parse(filter, &KEYS)?;
    let images: Vec<Image> = context.client().get(IMAGES)?;
    let configs = configs_of(&images)?;
    let mut passing = Vec::new();
    for (image, config) in images.iter().zip(&configs) {
        let lines = selected(context, lines_of(image, config), &filter, None)?;
        let tags = lines.iter().filter(|line| line.tag != NONE);
        let tags = tags
            .map(|line| format!("{}:{}", line.repository, line.tag))
            .collect();
        if !lines.is_empty() {
            passing.push(Image {
                tags,
                ..image.clone()
            });
        }
    }
    Ok(passing)
}

/// # Errors
/// A bad filter or template, or no daemon.
pub fn list(context: &Context, flags: &ListFlags) -> Result<i32, CliError> {
    let filter = Filter::parse(&flags.filter, &KEYS)?;
    let images: Vec<Image> = context.client().get(IMAGES)?;
    let configs = configs_of(&images)?;
    let mut lines: Vec<Line<'_>> = images
        .iter()
        .zip(&configs)
        .flat_map(|(image, config)| lines_of(image, config))
        .collect();
    lines.sort_by(|a, b| b.created.cmp(&a.created));
    let lines = selected(context, lines, &filter, flags.reference.as_deref())?;
    let now = Timestamp::now();
    listing::print(
        &lines,
        (flags.quiet, &flags.format),
        if flags.digests { &DIGESTS } else { &COLUMNS },
        |line| id(line.image, flags.no_trunc).to_owned(),
        |line| row(line, now, flags.no_trunc),
    )
}

fn lines_of<'i>(image: &'i Image, config: &'i ImageConfig) -> Vec<Line<'i>> {
    let line = |repository, tag| Line {
        image,
        config,
        created: created(image, config),
        repository,
        tag,
    };
    let mut lines: Vec<Line<'i>> = image
        .tags
        .iter()
        .map(|tag| split_tag(tag))
        .map(|(repository, tag)| line(repository, tag))
        .collect();
    // Pulled by digest, or left behind by a tag that moved on.
    for (repository, _) in image.digests.iter().filter_map(|name| name.split_once('@')) {
        if lines.iter().all(|line| line.repository != repository) {
            lines.push(line(repository, NONE));
        }
    }
    if lines.is_empty() {
        lines.push(line(NONE, NONE));
    }
    lines
}

/// The digest that the line's repository has the image by.
fn digest<'i>(line: &Line<'i>) -> &'i str {
    let mut names = line.image.digests.iter();
    names
        .find_map(|name| name.strip_prefix(line.repository)?.strip_prefix('@'))
        .unwrap_or(NONE)
}

/// When it was made; when it came here, if it does not say.
fn created(image: &Image, config: &ImageConfig) -> String {
    config
        .created
        .clone()
        .unwrap_or_else(|| image.added.clone())
}

/// Repository and tag; a colon before the last slash belongs to a host's port.
pub fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, "latest"),
    }
}

fn selected<'l>(
    context: &Context,
    lines: Vec<Line<'l>>,
    filter: &Filter,
    reference: Option<&str>,
) -> Result<Vec<Line<'l>>, CliError> {
    let moment = |key: &str| match filter.get(key).last() {
        None => Ok(None),
        Some(wanted) => {
            let image = context.image(wanted)?;
            let config = image_config(&image, wanted)?;
            Ok::<_, CliError>(Some(created(&image, &config)))
        }
    };
    let (before, since) = (moment("before")?, moment("since")?);
    let dangling = filter.truth("dangling")?;
    let passes = |line: &Line<'_>| {
        before.as_ref().is_none_or(|time| line.created < *time)
            && since.as_ref().is_none_or(|time| line.created > *time)
            && dangling.is_none_or(|wanted| wanted == (line.tag == NONE))
            && reference.is_none_or(|wanted| fits_reference(line, wanted))
            && filter.passes(&line.config.config.labels, |key, value| {
                key != "reference" || fits_reference(line, value)
            })
    };
    Ok(lines.into_iter().filter(passes).collect())
}

/// A repository, or a repository and a tag, where `*` stands for anything but a slash.
fn fits_reference(line: &Line<'_>, wanted: &str) -> bool {
    let whole = format!("{}:{}", line.repository, line.tag);
    glob(wanted, line.repository) || glob(wanted, &whole)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let end = text.find('/').unwrap_or(text.len());
            text.char_indices()
                .map(|(at, _)| at)
                .chain([text.len()])
                .take_while(|at| *at <= end)
                .any(|at| glob(rest, &text[at..]))
        }),
    }
}

fn id(image: &Image, no_trunc: bool) -> &str {
    if no_trunc {
        image.id.as_str()
    } else {
        &image.id.hex()[..12]
    }
}

fn row(line: &Line<'_>, now: Timestamp, no_trunc: bool) -> Row {
    Row::new([
        ("Repository", line.repository.into()),
        ("Tag", line.tag.into()),
        ("Digest", digest(line).into()),
        ("ID", id(line.image, no_trunc).into()),
        ("CreatedSince", human::ago(&line.created, now).into()),
        ("CreatedAt", human::moment(&line.created, 0).into()),
        ("Size", human::size(line.image.size, 3).into()),
    ])
    .with_labels(&line.config.config.labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split_tag("web:1"), ("web", "1"));
        assert_eq!(split_tag("host:5000/web"), ("host:5000/web", "latest"));
        assert_eq!(split_tag("host:5000/web:2"), ("host:5000/web", "2"));
    }

    #[test]
    fn a_star_stays_between_slashes() {
        for (pattern, text, expected) in [
            ("web", "web", true),
            ("*:latest", "web:latest", true),
            ("w*", "web", true),
            ("w*:1", "web:2", false),
            ("*", "team/web", false),
            ("*/*", "team/web", true),
            ("team/*b", "team/web", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
