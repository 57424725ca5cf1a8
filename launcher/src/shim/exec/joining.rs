//! Joining a container's user namespace, which libcontainer does not do.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::owner::IdMaps;
use libcontainer::oci_spec::runtime::LinuxCapabilities;
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use crate::shim::executor::{Confinement, Joins, Workload};
use crate::shim::filter::{Filter, FilterError};
use crate::shim::spec::capability;

#[derive(Debug, thiserror::Error)]
pub(in crate::shim) enum JoinError {
    #[error("user {uid} with group {gid} is none of the container's user namespace")]
    NoId { uid: u32, gid: u32 },
    #[error("{op} {}: {source}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("understand the container's process: {0}")]
    Process(#[from] serde_json::Error),
    #[error("{} is no map of ids", path.display())]
    NoMap { path: PathBuf },
}

fn failed<'a>(op: &'static str, path: &'a Path) -> impl Fn(io::Error) -> JoinError + 'a {
    move |source| JoinError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

fn of_process(pid: u32, what: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{what}"))
}

/// What the ids of a process are here; none if it has our own user namespace.
pub(in crate::shim) fn maps_of(pid: u32) -> Result<Option<IdMaps>, JoinError> {
    let identity = |path: &Path| {
        let namespace = fs::metadata(path).map_err(failed("look at", path))?;
        Ok::<_, JoinError>((namespace.dev(), namespace.ino()))
    };
    if identity(&of_process(pid, "ns/user"))? == identity(Path::new("/proc/self/ns/user"))? {
        return Ok(None);
    }
    let [uids, gids] = ["uid_map", "gid_map"].map(|name| {
        let path = of_process(pid, name);
        let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
        IdMaps::ranges(&text).ok_or(JoinError::NoMap { path })
    });
    Ok(Some(IdMaps {
        uids: uids?,
        gids: gids?,
    }))
}

/// What `process` is to be for libcontainer, and what is left to the executor: the filter of the
/// container's configuration, and the user namespace of process `init` if `maps` say that it has one.
pub(in crate::shim) fn member(
    process: Value,
    config: &Value,
    init: u32,
    maps: Option<&IdMaps>,
    filters: &Path,
) -> Result<(Value, Workload), JoinError> {
    let seccomp = &config["linux"]["seccomp"];
    let filter = (!seccomp.is_null()).then(|| Filter::of(seccomp, filters));
    let filter = filter.transpose()?;
    if filter.is_none() && maps.is_none() {
        return Ok((process, Workload::default()));
    }
    let (process, confinement) = confined(process, filter)?;
    let workload = Workload {
        confinement: Some(confinement),
        ..Workload::default()
    };
    match maps {
        None => Ok((process, workload)),
        Some(maps) => joining(process, workload, init, maps),
    }
}

/// Has the executor join the user namespace of process `init`: until then, the process is the
/// host's root with all that it may.
fn joining(
    mut process: Value,
    workload: Workload,
    init: u32,
    maps: &IdMaps,
) -> Result<(Value, Workload), JoinError> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let user = &process["user"];
    let (uid, gid) = (id(&user["uid"]).unwrap_or(0), id(&user["gid"]).unwrap_or(0));
    let groups = user["additionalGids"].as_array().into_iter().flatten();
    let groups = groups.filter_map(id).collect();
    let on_host = maps.host_uid(uid).zip(maps.host_gid(gid));
    let on_host = on_host.ok_or(JoinError::NoId { uid, gid })?;
    let path = of_process(init, "ns/user");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, Mode::empty());
    let namespace = opened.map_err(|errno| failed("open", &path)(errno.into()))?;
    let joins = Joins {
        namespace: Arc::new(namespace),
        uid,
        gid,
        groups,
        on_host,
    };
    let umask = process["user"]["umask"].take();
    process["user"] = json!({ "uid": 0, "gid": 0 });
    if !umask.is_null() {
        process["user"]["umask"] = umask;
    }
    let status = Path::new("/proc/self/status");
    let own = fs::read_to_string(status).map_err(failed("read", status))?;
    process["capabilities"] = capability::to_json(&capability::all(capability::bounding(&own)));
    let workload = Workload {
        joins: Some(joins),
        ..workload
    };
    Ok((process, workload))
}

/// Leaves the filter to the executor.
///
/// The process keeps two capabilities until it is loaded: CAP_SYS_ADMIN, which loading needs
/// (seccomp(2)), and CAP_SETPCAP, which dropping from the bounding set needs.
pub(in crate::shim) fn confined(
    mut process: Value,
    filter: Option<Filter>,
) -> Result<(Value, Confinement), serde_json::Error> {
    let capabilities: Option<LinuxCapabilities> =
        serde_json::from_value(process["capabilities"].clone())?;
    for set in ["bounding", "effective", "permitted"] {
        if let Some(set) = process["capabilities"][set].as_array_mut() {
            for needed in ["CAP_SYS_ADMIN", "CAP_SETPCAP"] {
                if !set.iter().any(|held| held == needed) {
                    set.push(json!(needed));
                }
            }
        }
    }
    let confinement = Confinement {
        filter,
        capabilities,
    };
    Ok((process, confinement))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_joins_the_namespace_that_he_is_in() {
        assert_eq!(maps_of(std::process::id()).unwrap(), None);
        assert!(maps_of(u32::MAX).unwrap_err().to_string().contains("/proc"));
    }

    #[test]
    fn the_process_is_root_until_it_has_joined() {
        let maps = IdMaps {
            uids: IdMaps::ranges("0 100000 65536\n").unwrap(),
            gids: IdMaps::ranges("0 200000 65536\n").unwrap(),
        };
        let asked = json!({
            "args": ["id"],
            "user": {"uid": 7, "gid": 8, "additionalGids": [9], "umask": 18},
        });
        let own = std::process::id();
        let (process, workload) = joining(asked.clone(), Workload::default(), own, &maps).unwrap();
        assert_eq!(process["user"], json!({"uid": 0, "gid": 0, "umask": 18}));
        let joins = workload.joins.unwrap();
        assert_eq!((joins.uid, joins.gid, joins.groups), (7, 8, vec![9]));
        assert_eq!(joins.on_host, (100_007, 200_008));
        let none = IdMaps::default();
        let refused = joining(asked, Workload::default(), own, &none).unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("user 7 with group 8 is none")
        );
    }

    fn container() -> Value {
        json!({
            "args": ["sleep"], "capabilities": capability::to_json(&["CAP_KILL"])
        })
    }

    #[test]
    fn capabilities_for_the_filter_are_given_up_again() {
        let (process, confinement) = confined(container(), None).unwrap();
        assert_eq!(
            process["capabilities"]["permitted"],
            json!(["CAP_KILL", "CAP_SYS_ADMIN", "CAP_SETPCAP"])
        );
        let kept = confinement.capabilities.unwrap();
        assert_eq!(kept.permitted().as_ref().unwrap().len(), 1);
        // A bundle need not name any: nothing is given up then.
        let (_, confinement) = confined(json!({ "args": ["id"] }), None).unwrap();
        assert!(confinement.capabilities.is_none());
    }

    #[test]
    fn a_container_without_a_filter_is_left_to_the_runtime() {
        let nowhere = Path::new("/nonexistent");
        let (process, workload) = member(container(), &json!({}), 1, None, nowhere).unwrap();
        assert_eq!(process, container());
        assert!(workload.confinement.is_none());
    }
}
