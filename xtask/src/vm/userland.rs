//! The user space of guests: Debian's programs that stories and their peers call, of the host's own
//! suite, because programs built here need its C library.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::disk;
use crate::apt::{Suite, host_suite};

/// To be changed with what is made here, so that old files are not used.
const RECIPE: &str = "1";
/// Room for what stories write.
const SPARE: u64 = 3 << 30;

const PACKAGES: &[&str] = &[
    "bash",
    "bpftool",
    "bsdutils",
    "btrfs-progs",
    "busybox-static",
    "coreutils",
    "cryptsetup-bin",
    "curl",
    "dash",
    "dbus",
    "diffutils",
    "dmsetup",
    "dnsmasq-base",
    "e2fsprogs",
    "etcd-server",
    "findutils",
    "gawk",
    "grep",
    "gzip",
    "iperf3",
    "iproute2",
    "iptables",
    "iputils-ping",
    "jq",
    "kmod",
    "libc-bin",
    "libdevmapper1.02.1",
    "libgcc-s1",
    "libseccomp2",
    "lvm2",
    "mount",
    "nfs-kernel-server",
    "nftables",
    "openssl",
    "procps",
    "runc",
    "sed",
    "systemd",
    "tar",
    "tcpdump",
    "thin-provisioning-tools",
    "util-linux",
    "wireguard-tools",
    "xfsprogs",
    "xz-utils",
    "zstd",
];

/// Not looked at in a guest, or a link there.
const SUPERFLUOUS: [&str; 6] = [
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl",
    "var/run",
];

/// What the packages' own scripts would have made, Debian's alternatives; and for guests whose first
/// process is systemd, where nobody logs in, and what the plan says is one unit of many.
const LINKS: [(&str, &str); 13] = [
    ("usr/bin/awk", "gawk"),
    ("usr/bin/sh", "dash"),
    ("usr/sbin/ip6tables", "xtables-nft-multi"),
    ("usr/sbin/ip6tables-restore", "xtables-nft-multi"),
    ("usr/sbin/ip6tables-save", "xtables-nft-multi"),
    ("usr/sbin/iptables", "xtables-nft-multi"),
    ("usr/sbin/iptables-restore", "xtables-nft-multi"),
    ("usr/sbin/iptables-save", "xtables-nft-multi"),
    ("etc/mtab", "../proc/self/mounts"),
    ("var/run", "../run"),
    ("etc/systemd/system/getty.target", "/dev/null"),
    (
        "etc/systemd/system/default.target",
        "/lib/systemd/system/multi-user.target",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/plan.service",
        "../plan.service",
    ),
];

const FILES: [(&str, &str); 8] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nmessagebus:x:100:100::/:/bin/false\n\
         nobody:x:65534:65534:nobody:/:/bin/sh\n",
    ),
    (
        "etc/group",
        "root:x:0:\ntty:x:5:\ndisk:x:6:\nmessagebus:x:100:\nnogroup:x:65534:\n",
    ),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    ),
    ("etc/resolv.conf", ""),
    (
        "etc/protocols",
        "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\nsctp 132 SCTP\n",
    ),
    (
        "etc/os-release",
        "ID=debian\nPRETTY_NAME=\"Debian, in a guest of the kernel tests\"\n",
    ),
    ("etc/systemd/system/plan.service", PLAN_UNIT),
];

const PLAN_UNIT: &str = "[Unit]
Description=What the plan of the kernel tests says
Wants=dbus.service
After=dbus.service basic.target
[Service]
Type=exec
ExecStart=/opt/hawser/init
PassEnvironment=GUEST GUESTS
";

#[derive(Debug)]
pub(super) struct Userland {
    /// The same files in a directory of the host.
    pub(super) tree: PathBuf,
    pub(super) image: PathBuf,
}

impl Userland {
    /// Makes that of most guests below `home` unless it is there.
    pub(super) fn prepare(home: &Path) -> Result<Self> {
        Self::make(home, "userland", PACKAGES)
    }

    /// The same with more `packages`.
    pub(super) fn with(home: &Path, packages: &[String]) -> Result<Self> {
        let more = packages.iter().map(String::as_str);
        let packages: Vec<&str> = PACKAGES.iter().copied().chain(more).collect();
        Self::make(home, "userland-larger", &packages)
    }

    fn make(home: &Path, name: &str, packages: &[&str]) -> Result<Self> {
        let dir = home.join(name);
        let userland = Self {
            tree: dir.join("tree"),
            image: dir.join("userland.img"),
        };
        let made_of = format!("{RECIPE} {packages:?} {LINKS:?} {FILES:?} {SPARE}");
        let note = dir.join("made-of");
        if fs::read_to_string(&note).is_ok_and(|old| old == made_of) {
            return Ok(userland);
        }
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        merged_usr(&userland.tree)?;
        Suite::open(home, &host_suite()?)?.unpack_closure(packages, &userland.tree)?;
        userland.furnish()?;
        disk::write(&userland.tree, &userland.image, SPARE)?;
        fs::write(&note, made_of).with_context(|| note.display().to_string())?;
        Ok(userland)
    }

    pub(super) fn libraries(&self) -> PathBuf {
        self.tree.join("usr/lib/x86_64-linux-gnu")
    }

    fn furnish(&self) -> Result<()> {
        for dir in SUPERFLUOUS.map(|dir| self.tree.join(dir)) {
            if dir.exists() {
                fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
            }
        }
        let mount_points = [
            "dev",
            "mnt",
            "opt/hawser",
            "proc",
            "root",
            "run",
            "sys",
            "tmp",
            "usr/lib/modules",
            "var/log",
            "var/tmp",
        ];
        for dir in mount_points.map(|dir| self.tree.join(dir)) {
            make_dir(&dir)?;
        }
        for (link, target) in LINKS {
            let path = self.tree.join(link);
            make_dir(path.parent().context("a link has a directory")?)?;
            if path.symlink_metadata().is_err() {
                symlink(target, &path).with_context(|| path.display().to_string())?;
            }
        }
        for (file, text) in FILES {
            let path = self.tree.join(file);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

/// `/bin` is `/usr/bin`, and so on, as on every installed system.
fn merged_usr(tree: &Path) -> Result<()> {
    for name in ["bin", "lib", "lib64", "sbin"] {
        make_dir(&tree.join("usr").join(name))?;
        let link = tree.join(name);
        symlink(format!("usr/{name}"), &link).with_context(|| link.display().to_string())?;
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| path.display().to_string())
}
