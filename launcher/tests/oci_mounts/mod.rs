//! What is mounted in a container, by libcontainer and by ourselves.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::{Bundle, older_support, soon};

#[test]
fn mounts_are_the_same_below_linux_5_12() {
    let look = |older: bool| {
        if older {
            older_support::pretend();
        }
        // Without what differs between two containers: numbers of devices and of mounts.
        let script = "cat /proc/self/mountinfo | while read -r a b c root point options rest; do \
                      echo $point $options; done; ls /dev; ls -l /link/; cat /note; \
                      echo x > /v/below/x; echo x > /ro/x; sleep 1000";
        let bundle = Bundle::new(script);
        let (shared, below) = (bundle.path("shared"), bundle.path("shared/below"));
        fs::create_dir_all(&below).unwrap();
        fs::write(bundle.path("note"), "a note\n").unwrap();
        symlink("tmp", bundle.path("bundle/rootfs/link")).unwrap();
        let path = bundle.path("bundle/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mounts = config["mounts"].as_array_mut().unwrap();
        for (destination, kind, source, options) in [
            (
                "/dev",
                "tmpfs",
                Path::new("tmpfs"),
                "nosuid,strictatime,mode=755,size=65536k",
            ),
            (
                "/dev/pts",
                "devpts",
                Path::new("devpts"),
                "nosuid,noexec,newinstance,ptmxmode=0666",
            ),
            (
                "/dev/mqueue",
                "mqueue",
                Path::new("mqueue"),
                "nosuid,noexec,nodev",
            ),
            (
                "/sys",
                "sysfs",
                Path::new("sysfs"),
                "nosuid,noexec,nodev,ro",
            ),
            (
                "/sys/fs/cgroup",
                "cgroup",
                Path::new("cgroup"),
                "nosuid,noexec,nodev,ro",
            ),
            ("/link/made", "tmpfs", Path::new("tmpfs"), "noatime"),
            ("/v", "bind", &shared, "rbind,rprivate,nosuid"),
            ("/ro", "none", &shared, "bind,ro,noexec"),
            ("/note", "bind", &bundle.path("note"), "bind,ro"),
        ] {
            let options: Vec<&str> = options.split(',').collect();
            mounts.push(json!({
                "destination": destination, "type": kind, "source": source, "options": options,
            }));
        }
        config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
        config["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/acpi"]);
        fs::write(&path, config.to_string()).unwrap();
        bundle.create();
        bundle.ok("start box");
        soon(|| bundle.output().contains("can't create /ro/x"));
        bundle.ok("delete --force box");
        assert!(below.join("x").exists());
        let said = bundle.output();
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let usual = look(false);
    // How access times are kept is the host's way for what comes from there.
    for expected in ["a note", "/ro ro,noexec,", "/tmp/made rw,noatime"] {
        let is_it = |line: &String| line.starts_with(expected);
        assert!(usual.iter().any(is_it), "{usual:#?}");
    }
    assert_eq!(usual, look(true));
}

#[test]
fn a_mount_that_cannot_be_is_named_below_linux_5_12_too() {
    older_support::pretend();
    let bundle = Bundle::new("true");
    let path = bundle.path("bundle/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({
        "destination": "/proc/self/attr", "type": "bind", "source": "/tmp", "options": ["bind"],
    }));
    fs::write(&path, config.to_string()).unwrap();
    let directory = bundle.path("bundle").display().to_string();
    let expected = "mount on /proc/self/attr: nothing is mounted below /proc";
    bundle.refused(&format!("create --bundle {directory} box"), expected);
    bundle.refused("state box", "does not exist");
}
