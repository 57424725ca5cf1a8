//! Which request is what.

use std::io::Write;
use std::thread;
use std::time::Duration;

use api::path::{NETWORKS, VERSION};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::describe::Reading;
use super::http::{self, Reply, Request};
use super::life::{Attacher, Condition, Lives};
use super::{
    API_VERSION, Client, OLDEST_VERSION, Refusal, archive, describe, images, life, logs, objects,
    wish,
};
use crate::cli::container::filter::Filters;
use crate::cli::container::rename::{self, RenameFlags};
use crate::cli::container::view::{self, View};
use crate::cli::container::{inspect, list, pause, remove, stop};
use crate::cli::context::Context;
use crate::cli::run::{create, limit};
use crate::cli::system;
use crate::cli::volume;
use crate::registry::manifest::Platform;
use crate::store::ContainerDir;
use crate::stream::Control;

/// Between two figures of one container.
const INTERVAL: Duration = Duration::from_secs(1);

type Answer = Result<Option<Reply>, Refusal>;

/// The answer, unless the client has been given streams.
pub(super) fn answer(
    context: &Context,
    lives: &Lives,
    request: &Request,
    client: Client,
) -> Answer {
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    let method = match request.method.as_str() {
        "HEAD" => "GET",
        method => method,
    };
    let whole = |reply: Result<Reply, Refusal>| reply.map(Some);
    match (method, path.as_slice()) {
        ("GET", ["_ping"]) => Ok(Some(Reply::text("OK"))),
        ("GET", ["version"]) => whole(version(context)),
        ("GET", ["info"]) => whole(Ok(Reply::json(200, &system::described(context)?))),
        ("GET", ["containers", "json"]) => whole(containers(context, request)),
        ("POST", ["containers", "create"]) => whole(make(context, request)),
        ("GET", ["events"]) => objects::events(context, request, &client),
        ("POST", ["containers", key, "exec"]) => {
            let container = context.container(key)?;
            whole(lives.execs.make(context, &container, request))
        }
        ("GET", ["exec", id, "json"]) => whole(lives.execs.look(id)),
        ("POST", ["exec", id, "start"]) => lives.execs.start(context, id, request, client),
        ("POST", ["exec", id, "resize"]) => {
            let (rows, cols) = size(request)?;
            whole(lives.execs.resize(id, rows, cols))
        }
        (
            "POST",
            [
                kind @ ("containers" | "images" | "networks" | "volumes"),
                "prune",
            ],
        ) => whole(objects::prune(context, kind, request)),
        ("POST", ["networks", "create"]) => whole(objects::make_network(context, request)),
        ("POST", ["volumes", "create"]) => whole(objects::make_volume(context, request)),
        ("POST", ["networks", key, verb @ ("connect" | "disconnect")]) => {
            whole(objects::join(context, key, verb, request))
        }
        ("DELETE", ["networks", key]) => whole(objects::remove_network(context, key)),
        ("DELETE", ["volumes", key]) => whole(objects::remove_volume(context, key, request)),
        ("POST", ["images", name @ .., "tag"]) => {
            whole(objects::tag(context, &name.join("/"), request))
        }
        ("GET" | "PUT", ["containers", key, "archive"]) => {
            archive::answer(context, &context.container(key)?, request, client)
        }
        ("GET", ["containers", key, what]) => {
            let container = context.container(key)?;
            look(context, &container, what, request, client)
        }
        ("POST", ["containers", key, verb]) => {
            let container = context.container(key)?;
            act(context, lives, &container, verb, request, client)
        }
        ("DELETE", ["containers", key]) => {
            let id = context.container(key)?.id().clone();
            remove::remove_one(context, key, request.is_on("force"), request.is_on("v"))?;
            lives.forget(&id);
            Ok(Some(Reply::bare(204)))
        }
        ("POST", ["images", "create"]) => images::create(context, request, client),
        ("POST", ["images", "load"]) => images::load(context, request, client),
        ("GET", ["images", "get"]) => images::save(context, request.queries("names"), client),
        ("GET", ["images", "json"]) => whole(images::list(context, request)),
        ("GET", ["images", name @ .., verb]) if !name.is_empty() => {
            let name = name.join("/");
            match *verb {
                "json" => whole(images::look(context, &name)),
                "history" => whole(images::history(context, &name)),
                "get" => images::save(context, std::iter::once(name.as_str()), client),
                _ => Err(Refusal::no_such_page(request)),
            }
        }
        ("POST", ["images", name @ .., "push"]) => {
            images::push(context, &name.join("/"), request, client)
        }
        ("DELETE", ["images", name @ ..]) if !name.is_empty() => {
            whole(images::remove(context, request, &name.join("/")))
        }
        ("POST", ["commit"]) => whole(images::commit(context, request)),
        ("POST", ["auth"]) => whole(images::login(context, request)),
        ("POST", ["build" | "session" | "grpc"]) => Err(images::no_build(request, client)),
        // As the daemon has them: they are objects of Docker's API already.
        ("GET", ["networks"]) => whole(of_daemon(context, NETWORKS)),
        ("GET", ["networks", key]) => whole(of_daemon(context, &below(NETWORKS, key))),
        ("GET", ["volumes"]) => {
            let volumes = volume::all(context)?;
            let volumes = json!({ "Volumes": volumes, "Warnings": [] });
            Ok(Some(Reply::json(200, &volumes)))
        }
        ("GET", ["volumes", key]) => whole(Ok(Reply::json(200, &volume::find(context, key)?))),
        _ => Err(Refusal::no_such_page(request)),
    }
}

pub(super) fn below(route: &str, key: &str) -> String {
    format!("{route}/{}", api::client::escape(key))
}

fn of_daemon(context: &Context, route: &str) -> Result<Reply, Refusal> {
    Ok(Reply::json(200, &context.client().get::<Value>(route)?))
}

fn version(context: &Context) -> Result<Reply, Refusal> {
    let daemon: api::daemon::Version = context.client().get(VERSION)?;
    let system = rustix::system::uname();
    Ok(Reply::json(
        200,
        &json!({
            "Version": daemon.version,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": OLDEST_VERSION,
            "Os": "linux",
            "Arch": Platform::host().architecture,
            "KernelVersion": system.release().to_string_lossy(),
            "Platform": { "Name": "Hawser" },
        }),
    ))
}

pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(400, message.into())
}

/// `{"KEY": ["VALUE"]}`, or in older clients `{"KEY": {"VALUE": true}}`, as the command line has it.
pub(super) fn filters(request: &Request) -> Result<Vec<String>, Refusal> {
    let Some(text) = request.query("filters").filter(|text| !text.is_empty()) else {
        return Ok(Vec::new());
    };
    let malformed = || invalid(format!("invalid filters {text}"));
    let filters: Value = serde_json::from_str(text).map_err(|_no_json| malformed())?;
    let mut texts = Vec::new();
    for (key, values) in filters.as_object().ok_or_else(malformed)? {
        let values: Vec<&str> = match values {
            Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
            Value::Object(values) => values.keys().map(String::as_str).collect(),
            _ => return Err(malformed()),
        };
        texts.extend(values.iter().map(|value| format!("{key}={value}")));
    }
    Ok(texts)
}

/// Rows and columns of a terminal.
fn size(request: &Request) -> Result<(u16, u16), Refusal> {
    let number = |name| request.query(name).and_then(|text| text.parse().ok());
    let size = number("h").zip(number("w"));
    size.ok_or_else(|| invalid("h and w must be numbers"))
}

fn containers(context: &Context, request: &Request) -> Result<Reply, Refusal> {
    let filters = Filters::parse(&filters(request)?)?;
    let limit: Option<usize> = request.query("limit").and_then(|limit| limit.parse().ok());
    let limit = limit.filter(|limit| *limit > 0);
    let all = request.is_on("all") || limit.is_some() || filters.imply_all();
    let views = filters.apply(view::all(context)?)?.into_iter();
    let now = Timestamp::now();
    let shown: Vec<Value> = views
        .filter(|view| all || view.is_running())
        .take(limit.unwrap_or(usize::MAX))
        .map(|view| {
            let sizes = request.is_on("size").then(|| list::sizes(context, &view));
            describe::container(&view, sizes, now)
        })
        .collect();
    Ok(Reply::json(200, &shown))
}

fn make(context: &Context, request: &Request) -> Result<Reply, Refusal> {
    let name = request.query("name").filter(|name| !name.is_empty());
    let name = name.map(|name| name.trim_start_matches('/'));
    let (flags, attached) = wish::parse(name, &request.body)?;
    let (container, _) = create::create(context, &flags, attached)?;
    let made = json!({ "Id": container.id(), "Warnings": null });
    Ok(Reply::json(201, &made))
}

fn look(
    context: &Context,
    container: &ContainerDir,
    what: &str,
    request: &Request,
    client: Client,
) -> Answer {
    match what {
        "json" => {
            let found = inspect::inspect(context, container, request.is_on("size"))?;
            Ok(Some(Reply::json(200, &found)))
        }
        "logs" => logs::send(container, request, client).map(|()| None),
        "stats" => stats(container, request, client),
        "top" => objects::processes(container, request).map(Some),
        "changes" => objects::changes(context, container).map(Some),
        "export" => archive::export(context, container, &client),
        _ => Err(Refusal::no_such_page(request)),
    }
}

/// A line a second until the container ends, or one line.
fn stats(container: &ContainerDir, request: &Request, client: Client) -> Answer {
    let once = request.query("stream").is_some() && !request.is_on("stream");
    let mut output = &client.output;
    let mut view = View::of(container)?;
    let mut before = Reading::default();
    if once && view.is_running() && !request.is_on("one-shot") {
        before = Reading::of(&view);
        thread::sleep(INTERVAL);
    }
    if once {
        let now = Reading::of(&view);
        let body = describe::stats(&view, &before, &now);
        return Ok(Some(Reply::json(200, &body)));
    }
    let mut begun = http::begin(&mut output, "application/json");
    while begun.is_ok() {
        let now = Reading::of(&view);
        let line = format!("{}\n", describe::stats(&view, &before, &now));
        begun = output.write_all(line.as_bytes());
        if !view.is_running() {
            break;
        }
        before = now;
        thread::sleep(INTERVAL);
        view = match View::of(container) {
            Ok(view) => view,
            // It has been removed.
            Err(_gone) => break,
        };
    }
    Ok(None)
}

fn act(
    context: &Context,
    lives: &Lives,
    container: &ContainerDir,
    verb: &str,
    request: &Request,
    client: Client,
) -> Answer {
    let signal = || {
        let named = request.query("signal").filter(|signal| !signal.is_empty());
        let number = named.map(limit::signal).transpose();
        number.map_err(|error| invalid(error.to_string()))
    };
    let timeout = || match request.query("t").filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => {
            let number = text.parse::<i64>();
            number
                .map(Some)
                .map_err(|_no_number| invalid(format!("invalid t {text:?}")))
        }
    };
    match verb {
        "start" => {
            let status = if life::start(context, lives, container)? {
                204
            } else {
                304
            };
            return Ok(Some(Reply::bare(status)));
        }
        "stop" => {
            let was_running = View::of(container)?.is_running();
            stop::stop_one(context, container, signal()?, timeout()?)?;
            let status = if was_running { 204 } else { 304 };
            return Ok(Some(Reply::bare(status)));
        }
        "restart" => stop::restart_one(context, container, signal()?, timeout()?)?,
        "kill" => stop::kill_one(context, container, signal()?.unwrap_or(libc::SIGKILL))?,
        "pause" => pause::ask(context, container, &Control::Pause)?,
        "unpause" => pause::ask(context, container, &Control::Unpause)?,
        "rename" => {
            let flags = RenameFlags {
                container: container.id().to_string(),
                name: request
                    .query("name")
                    .unwrap_or_default()
                    .trim_start_matches('/')
                    .to_owned(),
            };
            rename::rename(context, &flags)?;
        }
        "resize" => {
            let (rows, cols) = size(request)?;
            if let Some(mut connection) = stop::connect(context, container)? {
                // A container that ends has no size.
                drop(connection.send(&Control::Resize { rows, cols }));
            }
            return Ok(Some(Reply::bare(200)));
        }
        "update" => return objects::change(context, container, request).map(Some),
        "attach" => return attach(context, lives, container, request, client).map(|()| None),
        "wait" => return wait(context, lives, container, request, client).map(|()| None),
        _ => return Err(Refusal::no_such_page(request)),
    }
    Ok(Some(Reply::bare(204)))
}

fn attach(
    context: &Context,
    lives: &Lives,
    container: &ContainerDir,
    request: &Request,
    client: Client,
) -> Result<(), Refusal> {
    let config = container.record()?.config;
    let is_streaming = request.is_on("stream");
    let wants = |name| is_streaming && request.is_on(name);
    let attacher = Attacher {
        stdin: wants("stdin") && config.open_stdin,
        stdout: wants("stdout"),
        stderr: wants("stderr"),
        is_raw: config.tty,
        client,
    };
    life::attach(
        context,
        lives,
        container,
        attacher,
        request.header("upgrade"),
    )
}

fn wait(
    context: &Context,
    lives: &Lives,
    container: &ContainerDir,
    request: &Request,
    client: Client,
) -> Result<(), Refusal> {
    let condition = match request.query("condition").unwrap_or_default() {
        "" | "not-running" => Condition::NotRunning,
        // Containers that are removed when they end are so before their end is told.
        "next-exit" | "removed" => Condition::NextExit,
        other => return Err(invalid(format!("invalid condition {other:?}"))),
    };
    // Clients start the container once they know that its end will be told.
    let waiter = life::Waiter::new(lives, container, condition)?;
    let mut output = &client.output;
    if http::begin(&mut output, "application/json").is_ok() {
        let body = match waiter.wait(context, container) {
            Ok(code) => json!({ "StatusCode": code }),
            Err(refusal) => {
                json!({ "StatusCode": -1, "Error": { "Message": refusal.message } })
            }
        };
        // A client that has left needs no answer.
        drop(output.write_all(format!("{body}\n").as_bytes()));
    }
    Ok(())
}
