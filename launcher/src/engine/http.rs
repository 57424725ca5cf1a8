//! Just as much of HTTP/1.1 as clients of an engine speak: one request a connection, whose reply
//! ends with it unless it says its length.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

const MAX_HEAD: u64 = 64 << 10;
/// The body of a creation is a few kilobytes.
const MAX_BODY: u64 = 4 << 20;
/// For a client to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// The parts of the path, without the version in front.
    pub(super) path: Vec<String>,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Request {
    /// Nothing when the client has left without a word.
    pub(super) fn read(input: &mut BufReader<UnixStream>) -> io::Result<Option<Self>> {
        input.get_ref().set_read_timeout(Some(PATIENCE))?;
        let mut head = input.by_ref().take(MAX_HEAD);
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(invalid("the first line is no request"));
        };
        let (path, query) = parse_target(target);
        let mut request = Self {
            method: method.to_owned(),
            path,
            query,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let mut line = String::new();
            if head.read_line(&mut line)? == 0 {
                return Err(invalid("the head is cut short or too long"));
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                let name = name.to_ascii_lowercase();
                request.headers.push((name, value.trim().to_owned()));
            }
        }
        if !request.has_long_body() {
            let mut kept = Vec::new();
            let mut body = request.body(input)?.take(MAX_BODY + 1);
            if body.read_to_end(&mut kept)? as u64 > MAX_BODY {
                return Err(invalid("the body is too long"));
            }
            request.body = kept;
        }
        input.get_ref().set_read_timeout(None)?;
        Ok(Some(request))
    }

    /// Its body is read by who answers it.
    fn has_long_body(&self) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        match (self.method.as_str(), &path[..]) {
            ("PUT", ["containers", _, "archive"]) | ("POST", ["images", "load"] | ["build"]) => {
                true
            }
            ("POST", ["images", "create"]) => self.query("fromSrc").is_some(),
            _ => false,
        }
    }

    /// The body as it comes, however it says its length.
    pub(super) fn body<'i, R: BufRead>(&self, input: &'i mut R) -> io::Result<Body<'i, R>> {
        let is_chunked = self.header("transfer-encoding") == Some("chunked");
        let length = match self.header("content-length") {
            Some(length) if !is_chunked => length
                .parse()
                .map_err(|_not_a_number| invalid("a content-length that is no number"))?,
            _ => 0,
        };
        Ok(Body {
            input,
            left: length,
            has_chunks: is_chunked,
        })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whatever is said several times.
    pub(super) fn queries(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let found = self.query.iter().filter(move |(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// As Docker reads a switch: present and none of the words for no.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.query(name).is_some_and(|value| {
            let value = value.to_ascii_lowercase();
            !["", "0", "no", "false", "none"].contains(&value.as_str())
        })
    }
}

/// What comes after the head.
#[derive(Debug)]
pub(super) struct Body<'i, R> {
    input: &'i mut R,
    /// Of the whole, or of the chunk.
    left: u64,
    /// There may be another one.
    has_chunks: bool,
}

impl<R: BufRead> Body<'_, R> {
    fn next_chunk(&mut self) -> io::Result<()> {
        let size = self.line()?;
        let size = size.split(';').next().unwrap_or_default().trim();
        self.left = u64::from_str_radix(size, 16)
            .map_err(|_not_a_number| invalid("a chunk without a size"))?;
        if self.left == 0 {
            self.has_chunks = false;
            self.line()?;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.input.by_ref().take(MAX_HEAD).read_line(&mut line)?;
        Ok(line)
    }
}

impl<R: BufRead> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 && self.has_chunks {
            self.next_chunk()?;
        }
        if self.left == 0 {
            return Ok(0);
        }
        let length = self.input.by_ref().take(self.left).read(buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= length as u64;
        if self.left == 0 && self.has_chunks {
            // What ends a chunk.
            self.line()?;
        }
        Ok(length)
    }
}

fn parse_target(target: &str) -> (Vec<String>, Vec<(String, String)>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut parts: Vec<String> = path
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| decode(part, false))
        .collect();
    let is_version = |part: &String| {
        let number = part.strip_prefix('v').unwrap_or_default();
        !number.is_empty()
            && number
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    if parts.first().is_some_and(is_version) {
        parts.remove(0);
    }
    let query = query.split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, "1"));
        (decode(name, true), decode(value, true))
    });
    (parts, query.collect())
}

/// Undoes what URLs do to bytes, and in a query to blanks.
fn decode(text: &str, is_query: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok();
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        bytes.push(match (escaped, first) {
            (Some(byte), _) => {
                rest = &after[2..];
                byte
            }
            (None, b'+') if is_query => b' ',
            (None, byte) => *byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An answer that is there at once.
#[derive(Debug)]
pub(super) struct Reply {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
}

impl Reply {
    pub(super) fn json(status: u16, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(mut body) => {
                body.push(b'\n');
                let kind = "application/json";
                Self { status, kind, body }
            }
            Err(error) => Self::refusal(500, &error.to_string()),
        }
    }

    pub(super) fn text(text: &str) -> Self {
        Self {
            status: 200,
            kind: "text/plain; charset=utf-8",
            body: text.as_bytes().to_vec(),
        }
    }

    /// A status that says everything.
    pub(super) fn bare(status: u16) -> Self {
        Self {
            status,
            kind: "",
            body: Vec::new(),
        }
    }

    pub(super) fn refusal(status: u16, message: &str) -> Self {
        let body: Value = json!({ "message": message });
        Self::json(status, &body)
    }

    pub(super) fn send(&self, output: &mut impl Write, is_head: bool) -> io::Result<()> {
        let mut head = start(self.status, self.kind);
        // These two have no body, and so no length.
        if !matches!(self.status, 204 | 304) {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        output.write_all(format!("{head}\r\n").as_bytes())?;
        if !is_head {
            output.write_all(&self.body)?;
        }
        output.flush()
    }
}

/// Begins an answer that ends with the connection.
pub(super) fn begin(output: &mut impl Write, kind: &str) -> io::Result<()> {
    begin_with(output, kind, "")
}

/// The same with one more line in the head.
pub(super) fn begin_with(output: &mut impl Write, kind: &str, line: &str) -> io::Result<()> {
    output.write_all(format!("{}{line}\r\n", start(200, kind)).as_bytes())?;
    output.flush()
}

/// An answer in chunks, which begins with its first byte: until then there may be another one.
/// Clients know one that is cut short by its missing end.
#[derive(Debug)]
pub(super) struct Chunks<W> {
    output: W,
    kind: &'static str,
    has_begun: bool,
}

impl<W: Write> Chunks<W> {
    pub(super) fn new(output: W, kind: &'static str) -> Self {
        Self {
            output,
            kind,
            has_begun: false,
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    fn begin(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.has_begun, true) {
            begin_with(
                &mut self.output,
                self.kind,
                "Transfer-Encoding: chunked\r\n",
            )?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.begin()?;
        self.output.write_all(b"0\r\n\r\n")?;
        self.output.flush()
    }
}

impl<W: Write> Write for Chunks<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.begin()?;
        write!(self.output, "{:x}\r\n", bytes.len())?;
        self.output.write_all(bytes)?;
        self.output.write_all(b"\r\n")?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Gives the connection over to the streams of a container.
pub(super) fn upgrade(output: &mut impl Write, asked: Option<&str>) -> io::Result<()> {
    const KIND: &str = "application/vnd.docker.raw-stream";
    let head = match asked {
        Some(protocol) => format!(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: {KIND}\r\nConnection: Upgrade\r\n\
             Upgrade: {protocol}\r\n\r\n"
        ),
        None => format!("HTTP/1.1 200 OK\r\nContent-Type: {KIND}\r\n\r\n"),
    };
    output.write_all(head.as_bytes())?;
    output.flush()
}

fn start(status: u16, kind: &str) -> String {
    let reason = match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        409 => "Conflict",
        501 => "Not Implemented",
        _ => "Internal Server Error",
    };
    let kind = match kind {
        "" => String::new(),
        kind => format!("Content-Type: {kind}\r\n"),
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\nApi-Version: {}\r\nServer: Hawser/{}\r\nOstype: linux\r\n\
         Docker-Experimental: false\r\nConnection: close\r\n{kind}",
        super::API_VERSION,
        env!("CARGO_PKG_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> io::Result<Option<Request>> {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(text).unwrap();
        drop(client);
        Request::read(&mut BufReader::new(server))
    }

    #[test]
    fn a_request_is_read_with_and_without_a_version() {
        for path in ["/v1.24/containers/a%20b/logs", "/containers/a%20b/logs"] {
            let head =
                format!("GET {path}?stdout=1&since=&n=a+%26 HTTP/1.1\r\nHost: v1.24\r\n\r\n");
            let request = read(head.as_bytes()).unwrap().unwrap();
            assert_eq!(request.path, ["containers", "a b", "logs"]);
            assert!(request.is_on("stdout") && !request.is_on("since") && !request.is_on("t"));
            assert_eq!(request.query("n"), Some("a &"));
            assert_eq!(request.header("host"), Some("v1.24"));
        }
    }

    #[test]
    fn bodies_come_by_length_and_in_chunks() {
        let by_length = b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(read(by_length).unwrap().unwrap().body, b"hello");
        let chunks = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n";
        assert_eq!(read(chunks).unwrap().unwrap().body, b"hello");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(read(b"").unwrap().is_none());
        for bad in [
            &b"GET\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: a",
            b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort",
            b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwhole\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
        ] {
            assert!(read(bad).is_err(), "{}", bad.escape_ascii());
        }
        let endless = vec![b'a'; 100 << 10];
        assert!(read(&endless).is_err());
    }
}
