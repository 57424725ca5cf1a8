//! Makes a container: everything it needs on disk, or nothing.
//!
//! The order is such that a crash leaves what `hawser rm` can finish: the record is written first,
//! with a state that says the container is on its way out, and the state becomes `created` last.

use std::fs;
use std::io;
use std::path::Path;

use api::client::escape;
use api::id::{ContainerName, Id};
use api::path::{ROOTFS, VOLUME_POPULATE, VOLUMES};
use api::storage::{Image, Rootfs, RootfsCreate, VolumePopulate};
use serde_json::Value;

use crate::cli::context::{Context, image_config};
use crate::cli::error::{CliError, ContainerError};
use crate::cli::network;
use crate::cli::output;
use crate::container::{Link, Mount, MountKind, Record, State, Status};
use crate::joining;
use crate::store::{ContainerDir, Durability, Store, StoreError, durability_of};
use crate::volume::LOCAL;

use super::draft::{self, Draft, Surroundings};
use super::flags::CreateFlags;
use super::mount::{MountSpec, Source, VolumeSpec};
use super::resource::Machine;
use super::undo::{Made, Undo};
use super::{env, image, name, runtime, service, userns, volume};

/// Version of the record's layout.
const SCHEMA: u32 = 1;
/// A file of variables or labels that is larger is the wrong file.
const MAX_FILE: u64 = 16 << 20;

/// Streams that the command which makes the container will be attached to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attached {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Makes the container that `flags` ask for. What was made can still be undone.
///
/// # Errors
/// [`CliError`]; nothing is left behind.
pub fn create<'c>(
    context: &'c Context,
    flags: &CreateFlags,
    attached: Attached,
) -> Result<(ContainerDir, Undo<'c>), CliError> {
    context.require_root()?;
    refuse_old_cidfile(flags.cidfile.as_deref())?;
    let mut around = surroundings(flags)?;
    around.logging = context.info()?.logging.clone();
    let (image, draft) = drafted(context, flags, &around)?;
    let id = random_id()?;
    let store = context.store()?;
    let mut undo = Undo::new(context, store, id.clone());
    let made = build(context, &mut undo, &id, &image, &draft, attached).and_then(|container| {
        if let Some(file) = &flags.cidfile {
            write_cidfile(file, &id)?;
            undo.made(Made::CidFile(file.clone()));
        }
        Ok(container)
    });
    match made {
        Ok(container) => {
            for warning in &draft.warnings {
                output::warn(format_args!("WARNING: {warning}"));
            }
            context.tell_of(&container, "create");
            Ok((container, undo))
        }
        Err(error) => {
            undo.run();
            Err(error)
        }
    }
}

fn drafted(
    context: &Context,
    flags: &CreateFlags,
    around: &Surroundings,
) -> Result<(Image, Draft), CliError> {
    let reference = flags.image();
    let image = image::find(context, flags)?;
    let config = image_config(&image, reference)?;
    let flags = &service::on_their_networks(context, flags)?;
    let mut draft = draft::draft(flags, &config.config, around)?;
    name_networks(context, &mut draft)?;
    service::join(context, flags, &mut draft)?;
    warn_of_ports(context, &mut draft)?;
    resolve_shared_network(context, &mut draft)?;
    let host = &mut draft.host_config;
    for mode in [&mut host.ipc_mode, &mut host.pid_mode] {
        resolve_shared(context, mode)?;
    }
    userns::settle(context, &mut draft.host_config)?;
    let known = &context.info()?.runtimes;
    draft.runtime_program = runtime::settle(&mut draft.host_config, known)?;
    check_devices(&draft)?;
    add_volumes_from(context, flags, &mut draft)?;
    runtime::check_mounts(&draft.host_config, &draft.mounts)?;
    Ok((image, draft))
}

fn build(
    context: &Context,
    undo: &mut Undo<'_>,
    id: &Id,
    image: &Image,
    draft: &Draft,
    attached: Attached,
) -> Result<ContainerDir, CliError> {
    let store = context.store()?;
    let name = reserve(context, &store, undo, id, draft.name.as_ref())?;
    let mut record = record(id, name, image, draft, attached);
    record.links = links(context, &draft.links)?;
    let container = store.create(&record)?;
    undo.made(Made::Directory);
    for link in &record.links {
        store.container(&link.container).add_linker(id)?;
    }
    let lock = container.lock()?;
    let unfinished = State {
        status: Status::Removing,
        ..State::default()
    };
    container.write_state(&unfinished, Durability::Volatile)?;

    let request = RootfsCreate {
        container: id.to_string(),
        image: image.id.clone(),
        ephemeral: record.host_config.auto_remove,
        storage_opt: record.host_config.storage_opt.clone().unwrap_or_default(),
        user_namespace: record.host_config.userns_mode.clone(),
    };
    let rootfs: Rootfs = context.client().post(ROOTFS, &request)?;
    record.driver = rootfs.driver;
    record.id_maps = rootfs.id_maps;
    undo.made(Made::Rootfs);
    for spec in &draft.mounts {
        let mount = mounted(context, undo, id, spec)?;
        record.mounts.push(mount);
    }
    container.write_record(&record, durability_of(&record))?;
    container.write_state(&State::default(), durability_of(&record))?;
    drop(lock);
    Ok(container)
}

fn reserve(
    context: &Context,
    store: &Store,
    undo: &mut Undo<'_>,
    id: &Id,
    wanted: Option<&ContainerName>,
) -> Result<ContainerName, CliError> {
    let mut attempt = 0;
    loop {
        let name = match wanted {
            Some(name) => name.clone(),
            None => random_name(attempt)?,
        };
        match store.reserve_name(&name, id) {
            Ok(()) => {
                undo.made(Made::Name(name.clone()));
                return Ok(name);
            }
            Err(StoreError::NameTaken { .. }) if wanted.is_none() => attempt += 1,
            Err(StoreError::NameTaken { name, holder }) => {
                return Err(name_taken(context, store, name, holder)?);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Why a name is not free. A container of another storage driver is not listed.
fn name_taken(
    context: &Context,
    store: &Store,
    name: ContainerName,
    holder: String,
) -> Result<CliError, CliError> {
    let record = Id::parse(&holder).ok();
    let record = record.and_then(|id| store.container(&id).record().ok());
    let driver = &context.info()?.driver;
    Ok(match record {
        Some(record) if record.is_of_other_driver(driver) => {
            let driver = record.driver;
            ContainerError::NameOfOtherDriver { name, driver }.into()
        }
        _ => StoreError::NameTaken { name, holder }.into(),
    })
}

pub(crate) fn random_name(attempt: u32) -> Result<ContainerName, CliError> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(random_error)?;
    ContainerName::parse(&name::random(bytes, attempt))
        .map_err(|invalid| draft::DraftError::from(invalid).into())
}

pub(crate) fn random_id() -> Result<Id, CliError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(random_error)?;
    Ok(Id::from_bytes(bytes))
}

fn random_error(error: getrandom::Error) -> CliError {
    CliError::Io {
        op: "read random bytes",
        source: io::Error::other(error),
    }
}

fn record(
    id: &Id,
    name: ContainerName,
    image: &Image,
    draft: &Draft,
    attached: Attached,
) -> Record {
    let mut config = draft.config.clone();
    config.attach_stdin = attached.stdin;
    config.attach_stdout = attached.stdout;
    config.attach_stderr = attached.stderr;
    config.stdin_once = config.open_stdin && attached.stdin;
    if config.hostname.is_empty() {
        id.short().clone_into(&mut config.hostname);
    }
    Record {
        schema: SCHEMA,
        id: id.clone(),
        name,
        created: format!("{:.9}", jiff::Timestamp::now()),
        image: config.image.clone(),
        image_id: image.id.clone(),
        config,
        host_config: draft.host_config.clone(),
        driver: String::new(),
        mounts: Vec::new(),
        networks: draft.networks.clone(),
        links: Vec::new(),
        id_maps: None,
        runtime_program: draft.runtime_program.clone(),
    }
}

/// Whom the links mean. They must be there; that they run is checked at the start.
fn links(context: &Context, asked: &[(String, String)]) -> Result<Vec<Link>, CliError> {
    let mut links: Vec<Link> = Vec::new();
    for (key, alias) in asked {
        let link = Link {
            container: context.container(key)?.id().clone(),
            alias: alias.clone(),
        };
        if !links.contains(&link) {
            links.push(link);
        }
    }
    Ok(links)
}

/// Makes what a mount needs and says where it is.
fn mounted(
    context: &Context,
    undo: &mut Undo<'_>,
    id: &Id,
    spec: &MountSpec,
) -> Result<Mount, CliError> {
    let mut mount = Mount {
        kind: MountKind::Bind,
        name: String::new(),
        source: String::new(),
        destination: spec.destination.clone(),
        driver: String::new(),
        mode: spec.mode.clone(),
        rw: !spec.read_only,
        propagation: String::new(),
        anonymous: false,
        subpath: String::new(),
        recursion: spec.recursion,
    };
    match &spec.source {
        Source::Bind { path, create } => {
            bind_source(path, *create)?;
            mount.source = path.display().to_string();
            mount.propagation = match spec.propagation.as_str() {
                "" => "rprivate".to_owned(),
                word => word.to_owned(),
            };
        }
        Source::Tmpfs { options } => {
            mount.kind = MountKind::Tmpfs;
            mount.mode.clone_from(options);
        }
        Source::Volume(wanted) => {
            let made = volume::make(context, undo, id, wanted)?;
            mount.kind = MountKind::Volume;
            mount.source = made.mountpoint;
            mount.driver = made.driver;
            mount.anonymous = wanted.name.is_none();
            mount.name = made.name;
            mount.subpath.clone_from(&wanted.subpath);
            // What is below the top is there already, or the start fails.
            if mount.driver == LOCAL && !wanted.no_copy && wanted.subpath.is_empty() {
                populate(context, id, &mount)?;
            }
        }
    }
    Ok(mount)
}

/// Copies what the image has at the destination, if the volume is still as created.
fn populate(context: &Context, id: &Id, mount: &Mount) -> Result<(), CliError> {
    let route = format!("{VOLUMES}/{}/{VOLUME_POPULATE}", escape(&mount.name));
    let request = VolumePopulate {
        container: id.to_string(),
        path: mount.destination.clone(),
    };
    context.client().post::<Value>(&route, &request)?;
    Ok(())
}

fn bind_source(path: &Path, create: bool) -> Result<(), CliError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => fs::create_dir_all(path)
            .map_err(|source| CliError::File {
                op: "create",
                path: path.to_owned(),
                source,
            }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ContainerError::BindSource(path.to_owned()).into())
        }
        Err(source) => Err(CliError::File {
            op: "stat",
            path: path.to_owned(),
            source,
        }),
    }
}

/// A network that may have been given by the start of its id is known by its name from now on.
fn name_networks(context: &Context, draft: &mut Draft) -> Result<(), CliError> {
    for request in &mut draft.networks {
        let typed = &request.network;
        if !typed.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            continue;
        }
        match network::find(context, typed) {
            Ok(network) => request.network = network.name.to_string(),
            // The start will say so.
            Err(CliError::Client(error)) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says so if none of the networks can publish the ports that were asked for.
fn warn_of_ports(context: &Context, draft: &mut Draft) -> Result<(), CliError> {
    let host = &draft.host_config;
    let publishes = !host.port_bindings.is_empty() || host.publish_all_ports;
    if !publishes || draft.networks.is_empty() {
        return Ok(());
    }
    let mut named = Vec::new();
    for request in &draft.networks {
        match network::find(context, &request.network) {
            Ok(network) if joining::can_publish(&network) => return Ok(()),
            Ok(network) => named.push(format!("{} ({})", network.name, network.driver)),
            // The start will say so.
            Err(CliError::Client(error)) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    draft.warnings.push(format!(
        "Published ports are discarded on network {}: containers are reached at their own addresses",
        named.join(", ")
    ));
    Ok(())
}

/// `container:KEY` becomes `container:ID`, and the host name that of whose stack is shared.
fn resolve_shared_network(context: &Context, draft: &mut Draft) -> Result<(), CliError> {
    let host = &draft.host_config;
    let shares_name = host.network_mode == "host" || host.uts_mode == "host";
    if shares_name && draft.config.hostname.is_empty() {
        let uname = rustix::system::uname();
        draft.config.hostname = uname.nodename().to_string_lossy().into_owned();
    }
    let Some(key) = draft.host_config.network_mode.strip_prefix("container:") else {
        return Ok(());
    };
    let other = context.container(key)?.record()?;
    draft.host_config.network_mode = format!("container:{}", other.id);
    draft.config.hostname = other.config.hostname;
    Ok(())
}

/// `container:KEY` becomes `container:ID`, which outlives a rename.
fn resolve_shared(context: &Context, mode: &mut String) -> Result<(), CliError> {
    if let Some(key) = mode.strip_prefix("container:") {
        *mode = format!("container:{}", context.container(key)?.id());
    }
    Ok(())
}

/// The nodes themselves are looked up at every start.
fn check_devices(draft: &Draft) -> Result<(), CliError> {
    for device in &draft.host_config.resources.devices {
        let path = Path::new(&device.path_on_host);
        fs::metadata(path).map_err(|source| ContainerError::Device {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(())
}

fn add_volumes_from(
    context: &Context,
    flags: &CreateFlags,
    draft: &mut Draft,
) -> Result<(), CliError> {
    for spec in &flags.volumes_from {
        let (key, read_only) = match spec.split_once(':') {
            None => (spec.as_str(), None),
            Some((key, "ro")) => (key, Some(true)),
            Some((key, "rw")) => (key, Some(false)),
            Some(_) => return Err(ContainerError::VolumesFrom(spec.clone()).into()),
        };
        for mount in context.container(key)?.record()?.mounts {
            // The image's own volume at that place gives way; a flag's does not.
            let taken = draft
                .mounts
                .iter()
                .position(|m| m.destination == mount.destination);
            match taken {
                Some(at) if draft.mounts[at].is_image_default() => {
                    draft.mounts.remove(at);
                }
                Some(_) => continue,
                None => {}
            }
            draft.mounts.extend(inherited(&mount, read_only));
        }
    }
    Ok(())
}

fn inherited(mount: &Mount, read_only: Option<bool>) -> Option<MountSpec> {
    let source = match mount.kind {
        MountKind::Bind => Source::Bind {
            path: mount.source.clone().into(),
            create: false,
        },
        MountKind::Volume => Source::Volume(VolumeSpec {
            name: mount.name.parse().ok(),
            driver: mount.driver.clone(),
            no_copy: true,
            subpath: mount.subpath.clone(),
            ..VolumeSpec::default()
        }),
        MountKind::Tmpfs => return None,
    };
    Some(MountSpec {
        source,
        destination: mount.destination.clone(),
        read_only: read_only.unwrap_or(!mount.rw),
        mode: mount.mode.clone(),
        propagation: mount.propagation.clone(),
        recursion: mount.recursion,
    })
}

/// Reads the files that flags name.
///
/// # Errors
/// A file cannot be read or is no list of variables.
pub fn surroundings(flags: &CreateFlags) -> Result<Surroundings, CliError> {
    let mut around = Surroundings {
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        directory: std::env::current_dir().map_err(|source| CliError::Io {
            op: "find the current directory",
            source,
        })?,
        machine: Machine::observe(),
        ..Surroundings::default()
    };
    for file in &flags.env_file {
        around.env_file.extend(read_pairs(file)?);
    }
    for file in &flags.label_file {
        around.label_file.extend(read_pairs(file)?);
    }
    Ok(around)
}

/// The lines of an `--env-file` or a `--label-file`.
///
/// # Errors
/// The file cannot be read or is no list of pairs.
pub fn read_pairs(file: &Path) -> Result<Vec<String>, CliError> {
    let failed = |source| CliError::File {
        op: "read",
        path: file.to_owned(),
        source,
    };
    let length = fs::metadata(file).map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let content = fs::read(file).map_err(failed)?;
    Ok(env::parse_file(&file.display().to_string(), &content)?)
}

fn refuse_old_cidfile(file: Option<&Path>) -> Result<(), CliError> {
    match file {
        Some(file) if file.exists() => Err(ContainerError::CidFile(file.to_owned()).into()),
        _ => Ok(()),
    }
}

fn write_cidfile(file: &Path, id: &Id) -> Result<(), CliError> {
    fs::File::create_new(file)
        .and_then(|mut opened| io::Write::write_all(&mut opened, id.as_str().as_bytes()))
        .map_err(|source| CliError::File {
            op: "write",
            path: file.to_owned(),
            source,
        })
}
