//! Where a pool comes from: one that is there, two block devices, files, or logical volumes made of one
//! block device. A pool that is active stays as it is, with the containers on it; before another is
//! activated its metadata is checked.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use sys::device_mapper::{self, DeviceMapper, Target};
use sys::loop_device::LoopDevice;

use super::kernel::Kernel;
use super::monitor::Monitor;
use super::{Pool, PoolError};
use crate::disk::Apply;
use crate::lock::KeyedLocks;
use crate::model::layout::Layout;
use crate::model::thin::{self, Extension, PoolTable, SECTOR};
use crate::model::thin_options::{Direct, InvalidThinOption, Place, ThinOptions};
use crate::store::Store;
use crate::volume::image_file::{self, ImageFailure};

/// The volume group that is made of one block device, and the volumes in it.
pub(super) const GROUP: &str = "hawser";
pub(super) const DATA: &str = "data";
pub(super) const METADATA: &str = "metadata";
/// At which a pool says that it is filling up, in blocks.
const LOW_WATER: u64 = 1024;
/// The kernel uses no more for metadata (`THIN_METADATA_MAX_SECTORS`).
const MOST_METADATA: u64 = 16 << 30;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Option(#[from] InvalidThinOption),
    #[error(
        "this kernel has no device-mapper ({0}); load the modules dm_mod and dm_thin_pool, or choose \
         another storage driver"
    )]
    NoMapper(io::Error),
    #[error(
        "dm.thinpooldev: there is no thin pool {0}; make it, or let dm.directlvm_device have one made"
    )]
    NoPool(String),
    #[error("dm.thinpooldev: {name} is no thin pool but {kind}")]
    OtherKind { name: String, kind: String },
    #[error("{}: {problem}", device.display())]
    Device { device: PathBuf, problem: String },
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{0}")]
    Program(#[from] ImageFailure),
    #[error(
        "the metadata of the pool is damaged: {0}; repair it with thin_repair(8) into another device \
         of its size"
    )]
    Damaged(String),
    #[error("cannot activate the pool {name}: {source}; dmesg says why")]
    Activate { name: String, source: io::Error },
    #[error(transparent)]
    Pool(#[from] PoolError),
}

pub(super) fn failed<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> SetupError + 'a {
    move |source| SetupError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// The pool that `options` speak of, ready to be used.
pub(crate) fn open(
    layout: &Layout,
    options: ThinOptions,
    store: &Arc<Store>,
    apply: Apply<'_>,
) -> Result<Arc<Pool>, SetupError> {
    let mapper = DeviceMapper::open().map_err(SetupError::NoMapper)?;
    let place = in_words(&options.place);
    let known = store.rows().pool.clone().map(|pool| pool.place);
    // Before anything is done to what may be somebody else's.
    if let Some(known) = known.as_ref().filter(|known| **known != place) {
        return Err(PoolError::Moved {
            known: known.clone(),
            given: place,
        }
        .into());
    }
    let kernel = match options.place.clone() {
        Place::Pool(name) => existing(mapper, name, &options)?,
        Place::Devices { data, metadata } => of_devices(mapper, layout, &options, data, metadata)?,
        Place::Direct(direct) => direct_lvm(mapper, layout, &options, &direct, known.is_some())?,
    };
    let extension = match &options.place {
        Place::Direct(direct) => Some(Extension {
            threshold: direct.extend_threshold,
            percent: direct.extend_percent,
        }),
        Place::Pool(_) | Place::Devices { .. } => None,
    };
    let monitor = Monitor {
        mapper: DeviceMapper::open().map_err(SetupError::NoMapper)?,
        name: kernel.name.clone(),
        extension,
        warned: false,
    };
    monitor
        .start(&kernel.used)
        .map_err(failed("watch", Path::new(&kernel.name)))?;
    kernel
        .remove_unused()
        .map_err(failed("look through", Path::new("/dev/mapper")))?;
    let store = Arc::clone(store);
    Ok(Pool::start(Box::new(kernel), options, place, store, apply)?)
}

fn in_words(place: &Place) -> String {
    let device = |path: &Option<PathBuf>| match path {
        Some(path) => path.display().to_string(),
        None => "a file".to_owned(),
    };
    match place {
        Place::Pool(name) => format!("pool {name}"),
        Place::Direct(direct) => format!("device {}", direct.device.display()),
        Place::Devices { data, metadata } => {
            format!("data on {}, metadata on {}", device(data), device(metadata))
        }
    }
}

fn existing(
    mapper: DeviceMapper,
    name: String,
    options: &ThinOptions,
) -> Result<Kernel, SetupError> {
    let table = mapper
        .table(&name)
        .map_err(|error| match error.raw_os_error() {
            Some(number) if number == rustix::io::Errno::NXIO.raw_os_error() => {
                SetupError::NoPool(name.clone())
            }
            _ => failed("ask", &Path::new("/dev/mapper").join(&name))(error),
        })?;
    let target = table.into_iter().next();
    let parsed = target.as_ref().filter(|target| target.kind == "thin-pool");
    let Some(table) = parsed.and_then(|target| thin::parse_table(&target.parameters)) else {
        return Err(SetupError::OtherKind {
            name,
            kind: target.map_or_else(|| "empty".to_owned(), |target| target.kind),
        });
    };
    Ok(Kernel {
        mapper,
        name,
        table,
        // As Docker has them: there is a file in loop mode only.
        places: vec![
            ("Data file", String::new()),
            ("Metadata file", String::new()),
        ],
        discards: false,
        deferred_removal: options.deferred_removal,
        active: KeyedLocks::default(),
        used: Arc::default(),
    })
}

/// Identifies the store on this host, as in Docker: `MAJOR:MINOR-INODE`.
fn identity(layout: &Layout) -> Result<String, SetupError> {
    let store = layout.store();
    let stat = std::fs::metadata(&store).map_err(failed("look at", &store))?;
    let device = device_mapper::number(stat.dev());
    Ok(format!("{device}-{}", stat.ino()))
}

/// What holds data or metadata.
pub(super) struct Backing {
    number: String,
    pub(super) bytes: u64,
    path: PathBuf,
    file: Option<PathBuf>,
    /// Kept attached until the pool has it.
    _device: Option<LoopDevice>,
}

fn of_devices(
    mapper: DeviceMapper,
    layout: &Layout,
    options: &ThinOptions,
    data: Option<PathBuf>,
    metadata: Option<PathBuf>,
) -> Result<Kernel, SetupError> {
    let name = format!("hawser-{}-pool", identity(layout)?);
    let is_loop = data.is_none();
    if is_loop || metadata.is_none() {
        tracing::warn!("the pool is in files (dm.allow_loop): slow, and not for production");
    }
    let directory = layout.store().join("pool");
    std::fs::create_dir_all(&directory).map_err(failed("create directory", &directory))?;
    let data = match data {
        Some(path) => block_device(&path)?,
        None => file(&directory.join(DATA), options.loop_data, false)?,
    };
    let metadata = match metadata {
        Some(path) => block_device(&path)?,
        None => file(&directory.join(METADATA), options.loop_metadata, true)?,
    };
    let text = |path: &Path| path.display().to_string();
    let mut places = vec![
        ("Data file", text(&data.path)),
        ("Metadata file", text(&metadata.path)),
    ];
    for (what, backing) in [("Data loop file", &data), ("Metadata loop file", &metadata)] {
        places.extend(backing.file.as_deref().map(|file| (what, text(file))));
    }
    let kernel = activate(mapper, name, &data, &metadata, options, places)?;
    Ok(Kernel {
        discards: is_loop,
        ..kernel
    })
}

pub(super) fn block_device(path: &Path) -> Result<Backing, SetupError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let stat = file.metadata().map_err(failed("look at", path))?;
    if !stat.file_type().is_block_device() {
        return Err(SetupError::Device {
            device: path.to_owned(),
            problem: "it is no block device".to_owned(),
        });
    }
    Ok(Backing {
        number: device_mapper::number(stat.rdev()),
        bytes: sys::block::size(file.as_fd()).map_err(failed("measure", path))?,
        path: path.to_owned(),
        file: None,
        _device: None,
    })
}

/// A file as a block device. It never shrinks.
fn file(path: &Path, bytes: u64, whole: bool) -> Result<Backing, SetupError> {
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let file = open.map_err(failed("open", path))?;
    let present = file.metadata().map_err(failed("look at", path))?.len();
    let has_grown = present < bytes;
    if has_grown {
        let grow = || {
            file.set_len(bytes)?;
            if whole {
                // Metadata must never be what finds no room.
                rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
            }
            file.sync_all()
        };
        grow().map_err(failed("make room in", path))?;
    }
    let device = LoopDevice::attach(path).map_err(failed("attach", path))?;
    if has_grown {
        device.refresh_size().map_err(failed("grow", path))?;
    }
    let stat = std::fs::metadata(device.path()).map_err(failed("look at", device.path()))?;
    Ok(Backing {
        number: device_mapper::number(stat.rdev()),
        bytes: bytes.max(present),
        path: device.path().to_owned(),
        file: Some(path.to_owned()),
        _device: Some(device),
    })
}

/// Makes a pool of the two, or grows the one that is there.
fn activate(
    mapper: DeviceMapper,
    name: String,
    data: &Backing,
    metadata: &Backing,
    options: &ThinOptions,
    places: Vec<(&'static str, String)>,
) -> Result<Kernel, SetupError> {
    let start = |mapper: &DeviceMapper| -> Result<PoolTable, SetupError> {
        let failed = |source| SetupError::Activate {
            name: name.clone(),
            source,
        };
        let info = mapper.info(&name).map_err(failed)?;
        let present = match info.filter(|info| info.is_active) {
            Some(_) => mapper.table(&name).map_err(failed)?.into_iter().next(),
            None => None,
        };
        let known = present.as_ref();
        let known = known.and_then(|target| thin::parse_table(&target.parameters));
        if known.is_none() {
            check(metadata)?;
        }
        let table = PoolTable {
            metadata: metadata.number.clone(),
            data: data.number.clone(),
            block: known.map_or(options.block, |table| table.block),
        };
        let wanted = Target {
            start: 0,
            length: data.bytes / SECTOR,
            kind: "thin-pool".to_owned(),
            parameters: thin::pool_parameters(&table, LOW_WATER, false),
        };
        if present.is_some_and(|present| present.length >= wanted.length) {
            return Ok(table);
        }
        reload(mapper, &name, wanted).map_err(failed)?;
        Ok(table)
    };
    let table = start(&mapper)?;
    Ok(Kernel {
        mapper,
        name,
        table,
        places,
        discards: false,
        deferred_removal: options.deferred_removal,
        active: KeyedLocks::default(),
        used: Arc::default(),
    })
}

pub(super) fn reload(mapper: &DeviceMapper, name: &str, table: Target) -> io::Result<()> {
    let info = mapper.info(name)?;
    if info.is_none() {
        mapper.create(name, &format!("HAWSER-{name}"))?;
    }
    let loaded = mapper.load(name, &[table], false);
    let started = loaded.and_then(|()| {
        if info.is_some_and(|info| info.is_active) {
            mapper.suspend(name)?;
        }
        mapper.resume(name)
    });
    if started.is_err() && info.is_none() {
        mapper.remove(name, false)?;
    }
    started.map(drop)
}

/// Has `thin_check` look at metadata, unless there are none yet.
fn check(metadata: &Backing) -> Result<(), SetupError> {
    let path = &metadata.path;
    let mut start = [0; 4096];
    let file = File::open(path).map_err(failed("open", path))?;
    file.read_exact_at(&mut start, 0)
        .map_err(failed("read", path))?;
    if start.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let mut command = Command::new("thin_check");
    // The kernel writes to no pool whose metadata it once could not write until somebody has looked
    // at them (`THIN_METADATA_NEEDS_CHECK_FLAG`, drivers/md/dm-thin-metadata.c).
    command.arg("--clear-needs-check-flag").arg(path);
    let checked = image_file::run("thin_check", "thin-provisioning-tools", &mut command);
    match checked {
        Err(ImageFailure::Program { output, .. }) => Err(SetupError::Damaged(output)),
        checked => Ok(checked?),
    }
}

/// Two plain logical volumes, of which the pool is made here and not by LVM, so that nobody but this
/// daemon counts its transactions.
fn direct_lvm(
    mapper: DeviceMapper,
    layout: &Layout,
    options: &ThinOptions,
    direct: &Direct,
    is_known: bool,
) -> Result<Kernel, SetupError> {
    let lvm = Lvm {
        tag: format!("hawser-store={}", identity(layout)?),
    };
    let device = &direct.device;
    block_device(device)?;
    let refused = |problem: String| SetupError::Device {
        device: device.clone(),
        problem,
    };
    match lvm.group_of(device)? {
        Some(group) if group.name == GROUP && group.is_tagged(&lvm.tag) => {}
        Some(group) if !group.name.is_empty() => {
            return Err(refused(format!(
                "it belongs to the volume group {:?} already, and is not touched: take another device, \
                 or remove it from the group with vgreduce and pvremove",
                group.name
            )));
        }
        _ if is_known => {
            return Err(refused(
                "the pool that was on it is gone: put the device back that had it".to_owned(),
            ));
        }
        orphan => {
            // A physical volume in no group is what an attempt that was cut short leaves.
            if orphan.is_none()
                && !direct.force
                && let Some(kind) = signature(device)?
            {
                return Err(refused(format!(
                    "it is in use as {kind}: take another device, or lose what is on it with \
                     dm.directlvm_device_force=true"
                )));
            }
            lvm.run("pvcreate", &["-ff", "-y", &device.display().to_string()])?;
            let device = device.display().to_string();
            // Without udev it outlives a group of this name that was removed, and LVM makes no other
            // while it is there. One that is in use is not empty.
            drop(std::fs::remove_dir(Path::new("/dev").join(GROUP)));
            lvm.run("vgcreate", &["--addtag", &lvm.tag, GROUP, &device])?;
        }
    }
    lvm.run("vgchange", &["-ay", GROUP])?;
    let present = lvm.volumes()?;
    for (volume, percent) in [
        (METADATA, direct.metadata_percent),
        (DATA, direct.data_percent),
    ] {
        if !present.iter().any(|name| name == volume) {
            if is_known {
                return Err(refused(format!(
                    "the logical volume {GROUP}/{volume} is gone"
                )));
            }
            let share = format!("{percent}%VG");
            lvm.run(
                "lvcreate",
                &["-y", "-Wy", "-n", volume, "-l", &share, GROUP],
            )?;
            let node = lvm_node(&mapper, volume)?;
            // What was on these blocks before is no metadata of ours.
            let zeros = File::options().write(true).open(&node).and_then(|file| {
                file.write_all_at(&[0; 4096], 0)?;
                file.sync_all()
            });
            zeros.map_err(failed("clear", &node))?;
        }
    }
    let data = block_device(&lvm_node(&mapper, DATA)?)?;
    let mut metadata = block_device(&lvm_node(&mapper, METADATA)?)?;
    metadata.bytes = metadata.bytes.min(MOST_METADATA);
    let places = vec![
        ("Data file", String::new()),
        ("Metadata file", String::new()),
    ];
    activate(
        mapper,
        format!("{GROUP}-thinpool"),
        &data,
        &metadata,
        options,
        places,
    )
}

pub(super) fn lvm_node(mapper: &DeviceMapper, volume: &str) -> Result<PathBuf, SetupError> {
    let name = format!("{GROUP}-{volume}");
    let info = mapper
        .info(&name)
        .map_err(failed("look for", Path::new(&name)))?;
    info.map(|info| info.node())
        .ok_or_else(|| SetupError::Device {
            device: Path::new("/dev/mapper").join(&name),
            problem: "the logical volume is not active".to_owned(),
        })
}

/// What a device is used as, in the words of `wipefs`.
fn signature(device: &Path) -> Result<Option<String>, SetupError> {
    let mut command = Command::new("wipefs");
    command
        .args(["--noheadings", "--output", "TYPE"])
        .arg(device);
    let text = output("wipefs", "util-linux", &mut command)?;
    let words: Vec<&str> = text.split_whitespace().collect();
    Ok((!words.is_empty()).then(|| words.join(", ")))
}

/// LVM's programs.
#[derive(Default)]
pub(super) struct Lvm {
    /// By which the volume group is known as this store's.
    tag: String,
}

struct Group {
    name: String,
    tags: Vec<String>,
}

impl Group {
    fn is_tagged(&self, tag: &str) -> bool {
        self.tags.iter().any(|word| word == tag)
    }
}

impl Lvm {
    pub(super) fn command(program: &'static str) -> Command {
        let mut command = Command::new(program);
        if !Path::new("/run/udev/control").exists() {
            // Nobody makes nodes but LVM itself.
            command.args(["--config", "activation{udev_sync=0 udev_rules=0}"]);
        }
        command
    }

    pub(super) fn run(&self, program: &'static str, arguments: &[&str]) -> Result<(), SetupError> {
        tracing::info!(program, ?arguments, "setting up the pool");
        let mut command = Self::command(program);
        Ok(image_file::run(program, "lvm2", command.args(arguments))?)
    }

    /// The volume group that a device belongs to; an empty name for a physical volume in none.
    fn group_of(&self, device: &Path) -> Result<Option<Group>, SetupError> {
        let mut command = Self::command("pvs");
        command.args(["--noheadings", "--separator", "|"]);
        command.args(["--options", "pv_name,vg_name,vg_tags"]);
        let text = output("pvs", "lvm2", &mut command)?;
        let device = device.canonicalize().map_err(failed("look at", device))?;
        let group = text.lines().find_map(|line| {
            let mut words = line.trim().split('|');
            let is_it = Path::new(words.next()?).canonicalize().ok()? == device;
            is_it.then_some(())?;
            Some(Group {
                name: words.next()?.to_owned(),
                tags: words.next()?.split(',').map(str::to_owned).collect(),
            })
        });
        Ok(group)
    }

    fn volumes(&self) -> Result<Vec<String>, SetupError> {
        let mut command = Self::command("lvs");
        command.args(["--noheadings", "--options", "lv_name", GROUP]);
        let text = output("lvs", "lvm2", &mut command)?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }
}

pub(super) fn output(
    program: &'static str,
    package: &'static str,
    command: &mut Command,
) -> Result<String, SetupError> {
    let bytes = image_file::output(program, package, command)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
