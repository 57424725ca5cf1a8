//! `hawser cp`: files into containers and out of them, running or not.

#[expect(dead_code, reason = "what others need of the fixture")]
mod cli_support;
mod older_support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use cli_support::{Host, Ran};

/// A host with files to copy, and a container `box` with the volume `vol`.
struct Fixture {
    host: Host,
    files: PathBuf,
    rootfs: PathBuf,
}

impl Fixture {
    fn new(verb: &[&str]) -> Self {
        let host = Host::new();
        let files = host.path("files");
        fs::create_dir_all(files.join("src/sub")).expect("a file of the fixture");
        fs::write(files.join("src/one"), "1\n").expect("a file of the fixture");
        fs::write(files.join("src/sub/two"), "2\n").expect("a file of the fixture");
        fs::set_permissions(files.join("src/one"), fs::Permissions::from_mode(0o640))
            .expect("a file of the fixture");
        symlink("one", files.join("src/link")).expect("a file of the fixture");
        fs::create_dir(files.join("readonly")).expect("a file of the fixture");
        let bind = format!("{}:/ro:ro", files.join("readonly").display());
        let flags = [
            "--network",
            "none",
            "--name",
            "box",
            "-v",
            "vol:/vol",
            "-v",
            &bind,
        ];
        let arguments = [verb, &flags, &["bb", "sleep", "1000"]].concat();
        let id = host.ok(&arguments);
        let rootfs = host.path("state/rootfs").join(id);
        Self {
            host,
            files,
            rootfs,
        }
    }

    fn file(&self, name: &str) -> String {
        self.files.join(name).display().to_string()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.rootfs.join(path)).expect("a file of the fixture")
    }
}

/// Every rule is the same for a container that runs and for one that does not.
fn each(check: impl Fn(&Fixture)) {
    check(&Fixture::new(&["run", "-d"]));
    check(&Fixture::new(&["create"]));
}

#[test]
fn files_and_trees_go_in() {
    each(|at| {
        let (src, one) = (at.file("src"), at.file("src/one"));
        at.host.ok(&["cp", &src, "box:/in"]);
        assert_eq!(at.read("in/sub/two"), "2\n");
        let stat = fs::metadata(at.rootfs.join("in/one")).unwrap();
        assert_eq!(stat.mode() & 0o7777, 0o640);
        at.host.ok(&["cp", &src, "box:/in"]);
        assert_eq!(at.read("in/src/one"), "1\n");
        at.host.ok(&["cp", &format!("{src}/."), "box:tmp"]);
        assert_eq!(at.read("tmp/sub/two"), "2\n");
        at.host.ok(&["container", "cp", &one, "box:/tmp/sub/two"]);
        assert_eq!(at.read("tmp/sub/two"), "1\n");
        at.host.ok(&["cp", &at.file("src/link"), "box:/asitis"]);
        assert!(at.rootfs.join("asitis").is_symlink());
        at.host.ok(&["cp", "-L", &at.file("src/link"), "box:/"]);
        assert_eq!(at.read("link"), "1\n");
        assert!(!at.rootfs.join("link").is_symlink());
    });
}

#[test]
fn files_and_trees_come_out() {
    each(|at| {
        fs::create_dir_all(at.rootfs.join("o/sub")).unwrap();
        fs::write(at.rootfs.join("o/sub/two"), "2\n").unwrap();
        std::os::unix::fs::chown(at.rootfs.join("o/sub/two"), Some(77), Some(78)).unwrap();
        symlink("/etc/passwd", at.rootfs.join("o/link")).unwrap();
        at.host.ok(&["cp", "box:/o", &at.file("tree")]);
        let owner = |name: &str| {
            let stat = fs::metadata(at.files.join(name)).unwrap();
            (stat.uid(), stat.gid())
        };
        assert_eq!(owner("tree/sub/two"), (0, 0));
        at.host.ok(&["cp", "-a", "box:/o/.", &at.file("tree")]);
        assert_eq!(owner("tree/sub/two"), (77, 78));
        // Followed in the container, not on the host.
        at.host.ok(&["cp", "-L", "box:/o/link", &at.file("passwd")]);
        let passwd = fs::read_to_string(at.files.join("passwd")).unwrap();
        assert_eq!(passwd, at.read("etc/passwd"));
        at.host.ok(&["cp", "box:o/sub/../sub/two", &at.file("up")]);
        assert!(at.files.join("up").exists());
    });
}

#[test]
fn volumes_are_copied_through() {
    each(|at| {
        let one = at.file("src/one");
        at.host.ok(&["cp", &one, "box:/vol/x"]);
        let volume = at.host.path("state/volumes/vol/_data");
        assert_eq!(fs::read(volume.join("x")).unwrap(), b"1\n");
        assert!(!at.rootfs.join("vol/x").exists());
        at.host.ok(&["cp", "box:/vol/.", &at.file("back")]);
        assert_eq!(fs::read(at.files.join("back/x")).unwrap(), b"1\n");
        at.host.refused(&["cp", &one, "box:/ro/x"], 1, "read-only");
        assert!(!at.files.join("readonly/x").exists());
    });
}

#[test]
fn archives_are_streams() {
    each(|at| {
        let Ran { code, .. } = at.host.hawser(&["cp", &at.file("src"), "box:/in"]);
        assert_eq!(code, 0);
        let tar = at.host.command(&["cp", "box:/in", "-"]).output().unwrap();
        assert!(tar.status.success());
        let mut archive = tar::Archive::new(tar.stdout.as_slice());
        let entries = archive.entries().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        names.sort();
        assert_eq!(names, ["in/", "in/link", "in/one", "in/sub/", "in/sub/two"]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &tar.stdout).unwrap();
        let gzip = gzip.finish().unwrap();
        for (stream, to) in [(&tar.stdout, "box:/tmp"), (&gzip, "box:/vol")] {
            let ran = at.host.hawser_with(&["cp", "-", to], stream);
            assert_eq!(ran.code, 0, "{ran:?}");
        }
        assert_eq!(at.read("tmp/in/sub/two"), "2\n");
        let ran = at
            .host
            .hawser_with(&["cp", "-", "box:/tmp/in/one"], &tar.stdout);
        assert!(ran.stderr.contains("must be a directory"), "{ran:?}");
        let ran = at
            .host
            .hawser_with(&["cp", "-", "box:/tmp"], &tar.stdout[..700]);
        assert_eq!(ran.code, 1, "{ran:?}");
    });
}

#[test]
fn what_cannot_be_copied_is_said_in_one_line() {
    let at = Fixture::new(&["create"]);
    let (src, one, out) = (at.file("src"), at.file("src/one"), at.file("out"));
    let passwd = format!("{src}/none");
    for (arguments, part) in [
        ([&*src, &*out], "at least one container"),
        (["box:/a", "box:/b"], "between containers"),
        (["box:", &out], "is empty"),
        (["nobody:/a", &out], "nobody"),
        (
            ["box:/none", &out],
            "could not find the file /none in container box",
        ),
        (["box:/etc/passwd/", &out], "Not a directory"),
        ([&passwd, "box:/"], "No such file or directory"),
        (
            [&one, "box:/none/dir/f"],
            "could not find the file /none/dir",
        ),
        ([&one, "box:/none/"], "no such directory"),
        ([&src, "box:/etc/passwd"], "cannot copy directory"),
        (
            ["box:/etc/passwd", &format!("{out}/none/f")],
            "No such file or directory",
        ),
        (["box:/etc", &one], "cannot copy directory"),
    ] {
        let [from, to] = arguments;
        at.host.refused(&["cp", from, to], 1, part);
    }
    assert!(!at.files.join("out").exists());
    let grown = at.host.hawser(&["cp", "box:/a"]);
    assert_ne!(grown.code, 0);
}

#[test]
fn a_stopped_container_with_a_read_only_root_stays_as_it_is() {
    let at = Fixture::new(&["create", "--read-only"]);
    let one = at.file("src/one");
    at.host.refused(&["cp", &one, "box:/x"], 1, "read-only");
    at.host.ok(&["cp", &one, "box:/vol/x"]);
    at.host.ok(&["cp", "box:/etc/passwd", &at.file("passwd")]);
    assert!(!at.rootfs.join("x").exists());
}

#[test]
fn nothing_stays_mounted() {
    let at = Fixture::new(&["create"]);
    at.host.ok(&["cp", &at.file("src"), "box:/in"]);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let base = at.rootfs.display().to_string();
    assert!(!mounts.contains(&base), "{mounts}");
    let route = format!(
        "POST /v1/rootfs/{}/",
        at.rootfs.file_name().unwrap().display()
    );
    let asked = at.host.world(|world| world.asked.clone());
    let asked: Vec<&str> = asked
        .iter()
        .filter_map(|line| line.strip_prefix(&route))
        .collect();
    assert_eq!(asked, ["mount", "unmount"]);
}
