//! The shim under the checks that the authors of the runtime specification keep for runtimes
//! (`validation` in opencontainers/runtime-tools): programs that create containers from bundles of
//! their own and print results in the Test Anything Protocol.

#[cfg(test)]
mod root {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Mutex;
    use std::thread;

    use kernel_tests::program::{self, Ran};
    use kernel_tests::{Host, pods};

    /// Names the directory where `cargo xtask` has unpacked the checks.
    const SOURCES_ENV: &str = "HAWSER_RUNTIME_TOOLS";
    const CHECKS: &str = "src/github.com/opencontainers/runtime-tools";

    /// Those that do not pass, which runc does not pass either except where it is said.
    const FAILING: &[(&str, &str)] = &[
        ("hooks", "expects other words than its own hooks write"),
        (
            "hooks_stdin",
            "expects prestart hooks to see a container as created; the specification's list of states says creating",
        ),
        (
            "linux_cgroups_blkio",
            "limits the device 8:0, which not every host has",
        ),
        ("linux_cgroups_relative_blkio", "the same"),
        (
            "linux_cgroups_hugetlb",
            "this host's kernel has no such control groups",
        ),
        ("linux_cgroups_relative_hugetlb", "the same"),
        (
            "linux_cgroups_network",
            "this host's kernel has no such control groups",
        ),
        ("linux_cgroups_relative_network", "the same"),
        (
            "linux_cgroups_memory",
            "reads limits of kernel memory, which kernels ignore since 5.16, and the wrong word for the OOM killer",
        ),
        ("linux_cgroups_relative_memory", "the same"),
        (
            "linux_process_apparmor_profile",
            "this host's kernel has no AppArmor",
        ),
        (
            "misc_props",
            "starts a program that it has not put into its bundle",
        ),
        (
            "poststart_fail",
            "wants a warning, where later versions of the specification want the error that we give",
        ),
        (
            "prestart",
            "wants the hooks at start, where the specification has them at create since 1.0.2",
        ),
        (
            "process_capabilities",
            "wants a capability that the host's root has not got everywhere",
        ),
        (
            "process_rlimits",
            "sets one limit twice, and expects the first",
        ),
        (
            "start",
            "wants a start without an id to say nothing of the command line",
        ),
    ];

    /// Those that pass or not, by which of two processes is the first: to write a line, or to end.
    const RACING: &[&str] = &["pidfile", "poststart"];

    /// Control groups of one name are used by several.
    const CONTROL_GROUPS: &[&str] = &["delete_only_create_resources", "delete_resources"];

    /// Removes the control groups that the checks name, and leave.
    struct Groups;

    impl Drop for Groups {
        fn drop(&mut self) {
            let mut find = Command::new("find");
            find.args(["/sys/fs/cgroup", "-depth", "-type", "d"]);
            find.args(["(", "-name", "testdir", "-o", "-name", "cgrouptest"]);
            find.args(["-o", "-path", "*/testdir/*", ")"]);
            find.args(["-exec", "rmdir", "{}", "+"]);
            drop(program::run(&mut find));
        }
    }

    /// What `directory` needs for the checks to run in it; returns them.
    fn build(directory: &Path) -> Vec<PathBuf> {
        let sources = std::env::var_os(SOURCES_ENV)
            .unwrap_or_else(|| panic!("{SOURCES_ENV} is not set: run this through cargo xtask"));
        let sources = Path::new(&sources);
        // What they print results with is no package of Debian's.
        let own = directory.join("go/src/github.com/mndrix");
        fs::create_dir_all(&own).unwrap();
        let tap = concat!(env!("CARGO_MANIFEST_DIR"), "/oci");
        symlink(tap, own.join("tap-go")).unwrap();
        let checks = sources.join(CHECKS);
        let programs = directory.join("programs");
        let mut go = pods::go();
        go.current_dir(&checks).env(
            "GOPATH",
            std::env::join_paths([sources, &directory.join("go"), Path::new(pods::GO_PATH)])
                .unwrap(),
        );
        go.args(["build", "-ldflags=-s -w", "-o"]).arg(&programs);
        go.args(["./cmd/runtimetest", "./validation/..."]);
        fs::create_dir(&programs).unwrap();
        program::output(&mut go).unwrap();
        // Where they are run, they look for these.
        let rootfs = "rootfs-amd64.tar.gz";
        fs::copy(checks.join(rootfs), directory.join(rootfs)).unwrap();
        let inside = "runtimetest";
        fs::rename(programs.join(inside), directory.join(inside)).unwrap();
        let built = fs::read_dir(&programs).unwrap();
        built.map(|entry| entry.unwrap().path()).collect()
    }

    fn check(host: &Host, directory: &Path, path: &Path) -> Ran {
        let mut command = host.command("sh");
        command.args(["-c", "cd \"$0\" && exec \"$1\""]);
        command.arg(directory).arg(path);
        command.env("TMPDIR", directory);
        command.env("RUNTIME", program::under_test("hawser-shim").unwrap());
        program::run(&mut command).unwrap()
    }

    /// Whether all it says is good. One without results prints what it found at the end.
    fn is_good(ran: &Ran) -> bool {
        let results: Vec<&str> = ran
            .stdout
            .lines()
            .filter(|line| line.starts_with("ok ") || line.starts_with("not ok "))
            .collect();
        let good = |line: &&str| line.starts_with("ok ") || line.ends_with("# todo");
        let said_nothing_bad = !results.is_empty() || !ran.stdout.contains("\"error\": ");
        // Those that want a container refused say nothing when it is.
        let has_ended = ran.stdout.is_empty() || ran.stdout.contains("1..");
        ran.code == 0 && results.iter().all(good) && said_nothing_bad && has_ended
    }

    #[test]
    fn the_checks_of_the_runtime_specification_pass() {
        let directory = tempfile::Builder::new()
            .prefix("hawser-oci-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let directory = directory.path();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        let programs = build(directory);
        assert!(programs.len() > 50, "{programs:?}");
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let (groups, others): (Vec<PathBuf>, Vec<PathBuf>) = programs
            .into_iter()
            .filter(|path| !RACING.contains(&&*name(path)))
            .partition(|path| {
                let name = name(path);
                name.starts_with("linux_cgroups_") || CONTROL_GROUPS.contains(&&*name)
            });
        let _groups = Groups;
        let host = Host::throwaway().unwrap();
        let ran = Mutex::new(BTreeMap::new());
        let others = Mutex::new(others);
        let run = |path: PathBuf| {
            let result = check(&host, directory, &path);
            ran.lock().unwrap().insert(name(&path), result);
        };
        // Most of the time they wait, by the second.
        thread::scope(|scope| {
            scope.spawn(|| groups.into_iter().for_each(run));
            for _worker in 0..3 {
                scope.spawn(|| {
                    while let Some(path) = { others.lock().unwrap().pop() } {
                        run(path);
                    }
                });
            }
        });
        drop(host);
        let ran = ran.into_inner().unwrap();
        let listed = |name: &str| FAILING.iter().any(|(failing, _reason)| *failing == name);
        let wrong: Vec<String> = ran
            .iter()
            .filter(|(name, ran)| is_good(ran) == listed(name))
            .map(|(name, ran)| {
                let list = if listed(name) { "passes" } else { "fails" };
                format!("{name} {list}:\n{}", ran.text())
            })
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
