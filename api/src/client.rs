//! A small blocking HTTP/1.1 client for Unix sockets.
//!
//! One connection a request, closed after the reply: the callers are short-lived processes, and a
//! connect to a Unix socket costs some 20 µs. It speaks just what the daemon and volume plugins
//! send: `Content-Length` and chunked bodies.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ErrorCode};
use crate::path;

/// Longest reply that is read into memory; a listing of 100 000 volumes fits.
const MAX_REPLY_BYTES: u64 = 256 << 20;
/// Longest single header line.
const MAX_LINE_BYTES: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{host:?} is not a daemon address: expected unix:///path/to/hawserd.sock")]
    Host { host: String },
    #[error("cannot connect to {}: {source}; is it running?", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("{} {what}: {source}", socket.display())]
    Exchange {
        socket: PathBuf,
        what: &'static str,
        source: io::Error,
    },
    #[error("{} sent a reply that cannot be read: {reason}", socket.display())]
    Reply { socket: PathBuf, reason: String },
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl ClientError {
    /// The daemon's own refusal, if it is one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error) => Some(error),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.has(ErrorCode::NotFound)
    }

    /// The daemon cannot do it now.
    pub fn is_unavailable(&self) -> bool {
        self.has(ErrorCode::Unavailable)
    }

    fn has(&self, code: ErrorCode) -> bool {
        self.api().is_some_and(|error| error.code == code)
    }
}

/// A reply that was read whole.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

/// The address of one HTTP server on a Unix socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    timeout: Option<Duration>,
}

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            timeout: None,
        }
    }

    /// The daemon that `-H`, else `HAWSER_HOST`, else the default path names.
    ///
    /// # Errors
    /// [`ClientError::Host`] when the address is not `unix://` and an absolute path.
    pub fn from_host(flag: Option<&str>) -> Result<Self, ClientError> {
        let host = match flag {
            Some(host) => Some(host.to_owned()),
            None => std::env::var(path::HOST_ENV)
                .ok()
                .filter(|host| !host.is_empty()),
        };
        match host {
            None => Ok(Self::new(Path::new(path::RUN_DIR).join(path::SOCKET_NAME))),
            Some(host) => match host.strip_prefix("unix://") {
                Some(socket) if socket.starts_with('/') => Ok(Self::new(socket)),
                _ => Err(ClientError::Host { host }),
            },
        }
    }

    /// Gives up on a peer that is silent for `timeout`.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// # Errors
    /// [`ClientError`]: no connection, a broken exchange, or the daemon's refusal.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json("GET", path, None::<&()>)
    }

    /// # Errors
    /// As [`Client::get`].
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.json("POST", path, Some(body))
    }

    /// # Errors
    /// As [`Client::get`].
    pub fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.success(self.exchange("DELETE", path, Body::None)?)
            .map(drop)
    }

    /// `DELETE` that answers with what it did.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn delete_for<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json("DELETE", path, None::<&()>)
    }

    /// `POST` without a body in either direction.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn act(&self, path: &str) -> Result<(), ClientError> {
        self.success(self.exchange("POST", path, Body::None)?)
            .map(drop)
    }

    /// `POST` of a stream of unknown length.
    ///
    /// # Errors
    /// As [`Client::get`]; a read error of `body` ends the request without its last chunk, so that
    /// the daemon sees a truncated stream and commits nothing.
    pub fn post_stream<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &mut dyn Read,
    ) -> Result<T, ClientError> {
        let response = self.exchange("POST", path, Body::Stream(body))?;
        let body = self.success(response)?;
        self.parse(&body)
    }

    /// One exchange with any JSON body, whatever the reply's status: for volume plugins.
    ///
    /// # Errors
    /// [`ClientError`] but never [`ClientError::Api`].
    pub fn post_raw(&self, path: &str, body: &impl Serialize) -> Result<Response, ClientError> {
        let body = self.encode(body)?;
        self.exchange("POST", path, Body::Json(&body))
    }

    /// `GET` of a text.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let body = self.success(self.exchange("GET", path, Body::None)?)?;
        String::from_utf8(body).map_err(|error| self.unreadable(error))
    }

    /// `GET` of a body of any length, passed on to `out` as it comes.
    ///
    /// # Errors
    /// As [`Client::get`]; a body that ends early is one, and `out` has seen a part of it.
    pub fn get_into(&self, path: &str, out: &mut dyn Write) -> Result<(), ClientError> {
        let stream = self.connect()?;
        send(&stream, "GET", path, Body::None).map_err(self.failed("send request"))?;
        let mut reader = BufReader::with_capacity(256 << 10, &stream);
        let head = Head::read(&mut reader).map_err(self.failed("read reply"))?;
        if head.is_success() {
            return head
                .body(&mut reader, &mut Unlimited(out))
                .map_err(self.failed("pass on the reply"));
        }
        let response = head.response(reader).map_err(self.failed("read reply"))?;
        self.success(response).map(drop)
    }

    fn json<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let bytes = body.map(|body| self.encode(body)).transpose()?;
        let body = bytes.as_deref().map_or(Body::None, Body::Json);
        let reply = self.success(self.exchange(method, path, body)?)?;
        self.parse(&reply)
    }

    fn encode(&self, body: &impl Serialize) -> Result<Vec<u8>, ClientError> {
        serde_json::to_vec(body).map_err(|error| ClientError::Exchange {
            socket: self.socket.clone(),
            what: "encode request",
            source: error.into(),
        })
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        // A reply without content stands for `()`.
        let body = if body.is_empty() { b"null" } else { body };
        serde_json::from_slice(body).map_err(|error| self.unreadable(error))
    }

    fn unreadable(&self, reason: impl ToString) -> ClientError {
        ClientError::Reply {
            socket: self.socket.clone(),
            reason: reason.to_string(),
        }
    }

    fn success(&self, response: Response) -> Result<Vec<u8>, ClientError> {
        if (200..300).contains(&response.status) {
            return Ok(response.body);
        }
        let error = serde_json::from_slice::<ApiError>(&response.body).unwrap_or_else(|_foreign| {
            ApiError::new(
                ErrorCode::from_http_status(response.status),
                format!(
                    "{} answered {}: {}",
                    self.socket.display(),
                    response.status,
                    String::from_utf8_lossy(&response.body).trim()
                ),
            )
        });
        Err(error.into())
    }

    fn exchange(&self, method: &str, path: &str, body: Body<'_>) -> Result<Response, ClientError> {
        let stream = self.connect()?;
        let sent = send(&stream, method, path, body);
        // A server may refuse before it has read the whole body; its reply says why.
        if let Err(error) = sent
            && !matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            )
        {
            return Err(self.failed("send request")(error));
        }
        receive(BufReader::new(&stream)).map_err(self.failed("read reply"))
    }

    fn connect(&self) -> Result<UnixStream, ClientError> {
        let stream = UnixStream::connect(&self.socket).map_err(|source| ClientError::Connect {
            socket: self.socket.clone(),
            source,
        })?;
        stream
            .set_read_timeout(self.timeout)
            .and_then(|()| stream.set_write_timeout(self.timeout))
            .map_err(self.failed("set timeout"))?;
        Ok(stream)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> ClientError + use<> {
        let socket = self.socket.clone();
        move |source| ClientError::Exchange {
            socket,
            what,
            source,
        }
    }
}

enum Body<'a> {
    None,
    Json(&'a [u8]),
    Stream(&'a mut dyn Read),
}

fn send(mut stream: &UnixStream, method: &str, path: &str, body: Body<'_>) -> io::Result<()> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: hawser\r\nConnection: close\r\n");
    match body {
        Body::None => stream.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes()),
        Body::Json(bytes) => {
            let mut message = format!(
                "{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                bytes.len()
            )
            .into_bytes();
            message.extend_from_slice(bytes);
            stream.write_all(&message)
        }
        Body::Stream(source) => {
            stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
            let mut buffer = vec![0; 256 << 10];
            loop {
                let length = match source.read(&mut buffer) {
                    Ok(0) => return stream.write_all(b"0\r\n\r\n"),
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                write!(stream, "{length:x}\r\n")?;
                stream.write_all(&buffer[..length])?;
                stream.write_all(b"\r\n")?;
            }
        }
    }
}

fn receive(mut reader: impl BufRead) -> io::Result<Response> {
    Head::read(&mut reader)?.response(reader)
}

/// The start of a reply, and how long its body is.
struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let status_line = read_line(reader)?;
        let status = status_line
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| invalid(format!("status line {status_line:?}")))?;
        let mut head = Self {
            status,
            length: None,
            chunked: false,
        };
        loop {
            let line = read_line(reader)?;
            if line.is_empty() {
                return Ok(head);
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(invalid(format!("header line {line:?}")));
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = Some(value.parse::<u64>().map_err(invalid)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = value.eq_ignore_ascii_case("chunked");
            }
        }
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    fn response(self, mut reader: impl BufRead) -> io::Result<Response> {
        let mut body = Vec::new();
        self.body(&mut reader, &mut body)?;
        Ok(Response {
            status: self.status,
            body,
        })
    }

    fn body(&self, reader: &mut impl BufRead, out: &mut impl Sink) -> io::Result<()> {
        if self.chunked {
            loop {
                let line = read_line(reader)?;
                let size = line.split(';').next().unwrap_or_default();
                let size = u64::from_str_radix(size.trim(), 16).map_err(invalid)?;
                if size == 0 {
                    // Trailers and the empty line after them.
                    while !read_line(reader)?.is_empty() {}
                    return Ok(());
                }
                out.take_exactly(reader, size)?;
                read_line(reader)?;
            }
        }
        match self.length {
            Some(length) => out.take_exactly(reader, length),
            None => out.take_all(reader),
        }
    }
}

/// Where a body goes.
trait Sink {
    fn take_exactly(&mut self, reader: &mut impl BufRead, size: u64) -> io::Result<()>;
    fn take_all(&mut self, reader: &mut impl BufRead) -> io::Result<()>;
}

/// Into memory, so much and no more.
impl Sink for Vec<u8> {
    fn take_exactly(&mut self, reader: &mut impl BufRead, size: u64) -> io::Result<()> {
        if size > MAX_REPLY_BYTES - self.len() as u64 {
            return Err(invalid("reply too long"));
        }
        let read = reader.take(size).read_to_end(self)?;
        whole(read as u64, size)
    }

    fn take_all(&mut self, reader: &mut impl BufRead) -> io::Result<()> {
        reader.take(MAX_REPLY_BYTES).read_to_end(self).map(drop)
    }
}

struct Unlimited<'a>(&'a mut dyn Write);

impl Sink for Unlimited<'_> {
    fn take_exactly(&mut self, reader: &mut impl BufRead, size: u64) -> io::Result<()> {
        whole(io::copy(&mut reader.take(size), self.0)?, size)
    }

    fn take_all(&mut self, reader: &mut impl BufRead) -> io::Result<()> {
        io::copy(reader, self.0).map(drop)
    }
}

fn whole(read: u64, size: u64) -> io::Result<()> {
    if read == size {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(invalid)
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

/// Escapes one segment of a request path (RFC 3986, section 2.3: unreserved characters stay).
pub fn escape(segment: &str) -> String {
    let mut escaped = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> io::Result<Response> {
        receive(text.as_bytes())
    }

    #[test]
    fn reads_a_sized_and_a_chunked_body() {
        let sized = reply("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
        assert_eq!(
            (sized.status, sized.body.as_slice()),
            (200, b"hi".as_slice())
        );
        let chunked =
            reply("HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n1;x=y\r\n!\r\n0\r\n\r\n")
                .unwrap();
        assert_eq!(
            (chunked.status, chunked.body.as_slice()),
            (404, b"hi!".as_slice())
        );
    }

    #[test]
    fn a_reply_that_stops_early_is_an_error() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n",
            "garbage\r\n\r\n",
        ] {
            assert!(reply(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn path_segments_are_escaped() {
        assert_eq!(escape("a/b:c d"), "a%2Fb%3Ac%20d");
    }
}
