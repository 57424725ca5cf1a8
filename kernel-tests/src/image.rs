//! Images without a registry: archives of root file systems made from Debian's packages.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::program;

/// Directory of an unpacked nginx, as `cargo xtask` leaves it.
pub const WEB_SERVER_ENV: &str = "HAWSER_WEB_SERVER";

/// Prints a page: `fetch NAME [PORT [PATH]]`. Busybox' own wget, linked statically, needs shared
/// libraries of the C library to resolve names and dies without.
const FETCH: &str = "#!/bin/sh
printf 'GET %s HTTP/1.0\\r\\nHost: %s\\r\\n\\r\\n' \"${3:-/}\" \"$1\" |
    nc -w 5 \"$1\" \"${2:-80}\" | tr -d '\\r' | sed '1,/^$/d' | grep .
";

const NGINX_CONF: &str = "worker_processes 1;
error_log stderr warn;
pid /run/nginx.pid;
events { worker_connections 4096; }
http {
    log_format seen '$remote_addr $request $status';
    access_log /dev/stdout seen;
    types { text/html html; }
    default_type application/octet-stream;
    sendfile on;
    keepalive_requests 1000000;
    server {
        listen 80;
        listen [::]:80;
        root /srv;
    }
}
";

/// Writes the archive of a busybox image to `archive`.
///
/// # Errors
/// When busybox is not installed, or the archive cannot be written.
pub fn busybox(archive: &Path) -> Result<()> {
    let tree = tempfile::tempdir().context("scratch directory")?;
    base(tree.path())?;
    pack(tree.path(), archive)
}

/// Makes the directory `root` a root file system with busybox.
///
/// # Errors
/// As [`busybox`].
pub fn unpacked(root: &Path) -> Result<()> {
    base(root)
}

/// Writes the archive of an nginx image to `archive`: it serves `/srv` on port 80 and logs each
/// request with the client's address to standard output.
///
/// # Errors
/// When nginx has not been unpacked, or the archive cannot be written.
pub fn web_server(archive: &Path) -> Result<()> {
    let Some(packages) = std::env::var_os(WEB_SERVER_ENV).map(PathBuf::from) else {
        bail!("{WEB_SERVER_ENV} is not set; run this through `cargo xtask`");
    };
    let tree = tempfile::tempdir().context("scratch directory")?;
    let root = tree.path();
    base(root)?;
    let nginx = packages.join("usr/sbin/nginx");
    install(&nginx, &root.join("usr/sbin/nginx"))?;
    for library in libraries(&nginx)? {
        install(
            &library,
            &root.join(library.strip_prefix("/").unwrap_or(&library)),
        )?;
    }
    for dir in ["etc/nginx", "srv", "var/lib/nginx", "var/log/nginx"] {
        make_dir(&root.join(dir))?;
    }
    write(&root.join("etc/nginx/nginx.conf"), NGINX_CONF)?;
    pack(root, archive)
}

/// A tree with busybox and its applets, users and the directories that programs expect.
fn base(root: &Path) -> Result<()> {
    for dir in [
        "bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/sbin",
    ] {
        make_dir(&root.join(dir))?;
    }
    let tmp = root.join("tmp");
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777))
        .with_context(|| tmp.display().to_string())?;
    let busybox = root.join("bin/busybox");
    install(&find("busybox")?, &busybox)?;
    for applet in program::output(Command::new(&busybox).arg("--list"))?.lines() {
        let link = root.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", &link).with_context(|| link.display().to_string())?;
        }
    }
    let fetch = root.join("bin/fetch");
    write(&fetch, FETCH)?;
    fs::set_permissions(&fetch, fs::Permissions::from_mode(0o755))
        .with_context(|| fetch.display().to_string())?;
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
    write(&root.join("etc/passwd"), users)?;
    write(&root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")
}

/// The shared libraries of `program`, its loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x…)`, `/lib64/ld-linux… (0x…)`.
    let text = program::output(Command::new("ldd").arg(program))?;
    let mut libraries = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("{} lacks a library: {}", program.display(), line.trim());
        }
        libraries.extend(
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    Ok(libraries)
}

fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is not installed; run `cargo xtask setup`"))
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args([
        "--numeric-owner",
        "--owner=0",
        "--group=0",
        "--create",
        "--file",
    ])
    .arg(archive);
    program::output(tar.arg("--directory").arg(root).arg(".")).map(drop)
}

fn install(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        make_dir(parent)?;
    }
    fs::copy(from, to)
        .with_context(|| format!("copy {}", from.display()))
        .map(drop)
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| path.display().to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}
