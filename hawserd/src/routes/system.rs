//! What the daemon says of itself.

use std::fs;

use api::daemon::{Info, Remap, Version, host_architecture};
use api::doctor::{Diagnosis, Finding};
use api::path;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::{Reply, fine};
use crate::cgroup::Hierarchy;
use crate::daemon::Daemon;
use crate::failure::Failure;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn routes() -> Router<Daemon> {
    Router::new()
        .route(path::PING, get(async || "OK"))
        .route(path::VERSION, get(version))
        .route(path::INFO, get(info))
        .route(path::METRICS, get(metrics))
        .route(path::DOCTOR, get(examine).post(treat))
}

async fn version() -> Json<Version> {
    Json(Version {
        version: VERSION.to_owned(),
        api_version: path::API.trim_start_matches("/v").to_owned(),
        os: std::env::consts::OS.to_owned(),
        arch: host_architecture().to_owned(),
        kernel_version: kernel_version(),
    })
}

pub(crate) fn kernel_version() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

async fn info(State(daemon): State<Daemon>) -> Reply<Info> {
    daemon.run(|daemon| fine(describe(daemon))).await.map(Json)
}

fn describe(daemon: &Daemon) -> Info {
    let Daemon {
        config,
        netd,
        storaged,
        cluster,
        hierarchy,
        ..
    } = daemon;
    Info {
        name: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        server_version: VERSION.to_owned(),
        kernel_version: kernel_version(),
        operating_system: operating_system().unwrap_or_else(|| "Linux".to_owned()),
        state_dir: config.state_dir.display().to_string(),
        run_dir: config.run_dir.display().to_string(),
        plugin_dir: config.plugin_dir.display().to_string(),
        cni_bin_dir: config.cni_bin_dir.display().to_string(),
        driver: storaged.driver().to_owned(),
        driver_status: storaged.driver_status(),
        networks: netd.networks().len() as u64,
        endpoints: netd.endpoints(None).len() as u64,
        volumes: storaged.volumes().len() as u64,
        images: storaged.images().len() as u64,
        data_path: netd.data_path(),
        cgroup_version: hierarchy.version().to_owned(),
        warnings: warnings(hierarchy),
        registries: config.registries.clone(),
        logging: config.logging.clone(),
        runtimes: config.runtimes.clone(),
        swarm: cluster.membership(),
        userns_remap: storaged.remap().map(|(user, maps)| Remap { user, maps }),
    }
}

async fn examine(State(daemon): State<Daemon>) -> Reply<Diagnosis> {
    daemon.run(|daemon| diagnose(daemon, false)).await.map(Json)
}

async fn treat(State(daemon): State<Daemon>) -> Reply<Diagnosis> {
    daemon.run(|daemon| diagnose(daemon, true)).await.map(Json)
}

fn diagnose(daemon: &Daemon, repair: bool) -> Result<Diagnosis, netd::NetError> {
    let mut diagnosis = daemon.netd.doctor(repair)?;
    diagnosis.findings.extend(no_cgroup2(&daemon.hierarchy));
    Ok(diagnosis)
}

fn no_cgroup2(hierarchy: &Hierarchy) -> Option<Finding> {
    hierarchy.path().is_none().then(|| Finding {
        what: "this kernel has no cgroup2: the host's own processes reach no published port, and \
               names are served inside each sandbox"
            .to_owned(),
        way_out: "boot a kernel with CONFIG_CGROUPS and CONFIG_CGROUP_BPF".to_owned(),
    })
}

/// What is degraded on this host, and the way out.
pub(crate) fn warnings(hierarchy: &Hierarchy) -> Vec<String> {
    let findings = no_cgroup2(hierarchy).into_iter();
    findings
        .map(|finding| format!("{}; {}", finding.what, finding.way_out))
        .collect()
}

/// os-release(5).
fn operating_system() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').to_owned())
}

async fn metrics(State(daemon): State<Daemon>) -> Result<Response, Failure> {
    let text = daemon
        .run(|daemon| {
            let mut text = String::new();
            daemon.metrics.write(&mut text);
            daemon.netd.metrics(&mut text);
            daemon.storaged.metrics(&mut text);
            fine(text)
        })
        .await?;
    // The version of the Prometheus text exposition format.
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
