//! `cargo xtask install`: programs, CNI plugin and systemd units. Running it again replaces them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::build;
use crate::setup::{self, Purpose};
use crate::workspace;

const UNITS: [&str; 2] = ["hawserd/hawserd.service", "launcher/hawser-resume.service"];

pub(crate) fn run(prefix: &Path, root: &Path) -> Result<()> {
    setup::run(Purpose::Build)?;
    lay_out(&build::programs(true)?, prefix, root)?;
    println!(
        "start it with `systemctl daemon-reload && systemctl enable hawser-resume && systemctl \
         enable --now hawserd`"
    );
    Ok(())
}

/// Puts the programs in the directory `built`, and what belongs to them, where they are to be below
/// `root`.
pub(crate) fn lay_out(built: &Path, prefix: &Path, root: &Path) -> Result<()> {
    let bin = inside(root, prefix).join("bin");
    // The plugins are here for `hawser cni install`, too.
    let programs = [
        "hawserd",
        "hawser",
        "hawser-shim",
        "hawser-cni",
        "hawser-cni-ipam",
    ];
    for program in programs {
        place(&built.join(program), &bin.join(program), 0o755)?;
    }
    // The CNI plugin type is `hawser`, and a plugin's file has the name of its type.
    for (built_as, plugin) in [("hawser-cni", "hawser"), ("hawser-cni-ipam", "hawser-ipam")] {
        let plugin = inside(root, Path::new("/opt/cni/bin")).join(plugin);
        place(&built.join(built_as), &plugin, 0o755)?;
    }
    // Where the host has AppArmor, it loads what is there when it boots.
    let profile = workspace::root().join("launcher/assets/hawser-default.apparmor");
    let target = inside(root, Path::new("/etc/apparmor.d/hawser-default"));
    place(&profile, &target, 0o644)?;
    for path in UNITS {
        let unit = fs::read_to_string(workspace::root().join(path)).context(path)?;
        let name = Path::new(path).file_name().context("a unit has a name")?;
        let target = inside(root, Path::new("/etc/systemd/system")).join(name);
        write_unit(&unit, prefix, &target)?;
    }
    Ok(())
}

/// `path` below the directory that stands for `/`.
fn inside(root: &Path, path: &Path) -> std::path::PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Replaces `to` by rename, so that a running program keeps its file.
fn place(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let parent = to.parent().context("a file has a directory")?;
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let staged = to.with_extension("new");
    fs::copy(from, &staged).with_context(|| staged.display().to_string())?;
    fs::set_permissions(&staged, fs::Permissions::from_mode(mode))
        .with_context(|| staged.display().to_string())?;
    fs::rename(&staged, to).with_context(|| to.display().to_string())?;
    println!("installed {}", to.display());
    Ok(())
}

fn write_unit(unit: &str, prefix: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a file has a directory")?;
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    fs::write(to, with_prefix(unit, prefix)).with_context(|| to.display().to_string())?;
    println!("installed {}", to.display());
    Ok(())
}

/// The unit with the daemon at `prefix`.
fn with_prefix(unit: &str, prefix: &Path) -> String {
    unit.replace("/usr/local/bin/", &format!("{}/bin/", prefix.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_names_the_installed_daemon() {
        let unit = with_prefix("ExecStart=/usr/local/bin/hawserd\n", Path::new("/opt/h"));
        assert_eq!(unit, "ExecStart=/opt/h/bin/hawserd\n");
    }

    #[test]
    fn every_unit_is_there_and_starts_an_installed_program() {
        for path in UNITS {
            let unit = fs::read_to_string(workspace::root().join(path)).unwrap();
            let unit = with_prefix(&unit, Path::new("/opt/h"));
            assert!(unit.contains("\nExecStart=/opt/h/bin/hawser"), "{path}");
            assert!(unit.contains("\nKillMode=process\n"), "{path}");
        }
    }

    #[test]
    fn a_root_directory_stands_for_the_slash() {
        assert_eq!(
            inside(Path::new("/pkg"), Path::new("/opt/x")),
            Path::new("/pkg/opt/x")
        );
        assert_eq!(
            inside(Path::new("/"), Path::new("/opt/x")),
            Path::new("/opt/x")
        );
    }
}
