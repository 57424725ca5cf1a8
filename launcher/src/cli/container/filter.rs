//! `hawser ps --filter`.

use crate::cli::error::CliError;
use crate::cli::filter::{Filter, name_matches};
use crate::container::Status;

use super::view::View;

/// What of containers is to be shown.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    values: Filter,
}

const KEYS: [&str; 14] = [
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name",
    "network", "publish", "since", "status", "volume",
];

impl Filters {
    /// # Errors
    /// [`CliError::Filter`] names what is no filter.
    pub fn parse(texts: &[String]) -> Result<Self, CliError> {
        let values = Filter::parse(texts, &KEYS)?;
        for status in values.get("status") {
            let known = [
                "created",
                "running",
                "exited",
                "removing",
                "restarting",
                "paused",
                "dead",
            ];
            if !known.contains(&status.as_str()) {
                return Err(CliError::Filter(format!("status={status}")));
            }
        }
        for health in values.get("health") {
            if !["starting", "healthy", "unhealthy", "none"].contains(&health.as_str()) {
                return Err(CliError::Filter(format!("health={health}")));
            }
        }
        values.truth("is-task")?;
        for key in ["expose", "publish"] {
            for value in values.get(key) {
                if ports(value).is_none() {
                    return Err(CliError::Filter(format!("{key}={value}")));
                }
            }
        }
        for code in values.get("exited") {
            if code.parse::<i32>().is_err() {
                return Err(CliError::Filter(format!("exited={code}")));
            }
        }
        Ok(Self { values })
    }

    /// A status or exit code is asked for, so containers that do not run are meant too.
    pub fn imply_all(&self) -> bool {
        !self.values.get("status").is_empty() || !self.values.get("exited").is_empty()
    }

    /// The containers that pass.
    ///
    /// # Errors
    /// `before` or `since` names no container.
    pub fn apply(&self, views: Vec<View>) -> Result<Vec<View>, CliError> {
        let before = self.created_of("before", &views)?;
        let since = self.created_of("since", &views)?;
        Ok(views
            .into_iter()
            .filter(|view| {
                before
                    .as_ref()
                    .is_none_or(|time| view.record.created < *time)
            })
            .filter(|view| {
                since
                    .as_ref()
                    .is_none_or(|time| view.record.created > *time)
            })
            .filter(|view| {
                let labels = &view.record.config.labels;
                self.values
                    .passes(labels, |key, value| matches(key, value, view))
            })
            .collect())
    }

    fn created_of(&self, key: &str, views: &[View]) -> Result<Option<String>, CliError> {
        let Some(wanted) = self.values.get(key).last() else {
            return Ok(None);
        };
        let found = views.iter().find(|view| {
            view.record.name.as_str() == wanted.trim_start_matches('/')
                || (!wanted.is_empty() && view.record.id.as_str().starts_with(wanted.as_str()))
        });
        match found {
            Some(view) => Ok(Some(view.record.created.clone())),
            None => Err(CliError::NoObject(wanted.clone())),
        }
    }
}

fn matches(key: &str, value: &str, view: &View) -> bool {
    let record = &view.record;
    match key {
        // The moments were looked up and compared already.
        "before" | "since" => true,
        "ancestor" => is_image(view, value),
        "exited" => {
            view.state.status == Status::Exited && view.state.exit_code.to_string() == value
        }
        "expose" => ports(value).is_some_and(|wanted| {
            let exposed = record.config.exposed_ports.keys();
            exposed
                .filter_map(|key| ports(key))
                .any(|exposed| exposed.overlaps(&wanted))
        }),
        "publish" => ports(value).is_some_and(|wanted| {
            let published = super::ports::published(view);
            published.iter().any(|port| {
                let last = |first: u16| first.saturating_add(port.count.max(1) - 1);
                let range = |first| Ports {
                    first,
                    last: last(first),
                    protocol: port.protocol.to_string(),
                };
                // As Docker: either end of it.
                range(port.host_port).overlaps(&wanted)
                    || range(port.container_port).overlaps(&wanted)
            })
        }),
        "health" => {
            let status = view.health.as_ref().map_or("none", |h| h.status.as_str());
            view.is_running() && status == value || (value == "none" && view.health.is_none())
        }
        // Those of services are, and there are none on this host.
        "is-task" => matches!(value, "false" | "0" | "f"),
        "id" => record.id.as_str().starts_with(value),
        "name" => name_matches(record.name.as_str(), value),
        "network" => {
            view.networks().iter().any(|network| network == value)
                || view
                    .attachments
                    .iter()
                    .any(|a| !value.is_empty() && a.network_id.as_str().starts_with(value))
        }
        "status" => super::list::status_word(&view.state) == value,
        "volume" => record.mounts.iter().any(|mount| {
            mount.name == value || mount.destination == value || mount.source == value
        }),
        _ => false,
    }
}

/// `PORT[-PORT][/PROTOCOL]`.
struct Ports {
    first: u16,
    last: u16,
    protocol: String,
}

impl Ports {
    fn overlaps(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.first <= other.last && other.first <= self.last
    }
}

fn ports(text: &str) -> Option<Ports> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let ports = Ports {
        first: first.parse().ok()?,
        last: last.parse().ok()?,
        protocol: protocol.to_ascii_lowercase(),
    };
    (ports.first <= ports.last).then_some(ports)
}

fn is_image(view: &View, value: &str) -> bool {
    let record = &view.record;
    let bare = |reference: &str| {
        let last = reference.rsplit('/').next().unwrap_or_default();
        if last.contains(':') {
            reference.to_owned()
        } else {
            format!("{reference}:latest")
        }
    };
    bare(&record.image) == bare(value)
        || record.image_id.as_str() == value
        || (value.len() >= 4 && record.image_id.hex().starts_with(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::container::view::samples;
    use crate::container::Health;

    #[test]
    fn ports_and_health_are_filtered() {
        let mut view = samples::running();
        let passes = |view: &View, text: &str| {
            let filters = Filters::parse(&[text.to_owned()]).unwrap();
            filters.apply(vec![view.clone()]).unwrap().len() == 1
        };
        for text in [
            "expose=443",
            "expose=400-500/tcp",
            "publish=18080",
            "publish=80",
            "publish=53-60/udp",
            "health=none",
            "is-task=false",
            "status=running",
        ] {
            assert!(passes(&view, text), "{text}");
        }
        for text in [
            "expose=443/udp",
            "publish=18081",
            "publish=53",
            "is-task=true",
        ] {
            assert!(!passes(&view, text), "{text}");
        }
        view.health = Some(Health::default());
        assert!(passes(&view, "health=starting") && !passes(&view, "health=none"));
        view.state.paused = true;
        assert!(passes(&view, "status=paused") && !passes(&view, "status=running"));
    }

    #[test]
    fn what_is_no_filter_is_named() {
        for (text, named) in [
            ("bogus=1", "\"bogus\""),
            ("name", "\"name\""),
            ("status=asleep", "\"status=asleep\""),
            ("exited=x", "\"exited=x\""),
            ("health=fine", "\"health=fine\""),
            ("publish=web", "\"publish=web\""),
            ("is-task=perhaps", "\"is-task=perhaps\""),
        ] {
            let error = Filters::parse(&[text.to_owned()]).unwrap_err().to_string();
            assert_eq!(error, format!("invalid filter {named}"));
        }
    }
}
