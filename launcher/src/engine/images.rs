//! What clients do with images.
//!
//! `hawser pull` and `hawser push` move them, as processes of their own whose lines are told on.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use api::reference::{Reference, names_version};
use api::storage::Image;
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::archive::{TAR, said};
use super::http::{Chunks, Reply, Request};
use super::objects::{body, reference};
use super::route::{filters, invalid};
use super::{Client, Refusal, describe, hawser};
use crate::cli::container::commit::{self, CommitFlags};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::image::config::Section;
use crate::cli::image::import::{self, ImportFlags};
use crate::cli::image::{self, inspect, login, remove as image_remove};
use crate::registry::credential::{self, Credential};

type Answer = Result<Option<Reply>, Refusal>;

const JSON: &str = "application/json";
/// Some clients pad, others do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

fn broken(op: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |source| CliError::Io { op, source }.into()
}

fn image_of(context: &Context, name: &str) -> Result<Image, Refusal> {
    context.image(name).map_err(|error| {
        let refusal = Refusal::from(error);
        match refusal.status {
            404 => Refusal::new(404, format!("No such image: {name}")),
            _ => refusal,
        }
    })
}

/// `GET /images/NAME/json`.
pub(super) fn look(context: &Context, name: &str) -> Result<Reply, Refusal> {
    let found = image_of(context, name)?;
    Ok(Reply::json(200, &inspect::describe(&found)?))
}

/// `GET /images/json`.
pub(super) fn list(context: &Context, request: &Request) -> Result<Reply, Refusal> {
    let images = image::list::passing(context, &filters(request)?)?;
    let images: Vec<Value> = images
        .iter()
        .map(describe::image)
        .collect::<Result<_, _>>()?;
    Ok(Reply::json(200, &images))
}

/// `GET /images/NAME/history`.
pub(super) fn history(context: &Context, name: &str) -> Result<Reply, Refusal> {
    let image = image_of(context, name)?;
    let steps = image::history::steps(context, &image, true)?;
    let steps: Vec<Value> = steps
        .iter()
        .enumerate()
        .map(|(number, step)| {
            let created: Option<Timestamp> = step.created.parse().ok();
            json!({
                "Id": step.id,
                "Created": created.map_or(0, Timestamp::as_second),
                "CreatedBy": step.created_by,
                "Comment": step.comment,
                "Size": step.size,
                "Tags": if number == 0 { json!(image.tags) } else { Value::Null },
            })
        })
        .collect();
    Ok(Reply::json(200, &steps))
}

/// `DELETE /images/NAME`.
pub(super) fn remove(context: &Context, request: &Request, name: &str) -> Result<Reply, Refusal> {
    let lines = image_remove::remove_one(context, name, request.is_on("force"))?;
    let lines = lines.iter().filter_map(|line| line.split_once(": "));
    let lines: Vec<Value> = lines.map(|(what, name)| json!({ what: name })).collect();
    Ok(Reply::json(200, &lines))
}

/// `POST /commit`, whose body may say what containers of the image start from.
pub(super) fn commit(context: &Context, request: &Request) -> Result<Reply, Refusal> {
    let own: Option<Section> = match request.body.is_empty() {
        true => None,
        false => serde_json::from_value(body(request)?)
            .map_err(|error| invalid(format!("cannot understand the body: {error}")))?,
    };
    let text = |name| request.query(name).filter(|text| !text.is_empty());
    let flags = CommitFlags {
        author: text("author").map(str::to_owned),
        change: changes(request),
        message: text("comment").map(str::to_owned),
        pause: text("pause").is_none() || request.is_on("pause"),
        container: text("container").unwrap_or_default().to_owned(),
        reference: reference(request),
    };
    let image = commit::make(context, &flags, own.unwrap_or_default())?;
    Ok(Reply::json(201, &json!({ "Id": image.id })))
}

/// Instructions, one or several in a text.
fn changes(request: &Request) -> Vec<String> {
    let lines = request.queries("changes").flat_map(str::lines);
    lines.map(str::to_owned).collect()
}

/// `GET /images/get` and `/images/NAME/get`.
pub(super) fn save<'r>(
    context: &Context,
    names: impl Iterator<Item = &'r str>,
    client: Client,
) -> Answer {
    let images = image::save::gather(context, names)?;
    if images.is_empty() {
        return Err(invalid("no image is named"));
    }
    let mut output = Chunks::new(&client.output, TAR);
    let written = {
        let mut output = io::BufWriter::with_capacity(256 << 10, &mut output);
        image::save::archive(context, &images, &mut output).and_then(|()| {
            output.flush().map_err(|source| {
                let op = "write the archive";
                CliError::Io { op, source }
            })
        })
    };
    ended(output, written)
}

/// An archive that is cut short has no end, which the client sees.
pub(super) fn ended<W: Write>(output: Chunks<W>, written: Result<(), CliError>) -> Answer {
    match written {
        Ok(()) => drop(output.finish()),
        Err(error) if !output.has_begun() => return Err(error.into()),
        Err(_told_by_its_end) => {}
    }
    Ok(None)
}

/// `POST /images/load`.
pub(super) fn load(context: &Context, request: &Request, mut client: Client) -> Answer {
    let mut lines = String::new();
    let loaded = with_body(request, &mut client, |archive| {
        image::load::read(context, archive, true, |line| {
            lines += &format!("{}\n", json!({ "stream": format!("{line}\n") }));
            Ok(())
        })
    });
    loaded?;
    let mut output = Chunks::new(&client.output, JSON);
    // A client that has left needs no answer.
    drop(
        output
            .write_all(lines.as_bytes())
            .and_then(|()| output.finish()),
    );
    Ok(None)
}

/// Does `work` with the body of a request, all of which is read: who still writes does not hear what
/// is answered.
fn with_body<T>(
    request: &Request,
    client: &mut Client,
    work: impl FnOnce(&mut dyn Read) -> Result<T, CliError>,
) -> Result<T, Refusal> {
    let mut body = request
        .body(&mut client.input)
        .map_err(|error| invalid(error.to_string()))?;
    let done = work(&mut body);
    drop(io::copy(&mut body, &mut io::sink()));
    Ok(done?)
}

/// `POST /build` and what goes before it.
pub(super) fn no_build(request: &Request, mut client: Client) -> Refusal {
    let message = "images are not built here: build with buildah or podman, and give the result to \
                   hawser load or docker load (podman save IMAGE | hawser load)";
    let refused = with_body(request, &mut client, |_| Ok(()));
    refused
        .err()
        .unwrap_or_else(|| Refusal::new(501, message.to_owned()))
}

/// `POST /images/create`: `fromImage` is pulled, and with `fromSrc=-` the body is an image's only
/// layer.
pub(super) fn create(context: &Context, request: &Request, client: Client) -> Answer {
    let name = request.query("fromImage").unwrap_or_default();
    match request.query("fromSrc") {
        Some("-") => return take(context, request, client),
        None if !name.is_empty() => {}
        _ => return Err(Refusal::no_such_page(request)),
    }
    let version = request.query("tag").unwrap_or_default();
    let typed = match version {
        "" => name.to_owned(),
        digest if digest.contains(':') => format!("{name}@{digest}"),
        tag if names_version(name) && name.ends_with(&format!(":{tag}")) => name.to_owned(),
        tag => format!("{name}:{tag}"),
    };
    let parsed = Reference::parse(&typed).map_err(|error| invalid(error.to_string()))?;
    let mut pull = hawser(context, &["pull"]);
    if !names_version(&typed) {
        // As Docker takes a name alone: its command line always says a tag.
        pull.arg("--all-tags");
    }
    if let Some(platform) = request.query("platform").filter(|text| !text.is_empty()) {
        pull.arg(format!("--platform={platform}"));
    }
    give_login(&mut pull, parsed.host(), request)?;
    tell(pull.args(["--", &typed]), &client)
}

fn take(context: &Context, request: &Request, mut client: Client) -> Answer {
    let flags = ImportFlags {
        change: changes(request),
        message: request.query("message").map(str::to_owned),
        platform: request
            .query("platform")
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        file: PathBuf::from("-"),
        reference: reference(request),
    };
    let image = with_body(request, &mut client, |stream| {
        import::read(context, &flags, stream)
    })?;
    Ok(Some(Reply::json(200, &json!({ "status": image.id }))))
}

/// `POST /images/NAME/push`.
pub(super) fn push(context: &Context, name: &str, request: &Request, client: Client) -> Answer {
    let mut push = hawser(context, &["push"]);
    let tag = request.query("tag").filter(|tag| !tag.is_empty());
    let typed = match tag {
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
    };
    if !names_version(&typed) {
        push.arg("--all-tags");
    }
    let parsed = Reference::parse(&typed).map_err(|error| invalid(error.to_string()))?;
    give_login(&mut push, parsed.host(), request)?;
    tell(push.args(["--", &typed]), &client)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    username: String,
    password: String,
    #[serde(alias = "identityToken")]
    identitytoken: String,
    serveraddress: String,
}

impl Login {
    fn credential(self) -> Option<Credential> {
        if !self.identitytoken.is_empty() {
            return Some(Credential::Token(self.identitytoken));
        }
        credential::named(&self.username, &self.password)
    }
}

/// The client's own login, by the one way that no list of processes shows.
fn give_login(command: &mut Command, host: &str, request: &Request) -> Result<(), Refusal> {
    let Some(text) = request
        .header("x-registry-auth")
        .filter(|text| !text.is_empty())
    else {
        return Ok(());
    };
    let decoded = BASE64.decode(text).ok();
    let login = decoded.and_then(|text| serde_json::from_slice::<Option<Login>>(&text).ok());
    let login = login.ok_or_else(|| invalid("X-Registry-Auth is no login"))?;
    if let Some(credential) = login.and_then(Login::credential) {
        command.env(credential::GIVEN, credential::alone(host, &credential));
    }
    Ok(())
}

/// `POST /auth`: whether a login is good.
pub(super) fn login(context: &Context, request: &Request) -> Result<Reply, Refusal> {
    let asked: Login = serde_json::from_value(body(request)?)
        .map_err(|_no_login| invalid("the body is no login"))?;
    let server = Some(asked.serveraddress.as_str()).filter(|server| !server.is_empty());
    let host = login::host(server)?;
    let credential = asked
        .credential()
        .ok_or_else(|| invalid("a login takes a user name and a password"))?;
    login::check(context, &host, &credential)?;
    let kept = json!({ "Status": "Login Succeeded", "IdentityToken": "" });
    Ok(Reply::json(200, &kept))
}

/// Tells what a command says, in Docker's words for clients. It ends when they leave.
fn tell(command: &mut Command, client: &Client) -> Answer {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(broken("run hawser"))?;
    let mut output = Chunks::new(&client.output, JSON);
    let lines = child.stdout.take().map(BufReader::new);
    for line in lines
        .into_iter()
        .flat_map(BufRead::lines)
        .map_while(Result::ok)
    {
        let told: String = words(&line)
            .iter()
            .map(|value| format!("{value}\n"))
            .collect();
        if output.write_all(told.as_bytes()).is_err() {
            drop(child.kill());
            break;
        }
    }
    if let Err(refusal) = said(child, 500) {
        if !output.has_begun() {
            return Err(refusal);
        }
        let message = refusal.message;
        let last = json!({ "errorDetail": { "message": message }, "error": message });
        // A client that has left needs no answer.
        drop(output.write_all(format!("{last}\n").as_bytes()));
    }
    drop(output.finish());
    Ok(None)
}

/// A line of an account, as clients take it. The last one of a pull is for people alone.
fn words(line: &str) -> Vec<Value> {
    let Some((subject, rest)) = line.split_once(": ") else {
        let is_told = line.contains(' ');
        return is_told
            .then(|| json!({ "status": line }))
            .into_iter()
            .collect();
    };
    if let Some(pushed) = rest.strip_prefix("digest: ") {
        let (digest, size) = pushed.split_once(" size: ").unwrap_or((pushed, "0"));
        let size: u64 = size.parse().unwrap_or_default();
        let aux = json!({ "Tag": subject, "Digest": digest, "Size": size });
        return vec![
            json!({ "status": line }),
            json!({ "progressDetail": {}, "aux": aux }),
        ];
    }
    let is_layer = subject.len() == 12 && subject.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_layer || rest.starts_with("Pulling from ") {
        return vec![json!({ "status": rest, "progressDetail": {}, "id": subject })];
    }
    vec![json!({ "status": line })]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_what_clients_expect() {
        let said = |line: &str| -> String { words(line).iter().map(Value::to_string).collect() };
        for (line, told) in [
            (
                "1: Pulling from team/web",
                r#"{"id":"1","progressDetail":{},"status":"Pulling from team/web"}"#,
            ),
            (
                "0123456789ab: Pull complete",
                r#"{"id":"0123456789ab","progressDetail":{},"status":"Pull complete"}"#,
            ),
            ("Digest: sha256:ab", r#"{"status":"Digest: sha256:ab"}"#),
            (
                "The push refers to repository [r.example/web]",
                r#"{"status":"The push refers to repository [r.example/web]"}"#,
            ),
            (
                "1: digest: sha256:ab size: 7",
                concat!(
                    r#"{"status":"1: digest: sha256:ab size: 7"}"#,
                    r#"{"aux":{"Digest":"sha256:ab","Size":7,"Tag":"1"},"progressDetail":{}}"#
                ),
            ),
            ("docker.io/library/web:1", ""),
        ] {
            assert_eq!(said(line), told, "{line}");
        }
    }
}
