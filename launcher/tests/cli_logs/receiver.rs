//! A syslog server.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::cli_support::soon;

type Lines = Arc<Mutex<Vec<String>>>;

pub(super) struct Receiver {
    address: String,
    lines: Lines,
    /// Of TCP.
    connections: Arc<Mutex<Vec<TcpStream>>>,
    tls: Option<(Child, PathBuf)>,
}

impl Receiver {
    /// One that is reached by `udp`, `tcp`, `unix` or `unixgram`.
    pub(super) fn new(kind: &str, path: &Path) -> Self {
        let receiver = |address: String| Self {
            address: format!("{kind}://{address}"),
            lines: Lines::default(),
            connections: Arc::default(),
            tls: None,
        };
        match kind {
            "tcp" => Self::tcp("127.0.0.1:0".parse().unwrap()),
            "udp" => {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let receiver = receiver(socket.local_addr().unwrap().to_string());
                receiver.take_datagrams(move |bytes| socket.recv(bytes));
                receiver
            }
            "unixgram" => {
                let socket = UnixDatagram::bind(path).unwrap();
                let receiver = receiver(path.display().to_string());
                receiver.take_datagrams(move |bytes| socket.recv(bytes));
                receiver
            }
            _ => {
                let listener = UnixListener::bind(path).unwrap();
                let receiver = receiver(path.display().to_string());
                let lines = Arc::clone(&receiver.lines);
                thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        take_lines(&lines, stream);
                    }
                });
                receiver
            }
        }
    }

    fn take_datagrams(
        &self,
        receive: impl Fn(&mut [u8]) -> std::io::Result<usize> + Send + 'static,
    ) {
        let lines = Arc::clone(&self.lines);
        thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok(length) = receive(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]);
                lines.lock().unwrap().push(text.trim_end().to_owned());
            }
        });
    }

    fn tcp(address: SocketAddr) -> Self {
        Self::listening(address, true)
    }

    /// One that accepts and reads nothing until [`Receiver::listen`].
    pub(super) fn deaf() -> Self {
        Self::listening("127.0.0.1:0".parse().unwrap(), false)
    }

    fn listening(address: SocketAddr, reads: bool) -> Self {
        // A port that was in use a moment ago may be taken again: std sets SO_REUSEADDR.
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Lines::default();
        let connections: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (to, kept) = (Arc::clone(&lines), Arc::clone(&connections));
        thread::spawn(move || {
            // One connection: nobody is let in after it.
            let (stream, _) = listener.accept().unwrap();
            drop(listener);
            kept.lock().unwrap().push(stream.try_clone().unwrap());
            if reads {
                take_lines(&to, stream);
            }
        });
        Self {
            address: format!("tcp://{address}"),
            lines,
            connections,
            tls: None,
        }
    }

    /// One with a certificate of an authority of its own, by openssl; files are in `dir`.
    pub(super) fn tls(dir: &Path) -> Self {
        fs::create_dir(dir).unwrap();
        let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
             -subj /CN=authority -addext basicConstraints=critical,CA:TRUE \
             -keyout ca.key -out ca.pem && \
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
             -keyout key.pem -out request.pem && \
             printf 'subjectAltName=IP:127.0.0.1\\n' > names && \
             openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out cert.pem";
        let made = Command::new("sh")
            .args(["-ec", script])
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        // Its port is free now and, as far as a test may hope, in a moment.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let out = dir.join("out");
        let server = Command::new("openssl")
            .args(["s_server", "-quiet", "-cert", "cert.pem", "-key", "key.pem"])
            .args(["-accept", &format!("127.0.0.1:{port}")])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        soon(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self {
            address: format!("tcp+tls://127.0.0.1:{port}"),
            lines: Lines::default(),
            connections: Arc::default(),
            tls: Some((server, out)),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// What came, once there are so many.
    #[track_caller]
    pub(super) fn messages(&self, count: usize) -> Vec<String> {
        soon(|| self.lines.lock().unwrap().len() >= count);
        self.lines.lock().unwrap().clone()
    }

    /// What the server with TLS got, once `word` is in it.
    #[track_caller]
    pub(super) fn text_with(&self, word: &str) -> String {
        let (_, out) = self.tls.as_ref().unwrap();
        let read = || fs::read_to_string(out).unwrap();
        soon(|| read().contains(word));
        read()
    }

    /// Hangs up, and lets nobody in.
    pub(super) fn go_away(self) -> Gone {
        for connection in self.connections.lock().unwrap().iter() {
            connection.shutdown(std::net::Shutdown::Both).unwrap();
        }
        let address = self.address.strip_prefix("tcp://").unwrap();
        Gone(address.parse().unwrap())
    }

    /// Whether its socket has taken what it can.
    pub(super) fn is_full(&self) -> bool {
        let connections = self.connections.lock().unwrap();
        let Some(connection) = connections.first() else {
            return false;
        };
        let waiting = || rustix::io::ioctl_fionread(connection).unwrap();
        let before = waiting();
        thread::park_timeout(Duration::from_millis(200));
        before > 0 && waiting() == before
    }

    pub(super) fn listen(&self) {
        let lines = Arc::clone(&self.lines);
        let stream = self.connections.lock().unwrap()[0].try_clone().unwrap();
        thread::spawn(move || take_lines(&lines, stream));
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some((server, _)) = &mut self.tls {
            drop(server.kill());
            drop(server.wait());
        }
    }
}

/// A server that is away.
pub(super) struct Gone(SocketAddr);

impl Gone {
    pub(super) fn come_back(self) -> Receiver {
        Receiver::tcp(self.0)
    }
}

fn take_lines(lines: &Lines, stream: impl Read) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(1..) => lines.lock().unwrap().push(line.trim_end().to_owned()),
            _ => return,
        }
    }
}
