use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;

fn side(text: &str) -> (Option<String>, String) {
    match Side::parse(OsStr::new(text)) {
        Side::Host(path) => (None, super::text(path)),
        Side::Container { name, path } => (Some(name.to_owned()), super::text(path)),
    }
}

#[test]
fn a_container_is_named_before_a_colon() {
    let container = |path: &str| (Some("web".to_owned()), path.to_owned());
    assert_eq!(side("web:/a"), container("/a"));
    assert_eq!(side("web:a:b"), container("a:b"));
    assert_eq!(side("web:"), container(""));
    for host in ["web", "./web:/a", "/web:/a", "../web:a", "-"] {
        assert_eq!(side(host), (None, host.to_owned()));
    }
}

fn container(root: &Path) -> Tree {
    Tree::Container(Tree::Host.directory(root.as_os_str().as_bytes()).unwrap())
}

fn archive(members: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, kind, content) in members {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        let data = match kind {
            tar::EntryType::Regular => content.as_bytes(),
            _ => {
                header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(content.as_bytes());
                b""
            }
        };
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data).unwrap();
    }
    tar.into_inner().unwrap()
}

const FILE: tar::EntryType = tar::EntryType::Regular;
const LINK: tar::EntryType = tar::EntryType::Symlink;

#[test]
fn an_archive_cannot_leave_a_container() {
    let outside = tempfile::tempdir().unwrap();
    let root = outside.path().join("root");
    fs::create_dir_all(root.join("to")).unwrap();
    fs::create_dir(root.join("etc")).unwrap();
    let tree = container(&root);
    let unpack =
        |members: &[_]| unpack::unpack(archive(members).as_slice(), &tree, b"/to", Owner::Own);
    // What leads up by name is refused; what leads up by a link stays in the container.
    let error = unpack(&[("../../out", FILE, "x")]).unwrap_err().to_string();
    assert!(error.contains("outside of the destination"), "{error}");
    let hard = ("h", tar::EntryType::Link, "../../secret");
    fs::write(outside.path().join("secret"), "").unwrap();
    assert!(unpack(&[hard]).is_err());
    unpack(&[("up", LINK, "../../.."), ("up/one", FILE, "1")]).unwrap();
    unpack(&[("abs", LINK, "/etc"), ("abs/two", FILE, "2")]).unwrap();
    unpack(&[("/three", FILE, "3"), ("a/../four", FILE, "4")]).unwrap();
    assert!(!outside.path().join("one").exists());
    assert_eq!(fs::read(root.join("one")).unwrap(), b"1");
    assert_eq!(fs::read(root.join("etc/two")).unwrap(), b"2");
    assert_eq!(fs::read(root.join("to/three")).unwrap(), b"3");
    assert_eq!(fs::read(root.join("to/four")).unwrap(), b"4");
}

#[test]
fn an_archive_of_a_container_goes_through_no_link_on_the_host() {
    let host = tempfile::tempdir().unwrap();
    for name in ["to", "secret"] {
        fs::create_dir(host.path().join(name)).unwrap();
    }
    let to = host.path().join("to");
    let tree = Tree::Directory(Tree::Host.directory(to.as_os_str().as_bytes()).unwrap());
    let members = [("link", LINK, "../secret"), ("link/x", FILE, "x")];
    let unpacked = unpack::unpack(archive(&members).as_slice(), &tree, b".", Owner::Own);
    assert!(unpacked.is_err());
    assert!(!host.path().join("secret/x").exists());
}

fn transferred(source: &Path, to: &Path, name: Option<&str>) -> Result<u64, CopyError> {
    let source = Source::find(&Tree::Host, source.as_os_str().as_bytes(), false).unwrap();
    let landing = Landing {
        directory: b".".to_vec(),
        name: name.map(Into::into),
    };
    let tree = Tree::Directory(Tree::Host.directory(to.as_os_str().as_bytes()).unwrap());
    let packing = Packing {
        source: &source,
        from: "it".to_owned(),
        maps: None,
    };
    transfer(&packing, &tree, &landing, Owner::Kept)
}

#[test]
fn a_tree_is_copied_as_it_is() {
    let base = tempfile::tempdir().unwrap();
    let from = base.path().join("from");
    fs::create_dir_all(from.join("sub")).unwrap();
    let long = "n".repeat(200);
    fs::write(from.join("sub").join(&long), "deep").unwrap();
    fs::write(from.join("a"), vec![0; 100_000]).unwrap();
    fs::hard_link(from.join("a"), from.join("b")).unwrap();
    symlink("/nowhere", from.join("dangling")).unwrap();
    fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(from.join("a"), Some(1234), Some(70_000)).unwrap();
    fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o4750)).unwrap();
    let bytes = transferred(&from, base.path(), Some("to")).unwrap();
    assert_eq!(bytes, 100_004);
    let to = base.path().join("to");
    let stat = fs::metadata(to.join("a")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (1234, 70_000));
    assert_eq!(stat.mode() & 0o7777, 0o4750);
    assert_eq!(stat.ino(), fs::metadata(to.join("b")).unwrap().ino());
    assert_eq!(stat.mtime(), fs::metadata(from.join("a")).unwrap().mtime());
    assert_eq!(fs::metadata(to.join("sub")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read(to.join("sub").join(&long)).unwrap(), b"deep");
    let link = fs::read_link(to.join("dangling")).unwrap();
    assert_eq!(link, Path::new("/nowhere"));
}

#[test]
fn kinds_are_not_exchanged() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = (base.path().join("from"), base.path().join("to"));
    fs::create_dir_all(from.join("x")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(to.join("x"), "file").unwrap();
    let error = transferred(&from.join("x"), &to, None).unwrap_err();
    assert!(error.to_string().contains("cannot overwrite"), "{error}");
    fs::write(from.join("y"), "file").unwrap();
    fs::create_dir(to.join("y")).unwrap();
    let error = transferred(&from.join("y"), &to, None).unwrap_err();
    assert!(error.to_string().contains("cannot overwrite"), "{error}");
    assert_eq!(fs::read(to.join("x")).unwrap(), b"file");
}
