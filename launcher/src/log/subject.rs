//! What the option `tag` may say of a container.

use serde_json::{Value, json};

use crate::container::Record;
use crate::format::template::{Template, TemplateError};

/// The template of `text`, tried once, so that a name that is none is found at once.
pub(super) fn parse(text: &str) -> Result<Template, TemplateError> {
    let template = Template::parse(text)?;
    let names = [
        "ID",
        "FullID",
        "Name",
        "ImageID",
        "ImageFullID",
        "ImageName",
        "DaemonName",
        "Command",
        "Hostname",
        "ContainerID",
        "ContainerName",
        "ContainerImageID",
        "ContainerImageName",
    ];
    let mut example: Value = names
        .map(|name| (name, Value::from("x")))
        .into_iter()
        .collect();
    example["ContainerLabels"] = json!({});
    for name in ["ContainerEnv", "ContainerArgs"] {
        example[name] = json!([]);
    }
    template.render(&example)?;
    Ok(template)
}

/// The container as Docker's tag templates know it.
pub(crate) fn of(record: &Record) -> Value {
    let image_id = record.image_id.to_string();
    let short = image_id.split_once(':').map_or(&*image_id, |(_, hex)| hex);
    let short: String = short.chars().take(12).collect();
    let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    let mut command = words(&record.config.entrypoint);
    command.extend(words(&record.config.cmd));
    let arguments: Vec<&String> = command.iter().skip(1).collect();
    let hostname = match record.config.hostname.as_str() {
        "" => record.id.short(),
        hostname => hostname,
    };
    json!({
        "ID": record.id.short(),
        "FullID": record.id.as_str(),
        "Name": record.name.as_str(),
        "ImageID": short,
        "ImageFullID": image_id,
        "ImageName": record.image,
        "DaemonName": "hawser",
        "Command": command.join(" "),
        "Hostname": hostname,
        "ContainerID": record.id.as_str(),
        "ContainerName": format!("/{}", record.name),
        "ContainerImageID": image_id,
        "ContainerImageName": record.image,
        "ContainerLabels": record.config.labels,
        "ContainerEnv": record.config.env,
        "ContainerArgs": arguments,
    })
}
