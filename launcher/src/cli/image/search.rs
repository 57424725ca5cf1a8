//! `hawser search`.

use api::reference::DEFAULT_HOST;
use clap::Args;

use super::ways::{Errand, over_ways};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::filter::Filter;
use crate::cli::listing;
use crate::format::table::{Columns, Row};
use crate::registry::Found;

/// Who knows what is on Docker Hub.
const INDEX: &str = "index.docker.io";
/// Longest description of a shortened line.
const SHOWN: usize = 45;

/// `hawser search`.
#[derive(Debug, Clone, Args)]
pub struct SearchFlags {
    /// Show only what fits: is-official=true|false, is-automated=true|false, stars=NUMBER or more
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
    /// Show at most so many, from 1 to 100
    #[arg(long, value_name = "NUMBER", default_value = "25", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub limit: u8,
    /// Do not shorten descriptions
    #[arg(long)]
    pub no_trunc: bool,
    /// What to look for on Docker Hub, or in another registry: [HOST[:PORT]/]TERM
    pub term: String,
}

const COLUMNS: Columns = Columns {
    headers: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
        ("IsAutomated", "AUTOMATED"),
    ],
    default: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}\t{{.IsAutomated}}",
};
const YES: &str = "[OK]";

/// # Errors
/// A bad filter or template, or a registry that does not say what it has.
pub fn search(context: &Context, flags: &SearchFlags) -> Result<i32, CliError> {
    let filter = Filter::parse(&flags.filter, &["is-official", "is-automated", "stars"])?;
    let stars = filter.get("stars").last().map(|text| {
        let invalid = |_| CliError::Filter(format!("stars={text}"));
        text.parse::<u64>().map_err(invalid)
    });
    let (stars, official, automated) = (
        stars.transpose()?.unwrap_or_default(),
        filter.truth("is-official")?,
        filter.truth("is-automated")?,
    );
    let (host, term) = place(&flags.term);
    let server = if host == DEFAULT_HOST { INDEX } else { host };
    // Docker Hub gives nobody leave to list it, and needs none for its index.
    let scopes = match host {
        DEFAULT_HOST => Vec::new(),
        _ => vec!["registry:catalog:*".to_owned()],
    };
    let limit = usize::from(flags.limit);
    let mut found = over_ways(context, (server, ""), &scopes, Errand::Search, |registry| {
        Ok(registry.search(term, limit)?)
    })?;
    found.retain(|found| {
        found.star_count >= stars
            && official.is_none_or(|wanted| found.is_official == wanted)
            && automated.is_none_or(|wanted| found.is_automated == wanted)
    });
    listing::print(
        &found,
        (false, &flags.format),
        &COLUMNS,
        |found| found.name.clone(),
        |found| row(found, host, flags.no_trunc),
    )
}

/// The registry, and what to look for there.
fn place(typed: &str) -> (&str, &str) {
    match typed.split_once('/') {
        Some((host, term)) if host == "localhost" || host.contains(['.', ':']) => (host, term),
        _ => (DEFAULT_HOST, typed),
    }
}

fn row(found: &Found, host: &str, no_trunc: bool) -> Row {
    let said = |yes: bool| if yes { YES } else { "" };
    let words: Vec<&str> = found.description.split_whitespace().collect();
    let description: String = words
        .join(" ")
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    let description = match description.char_indices().nth(SHOWN) {
        Some(_) if !no_trunc => {
            let kept: String = description.chars().take(SHOWN - 1).collect();
            format!("{kept}…")
        }
        _ => description,
    };
    let name: String = found.name.chars().filter(|c| !c.is_control()).collect();
    let name = match host {
        DEFAULT_HOST => name,
        host => format!("{host}/{name}"),
    };
    Row::new([
        ("Name", name.into()),
        ("Description", description.into()),
        ("StarCount", found.star_count.to_string().into()),
        ("IsOfficial", said(found.is_official).into()),
        ("IsAutomated", said(found.is_automated).into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_name_its_registry() {
        for (typed, expected) in [
            ("nginx", ("docker.io", "nginx")),
            ("bitnami/nginx", ("docker.io", "bitnami/nginx")),
            ("localhost/web", ("localhost", "web")),
            ("r.example:5000/team/web", ("r.example:5000", "team/web")),
        ] {
            assert_eq!(place(typed), expected);
        }
    }
}
