//! What a container's filesystem on a thin device takes, beside the ioctls that it cannot do without.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that cannot be made fails its test"
)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use storaged::{DriverName, StorageConfig, Storaged};
use support::{State, create, dir, file, image, mounted};
use sys::device_mapper::{DeviceMapper, Target};

const RUNS: usize = 15;
/// Above the ids that the daemon gives out here.
const FIRST: usize = 1_000_000;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A snapshot, its device and its filesystem, by the least that does it.
fn by_ioctls(mapper: &DeviceMapper, like: &Target, id: usize, target: &Path) {
    let [pool, origin] = words(like);
    let (pool_name, name) = (pool_of(mapper), format!("raw-{id}"));
    mapper
        .message(&pool_name, &format!("create_snap {id} {origin}"))
        .unwrap();
    mapper.create(&name, &name).unwrap();
    let table = Target {
        parameters: format!("{pool} {id}"),
        ..like.clone()
    };
    mapper.load(&name, &[table], false).unwrap();
    let node = mapper.resume(&name).unwrap().node();
    let node = node.to_string_lossy();
    let none = rustix::mount::MountFlags::empty();
    sys::mount::filesystem("ext4", &node, target, none, "").unwrap();
}

fn undo(mapper: &DeviceMapper, id: usize, target: &Path) {
    rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty()).unwrap();
    mapper.remove(&format!("raw-{id}"), false).unwrap();
    let pool = pool_of(mapper);
    mapper.message(&pool, &format!("delete {id}")).unwrap();
}

/// The pool's number, and the device's id.
fn words(thin: &Target) -> [&str; 2] {
    let mut words = thin.parameters.split(' ');
    [(); 2].map(|()| words.next().unwrap())
}

fn pool_of(mapper: &DeviceMapper) -> String {
    let names = mapper.names().unwrap();
    let is_pool = |name: &String| name.ends_with("-pool");
    names.into_iter().find(is_pool).expect("a pool")
}

/// The table of the one thin device that is active.
fn active(mapper: &DeviceMapper) -> Target {
    let tables = mapper.names().unwrap().into_iter();
    let mut tables = tables.flat_map(|name| mapper.table(&name).unwrap());
    tables.find(|target| target.kind == "thin").expect("one")
}

fn remove(storaged: &Storaged) {
    storaged.unmount_rootfs("c1").unwrap();
    storaged.remove_rootfs("c1").unwrap();
}

#[test]
fn thin_snapshots_come_and_go_beside_bare_ioctls_where_the_kernel_can() {
    let mapper = match DeviceMapper::open() {
        Ok(mapper) => mapper,
        Err(error) => {
            println!("this kernel has no device-mapper: {error}");
            return;
        }
    };
    let state = State::on_disk();
    let opts = ["dm.allow_loop=true", "dm.basesize=512M", "dm.fs=ext4"];
    let storaged = state.open_with(StorageConfig {
        driver: Some(DriverName::Devicemapper),
        opts: opts.map(str::to_owned).to_vec(),
        ..StorageConfig::default()
    });
    let base = image(&storaged, "base", &[&[dir("srv"), file("srv/f", "one")]]);
    mounted(&storaged, "c1", &base);
    let like = active(&mapper);
    // The daemon's snapshots are of what nobody writes to, and so are the others: of the image.
    let target = state.path().join("target");
    std::fs::create_dir(&target).unwrap();
    create(&storaged, "origin", &base, false);
    remove(&storaged);
    storaged.mount_rootfs("origin").unwrap();
    let like = Target {
        parameters: active(&mapper).parameters,
        ..like
    };
    storaged.unmount_rootfs("origin").unwrap();
    let [mut ours, mut least] = [(); 2].map(|()| Vec::new());
    for run in 0..RUNS {
        let begin = Instant::now();
        mounted(&storaged, "c1", &base);
        ours.push(begin.elapsed());
        remove(&storaged);
        let begin = Instant::now();
        by_ioctls(&mapper, &like, FIRST + run, &target);
        least.push(begin.elapsed());
        undo(&mapper, FIRST + run, &target);
    }
    let (ours, least) = (median(ours), median(least));
    let ratio = ours.as_secs_f64() / least.as_secs_f64();
    println!(
        "figure: thin snapshot, made, activated and mounted: {ours:?}, by ioctls alone {least:?}: {ratio:.2}"
    );
    let pool = pool_of(&mapper);
    drop(storaged);
    mapper.remove(&pool, true).unwrap();
}
