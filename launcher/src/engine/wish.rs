//! A container as clients of an engine ask for it, said as a command line: what it means, and what
//! is refused, is then what it is there.

use clap::{Args, Parser};
use serde_json::{Map, Value};

use super::Refusal;
use crate::cli::run::create::Attached;
use crate::cli::run::flags::CreateFlags;

/// The flags without a program's name in front.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line<T: Args> {
    #[command(flatten)]
    flags: T,
}

#[derive(Debug, Clone, Copy)]
enum As {
    Text,
    Number,
    Switch,
    List,
    /// `{"NAME": "VALUE"}` as `NAME=VALUE`.
    Pairs,
    /// `{"NAME": {}}` as `NAME`.
    Names,
    /// `{"PATH": "OPTIONS"}` as `PATH:OPTIONS`.
    Colons,
    /// Nanoseconds.
    Span,
}

const TOP: &[(&str, &str, As)] = &[
    ("Hostname", "hostname", As::Text),
    ("Domainname", "domainname", As::Text),
    ("User", "user", As::Text),
    ("Tty", "tty", As::Switch),
    ("OpenStdin", "interactive", As::Switch),
    ("Labels", "label", As::Pairs),
    ("ExposedPorts", "expose", As::Names),
    ("Volumes", "volume", As::Names),
    ("WorkingDir", "workdir", As::Text),
    ("MacAddress", "mac-address", As::Text),
    ("StopSignal", "stop-signal", As::Text),
    ("StopTimeout", "stop-timeout", As::Number),
];
const HOST: &[(&str, &str, As)] = &[
    ("Binds", "volume", As::List),
    ("NetworkMode", "network", As::Text),
    ("PublishAllPorts", "publish-all", As::Switch),
    ("AutoRemove", "rm", As::Switch),
    ("VolumeDriver", "volume-driver", As::Text),
    ("VolumesFrom", "volumes-from", As::List),
    ("CapAdd", "cap-add", As::List),
    ("CapDrop", "cap-drop", As::List),
    ("CgroupnsMode", "cgroupns", As::Text),
    ("Dns", "dns", As::List),
    ("DnsOptions", "dns-option", As::List),
    ("DnsSearch", "dns-search", As::List),
    ("ExtraHosts", "add-host", As::List),
    ("GroupAdd", "group-add", As::List),
    ("IpcMode", "ipc", As::Text),
    ("Links", "link", As::List),
    ("OomScoreAdj", "oom-score-adj", As::Number),
    ("PidMode", "pid", As::Text),
    ("Privileged", "privileged", As::Switch),
    ("ReadonlyRootfs", "read-only", As::Switch),
    ("SecurityOpt", "security-opt", As::List),
    ("StorageOpt", "storage-opt", As::Pairs),
    ("Tmpfs", "tmpfs", As::Colons),
    ("UTSMode", "uts", As::Text),
    ("UsernsMode", "userns", As::Text),
    ("ShmSize", "shm-size", As::Number),
    ("Sysctls", "sysctl", As::Pairs),
    ("Runtime", "runtime", As::Text),
    ("Init", "init", As::Switch),
    ("Memory", "memory", As::Number),
    ("MemorySwap", "memory-swap", As::Number),
    ("MemoryReservation", "memory-reservation", As::Number),
    ("CpuShares", "cpu-shares", As::Number),
    ("CpuPeriod", "cpu-period", As::Number),
    ("CpuQuota", "cpu-quota", As::Number),
    ("CpusetCpus", "cpuset-cpus", As::Text),
    ("CpusetMems", "cpuset-mems", As::Text),
    ("PidsLimit", "pids-limit", As::Number),
    ("BlkioWeight", "blkio-weight", As::Number),
    ("OomKillDisable", "oom-kill-disable", As::Switch),
    ("CgroupParent", "cgroup-parent", As::Text),
    ("DeviceCgroupRules", "device-cgroup-rule", As::List),
];
const HEALTH: &[(&str, &str, As)] = &[
    ("Interval", "health-interval", As::Span),
    ("Timeout", "health-timeout", As::Span),
    ("StartPeriod", "health-start-period", As::Span),
    ("StartInterval", "health-start-interval", As::Span),
    ("Retries", "health-retries", As::Number),
];

fn malformed(name: &str) -> Refusal {
    Refusal::new(400, format!("{name} is not of the kind that is expected"))
}

fn not_here(name: &str) -> Refusal {
    Refusal::new(
        501,
        format!("{name} cannot be asked for here: use hawser create"),
    )
}

/// Whether a field says nothing: clients send most fields always.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => matches!(number.as_i64(), Some(0 | -1)),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_empty),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

/// What of an object is not yet said.
pub(super) struct Fields {
    name: &'static str,
    fields: Map<String, Value>,
}

impl Fields {
    pub(super) fn of(name: &'static str, value: Value) -> Result<Self, Refusal> {
        match value {
            Value::Null => Ok(Map::new()),
            Value::Object(fields) => Ok(fields),
            _ => Err(malformed(name)),
        }
        .map(|fields| Self { name, fields })
    }

    pub(super) fn take(&mut self, name: &str) -> Value {
        self.fields.remove(name).unwrap_or_default()
    }

    pub(super) fn object(&mut self, name: &'static str) -> Result<Self, Refusal> {
        Self::of(name, self.take(name))
    }

    fn words(&mut self, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        match self.take(name) {
            Value::Null => Ok(None),
            // As shells take it.
            Value::String(text) => Ok(Some(vec![text])),
            value => texts(name, &value).map(Some),
        }
    }

    fn flags(&mut self, table: &[(&str, &str, As)], line: &mut Vec<String>) -> Result<(), Refusal> {
        for (name, flag, kind) in table {
            let value = self.take(name);
            // An empty list of names has none to say, and an anonymous volume's options are empty.
            if !matches!(value, Value::Object(_)) && is_empty(&value) {
                continue;
            }
            for text in say(name, &value, *kind)? {
                line.push(match text {
                    Some(text) => format!("--{flag}={text}"),
                    None => format!("--{flag}"),
                });
            }
        }
        Ok(())
    }

    /// What is left must say nothing.
    pub(super) fn end(self) -> Result<(), Refusal> {
        let said = self.fields.iter().find(|(_, value)| !is_empty(value));
        match said {
            None => Ok(()),
            Some((field, _)) if self.name.is_empty() => Err(not_here(field)),
            Some((field, _)) => Err(not_here(&format!("{}.{field}", self.name))),
        }
    }
}

fn texts(name: &str, value: &Value) -> Result<Vec<String>, Refusal> {
    let items = value.as_array().ok_or_else(|| malformed(name))?;
    let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
    texts
        .map(|text| text.ok_or_else(|| malformed(name)))
        .collect()
}

/// The values to give a flag; none for a switch.
fn say(name: &str, value: &Value, kind: As) -> Result<Vec<Option<String>>, Refusal> {
    let entries = || value.as_object().ok_or_else(|| malformed(name));
    let said = match kind {
        As::Switch => return Ok(vec![None]),
        As::Text => vec![value.as_str().ok_or_else(|| malformed(name))?.to_owned()],
        As::Number => vec![value.as_i64().ok_or_else(|| malformed(name))?.to_string()],
        As::Span => {
            let span = value.as_i64().ok_or_else(|| malformed(name))?;
            vec![format!("{}us", span / 1000)]
        }
        As::List => texts(name, value)?,
        As::Names => entries()?.keys().cloned().collect(),
        As::Pairs | As::Colons => {
            let sign = if matches!(kind, As::Pairs) { '=' } else { ':' };
            let pair = |(key, value): (&String, &Value)| match value.as_str() {
                None => Err(malformed(name)),
                Some("") if sign == ':' => Ok(key.clone()),
                Some(text) => Ok(format!("{key}{sign}{text}")),
            };
            entries()?.iter().map(pair).collect::<Result<_, _>>()?
        }
    };
    Ok(said.into_iter().map(Some).collect())
}

/// The flags for a request's body.
pub(super) fn parse(name: Option<&str>, body: &[u8]) -> Result<(CreateFlags, Attached), Refusal> {
    let body = serde_json::from_slice(body)
        .map_err(|error| Refusal::new(400, format!("the body is no JSON: {error}")))?;
    let mut top = Fields::of("", body)?;
    // Images are pulled by a request of their own.
    let mut line = vec!["--pull=never".to_owned()];
    line.extend(name.map(|name| format!("--name={name}")));
    let image = top.take("Image");
    let image = image.as_str().filter(|image| !image.is_empty());
    let image = image.ok_or_else(|| Refusal::new(400, "no Image is named".to_owned()))?;
    let attached = Attached {
        stdin: top.take("AttachStdin") == true,
        stdout: top.take("AttachStdout") == true,
        stderr: top.take("AttachStderr") == true,
    };
    // Said by the others.
    top.take("StdinOnce");
    top.flags(TOP, &mut line)?;
    for variable in top.words("Env")?.unwrap_or_default() {
        // A name alone would be this program's own variable.
        if variable.contains('=') {
            line.push(format!("--env={variable}"));
        }
    }
    let mut command = Vec::new();
    if let Some(entrypoint) = top.words("Entrypoint")? {
        let mut entrypoint = entrypoint.into_iter();
        let program = entrypoint.next().unwrap_or_default();
        line.push(format!("--entrypoint={program}"));
        command.extend(entrypoint);
    }
    command.extend(top.words("Cmd")?.unwrap_or_default());
    health(top.object("Healthcheck")?, &mut line)?;
    host(top.object("HostConfig")?, &mut line)?;
    networks(top.object("NetworkingConfig")?, &mut line)?;
    top.end()?;
    line.extend(["--".to_owned(), image.to_owned()]);
    line.extend(command);
    Ok((flags_of(line)?, attached))
}

/// What a command line means, refused as it is there.
pub(super) fn flags_of<T: Args>(line: Vec<String>) -> Result<T, Refusal> {
    Line::try_parse_from(line)
        .map(|line| line.flags)
        .map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            let message = first.strip_prefix("error: ").unwrap_or(first);
            Refusal::new(400, message.to_owned())
        })
}

fn health(mut check: Fields, line: &mut Vec<String>) -> Result<(), Refusal> {
    match check.words("Test")?.unwrap_or_default().as_slice() {
        [] => {}
        [none] if none == "NONE" => line.push("--no-healthcheck".to_owned()),
        [shell, command] if shell == "CMD-SHELL" => line.push(format!("--health-cmd={command}")),
        _ => {
            return Err(not_here(
                "a Healthcheck.Test of another kind than CMD-SHELL",
            ));
        }
    }
    check.flags(HEALTH, line)?;
    check.end()
}

pub(super) fn host(mut host: Fields, line: &mut Vec<String>) -> Result<(), Refusal> {
    // What clients say of a network that is the usual one.
    if host
        .fields
        .get("NetworkMode")
        .is_some_and(|mode| mode == "default")
    {
        host.take("NetworkMode");
    }
    host.flags(HOST, line)?;
    let cpus = host.take("NanoCpus").as_i64().unwrap_or_default();
    if cpus != 0 {
        line.push(format!(
            "--cpus={}.{:09}",
            cpus / 1_000_000_000,
            cpus % 1_000_000_000
        ));
    }
    let mut restart = host.object("RestartPolicy")?;
    let (policy, most) = (restart.take("Name"), restart.take("MaximumRetryCount"));
    match (
        policy.as_str().unwrap_or_default(),
        most.as_i64().unwrap_or_default(),
    ) {
        ("", _) => {}
        (policy, 0) => line.push(format!("--restart={policy}")),
        (policy, most) => line.push(format!("--restart={policy}:{most}")),
    }
    restart.end()?;
    let mut log = host.object("LogConfig")?;
    log.flags(
        &[
            ("Type", "log-driver", As::Text),
            ("Config", "log-opt", As::Pairs),
        ],
        line,
    )?;
    log.end()?;
    for (port, bindings) in host.object("PortBindings")?.fields {
        for binding in bindings.as_array().into_iter().flatten() {
            let text = |name: &str| binding[name].as_str().unwrap_or_default();
            let (address, number) = (text("HostIp"), text("HostPort"));
            line.push(match address {
                "" => format!("--publish={number}:{port}"),
                v6 if v6.contains(':') => format!("--publish=[{v6}]:{number}:{port}"),
                v4 => format!("--publish={v4}:{number}:{port}"),
            });
        }
    }
    for limit in host.take("Ulimits").as_array().into_iter().flatten() {
        let name = limit["Name"].as_str().unwrap_or_default();
        line.push(format!(
            "--ulimit={name}={}:{}",
            limit["Soft"], limit["Hard"]
        ));
    }
    for device in host.take("Devices").as_array().into_iter().flatten() {
        let text = |name: &str| device[name].as_str().unwrap_or_default();
        let (from, to) = (text("PathOnHost"), text("PathInContainer"));
        line.push(match text("CgroupPermissions") {
            "" => format!("--device={from}:{to}"),
            may => format!("--device={from}:{to}:{may}"),
        });
    }
    for mount in host.take("Mounts").as_array().into_iter().flatten() {
        line.push(mounted(mount)?);
    }
    host.end()
}

fn mounted(mount: &Value) -> Result<String, Refusal> {
    let mut mount = Fields::of("Mounts", mount.clone())?;
    let mut fields = Vec::new();
    for (name, field) in [("Type", "type"), ("Source", "source"), ("Target", "target")] {
        if let Some(text) = mount.take(name).as_str().filter(|text| !text.is_empty()) {
            // The fields are parted by commas.
            if text.contains([',', '"']) {
                return Err(not_here("a mount with a comma or a quote in its path"));
            }
            fields.push(format!("{field}={text}"));
        }
    }
    if mount.take("ReadOnly") == true {
        fields.push("readonly".to_owned());
    }
    parts_of(&mut mount, &mut fields)?;
    // How much a host that is somebody's desktop may lag behind.
    mount.take("Consistency");
    mount.end()?;
    Ok(format!("--mount={}", fields.join(",")))
}

/// What is said of a mount for its type.
fn parts_of(mount: &mut Fields, fields: &mut Vec<String>) -> Result<(), Refusal> {
    let mut bind = mount.object("BindOptions")?;
    let propagation = bind.take("Propagation");
    if let Some(word) = propagation.as_str().filter(|word| !word.is_empty()) {
        fields.push(format!("bind-propagation={word}"));
    }
    for (name, word) in [
        ("NonRecursive", "disabled"),
        ("ReadOnlyNonRecursive", "writable"),
        ("ReadOnlyForceRecursive", "readonly"),
    ] {
        if bind.take(name) == true {
            fields.push(format!("bind-recursive={word}"));
        }
    }
    bind.end()?;
    let mut volume = mount.object("VolumeOptions")?;
    if volume.take("NoCopy") == true {
        fields.push("volume-nocopy".to_owned());
    }
    let mut quoted = |field: String| fields.push(format!("\"{}\"", field.replace('"', "\"\"")));
    let subpath = volume.take("Subpath");
    if let Some(subpath) = subpath.as_str().filter(|text| !text.is_empty()) {
        quoted(format!("volume-subpath={subpath}"));
    }
    for label in say("Labels", &non_null(volume.take("Labels")), As::Pairs)? {
        quoted(format!("volume-label={}", label.unwrap_or_default()));
    }
    let mut driver = volume.object("DriverConfig")?;
    if let Some(name) = driver.take("Name").as_str().filter(|name| !name.is_empty()) {
        quoted(format!("volume-driver={name}"));
    }
    for option in say("Options", &non_null(driver.take("Options")), As::Pairs)? {
        quoted(format!("volume-opt={}", option.unwrap_or_default()));
    }
    driver.end()?;
    volume.end()?;
    let mut tmpfs = mount.object("TmpfsOptions")?;
    if let Some(bytes) = tmpfs.take("SizeBytes").as_i64().filter(|bytes| *bytes > 0) {
        fields.push(format!("tmpfs-size={bytes}"));
    }
    if let Some(mode) = tmpfs.take("Mode").as_i64().filter(|mode| *mode > 0) {
        fields.push(format!("tmpfs-mode={mode:o}"));
    }
    tmpfs.end()
}

fn non_null(value: Value) -> Value {
    match value {
        Value::Null => Value::Object(Map::new()),
        value => value,
    }
}

fn networks(mut config: Fields, line: &mut Vec<String>) -> Result<(), Refusal> {
    let endpoints = config.object("EndpointsConfig")?.fields;
    config.end()?;
    let is_named = |line: &[String], name: &str| {
        line.iter()
            .any(|word| word.strip_prefix("--network=") == Some(name))
    };
    for (name, settings) in endpoints {
        let settings = Fields::of("EndpointsConfig", settings)?;
        // The mode is the first of the networks, whose settings are here.
        if name != "default" && !is_named(line, &name) {
            line.push(format!("--network={name}"));
        }
        endpoint(settings, "network-alias", line)?;
    }
    Ok(())
}

/// What is said of a container on one network; `alias` is the flag for further names.
pub(super) fn endpoint(
    mut settings: Fields,
    alias: &'static str,
    line: &mut Vec<String>,
) -> Result<(), Refusal> {
    settings.flags(
        &[
            ("Aliases", alias, As::List),
            ("Links", "link", As::List),
            ("MacAddress", "mac-address", As::Text),
        ],
        line,
    )?;
    let mut addresses = settings.object("IPAMConfig")?;
    addresses.flags(
        &[
            ("IPv4Address", "ip", As::Text),
            ("IPv6Address", "ip6", As::Text),
        ],
        line,
    )?;
    addresses.end()?;
    settings.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(body: &str) -> CreateFlags {
        parse(None, body.as_bytes()).unwrap().0
    }

    #[test]
    fn an_image_and_a_command_are_enough() {
        let body = r#"{"Image": "alpine", "Cmd": ["echo", "hello world", "--", "-x"]}"#;
        let flags = flags(body);
        assert_eq!(flags.image(), "alpine");
        assert_eq!(flags.command(), ["echo", "hello world", "--", "-x"]);
        assert!(!flags.tty && flags.network.is_empty());
    }

    #[test]
    fn what_docker_says_is_what_its_flags_say() {
        let body = r#"{
            "Image": "web:1", "Entrypoint": ["sh", "-c"], "Cmd": ["exit 3"], "Tty": true,
            "Env": ["A=b c", "UNSET"], "Labels": {"tier": "front"}, "ExposedPorts": {"80/tcp": {}},
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 2000000000},
            "HostConfig": {
                "NetworkMode": "default", "AutoRemove": true, "Memory": 67108864, "MemorySwap": -1,
                "NanoCpus": 500000000, "ConsoleSize": [0, 0], "MemorySwappiness": -1,
                "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
                "Mounts": [{"Type": "volume", "Source": "v", "Target": "/v", "ReadOnly": true}],
                "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}], "LogConfig": {"Type": ""}
            },
            "NetworkingConfig": {"EndpointsConfig": {"n1": {
                "Aliases": ["www"], "IPAMConfig": {"IPv4Address": "10.1.0.9"}}}}
        }"#;
        let flags = flags(body);
        assert_eq!(flags.entrypoint.as_deref(), Some("sh"));
        assert_eq!(flags.command(), ["-c", "exit 3"]);
        assert!(flags.tty && flags.rm);
        assert_eq!(
            (&flags.env[..], &flags.label[..]),
            (&["A=b c".to_owned()][..], &["tier=front".to_owned()][..])
        );
        assert_eq!(
            (&flags.publish[..], &flags.expose[..]),
            (&["8080:80/tcp".to_owned()][..], &["80/tcp".to_owned()][..])
        );
        assert_eq!(flags.health.health_interval.as_deref(), Some("2000000us"));
        assert_eq!(flags.restart.as_deref(), Some("on-failure:3"));
        assert_eq!(flags.limits.cpus.as_deref(), Some("0.500000000"));
        assert_eq!(flags.limits.memory.as_deref(), Some("67108864"));
        assert_eq!(flags.mount, ["type=volume,source=v,target=/v,readonly"]);
        assert_eq!(flags.ulimit, ["nofile=10:20"]);
        assert_eq!(
            (&flags.network[..], &flags.network_alias[..]),
            (&["n1".to_owned()][..], &["www".to_owned()][..])
        );
        assert_eq!(flags.ip.as_deref(), Some("10.1.0.9"));
    }

    #[test]
    fn what_is_said_of_mounts_is_what_the_flag_says() {
        let body = r#"{"Image": "a", "HostConfig": {"Mounts": [
            {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {
                "NoCopy": true, "Subpath": "a,b", "Labels": {"k": "v"},
                "DriverConfig": {"Name": "local", "Options": {"o": "uid=1,mode=\"7\""}}}},
            {"Type": "bind", "Source": "/s", "Target": "/b", "ReadOnly": true, "BindOptions": {
                "Propagation": "rprivate", "ReadOnlyForceRecursive": true, "NonRecursive": false}},
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096, "Mode": 511}}
        ]}}"#;
        assert_eq!(
            flags(body).mount,
            [
                "type=volume,source=v,target=/v,volume-nocopy,\"volume-subpath=a,b\",\
                 \"volume-label=k=v\",\"volume-driver=local\",\
                 \"volume-opt=o=uid=1,mode=\"\"7\"\"\"",
                "type=bind,source=/s,target=/b,readonly,bind-propagation=rprivate,\
                 bind-recursive=readonly",
                "type=tmpfs,target=/t,tmpfs-size=4096,tmpfs-mode=777",
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (body, status, words) in [
            ("{", 400, "no JSON"),
            ("[]", 400, "kind"),
            ("{}", 400, "no Image"),
            (r#"{"Image": "a", "Cmd": [1]}"#, 400, "Cmd"),
            (r#"{"Image": "a", "Hostname": 7}"#, 400, "Hostname"),
            (r#"{"Image": "a", "Shell": ["x"]}"#, 501, "Shell"),
            (
                r#"{"Image": "a", "HostConfig": {"KernelMemoryTCP": 5}}"#,
                501,
                "HostConfig.KernelMemoryTCP",
            ),
            (
                r#"{"Image": "a", "HostConfig": {"BlkioWeight": 70000}}"#,
                400,
                "--blkio-weight",
            ),
        ] {
            let refusal = parse(None, body.as_bytes()).unwrap_err();
            assert_eq!(refusal.status, status, "{body}");
            assert!(
                refusal.message.contains(words),
                "{body}: {}",
                refusal.message
            );
        }
    }
}
