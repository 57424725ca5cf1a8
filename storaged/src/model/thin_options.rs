//! `dm.*`: the options of the devicemapper driver, with Docker's names, defaults and refusals.

use std::path::PathBuf;

use super::size;
use super::thin::Filesystem;

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
/// What block sizes are multiples of, and what there is at least and at most
/// (`DATA_DEV_BLOCK_SIZE_…` in the kernel's `drivers/md/dm-thin.c`).
const BLOCK_UNIT: u64 = 64 * KIB;
const LARGEST_BLOCK: u64 = GIB;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("storage option {option}: {problem}")]
pub struct InvalidThinOption {
    option: String,
    problem: String,
}

/// Where the pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Somebody else's pool, by its name below `/dev/mapper`.
    Pool(String),
    /// A block device of which everything is made.
    Direct(Direct),
    /// Two block devices, or files for those that are not given.
    Devices {
        data: Option<PathBuf>,
        metadata: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Direct {
    pub(crate) device: PathBuf,
    pub(crate) force: bool,
    pub(crate) data_percent: u64,
    pub(crate) metadata_percent: u64,
    pub(crate) extend_threshold: u64,
    pub(crate) extend_percent: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ThinOptions {
    pub(crate) place: Place,
    /// Bytes of the files in loop mode.
    pub(crate) loop_data: u64,
    pub(crate) loop_metadata: u64,
    pub(crate) block: u64,
    pub(crate) base: u64,
    /// The best that there is when absent.
    pub(crate) filesystem: Option<Filesystem>,
    pub(crate) mkfs_arguments: Vec<String>,
    pub(crate) mount_options: Vec<String>,
    /// As the kind of the pool says when absent.
    pub(crate) discard: Option<bool>,
    pub(crate) deferred_removal: bool,
    pub(crate) deferred_deletion: bool,
    /// Percent of data and of metadata.
    pub(crate) min_free: u64,
    pub(crate) xfs_retries: Option<u64>,
}

/// As they were given, before they are compared with each other.
#[derive(Default)]
struct Given {
    pool: Option<String>,
    direct: Option<PathBuf>,
    force: bool,
    thinp: Option<u64>,
    thinp_meta: Option<u64>,
    threshold: Option<u64>,
    extend: Option<u64>,
    data: Option<PathBuf>,
    metadata: Option<PathBuf>,
    allow_loop: bool,
}

/// Reads `KEY=VALUE`s.
pub(crate) fn parse(options: &[String]) -> Result<ThinOptions, InvalidThinOption> {
    let mut read = ThinOptions {
        place: Place::Devices {
            data: None,
            metadata: None,
        },
        loop_data: 100 * GIB,
        loop_metadata: 2 * GIB,
        block: BLOCK_UNIT,
        base: 10 * GIB,
        filesystem: None,
        mkfs_arguments: Vec::new(),
        mount_options: Vec::new(),
        discard: None,
        deferred_removal: true,
        deferred_deletion: true,
        min_free: 10,
        xfs_retries: Some(0),
    };
    let mut given = Given::default();
    let mut block = None;
    for option in options {
        let invalid = |problem: &str| InvalidThinOption {
            option: option.clone(),
            problem: problem.to_owned(),
        };
        let (key, value) = option
            .split_once('=')
            .ok_or_else(|| invalid("expected KEY=VALUE"))?;
        let bytes = || {
            let bytes = size::parse(value).filter(|bytes| *bytes > 0);
            bytes.ok_or_else(|| invalid("expected a size such as 10G"))
        };
        let truth = || match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(invalid("expected true or false")),
        };
        let percent = |most: u64| {
            let number = value.parse::<u64>().ok();
            let number = number.filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| invalid(&format!("expected a number from 1 to {most}")))
        };
        let path = || {
            let path = PathBuf::from(value);
            let is_absolute = path.is_absolute();
            is_absolute
                .then_some(path)
                .ok_or_else(|| invalid("expected an absolute path of a block device"))
        };
        let words = || value.split([' ', ',']).filter(|word| !word.is_empty());
        match key.to_ascii_lowercase().as_str() {
            "dm.thinpooldev" => {
                let name = value.strip_prefix("/dev/mapper/").unwrap_or(value);
                if name.is_empty() || name.contains('/') {
                    return Err(invalid("expected the name of a pool below /dev/mapper"));
                }
                given.pool = Some(name.to_owned());
            }
            "dm.directlvm_device" => given.direct = Some(path()?),
            "dm.directlvm_device_force" => given.force = truth()?,
            "dm.thinp_percent" => given.thinp = Some(percent(99)?),
            "dm.thinp_metapercent" => given.thinp_meta = Some(percent(99)?),
            "dm.thinp_autoextend_threshold" => given.threshold = Some(percent(100)?),
            "dm.thinp_autoextend_percent" => given.extend = Some(percent(100)?),
            "dm.datadev" => given.data = Some(path()?),
            "dm.metadatadev" => given.metadata = Some(path()?),
            "dm.allow_loop" => given.allow_loop = truth()?,
            "dm.loopdatasize" => read.loop_data = bytes()?,
            "dm.loopmetadatasize" => read.loop_metadata = bytes()?,
            "dm.basesize" => read.base = bytes()?,
            "dm.fs" => {
                read.filesystem = Some(match value {
                    "ext4" => Filesystem::Ext4,
                    "xfs" => Filesystem::Xfs,
                    _ => return Err(invalid("expected ext4 or xfs")),
                });
            }
            "dm.mkfsarg" => read
                .mkfs_arguments
                .extend(value.split_whitespace().map(str::to_owned)),
            "dm.mountopt" => read.mount_options.extend(words().map(str::to_owned)),
            "dm.blocksize" => {
                let size = bytes()?;
                if size % BLOCK_UNIT != 0 || size > LARGEST_BLOCK {
                    return Err(invalid("expected a multiple of 64K, at most 1G"));
                }
                block = Some(size);
            }
            "dm.blkdiscard" => read.discard = Some(truth()?),
            "dm.use_deferred_removal" => read.deferred_removal = truth()?,
            "dm.use_deferred_deletion" => read.deferred_deletion = truth()?,
            "dm.min_free_space" => {
                let number = value.strip_suffix('%').and_then(|text| text.parse().ok());
                let number = number.filter(|number: &u64| *number < 100);
                read.min_free =
                    number.ok_or_else(|| invalid("expected a percentage from 0% to 99%"))?;
            }
            "dm.xfs_nospace_max_retries" => {
                let number = value.parse().ok();
                read.xfs_retries =
                    Some(number.ok_or_else(|| invalid("expected a number of tries"))?);
            }
            // About how Docker's library waited for udev and what it logged: there is no such library here.
            "dm.override_udev_sync_check" => drop(truth()?),
            "dm.libdm_log_level" => {
                let level = value.parse::<u8>().ok().filter(|level| *level < 8);
                level.ok_or_else(|| invalid("expected a number from 0 to 7"))?;
            }
            _ => return Err(invalid("the devicemapper driver has no such option")),
        }
    }
    if read.deferred_deletion && !read.deferred_removal {
        let said = options
            .iter()
            .any(|option| option.starts_with("dm.use_deferred_deletion"));
        if said {
            return Err(conflict(
                "dm.use_deferred_deletion=true",
                "it needs dm.use_deferred_removal=true",
            ));
        }
        read.deferred_deletion = false;
    }
    // What is made of one device is as Docker makes it.
    let usual = if given.direct.is_some() {
        512 * KIB
    } else {
        BLOCK_UNIT
    };
    read.block = block.unwrap_or(usual);
    read.place = place(given)?;
    Ok(read)
}

fn conflict(option: &str, problem: &str) -> InvalidThinOption {
    InvalidThinOption {
        option: option.to_owned(),
        problem: problem.to_owned(),
    }
}

fn place(given: Given) -> Result<Place, InvalidThinOption> {
    let says_shares = given.thinp.is_some() || given.thinp_meta.is_some();
    if given.thinp.is_some() != given.thinp_meta.is_some() {
        return Err(conflict(
            "dm.thinp_percent",
            "it goes with dm.thinp_metapercent: give both or neither",
        ));
    }
    let (data_percent, metadata_percent) =
        (given.thinp.unwrap_or(95), given.thinp_meta.unwrap_or(1));
    if data_percent + metadata_percent > 100 {
        return Err(conflict(
            "dm.thinp_percent",
            "with dm.thinp_metapercent it is more than 100",
        ));
    }
    let says_files = given.data.is_some() || given.metadata.is_some();
    if given.pool.is_some() && (given.direct.is_some() || says_files) {
        return Err(conflict(
            "dm.thinpooldev",
            "there is one pool: it is given, or made of dm.directlvm_device, or of dm.datadev and \
             dm.metadatadev",
        ));
    }
    if given.direct.is_some() && says_files {
        return Err(conflict(
            "dm.directlvm_device",
            "it stands for dm.datadev and dm.metadatadev: give one or the other",
        ));
    }
    if given.direct.is_none()
        && (says_shares || given.threshold.is_some() || given.extend.is_some())
    {
        return Err(conflict(
            "dm.thinp_…",
            "shares of a device and its extension go with dm.directlvm_device",
        ));
    }
    if let Some(name) = given.pool {
        return Ok(Place::Pool(name));
    }
    if let Some(device) = given.direct {
        return Ok(Place::Direct(Direct {
            device,
            force: given.force,
            data_percent,
            metadata_percent,
            extend_threshold: given.threshold.unwrap_or(80),
            extend_percent: given.extend.unwrap_or(20),
        }));
    }
    if !given.allow_loop && (given.data.is_none() || given.metadata.is_none()) {
        return Err(conflict(
            "storage-driver devicemapper",
            "say where the pool is: dm.directlvm_device for one block device, dm.thinpooldev for a \
             pool that is there, dm.datadev with dm.metadatadev; or dm.allow_loop=true to try it out \
             with files, which are slow",
        ));
    }
    Ok(Place::Devices {
        data: given.data,
        metadata: given.metadata,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[&str]) -> Result<ThinOptions, String> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        parse(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_dockers() {
        let options = read(&["dm.thinpooldev=/dev/mapper/docker-thinpool"]).unwrap();
        assert_eq!(options.place, Place::Pool("docker-thinpool".to_owned()));
        assert_eq!(options.base, 10 << 30);
        assert_eq!(
            (options.loop_data, options.loop_metadata),
            (100 << 30, 2 << 30)
        );
        assert_eq!((options.block, options.min_free), (64 << 10, 10));
        let options = read(&["dm.directlvm_device=/dev/xdf"]).unwrap();
        let Place::Direct(direct) = options.place else {
            panic!("of one device");
        };
        assert_eq!((direct.data_percent, direct.metadata_percent), (95, 1));
        assert_eq!((direct.extend_threshold, direct.extend_percent), (80, 20));
        assert_eq!((direct.force, options.block), (false, 512 << 10));
    }

    #[test]
    fn the_options_of_the_books_are_taken() {
        let options = read(&[
            "dm.directlvm_device=/dev/xdf",
            "dm.thinp_percent=95",
            "dm.thinp_metapercent=1",
            "dm.thinp_autoextend_threshold=80",
            "dm.thinp_autoextend_percent=20",
            "dm.directlvm_device_force=false",
        ]);
        assert!(options.is_ok());
        let options = read(&[
            "dm.thinpooldev=/dev/mapper/docker-thinpool",
            "dm.use_deferred_removal=true",
            "dm.use_deferred_deletion=true",
            "dm.fs=xfs",
            "dm.mkfsarg=-i size=512",
            "dm.mountopt=noatime,discard",
            "dm.min_free_space=5%",
            "dm.libdm_log_level=4",
            "dm.override_udev_sync_check=true",
            "dm.xfs_nospace_max_retries=3",
        ])
        .unwrap();
        assert_eq!(options.mkfs_arguments, ["-i", "size=512"]);
        assert_eq!(options.mount_options, ["noatime", "discard"]);
        assert_eq!((options.min_free, options.xfs_retries), (5, Some(3)));
    }

    #[test]
    fn loops_are_for_those_who_ask() {
        let error = read(&[]).unwrap_err();
        assert!(error.contains("dm.allow_loop=true"), "{error}");
        read(&["dm.datadev=/dev/sdb"]).unwrap_err();
        read(&["dm.datadev=/dev/sdb", "dm.metadatadev=/dev/sdc"]).unwrap();
        let options = read(&["dm.allow_loop=true", "dm.loopdatasize=4G"]).unwrap();
        assert_eq!(options.loop_data, 4 << 30);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (options, problem) in [
            (&["basesize"][..], "KEY=VALUE"),
            (&["dm.basesise=1G"], "no such option"),
            (&["dm.basesize=big"], "such as 10G"),
            (&["dm.fs=btrfs"], "ext4 or xfs"),
            (&["dm.blocksize=100k"], "multiple of 64K"),
            (&["dm.min_free_space=10"], "percentage"),
            (&["dm.min_free_space=100%"], "percentage"),
            (&["dm.blkdiscard=perhaps"], "true or false"),
            (&["dm.thinpooldev=/dev/mapper/"], "name of a pool"),
            (&["dm.directlvm_device=sdb"], "absolute path"),
            (
                &["dm.directlvm_device=/dev/a", "dm.thinp_percent=95"],
                "both or neither",
            ),
            (
                &[
                    "dm.directlvm_device=/dev/a",
                    "dm.thinp_percent=99",
                    "dm.thinp_metapercent=2",
                ],
                "more than 100",
            ),
            (
                &["dm.directlvm_device=/dev/a", "dm.thinp_percent=100"],
                "from 1 to 99",
            ),
            (
                &["dm.directlvm_device=/dev/a", "dm.thinpooldev=b"],
                "one pool",
            ),
            (
                &["dm.thinpooldev=b", "dm.thinp_autoextend_percent=20"],
                "go with dm.directlvm_device",
            ),
            (
                &[
                    "dm.thinpooldev=b",
                    "dm.use_deferred_removal=false",
                    "dm.use_deferred_deletion=true",
                ],
                "needs dm.use_deferred_removal",
            ),
            (&["dm.libdm_log_level=8"], "0 to 7"),
        ] {
            let error = read(options).unwrap_err();
            assert!(error.contains(problem), "{options:?}: {error}");
        }
    }
}
