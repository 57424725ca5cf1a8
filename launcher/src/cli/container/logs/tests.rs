use std::fs::{self, File};
use std::io::Write as _;

use flate2::{Compression, GzBuilder};

use super::*;

const NOW: &str = "2026-11-21T10:00:00Z";

fn flags(arguments: &[&str]) -> LogsFlags {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: LogsFlags,
    }
    let line = ["logs"].iter().chain(arguments).chain(&["web"]);
    <Line as clap::Parser>::try_parse_from(line).unwrap().flags
}

fn selection(arguments: &[&str]) -> Result<Selection, CliError> {
    Selection::parse(&flags(arguments), NOW.parse().unwrap())
}

fn shown(files: &[(&str, &str)], arguments: &[&str]) -> (String, String) {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    read(&dir.path().join("log"), arguments)
}

fn read(path: &Path, arguments: &[&str]) -> (String, String) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut output = Output::new(&flags(arguments), &mut stdout, &mut stderr);
    let selection = selection(arguments).unwrap();
    show(path, Format::Json, &selection, &mut output).unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(stdout), text(stderr))
}

fn line(text: &str) -> String {
    format!("{{\"log\":\"{text}\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-21T09:00:00Z\"}}\n")
}

const OLD: &str =
    "{\"log\":\"one\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-21T09:00:00.1Z\"}\n";
const NEW: &str = "{\"log\":\"two\\n\",\"stream\":\"stderr\",\"time\":\"2026-11-21T09:50:00.1Z\"}\n\
                   torn\n\
                   {\"log\":\"three\\n\",\"stream\":\"stdout\",\"time\":\"2026-11-21T09:59:00.1Z\"}\n\
                   {\"log\":\"unfinished";

#[test]
fn streams_stay_apart_and_rotated_files_come_first() {
    let files = [("log.1", OLD), ("log", NEW)];
    let all = ("one\nthree\n".to_owned(), "two\n".to_owned());
    assert_eq!(shown(&files, &[]), all);
    let (stdout, _) = shown(&files, &["-t"]);
    let first = "2026-11-21T09:00:00.100000000Z one\n";
    assert!(stdout.starts_with(first), "{stdout}");
}

#[test]
fn tail_since_and_until_select() {
    let files = [("log.1", OLD), ("log", NEW)];
    let stdout = |arguments: &[&str]| shown(&files, arguments).0;
    assert_eq!(stdout(&["-n1"]), "three\n");
    assert_eq!(stdout(&["-n0"]), "");
    assert_eq!(stdout(&["-n3"]), "one\nthree\n");
    assert_eq!(stdout(&["--tail", "9"]), "one\nthree\n");
    assert_eq!(stdout(&["--since", "5m"]), "three\n");
    assert_eq!(stdout(&["--since", "2026-11-21T09:30:00"]), "three\n");
    assert_eq!(stdout(&["--until", "30m"]), "one\n");
    assert_eq!(stdout(&["--until", "30m", "-n1"]), "one\n");
    // The moments that lines are shown with are among them.
    let first = "2026-11-21T09:00:00.100000000Z";
    assert_eq!(stdout(&["--since", first, "--until", first]), "one\n");
}

#[test]
fn bad_times_are_refused() {
    assert!(selection(&["--tail", "x"]).is_err());
    assert!(selection(&["--since", "yesterday"]).is_err());
    assert!(selection(&["--until", ""]).is_err());
}

#[test]
fn a_missing_log_is_empty() {
    assert_eq!(shown(&[], &[]), (String::new(), String::new()));
}

#[test]
fn details_come_between_time_and_line() {
    let content = "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"attrs\":{\"os\":\"a b\",\"tier\":\"w=b\"},\
                   \"time\":\"2026-11-21T09:00:00Z\"}\n";
    let stdout = |arguments: &[&str]| shown(&[("log", content)], arguments).0;
    assert_eq!(stdout(&["--details"]), "os=a+b,tier=w%3Db x\n");
    assert_eq!(
        stdout(&["--details", "-t"]),
        "2026-11-21T09:00:00.000000000Z os=a+b,tier=w%3Db x\n"
    );
    assert_eq!(shown(&[("log", &line("y"))], &["--details"]).0, " y\n");
}

#[test]
fn parts_of_a_long_line_have_one_time() {
    let part = line("part").replace("\\n", "");
    let content = [part.as_str(), &part, &line("end"), &line("next")].concat();
    let time = "2026-11-21T09:00:00.000000000Z";
    let expected = format!("{time} partpartend\n{time} next\n");
    assert_eq!(shown(&[("log", &content)], &["-t"]).0, expected);
}

fn pack(path: &Path, packed: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let out = File::create(packed).unwrap();
    let metadata = fs::metadata(path).unwrap();
    let (inode, seconds) = (metadata.ino(), metadata.mtime());
    let was = crate::log::identity(inode, seconds, metadata.mtime_nsec());
    let encoder = GzBuilder::new().comment(was);
    let mut encoder = encoder.write(out, Compression::default());
    encoder.write_all(&fs::read(path).unwrap()).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn packed_files_are_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("log.1"), line("one")).unwrap();
    pack(&at("log.1"), &at("log.1.gz"));
    fs::write(at("log"), line("two")).unwrap();
    // As a crash between the last steps of packing leaves it.
    assert_eq!(read(&at("log"), &[]).0, "one\ntwo\n");
    fs::remove_file(at("log.1")).unwrap();
    assert_eq!(read(&at("log"), &[]).0, "one\ntwo\n");
    fs::write(at("log.1.gz"), "no gzip").unwrap();
    assert_eq!(read(&at("log"), &[]).0, "two\n");
}

#[test]
fn a_follower_keeps_its_place_over_any_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let append = |text: &str| {
        let file = File::options().append(true).create(true).open(at("log"));
        file.unwrap().write_all(line(text).as_bytes()).unwrap();
    };
    let mut follower = Follower::new(at("log"), Format::Json, None);
    let mut news = move || {
        let mut lines = String::new();
        let taken = follower.read(|entry| {
            lines += &String::from_utf8(entry.line).unwrap();
            Ok(())
        });
        taken.unwrap();
        lines
    };
    assert_eq!(news(), "");
    append("a");
    assert_eq!(news(), "a\n");
    append("b");
    fs::rename(at("log"), at("log.1")).unwrap();
    assert_eq!(news(), "b\n", "before the next file is there");
    append("c");
    fs::rename(at("log.1"), at("log.2")).unwrap();
    fs::rename(at("log"), at("log.1")).unwrap();
    append("d");
    assert_eq!(news(), "c\nd\n");
    // The file that was read is packed, and others have come since.
    append("e");
    for (from, to) in [("log.2", "log.3"), ("log.1", "log.2"), ("log", "log.1")] {
        fs::rename(at(from), at(to)).unwrap();
    }
    pack(&at("log.1"), &at("log.1.gz"));
    fs::remove_file(at("log.1")).unwrap();
    append("f");
    assert_eq!(news(), "e\nf\n");
    // A log of one file begins anew.
    append("a line that makes it longer");
    news();
    fs::write(at("log"), line("g")).unwrap();
    assert_eq!(news(), "g\n");
}
