//! `hawser cni install` and `uninstall`: files for other runtimes. Nothing of others is replaced
//! or removed; doing it again changes nothing.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use api::id::NetworkName;
use api::path::CNI_BIN_DIR;
use clap::Args;

use super::conflist;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;

const CONF_DIR: &str = "/etc/cni/net.d";
const NETWORK: &str = "hawser";
/// As built, and under the name of its type.
const PLUGINS: [(&str, &str); 2] = [("hawser-cni", "hawser"), ("hawser-cni-ipam", "hawser-ipam")];
/// What every version of our plugins says when it is run by hand.
const MARK: &[u8] = b"this is a hawser CNI plugin";

#[derive(Debug, Clone, Args)]
pub struct InstallFlags {
    /// Directory of the plugins
    #[arg(long, default_value = CNI_BIN_DIR, value_name = "DIR")]
    pub bin_dir: PathBuf,
    /// Directory of the configuration lists
    #[arg(long, default_value = CONF_DIR, value_name = "DIR")]
    pub conf_dir: PathBuf,
    /// Network of the configuration list; made on first use if it does not exist
    #[arg(long, default_value = NETWORK, value_name = "NAME")]
    pub network: String,
    /// Print the configuration list and write nothing
    #[arg(long)]
    pub print: bool,
    /// Replace files that are not Hawser's
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Clone, Args)]
pub struct UninstallFlags {
    /// Directory of the plugins
    #[arg(long, default_value = CNI_BIN_DIR, value_name = "DIR")]
    pub bin_dir: PathBuf,
    /// Directory of the configuration lists
    #[arg(long, default_value = CONF_DIR, value_name = "DIR")]
    pub conf_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("{} is not Hawser's: move it away, or replace it with --force", .0.display())]
    Foreign(PathBuf),
    #[error("{} is missing: it belongs beside the program hawser", .0.display())]
    NoPlugin(PathBuf),
}

/// # Errors
/// A file of somebody else in the way, or one that cannot be written. Nothing is written then if a
/// file is in the way.
pub fn install(context: &Context, flags: &InstallFlags) -> Result<i32, CliError> {
    let network = NetworkName::parse(&flags.network).map_err(|_rule| CliError::Flag {
        flag: "--network",
        text: flags.network.clone(),
        expected: "a network's name",
    })?;
    let list = conflist::render(&network, context.client().socket());
    if flags.print {
        output::line(list.trim_end())?;
        return Ok(0);
    }
    let mut files = plugins(&flags.bin_dir)?;
    files.push(File {
        path: flags.conf_dir.join(conflist::file_name(&network)),
        content: list.into_bytes(),
        mode: 0o644,
        is_ours: conflist::is_ours,
    });
    let mut wanted = Vec::new();
    for file in &files {
        if file.differs(flags.force)? {
            wanted.push(file);
        }
    }
    for file in wanted {
        file.write()?;
        output::line(file.path.display())?;
    }
    Ok(0)
}

/// # Errors
/// A file that cannot be removed.
pub fn uninstall(flags: &UninstallFlags) -> Result<i32, CliError> {
    for (_, name) in PLUGINS {
        remove_ours(&flags.bin_dir.join(name), is_plugin)?;
    }
    let entries = match fs::read_dir(&flags.conf_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("read", &flags.conf_dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed("read", &flags.conf_dir))?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(conflist::is_file_name)
        {
            remove_ours(&entry.path(), conflist::is_ours)?;
        }
    }
    Ok(0)
}

/// One file as it is to be.
struct File {
    path: PathBuf,
    content: Vec<u8>,
    mode: u32,
    is_ours: fn(&[u8]) -> bool,
}

impl File {
    /// Whether there is something to write.
    fn differs(&self, force: bool) -> Result<bool, CliError> {
        match read(&self.path)? {
            None => Ok(true),
            Some(present) if present == self.content => Ok(false),
            Some(present) if force || (self.is_ours)(&present) => Ok(true),
            Some(_foreign) => Err(InstallError::Foreign(self.path.clone()).into()),
        }
    }

    /// By rename: whoever runs or reads the file has the old one or the new one.
    fn write(&self) -> Result<(), CliError> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        // No runtime takes it for a configuration, and two installations do not meet.
        let staged = dir.join(format!(".hawser-{}.part", std::process::id()));
        let written = fs::write(&staged, &self.content)
            .and_then(|()| fs::set_permissions(&staged, fs::Permissions::from_mode(self.mode)))
            .and_then(|()| fs::File::open(&staged)?.sync_all())
            .and_then(|()| fs::rename(&staged, &self.path));
        written.map_err(|error| {
            // It may not even have been made.
            drop(fs::remove_file(&staged));
            failed("write", &self.path)(error)
        })
    }
}

fn plugins(bin_dir: &Path) -> Result<Vec<File>, CliError> {
    let program = std::env::current_exe().map_err(|source| CliError::Io {
        op: "find the program hawser",
        source,
    })?;
    let mut files = Vec::new();
    for (built, name) in PLUGINS {
        let from = program.with_file_name(built);
        let content = read(&from)?.ok_or(InstallError::NoPlugin(from))?;
        files.push(File {
            path: bin_dir.join(name),
            content,
            mode: 0o755,
            is_ours: is_plugin,
        });
    }
    Ok(files)
}

fn is_plugin(content: &[u8]) -> bool {
    content.windows(MARK.len()).any(|window| window == MARK)
}

fn remove_ours(path: &Path, is_ours: fn(&[u8]) -> bool) -> Result<(), CliError> {
    match read(path)? {
        Some(content) if is_ours(&content) => {
            fs::remove_file(path).map_err(failed("remove", path))?;
            output::line(path.display())
        }
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, CliError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn failed(op: &'static str, path: &Path) -> impl Fn(io::Error) -> CliError {
    move |source| CliError::File {
        op,
        path: path.to_owned(),
        source,
    }
}
