//! The disk with what is under test: our programs and the stories', without debug information, and
//! what the guest is to do with them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::disk;
use super::plan::{Plan, Stories};
use crate::build::PROGRAMS;
use crate::install;
use crate::process;
use crate::workspace;

/// Room for what is written beside the programs.
const SPARE: u64 = 64 << 20;
const PROVISION: &str = "vagrant/provision.sh";
const INIT: &str = include_str!("guest/init.sh");
const FEATURES: &str = include_str!("guest/features.sh");

/// A directory that becomes a disk.
#[derive(Debug)]
pub(super) struct Programs {
    dir: PathBuf,
    image: PathBuf,
}

impl Programs {
    /// Our own programs of the directory `bin`; what was there before is kept where it is the same.
    pub(super) fn gather(home: &Path, bin: &Path) -> Result<Self> {
        let programs = Self {
            dir: home.join("programs"),
            image: home.join("programs.img"),
        };
        for dir in ["bin", "tests"] {
            make_dir(&programs.dir.join(dir))?;
        }
        let exec = programs.dir.join("exec");
        if exec.exists() {
            fs::remove_dir_all(&exec).with_context(|| exec.display().to_string())?;
        }
        for (_, name) in PROGRAMS {
            strip(&bin.join(name), &programs.dir.join("bin").join(name))?;
        }
        // Tests know our programs by the path they were built at.
        let environment = format!(
            "export HAWSER_BIN_DIR=/opt/hawser/bin HAWSER_SLOW_HOST=1\n\
             mkdir -p {0}\nln -sfn /opt/hawser/bin {0}/debug\n",
            workspace::target_dir().display()
        );
        programs.write("environment", &environment)?;
        programs.write("init", INIT)?;
        programs.write("features", FEATURES)?;
        Ok(programs)
    }

    /// The stories' programs; others of earlier runs go.
    pub(super) fn add_stories(&self, stories: &Stories) -> Result<()> {
        let tests = self.dir.join("tests");
        for entry in fs::read_dir(&tests).with_context(|| tests.display().to_string())? {
            let path = entry.with_context(|| tests.display().to_string())?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !stories.programs.contains_key(&name) {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
            }
        }
        for (name, path) in &stories.programs {
            strip(path, &tests.join(name))?;
        }
        Ok(())
    }

    /// Somebody's program with the libraries it needs, and a script `exec/run` that starts it.
    pub(super) fn add_foreign(&self, program: &Path, arguments: &[String]) -> Result<()> {
        let libraries = self.dir.join("exec/lib");
        make_dir(&libraries)?;
        copy(program, &self.dir.join("exec/program"))?;
        // A script has none, which makes ldd fail.
        let needs = process::output(Command::new("ldd").arg(program)).unwrap_or_default();
        for library in needs
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let library = Path::new(library);
            copy(
                library,
                &libraries.join(library.file_name().unwrap_or_default()),
            )?;
        }
        let quoted: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
        let script = format!(
            "#!/bin/sh\nLD_LIBRARY_PATH=/opt/hawser/exec/lib exec /opt/hawser/exec/program {}\n",
            quoted.join(" ")
        );
        self.write("exec/run", &script)
    }

    /// What a machine that is to become a host of Hawser gets: the programs laid out by themselves,
    /// and the script that Vagrant would run.
    pub(super) fn add_stage(&self) -> Result<()> {
        let exec = self.dir.join("exec");
        let stage = exec.join("stage");
        install::lay_out(&self.dir.join("bin"), Path::new("/usr/local"), &stage)?;
        copy(&workspace::root().join(PROVISION), &exec.join("provision"))
    }

    /// A script of the guest called `name`.
    pub(super) fn add_script(&self, name: &str, text: &str) -> Result<()> {
        make_dir(&self.dir.join("exec"))?;
        self.write(&format!("exec/{name}"), text)
    }

    /// Writes the disk with `plan`.
    pub(super) fn disk(&self, plan: &Plan) -> Result<&Path> {
        self.write("plan", plan.text())?;
        disk::write(&self.dir, &self.image, SPARE)?;
        Ok(&self.image)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        executable(&path)
    }
}

/// Writes `from` without debug information to `to`, unless it is there and newer.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified());
    let built = time(from).with_context(|| from.display().to_string())?;
    if time(to).is_ok_and(|stripped| stripped > built) {
        return Ok(());
    }
    process::output(Command::new("strip").arg("-o").args([to, from])).map(drop)
}

/// As one word of a shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    executable(to)
}

fn executable(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| path.display().to_string())
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| path.display().to_string())
}
