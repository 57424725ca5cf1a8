//! Packages of a Debian suite that need not be the host's: a root of apt's own below `target`, with the
//! host's mirror and Debian's keys, so that apt checks signatures and checksums.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

/// Part of apt, and not on the path.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

#[derive(Debug)]
pub(crate) struct Suite {
    name: String,
    dir: PathBuf,
}

impl Suite {
    /// The lists of the suite `name`, kept below `home`; they are fetched anew.
    pub(crate) fn open(home: &Path, name: &str) -> Result<Self> {
        Self::open_as(home.join("apt").join(name), name, "deb", "Packages")
    }

    /// The same for what packages are made from.
    pub(crate) fn open_sources(home: &Path, name: &str) -> Result<Self> {
        let dir = home.join("apt").join(format!("{name}-sources"));
        Self::open_as(dir, name, "deb-src", "Sources")
    }

    fn open_as(dir: PathBuf, name: &str, kind: &str, target: &str) -> Result<Self> {
        let suite = Self {
            name: name.to_owned(),
            dir,
        };
        for dir in ["lists/partial", "archives/partial"] {
            make_dir(&suite.dir.join(dir))?;
        }
        let (mirror, _) = host()?;
        // Nothing but the packages' names: no descriptions, no icons.
        let source = format!("{kind} [signed-by={KEYRING} target={target}] {mirror} {name} main\n");
        for (file, text) in [("sources.list", source.as_str()), ("status", "")] {
            let path = suite.dir.join(file);
            std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        println!("apt: reading the package lists of {name}");
        process::output(suite.command("apt-get").arg("update"))?;
        Ok(suite)
    }

    /// The names of what the newest version of `package` depends on.
    pub(crate) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = process::output(self.command("apt-cache").args([
            "show",
            "--no-all-versions",
            package,
        ]))?;
        Ok(depends(&text))
    }

    pub(crate) fn has(&self, package: &str) -> bool {
        let mut show = self.command("apt-cache");
        process::output(show.args(["show", package])).is_ok()
    }

    /// Unpacks `packages` below `tree`.
    pub(crate) fn unpack(&self, packages: &[String], tree: &Path) -> Result<()> {
        self.unpack_with(tree, |archives| {
            let mut download = self.command("apt-get");
            download
                .current_dir(archives)
                .arg("download")
                .args(packages);
            download
        })
    }

    /// Unpacks `packages` and all they depend on below `tree`.
    pub(crate) fn unpack_closure(&self, packages: &[&str], tree: &Path) -> Result<()> {
        self.unpack_with(tree, |archives| {
            let mut install = self.command("apt-get");
            install
                .args(["install", "--yes", "--download-only"])
                .arg("--no-install-recommends")
                .arg("-o")
                .arg(format!("Dir::Cache::Archives={}", archives.display()))
                .args(packages);
            install
        })
    }

    /// Unpacks the upstream archive of the source package `package` as `tree`, which is new. Nothing else
    /// of it is asked for: mirrors that keep what they are asked for may lack the rest.
    pub(crate) fn unpack_source(&self, package: &str, tree: &Path) -> Result<()> {
        let scratch = tempfile::tempdir_in(&self.dir).context("scratch directory")?;
        println!("apt: fetching the source of {package} in {}", self.name);
        let mut list = self.command("apt-get");
        let files = process::output(list.args(["source", "--print-uris", package]))?;
        let (address, digest) = upstream_of(&files)
            .with_context(|| format!("the source of {package} has no upstream archive"))?;
        let upstream = scratch.path().join("upstream");
        let mut download = self.command(APT_HELPER);
        download.args(["download-file", address]);
        process::output(download.arg(&upstream).arg(digest))?;
        let made = scratch.path().join("tree");
        make_dir(&made)?;
        process::output(
            Command::new("tar")
                .args(["--extract", "--strip-components=1", "--file"])
                .arg(&upstream)
                .arg("--directory")
                .arg(&made),
        )?;
        if let Some(parent) = tree.parent() {
            make_dir(parent)?;
        }
        std::fs::rename(&made, tree).with_context(|| tree.display().to_string())
    }

    fn unpack_with(&self, tree: &Path, fetch: impl Fn(&Path) -> Command) -> Result<()> {
        let scratch = tempfile::tempdir_in(&self.dir).context("scratch directory")?;
        make_dir(&scratch.path().join("partial"))?;
        println!("apt: fetching packages of {}", self.name);
        process::output(&mut fetch(scratch.path()))?;
        make_dir(tree)?;
        let mut unpacked = 0;
        for entry in std::fs::read_dir(scratch.path()).context("fetched packages")? {
            let path = entry.context("fetched packages")?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                unpack_one(&path, tree)?;
                unpacked += 1;
            }
        }
        ensure!(unpacked > 0, "apt fetched no package of {}", self.name);
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.arg("-qq").env("DEBIAN_FRONTEND", "noninteractive");
        let dir = self.dir.display();
        for option in [
            format!("Dir::Etc::SourceList={dir}/sources.list"),
            format!("Dir::Etc::SourceParts={dir}/none"),
            format!("Dir::State={dir}"),
            format!("Dir::State::Lists={dir}/lists"),
            format!("Dir::State::Status={dir}/status"),
            format!("Dir::Cache={dir}"),
            // Downloads land in our own directory, which apt's sandbox user cannot write.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt
    }
}

/// The host's own suite, whose C library is the one that programs built here need.
pub(crate) fn host_suite() -> Result<String> {
    Ok(host()?.1)
}

/// Mirror and suite of Debian's main archive, as the host's apt has them.
fn host() -> Result<(String, String)> {
    let text = process::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI) $(LABEL) $(CODENAME) $(COMPONENT)",
        "Identifier: Packages",
    ]))?;
    main_archive(&text).context(
        "no source of Debian's main archive is configured; see sources.list(5), then `apt-get update`",
    )
}

fn main_archive(targets: &str) -> Option<(String, String)> {
    targets.lines().find_map(|line| {
        let [mirror, label, suite, component] = line.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let is_main = label == "Debian" && component == "main" && !suite.contains('-');
        is_main.then(|| (mirror.to_owned(), suite.to_owned()))
    })
}

/// Address and digest of the upstream archive, of what apt says of a source package:
/// `'ADDRESS' FILE SIZE DIGEST` for each file.
fn upstream_of(files: &str) -> Option<(&str, &str)> {
    files.lines().find_map(|line| {
        let [address, file, _size, digest] = line.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        let is_upstream = file.contains(".orig.tar.");
        is_upstream.then(|| (address.trim_matches('\''), digest))
    })
}

/// The names in the field `Depends` of a package's description, the first of each alternative.
fn depends(description: &str) -> Vec<String> {
    let field = description
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "));
    let words = field.into_iter().flat_map(|field| field.split(", "));
    words
        .filter_map(|word| word.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// As dpkg does it: a package that still says `/bin` does not replace a link to `/usr/bin`.
fn unpack_one(package: &Path, tree: &Path) -> Result<()> {
    let archive = tree.with_extension("tar");
    let tar = std::fs::File::create(&archive).with_context(|| archive.display().to_string())?;
    let status = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(tar)
        .status()
        .context("dpkg-deb")?;
    ensure!(status.success(), "dpkg-deb {}: {status}", package.display());
    process::output(
        Command::new("tar")
            .args(["--extract", "--keep-directory-symlink", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(tree),
    )?;
    std::fs::remove_file(&archive).with_context(|| archive.display().to_string())
}

fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_hosts_and_the_suite_has_no_pocket() {
        let text = "http://mirror.test/other/ Other stable main\n\
             http://mirror.test/debian/ Debian bookworm-updates main\n\
             http://mirror.test/debian/ Debian bookworm main\n";
        let expected = (
            "http://mirror.test/debian/".to_owned(),
            "bookworm".to_owned(),
        );
        assert_eq!(main_archive(text), Some(expected));
        assert_eq!(
            main_archive("http://mirror.test/ Debian-Security bookworm main\n"),
            None
        );
    }

    #[test]
    fn the_upstream_archive_is_one_file_of_three() {
        let text = "'http://m.test/a_1-2.dsc' a_1-2.dsc 9 SHA256:aa\n\
             'http://m.test/a_1.orig.tar.xz' a_1.orig.tar.xz 7 SHA256:bb\n\
             'http://m.test/a_1-2.debian.tar.xz' a_1-2.debian.tar.xz 3 SHA256:cc\n";
        let upstream = ("http://m.test/a_1.orig.tar.xz", "SHA256:bb");
        assert_eq!(upstream_of(text), Some(upstream));
        assert_eq!(upstream_of("Reading package lists...\n"), None);
    }

    #[test]
    fn versions_and_alternatives_are_no_names() {
        let text = "Package: a\nDepends: b (= 1), c | d, e:any\nRecommends: f\n";
        assert_eq!(depends(text), ["b", "c", "e:any"]);
    }
}
