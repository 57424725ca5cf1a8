//! `hawser inspect`, and that of every kind of object.

use api::client::ClientError;
use api::net::Network;
use api::service::Service;
use api::storage::Volume;
use api::swarm::Node;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::format::template::Template;
use crate::store::StoreError;

use super::container::inspect::{self as container, Container};
use super::context::Context;
use super::error::CliError;
use super::image::inspect::{ImageObject, describe as describe_image};
use super::{network, node, output, service, volume};

/// `hawser inspect` and `hawser container|image|network|volume|service inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectFlags {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Things to show
    #[arg(required = true, value_name = "NAME|ID")]
    pub keys: Vec<String>,
}

/// `hawser inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectAnyFlags {
    /// Look only among things of this kind
    #[arg(long = "type", value_name = "KIND")]
    pub kind: Option<Kind>,
    #[command(flatten)]
    pub container: InspectContainerFlags,
}

/// `hawser container inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectContainerFlags {
    /// Show what containers take: SizeRw is their own, SizeRootFs is with their image
    #[arg(short, long)]
    pub size: bool,
    #[command(flatten)]
    pub flags: InspectFlags,
}

/// What can be inspected, in the order it is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Container,
    Image,
    Network,
    Volume,
    Service,
    Node,
}

const KINDS: [Kind; 5] = [
    Kind::Container,
    Kind::Image,
    Kind::Network,
    Kind::Volume,
    Kind::Service,
];

/// An object as the Docker Engine API describes it.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum Object {
    Container(Box<Container>),
    Image(Box<ImageObject>),
    Network(Box<Network>),
    Volume(Box<Volume>),
    Service(Box<Service>),
    Node(Box<Node>),
}

/// Prints what is found; what is not is an error after that.
///
/// # Errors
/// A bad template, or no daemon.
pub fn inspect(
    context: &Context,
    flags: &InspectFlags,
    kind: Option<Kind>,
) -> Result<i32, CliError> {
    show(context, flags, kind, false)
}

/// The same, perhaps with what containers take.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_container(
    context: &Context,
    container: &InspectContainerFlags,
    kind: Option<Kind>,
) -> Result<i32, CliError> {
    show(context, &container.flags, kind, container.size)
}

fn show(
    context: &Context,
    flags: &InspectFlags,
    kind: Option<Kind>,
    size: bool,
) -> Result<i32, CliError> {
    let template = match flags.format.as_deref() {
        None | Some("") => None,
        Some("json") => Some(Template::parse("{{json .}}")?),
        Some(source) => Some(Template::parse(source)?),
    };
    let kinds = kind.as_ref().map_or(&KINDS[..], std::slice::from_ref);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for key in &flags.keys {
        match find(context, key, kinds, size) {
            Ok(Some(object)) => found.push(object),
            Ok(None) => failures.push(not_found(kind, key)),
            // Too little of an id, say, is no reason not to show the others.
            Err(error @ (CliError::Store(_) | CliError::Client(ClientError::Api(_)))) => {
                failures.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    match template {
        Some(template) => {
            for object in &found {
                let value = serde_json::to_value(object).map_err(unserializable)?;
                output::line(template.render(&value)?)?;
            }
        }
        None => output::line(pretty(&found)?)?,
    }
    for failure in &failures {
        output::warn(format_args!("hawser: {failure}"));
    }
    Ok(i32::from(!failures.is_empty()))
}

fn not_found(kind: Option<Kind>, key: &str) -> String {
    match kind {
        None => format!("Error: No such object: {key}"),
        Some(Kind::Container) => format!("No such container: {key}"),
        Some(Kind::Image) => format!("No such image: {key}"),
        Some(Kind::Network) => format!("network {key} not found"),
        Some(Kind::Service) => format!("no such service: {key}"),
        Some(Kind::Node) => format!("no such node: {key}"),
        Some(Kind::Volume) => format!("get {key}: no such volume"),
    }
}

/// JSON in Docker's layout: a list, four blanks a level.
fn pretty(objects: &[Object]) -> Result<String, CliError> {
    let mut text = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    objects.serialize(&mut serializer).map_err(unserializable)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn unserializable(source: serde_json::Error) -> CliError {
    CliError::Io {
        op: "write the object as JSON",
        source: source.into(),
    }
}

fn find(
    context: &Context,
    key: &str,
    kinds: &[Kind],
    size: bool,
) -> Result<Option<Object>, CliError> {
    for kind in kinds {
        let found = match kind {
            Kind::Container => context
                .container(key)
                .and_then(|container| container::inspect(context, &container, size))
                .map(|container| Object::Container(Box::new(container))),
            Kind::Image => context
                .image(key)
                .and_then(|image| describe_image(&image))
                .map(|image| Object::Image(Box::new(image))),
            Kind::Network => {
                network::find(context, key).map(|network| Object::Network(Box::new(network)))
            }
            Kind::Service => {
                service::find(context, key).map(|service| Object::Service(Box::new(service)))
            }
            Kind::Node => node::find(context, key).map(|node| Object::Node(Box::new(node))),
            Kind::Volume => {
                volume::find(context, key).map(|volume| Object::Volume(Box::new(volume)))
            }
        };
        match found {
            Ok(object) => return Ok(Some(object)),
            Err(error) if means_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// What is no valid name of one kind may be one of another.
fn means_absent(error: &CliError) -> bool {
    match error {
        CliError::Store(StoreError::NotFound { .. }) => true,
        CliError::Client(error) => error.api().is_some_and(|refusal| {
            matches!(
                refusal.code,
                api::error::ErrorCode::NotFound | api::error::ErrorCode::InvalidInput
            )
        }),
        _ => false,
    }
}
