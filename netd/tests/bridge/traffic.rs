//! Servers and clients of the tests; each runs in the namespace of the thread that starts it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::world::PATIENCE;

/// How long something that must not work is waited for.
const REFUSAL: Duration = Duration::from_millis(300);

/// Tells each client its address as seen here, then echoes. Ends with the test's process.
pub(crate) fn serve(bind: impl Into<SocketAddr>) {
    let listener = TcpListener::bind(bind.into()).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    writeln!(stream, "{}", stream.peer_addr()?.ip())?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// Connects and returns the address that the server saw.
pub(crate) fn seen_by(server: impl Into<SocketAddr>) -> io::Result<IpAddr> {
    connect(server.into(), PATIENCE).map(|(_, seen)| seen)
}

pub(crate) fn is_refused(server: impl Into<SocketAddr>) -> bool {
    connect(server.into(), REFUSAL).is_err()
}

pub(crate) fn connect(server: SocketAddr, patience: Duration) -> io::Result<(TcpStream, IpAddr)> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            break;
        }
        line.push(byte[0]);
    }
    let seen = String::from_utf8(line).map_err(io::Error::other)?;
    Ok((stream, seen.parse().map_err(io::Error::other)?))
}

/// Whether it answers one echo request of ICMP within a second.
pub(crate) fn answers_ping(to: IpAddr) -> bool {
    let address = to.to_string();
    let ping = Command::new("busybox")
        .args(["ping", "-c", "1", "-W", "1", &address])
        .stdout(Stdio::null())
        .status();
    ping.unwrap().success()
}

/// Sends and waits for the echo.
pub(crate) fn round_trip(stream: &mut TcpStream) -> io::Result<()> {
    let mut back = [0; 5];
    stream.write_all(b"hello")?;
    stream.read_exact(&mut back)?;
    assert_eq!(&back, b"hello");
    Ok(())
}

/// Answers each datagram with the sender's address.
pub(crate) fn serve_udp(bind: SocketAddr) {
    let socket = UdpSocket::bind(bind).unwrap();
    thread::spawn(move || -> io::Result<()> {
        let mut buffer = [0; 64];
        loop {
            let (_, from) = socket.recv_from(&mut buffer)?;
            socket.send_to(from.ip().to_string().as_bytes(), from)?;
        }
    });
}

pub(crate) fn seen_by_udp(server: SocketAddr) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind(match server {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    })?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"?", server)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!(
        from, server,
        "the answer comes from where the question went"
    );
    let text = std::str::from_utf8(&buffer[..length]).map_err(io::Error::other)?;
    text.parse().map_err(io::Error::other)
}
