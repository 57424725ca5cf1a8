//! The daemon's life between start and stop.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::daemon::Daemon;
use crate::flags::Flags;
use crate::log::Level;
use crate::routes::fine;
use crate::routes::system::{VERSION, kernel_version, warnings};
use crate::server::{self, GRACE};
use crate::shutdown::Signals;
use crate::start::{Claim, Sockets, StartError};
use crate::systemd;

/// Requests do their work on threads of their own; these only move bytes.
const MAX_WORKERS: usize = 4;
/// How often what is left to be done is tried again.
const SETTLE: Duration = Duration::from_secs(10);
/// How late a pruned volume may be deleted.
const SWEEP: Duration = Duration::from_secs(600);
/// How long memory is kept that is free.
const GIVE_BACK: Duration = Duration::from_secs(10);
/// How long a cluster may have no manager that decides, after the time of a lease; how late news of
/// managers may be.
const ATTEND: Duration = Duration::from_secs(5);

/// Opens the daemon and serves until a signal asks to stop.
///
/// # Errors
/// [`StartError`] of the step that failed.
pub(crate) fn run(config: &Config, flags: &Flags, level: &Level) -> Result<(), StartError> {
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "bug")));
    raise_descriptors();
    let claim = Claim::take(config)?;
    let runtime = runtime()?;
    let daemon = claim.open(config, runtime.handle().clone())?;
    let sockets = Sockets::bind(config)?;
    inventory(&daemon);
    let served = runtime.block_on(serve(daemon, sockets, || reload(flags, level)));
    // Whoever waits for a store that is silent ends with the runtime: `Handle::block_on` panics then.
    std::panic::set_hook(Box::new(|panic| tracing::debug!(%panic, "cut short")));
    // A mount that hangs must not keep the process: whatever it was doing is settled by the next
    // start, like after a crash.
    runtime.shutdown_timeout(GRACE);
    info!("stopped");
    served
}

/// Every endpoint has sockets inside its sandbox, while a shell allows 1 024 descriptors in all:
/// the soft limit goes to the hard one.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit of open descriptors stays at {:?}", limit.current);
    }
}

fn runtime() -> Result<Runtime, StartError> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads(processors.min(MAX_WORKERS))
        .enable_all()
        .build()
        .map_err(StartError::Runtime)
}

/// The line a bug report starts with.
fn inventory(daemon: &Daemon) {
    let config = &daemon.config;
    for warning in warnings(&daemon.hierarchy) {
        warn!("{warning}");
    }
    info!(
        version = VERSION,
        kernel = kernel_version(),
        instance = config.instance,
        config = ?config.file,
        state_dir = %config.state_dir.display(),
        run_dir = %config.run_dir.display(),
        plugin_dir = %config.plugin_dir.display(),
        pin_dir = %config.pin_dir.display(),
        cgroup2 = ?daemon.hierarchy.path(),
        storage = daemon.storaged.driver(),
        data_path = daemon.netd.data_path().join("; "),
        networks = daemon.netd.networks().len(),
        endpoints = daemon.netd.endpoints(None).len(),
        "ready"
    );
}

async fn serve(daemon: Daemon, sockets: Sockets, reload: impl FnMut()) -> Result<(), StartError> {
    let mut signals = Signals::listen().map_err(StartError::Runtime)?;
    let Sockets { api, plugin } = sockets;
    let _names = [api.name, plugin.name];
    let api = UnixListener::from_std(api.listener).map_err(StartError::Runtime)?;
    let plugin = UnixListener::from_std(plugin.listener).map_err(StartError::Runtime)?;
    let stop = CancellationToken::new();
    let upkeep = tokio::spawn(daemon.netd.clone().run(stop.clone().cancelled_owned()));
    let watchdog = tokio::spawn(systemd::watchdog());
    let chores = [
        every(SWEEP, daemon.clone(), sweep),
        every(SETTLE, daemon.clone(), settle),
        every(GIVE_BACK, daemon.clone(), give_back),
        every(ATTEND, daemon.clone(), attend),
    ];
    let chores = chores.map(tokio::spawn);
    let verdicts = tokio::spawn(tell_verdicts(daemon.clone()));
    let plugin_router = server::volume_plugin(daemon.clone());
    let events = Arc::clone(&daemon.events);
    let servers = [
        tokio::spawn(server::serve(api, server::api(daemon), stop.clone())),
        tokio::spawn(server::serve(plugin, plugin_router, stop.clone())),
    ];
    systemd::ready();
    // What only the start runs is half of the program.
    sys::image::let_go_of_pages();

    let signal = signals.stop(reload).await;
    info!(signal, "stopping; containers and their connections go on");
    systemd::stopping();
    watchdog.abort();
    chores.iter().for_each(tokio::task::JoinHandle::abort);
    verdicts.abort();
    stop.cancel();
    events.close();
    let drained = async {
        for server in servers {
            if let Err(error) = server.await {
                warn!(%error, "server ended early");
            }
        }
        if let Err(error) = upkeep.await {
            warn!(%error, "upkeep of the networks ended early");
        }
    };
    tokio::select! {
        () = drained => {}
        signal = signals.stop(|| ()) => warn!(signal, "asked again: not waiting for requests"),
        () = tokio::time::sleep(GRACE) => warn!("not waiting any longer for requests"),
    }
    Ok(())
}

/// Does `work` now and once every `period`, beside the requests.
async fn every(period: Duration, daemon: Daemon, work: fn(&Daemon)) {
    let mut ticks = tokio::time::interval(period);
    loop {
        ticks.tick().await;
        let done = daemon.clone().run(move |daemon| {
            work(daemon);
            fine(())
        });
        // A panic is in the log; the next tick tries again.
        drop(done.await);
    }
}

/// Deletes what was busy when it was to be deleted.
fn settle(daemon: &Daemon) {
    daemon.storaged.settle_stuck();
}

/// Deletes pruned volumes whose time is over.
fn sweep(daemon: &Daemon) {
    let pruned = daemon.storaged.expire_trash();
    if !pruned.deleted.is_empty() {
        info!(volumes = ?pruned.deleted, bytes = pruned.space_reclaimed, "pruned volumes deleted");
    }
}

fn attend(daemon: &Daemon) {
    daemon.cluster.attend();
}

/// The start alone leaves four megabytes behind, half of what the daemon has for itself later.
fn give_back(_: &Daemon) {
    sys::memory::give_back();
}

/// Passes on what probes find.
async fn tell_verdicts(daemon: Daemon) {
    let mut verdicts = daemon.netd.verdicts();
    loop {
        match verdicts.recv().await {
            Ok(judged) => daemon.told_of_verdict(&judged),
            // Listeners look at the services themselves.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// SIGHUP: the log level is what can change without a restart; a restart disturbs nobody.
fn reload(flags: &Flags, level: &Level) {
    let reloaded = Config::load(flags).and_then(|config| {
        level.set(&config.log_level)?;
        Ok(config.log_level)
    });
    match reloaded {
        Ok(log_level) => info!(
            log_level,
            "configuration read again; only the log level changes"
        ),
        Err(error) => warn!(%error, "configuration not read again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_limited_by_the_hard_limit_alone() {
        let limit = getrlimit(Resource::Nofile);
        let lowered = Rlimit {
            current: Some(512),
            ..limit
        };
        setrlimit(Resource::Nofile, lowered).unwrap();
        raise_descriptors();
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }
}
