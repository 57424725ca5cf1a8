//! `hawser events`: what happens on this host, as it happens.

use std::io::{self, Write};

use api::event::Event;
use api::path::EVENTS;
use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::context::Context;
use super::error::CliError;
use super::filter::Filter;
use super::{moment, output};
use crate::format::template::Template;

/// `hawser events`.
#[derive(Debug, Clone, Args)]
pub(super) struct EventsFlags {
    /// Show only what fits: type=, event=, container=, image=, network=, service=, volume=, label=,
    /// scope=, daemon=
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// Show what happened since then: a time, or a span before now such as 10m
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// End then: a time, or a span before now
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT", default_value = "")]
    pub format: String,
}

const KEYS: [&str; 10] = [
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "scope",
    "service",
    "type",
    "volume",
];

/// # Errors
/// A bad filter, time or template, or no daemon.
pub(super) fn events(context: &Context, flags: &EventsFlags) -> Result<i32, CliError> {
    let template = match flags.format.as_str() {
        "" | "json" | "{{json .}}" => None,
        source => Some(Template::parse(source)?),
    };
    let is_json = matches!(flags.format.as_str(), "json" | "{{json .}}");
    let zone = TimeZone::system();
    let show = |event: &Event, line: &[u8]| match &template {
        Some(template) => output::line(template.render(&object(event))?),
        None if is_json => output::write(String::from_utf8_lossy(line)),
        None => output::line(text(event, &zone)),
    };
    let (since, until) = (flags.since.as_deref(), flags.until.as_deref());
    Listening::new(&flags.filter, since, until)?.pass_on(context, show)?;
    Ok(0)
}

/// What somebody wants to hear of.
#[derive(Debug)]
pub(crate) struct Listening {
    filter: Filter,
    route: String,
}

impl Listening {
    /// # Errors
    /// A bad filter or time.
    pub(crate) fn new(
        filter: &[String],
        since: Option<&str>,
        until: Option<&str>,
    ) -> Result<Self, CliError> {
        Ok(Self {
            filter: Filter::parse(filter, &KEYS)?,
            route: route(since, until, Timestamp::now())?,
        })
    }

    /// Has each event shown that passes, with the line that it came as, until `show` fails or the
    /// time is over.
    ///
    /// # Errors
    /// That of `show`, or no daemon.
    pub(crate) fn pass_on(
        self,
        context: &Context,
        show: impl FnMut(&Event, &[u8]) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut lines = Lines {
            filter: self.filter,
            show,
            rest: Vec::new(),
            failed: None,
        };
        let heard = context.client().get_into(&self.route, &mut lines);
        match (lines.failed, heard) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(()),
            (None, Err(error)) => Err(error.into()),
        }
    }
}

fn route(since: Option<&str>, until: Option<&str>, now: Timestamp) -> Result<String, CliError> {
    let mut query = Vec::new();
    for (flag, name, text) in [("--since", "since", since), ("--until", "until", until)] {
        if let Some(text) = text {
            let nanoseconds = moment::parse(flag, text, now)?.as_nanosecond();
            query.push(format!("{name}={nanoseconds}"));
        }
    }
    Ok(match query.as_slice() {
        [] => EVENTS.to_owned(),
        query => format!("{EVENTS}?{}", query.join("&")),
    })
}

/// Shows lines of events as they come.
struct Lines<S> {
    filter: Filter,
    show: S,
    /// The beginning of a line.
    rest: Vec<u8>,
    failed: Option<CliError>,
}

impl<S: FnMut(&Event, &[u8]) -> Result<(), CliError>> Write for Lines<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            if let Err(error) = self.show(&line) {
                self.failed = Some(error);
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: FnMut(&Event, &[u8]) -> Result<(), CliError>> Lines<S> {
    fn show(&mut self, line: &[u8]) -> Result<(), CliError> {
        let event: Event = serde_json::from_slice(line).map_err(|source| CliError::Io {
            op: "read an event",
            source: source.into(),
        })?;
        match passes(&self.filter, &event) {
            true => (self.show)(&event, line),
            false => Ok(()),
        }
    }
}

/// Members of Go's `events.Message`.
fn object(event: &Event) -> Value {
    let is_container = event.kind == "container";
    let old = |text: &str| {
        if is_container {
            text.to_owned()
        } else {
            String::new()
        }
    };
    let from = event.actor.attributes.get("image");
    json!({
        "Type": event.kind, "Action": event.action,
        "Actor": { "ID": event.actor.id, "Attributes": event.actor.attributes },
        "Scope": event.scope, "Time": event.time, "TimeNano": event.time_nano,
        "Status": old(&event.action), "ID": old(&event.actor.id),
        "From": old(from.map_or("", String::as_str)),
    })
}

/// `TIME TYPE ACTION ID (NAME=VALUE, …)`.
fn text(event: &Event, zone: &TimeZone) -> String {
    let time = Timestamp::from_nanosecond(event.time_nano.into()).unwrap_or_default();
    let time = time
        .to_zoned(zone.clone())
        .strftime("%Y-%m-%dT%H:%M:%S.%9f%:z");
    // As Go writes UTC.
    let time = time.to_string();
    let time = match time.strip_suffix("+00:00") {
        Some(rest) => format!("{rest}Z"),
        None => time,
    };
    let mut text = format!("{time} {} {} {}", event.kind, event.action, event.actor.id);
    let attributes = event.actor.attributes.iter();
    let attributes: Vec<String> = attributes
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if !attributes.is_empty() {
        text.push_str(&format!(" ({})", attributes.join(", ")));
    }
    text
}

fn passes(filter: &Filter, event: &Event) -> bool {
    let attributes = &event.actor.attributes;
    filter.passes(attributes, |key, value| match key {
        "event" => is_action(&event.action, value),
        "type" => event.kind == value,
        "scope" => event.scope == value,
        "image" => is_of_image(event, value),
        // The daemon is one, whatever it is called.
        "daemon" => event.kind == "daemon",
        kind => event.kind == kind && is_named(event, value),
    })
}

/// `exec_start: ls` is an `exec_start`, and `health_status: healthy` a `health_status`.
fn is_action(action: &str, wanted: &str) -> bool {
    action == wanted
        || action
            .split_once(':')
            .is_some_and(|(verb, _)| verb == wanted)
}

fn is_named(event: &Event, wanted: &str) -> bool {
    let wanted = wanted.trim_start_matches('/');
    !wanted.is_empty()
        && (event.actor.id.starts_with(wanted)
            || event
                .actor
                .attributes
                .get("name")
                .is_some_and(|name| name == wanted))
}

/// Of the image itself, or of a container made of it; a reference without a tag means any.
fn is_of_image(event: &Event, wanted: &str) -> bool {
    let without_tag = |reference: &str| {
        let last = reference.rfind('/').map_or(0, |at| at + 1);
        let end = reference[last..]
            .find([':', '@'])
            .map_or(reference.len(), |at| last + at);
        reference[..end].to_owned()
    };
    let is_same = |name: &String| name == wanted || without_tag(name) == wanted;
    match event.kind.as_str() {
        "image" => {
            is_named(event, wanted) || event.actor.attributes.get("name").is_some_and(is_same)
        }
        "container" => event.actor.attributes.get("image").is_some_and(is_same),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            time: 1_700_000_000,
            time_nano: 1_700_000_000_000_000_123,
            scope: "local".to_owned(),
            ..Event::new("container", "die", "ab12")
        }
        .with("name", "web")
        .with("image", "site:1")
        .with("exitCode", "0")
    }

    #[test]
    fn a_line_reads_as_dockers() {
        assert_eq!(
            text(&event(), &TimeZone::UTC),
            "2023-11-14T22:13:20.000000123Z container die ab12 (exitCode=0, image=site:1, name=web)"
        );
        let template = Template::parse("{{.Action}} {{.Actor.Attributes.name}} {{.Time}}").unwrap();
        assert_eq!(
            template.render(&object(&event())).unwrap(),
            "die web 1700000000"
        );
    }

    #[test]
    fn filters_of_one_key_are_alternatives_and_keys_are_not() {
        let passes = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            passes(&Filter::parse(&texts, &KEYS).unwrap(), &event())
        };
        assert!(passes(&["container=web"]));
        assert!(passes(&["container=ab", "type=container"]));
        assert!(passes(&["event=start", "event=die"]));
        assert!(passes(&["image=site"]) && passes(&["image=site:1"]));
        assert!(passes(&["label=exitCode=0"]));
        for no in [
            "container=we",
            "type=network",
            "event=di",
            "image=si",
            "network=web",
        ] {
            assert!(!passes(&[no]), "{no}");
        }
        assert!(is_action("health_status: healthy", "health_status"));
        assert!(!is_action("exec_start: ls", "exec"));
    }

    #[test]
    fn times_become_a_query() {
        let now = Timestamp::from_second(100).unwrap();
        assert_eq!(
            route(Some("7"), None, now).unwrap(),
            "/v1/events?since=7000000000"
        );
        assert_eq!(
            route(None, Some("40s"), now).unwrap(),
            "/v1/events?until=60000000000"
        );
        assert!(route(Some("never"), None, now).is_err());
    }
}
