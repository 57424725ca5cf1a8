//! A daemon of one test: answers each request from a table and remembers what was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

/// Replies by `METHOD path`, each good for one request, in order of use.
pub(crate) type Replies = Vec<(&'static str, u16, Value)>;

pub(crate) struct Daemon {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    pub(crate) fn start(replies: Replies) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("hawserd.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        // Ends with the test's process: the listener has no other way to stop waiting.
        thread::spawn(move || {
            let mut replies = replies;
            for stream in listener.incoming() {
                serve(&stream.unwrap(), &mut replies, &log);
            }
        });
        Self { directory, asked }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("hawserd.sock")
    }

    /// `METHOD path body` of each request so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: &UnixStream, replies: &mut Replies, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let asked = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        match line.trim_end().split_once(": ") {
            Some(("Content-Length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    log.lock()
        .unwrap()
        .push(format!("{asked} {body}").trim_end().to_owned());
    let (status, reply) = match replies.iter().position(|(expected, ..)| *expected == asked) {
        Some(at) => {
            let (_, status, reply) = replies.remove(at);
            (status, reply.to_string())
        }
        None => (
            500,
            format!(r#"{{"code":"internal","message":"unexpected: {asked}"}}"#),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n",
        reply.len()
    );
    stream
        .write_all(format!("{head}{reply}").as_bytes())
        .unwrap();
}
