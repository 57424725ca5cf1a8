//! What else clients do to networks, volumes, images and containers.

use std::io::Write;

use api::daemon::Pruned;
use api::event::Event;
use api::path::{IMAGES_PRUNE, NETWORKS, NETWORKS_CREATE, VOLUMES_PRUNE};
use api::storage::VolumePrune;
use serde_json::{Value, json};

use super::http::{self, Reply, Request};
use super::route::{below, filters, invalid};
use super::wish::{self, Fields};
use super::{Client, Refusal};
use crate::cli::container::prune::{stopped, until};
use crate::cli::container::{diff, top, update};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::events;
use crate::cli::filter::Filter;
use crate::cli::image::prune as image_prune;
use crate::cli::image::tag::{self, TagFlags};
use crate::cli::network::connect::{self, ConnectFlags, DisconnectFlags};
use crate::cli::network::remove::unused;
use crate::cli::volume;
use crate::store::ContainerDir;

pub(super) fn body(request: &Request) -> Result<Value, Refusal> {
    serde_json::from_slice(&request.body)
        .map_err(|error| invalid(format!("the body is no JSON: {error}")))
}

/// The members that the daemon takes, of a body that says nothing else.
fn asked(name: &'static str, body: Value, members: &[&str]) -> Result<Value, Refusal> {
    let mut fields = Fields::of(name, body)?;
    let mut asked = json!({});
    for member in members {
        let value = fields.take(member);
        if !value.is_null() {
            asked[*member] = value;
        }
    }
    fields.end()?;
    Ok(asked)
}

/// `POST /networks/create`.
pub(super) fn make_network(context: &Context, request: &Request) -> Result<Reply, Refusal> {
    let mut body = body(request)?;
    // What clients say that is so anyway.
    body["CheckDuplicate"] = Value::Null;
    if body["Scope"] == "local" {
        body["Scope"] = Value::Null;
    }
    let members = [
        "Name",
        "Driver",
        "EnableIPv4",
        "EnableIPv6",
        "IPAM",
        "Internal",
        "Attachable",
        "Options",
        "Labels",
    ];
    let mut asked = asked("", body, &members)?;
    if let Some(ipam) = asked.get_mut("IPAM").and_then(Value::as_object_mut) {
        ipam.retain(|_, value| !value.is_null());
    }
    let made: Value = context.client().post(NETWORKS_CREATE, &asked)?;
    Ok(Reply::json(201, &made))
}

/// `POST /volumes/create`.
pub(super) fn make_volume(context: &Context, request: &Request) -> Result<Reply, Refusal> {
    let members = ["Name", "Driver", "DriverOpts", "Labels"];
    let asked = asked("", body(request)?, &members)?;
    let wanted = serde_json::from_value(asked).map_err(|error| invalid(error.to_string()))?;
    Ok(Reply::json(201, &volume::made(context, wanted)?))
}

/// `DELETE /networks/ID`.
pub(super) fn remove_network(context: &Context, key: &str) -> Result<Reply, Refusal> {
    context.client().delete(&below(NETWORKS, key))?;
    Ok(Reply::bare(204))
}

/// `DELETE /volumes/NAME`.
pub(super) fn remove_volume(
    context: &Context,
    key: &str,
    request: &Request,
) -> Result<Reply, Refusal> {
    match volume::remove_one(context, key) {
        Err(CliError::Client(error)) if error.is_not_found() && request.is_on("force") => {}
        outcome => outcome?,
    }
    Ok(Reply::bare(204))
}

/// `POST /networks/ID/connect` and `disconnect`.
pub(super) fn join(
    context: &Context,
    network: &str,
    verb: &str,
    request: &Request,
) -> Result<Reply, Refusal> {
    let mut fields = Fields::of("", body(request)?)?;
    let container = fields.take("Container");
    let container = container.as_str().unwrap_or_default().to_owned();
    let network = network.to_owned();
    if verb == "disconnect" {
        let force = fields.take("Force") == true;
        fields.end()?;
        let flags = DisconnectFlags {
            force,
            network,
            container,
        };
        connect::disconnect(context, &flags)?;
        return Ok(Reply::bare(200));
    }
    let mut line = Vec::new();
    wish::endpoint(fields.object("EndpointConfig")?, "alias", &mut line)?;
    fields.end()?;
    line.extend(["--".to_owned(), network, container]);
    let flags: ConnectFlags = wish::flags_of(line)?;
    connect::connect(context, &flags)?;
    Ok(Reply::bare(200))
}

/// `POST /KIND/prune`.
pub(super) fn prune(context: &Context, kind: &str, request: &Request) -> Result<Reply, Refusal> {
    let filters = filters(request)?;
    let words = ["until", "label", "label!"];
    let pruned = match kind {
        "containers" => {
            let filter = Filter::parse(&filters, &words)?;
            let pruned = stopped(context, &filter, until(&filter)?)?;
            json!({
                "ContainersDeleted": pruned.deleted, "SpaceReclaimed": pruned.reclaimed,
            })
        }
        "networks" => {
            let filter = Filter::parse(&filters, &words)?;
            let pruned = unused(context, &filter, until(&filter)?)?;
            json!({ "NetworksDeleted": pruned.deleted })
        }
        "images" => {
            let filter = Filter::parse(&filters, &["until", "label", "label!", "dangling"])?;
            let all = filter.truth("dangling")? == Some(false);
            let wanted = image_prune::request(&filter, all)?;
            let pruned: Pruned = context.client().post(IMAGES_PRUNE, &wanted)?;
            let deleted: Vec<Value> = pruned
                .deleted
                .iter()
                .map(|line| match line.split_once(": ") {
                    Some((what, name)) => json!({ what: name }),
                    None => json!({ "Deleted": line }),
                })
                .collect();
            json!({ "ImagesDeleted": deleted, "SpaceReclaimed": pruned.space_reclaimed })
        }
        _ => {
            let filter = Filter::parse(&filters, &["label", "all"])?;
            let wanted = VolumePrune {
                // Of this version of Docker's API, named volumes are meant too.
                anonymous: false,
                labels: filter.get("label").to_vec(),
                names: None,
                permanent: false,
            };
            let pruned: Pruned = context.client().post(VOLUMES_PRUNE, &wanted)?;
            json!({
                "VolumesDeleted": pruned.deleted, "SpaceReclaimed": pruned.space_reclaimed,
            })
        }
    };
    Ok(Reply::json(200, &pruned))
}

/// `GET /events`: lines of JSON until the client leaves or the time is over.
pub(super) fn events(
    context: &Context,
    request: &Request,
    client: &Client,
) -> Result<Option<Reply>, Refusal> {
    let moment = |name| request.query(name).filter(|text| !text.is_empty());
    let mut output = &client.output;
    let listening = events::Listening::new(&filters(request)?, moment("since"), moment("until"))?;
    let op = "tell of an event";
    if http::begin(&mut output, "application/json").is_ok() {
        let show = |_: &Event, line: &[u8]| {
            let sent = output.write_all(line);
            sent.map_err(|source| CliError::Io { op, source })
        };
        // It ends when somebody has had enough.
        drop(listening.pass_on(context, show));
    }
    Ok(None)
}

/// `GET /containers/ID/top`.
pub(super) fn processes(container: &ContainerDir, request: &Request) -> Result<Reply, Refusal> {
    let options = request.query("ps_args").unwrap_or_default();
    let options: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
    let called = container.record()?.name.to_string();
    let lines = top::listing(container, &called, &options)?;
    let mut rows = lines
        .iter()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let titles = rows.next().unwrap_or_default();
    let processes: Vec<Vec<&str>> = rows.collect();
    let shown = json!({ "Titles": titles, "Processes": processes });
    Ok(Reply::json(200, &shown))
}

/// `GET /containers/ID/changes`.
pub(super) fn changes(context: &Context, container: &ContainerDir) -> Result<Reply, Refusal> {
    Ok(Reply::json(200, &diff::changes(context, container)?))
}

/// `POST /containers/ID/update`.
pub(super) fn change(
    context: &Context,
    container: &ContainerDir,
    request: &Request,
) -> Result<Reply, Refusal> {
    let mut line = Vec::new();
    wish::host(Fields::of("", body(request)?)?, &mut line)?;
    line.extend(["--".to_owned(), container.id().to_string()]);
    update::update_one(context, container, &wish::flags_of(line)?)?;
    context.tell_of(container, "update");
    Ok(Reply::json(200, &json!({ "Warnings": [] })))
}

/// What `repo` and `tag` say.
pub(super) fn reference(request: &Request) -> Option<String> {
    let said = |name| request.query(name).filter(|text| !text.is_empty());
    let repository = said("repo")?;
    Some(match said("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    })
}

/// `POST /images/NAME/tag`.
pub(super) fn tag(context: &Context, image: &str, request: &Request) -> Result<Reply, Refusal> {
    let flags = TagFlags {
        image: image.to_owned(),
        reference: reference(request).unwrap_or_default(),
    };
    tag::tag(context, &flags)?;
    Ok(Reply::bare(201))
}
