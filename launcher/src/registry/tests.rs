//! A registry that misbehaves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use api::id::Digest;
use api::reference::Selector;
use sha2::{Digest as _, Sha256};

use super::credential::Credential;
use super::download::BlobReader;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::manifest::{Descriptor, OCI_MANIFEST};
use super::repository::Repository;

#[derive(Debug, Clone)]
struct Asked {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(known, _)| known == name);
        header.map(|(_, value)| value.as_str())
    }

    fn read(stream: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(stream);
        let mut line = || {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            Some(line.trim_end().to_owned())
        };
        let first = line()?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, target) = (words.next()?, words.next()?);
        let mut headers = Vec::new();
        while let Some((name, value)) = line()?.split_once(": ") {
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut asked = Self {
            method,
            target,
            headers,
            body: Vec::new(),
        };
        if asked.header("transfer-encoding") == Some("chunked") {
            loop {
                let mut size = String::new();
                reader.read_line(&mut size).ok()?;
                let size = usize::from_str_radix(size.trim(), 16).ok()?;
                let mut chunk = vec![0; size + 2];
                reader.read_exact(&mut chunk).ok()?;
                if size == 0 {
                    return Some(asked);
                }
                asked.body.extend_from_slice(&chunk[..size]);
            }
        }
        let length = asked
            .header("content-length")
            .and_then(|length| length.parse().ok());
        asked.body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut asked.body).ok()?;
        Some(asked)
    }
}

#[derive(Debug, Default)]
struct Answer {
    status: u16,
    headers: Vec<String>,
    body: Vec<u8>,
    /// The connection breaks after so many bytes of the body.
    cut: Option<usize>,
}

fn answer(status: u16, body: &[u8]) -> Answer {
    Answer {
        status,
        body: body.to_vec(),
        ..Answer::default()
    }
}

impl Answer {
    fn with(mut self, header: impl Into<String>) -> Self {
        self.headers.push(header.into());
        self
    }

    fn write(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.status,
            self.body.len()
        );
        for header in &self.headers {
            head.push_str(&format!("{header}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        stream.write_all(&self.body[..self.cut.unwrap_or(self.body.len())])
    }
}

struct Fake {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Fake {
    /// `answers` is given a request and how many came before it.
    fn new(answers: impl Fn(&Asked, usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, over) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let (log, end) = (Arc::clone(&asked), Arc::clone(&over));
        let server = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let Some(request) = Asked::read(&stream) else {
                    continue;
                };
                let before = log.lock().unwrap().len();
                let reply = answers(&request, before);
                log.lock().unwrap().push(request);
                // The client may have enough already.
                drop(reply.write(&stream));
            }
        });
        Self {
            address,
            asked,
            over,
            server: Some(server),
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint {
            base: format!("http://{}", self.address),
            host: self.address.clone(),
            is_mirror: false,
            is_verified: false,
        }
    }

    fn connect(&self, credential: Option<Credential>) -> Result<Repository, RegistryError> {
        let scopes = vec!["repository:team/web:pull".to_owned()];
        Repository::connect(&self.endpoint(), "team/web", scopes, credential)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(&self.address));
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

fn descriptor(content: &[u8]) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        digest: sha256(content),
        size: content.len() as u64,
        platform: None,
    }
}

fn content() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
}

/// Reads a blob to its end or its failure.
fn download(repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let seen = |_| {};
    let mut reader = BlobReader::new(repository, descriptor, &seen);
    let mut bytes = Vec::new();
    match reader.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(_told) => Err(reader.take_failure().unwrap()),
    }
}

fn me() -> Option<Credential> {
    Some(Credential::Password {
        user: "me".to_owned(),
        password: "pass".to_owned(),
    })
}

/// `me:pass`.
const BASIC: &str = "Basic bWU6cGFzcw==";

#[test]
fn a_token_is_fetched_with_the_login_and_fetched_again_when_it_has_run_out() {
    let fake = Fake::new(|asked, before| {
        let host = asked.header("host").unwrap().to_owned();
        match asked.target.as_str() {
            target if target.starts_with("/token") => {
                assert_eq!(asked.header("authorization"), Some(BASIC));
                answer(200, format!(r#"{{"token": "t{before}"}}"#).as_bytes())
            }
            "/v2/" => answer(401, b"").with(format!(
                "WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\""
            )),
            // The first token has run out by now.
            _ if asked.header("authorization") == Some("Bearer t1") => answer(401, b""),
            _ => answer(200, b"{}").with(format!("Content-Type: {OCI_MANIFEST}")),
        }
    });
    let repository = fake.connect(me()).unwrap();
    let manifest = repository.manifest(&Selector::Tag("1".into())).unwrap();
    assert_eq!(manifest.bytes, b"{}");
    let asked = fake.asked();
    let targets: Vec<&str> = asked.iter().map(|asked| asked.target.as_str()).collect();
    let token = "/token?service=s&scope=repository%3Ateam%2Fweb%3Apull&account=me";
    let wanted = "/v2/team/web/manifests/1";
    assert_eq!(targets, ["/v2/", token, wanted, token, wanted]);
    assert_eq!(asked[4].header("authorization"), Some("Bearer t3"));
}

#[test]
fn a_refused_login_says_so_and_a_hidden_repository_says_how_to_log_in() {
    let challenge = |asked: &Asked, _| match asked.target.as_str() {
        "/v2/" if asked.header("authorization").is_none() => {
            answer(401, b"").with("WWW-Authenticate: Basic realm=\"r\"")
        }
        _ => answer(401, b"").with("WWW-Authenticate: Basic realm=\"r\""),
    };
    let fake = Fake::new(challenge);
    let error = fake.connect(me()).unwrap().check_login().unwrap_err();
    assert!(matches!(error, RegistryError::Login { .. }), "{error}");
    let repository = fake.connect(None).unwrap();
    let error = repository.manifest(&Selector::Tag("1".into())).unwrap_err();
    assert!(
        error.to_string().contains("may require hawser login"),
        "{error}"
    );
}

#[test]
fn a_busy_registry_is_asked_again() {
    let fake = Fake::new(|asked, before| match (asked.target.as_str(), before) {
        ("/v2/", _) => answer(200, b""),
        (_, 1 | 2) => answer(503, b"busy"),
        _ => answer(200, b"{}"),
    });
    let repository = fake.connect(None).unwrap();
    repository.manifest(&Selector::Tag("1".into())).unwrap();
    assert_eq!(fake.asked().len(), 4);
}

#[test]
fn a_layer_goes_on_where_the_connection_broke() {
    let fake = Fake::new(|asked, _| {
        let content = content();
        match (asked.target.as_str(), asked.header("range")) {
            ("/v2/", _) => answer(200, b""),
            (_, None) => Answer {
                cut: Some(400_000),
                ..answer(200, &content)
            },
            (_, Some(range)) => {
                let start: usize = range["bytes=".len()..range.len() - 1].parse().unwrap();
                let rest = answer(206, &content[start..]);
                rest.with(format!("Content-Range: bytes {start}-1199999/1200000"))
            }
        }
    });
    let repository = fake.connect(None).unwrap();
    assert!(download(&repository, &descriptor(&content())).unwrap() == content());
    assert_eq!(fake.asked()[2].header("range"), Some("bytes=400000-"));
}

#[test]
fn a_server_without_ranges_sends_the_start_again() {
    let fake = Fake::new(|asked, before| match asked.target.as_str() {
        "/v2/" => answer(200, b""),
        _ => Answer {
            cut: (before == 1).then_some(500_000),
            ..answer(200, &content())
        },
    });
    let repository = fake.connect(None).unwrap();
    assert!(download(&repository, &descriptor(&content())).unwrap() == content());
}

#[test]
fn a_layer_that_always_breaks_is_given_up() {
    let fake = Fake::new(|asked, _| match asked.target.as_str() {
        "/v2/" => answer(200, b""),
        _ => Answer {
            cut: Some(10),
            ..answer(200, &content())
        },
    });
    let repository = fake.connect(None).unwrap();
    let error = download(&repository, &descriptor(&content())).unwrap_err();
    assert!(matches!(error, RegistryError::Exchange { .. }), "{error}");
    assert!(fake.asked().len() < 10);
}

#[test]
fn another_content_than_the_digest_says_is_refused_at_the_end() {
    let fake = Fake::new(|asked, _| {
        let mut forged = content();
        forged[77] ^= 1;
        match asked.target.as_str() {
            "/v2/" => answer(200, b""),
            target if target.contains("manifests") => answer(200, b"{}"),
            _ => answer(200, &forged),
        }
    });
    let repository = fake.connect(None).unwrap();
    let error = download(&repository, &descriptor(&content())).unwrap_err();
    assert!(error.to_string().contains("damaged or forged"), "{error}");
    let other = Selector::Digest(sha256(b"other"));
    let error = repository.manifest(&other).unwrap_err();
    assert!(error.to_string().contains("damaged or forged"), "{error}");
    let small = descriptor(b"{\"forged\": false}");
    let error = repository
        .small_blob(&small, "the configuration", 100)
        .unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}

#[test]
fn a_manifest_beyond_all_measure_is_refused() {
    let fake = Fake::new(|asked, _| match asked.target.as_str() {
        "/v2/" => answer(200, b""),
        _ => answer(200, &vec![b' '; (4 << 20) + 1]),
    });
    let repository = fake.connect(None).unwrap();
    let error = repository.manifest(&Selector::Tag("1".into())).unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}

#[test]
fn a_redirect_takes_no_credentials_to_another_server() {
    let elsewhere = Fake::new(|_, _| answer(200, &content()));
    let target = format!("http://{}/blob", elsewhere.address);
    let fake = Fake::new(move |asked, _| match asked.header("authorization") {
        None => answer(401, b"").with("WWW-Authenticate: Basic realm=\"r\""),
        Some(_) => answer(307, b"").with(format!("Location: {target}")),
    });
    let repository = fake.connect(me()).unwrap();
    assert!(download(&repository, &descriptor(&content())).unwrap() == content());
    assert_eq!(fake.asked()[1].header("authorization"), Some(BASIC));
    assert_eq!(elsewhere.asked()[0].header("authorization"), None);
}

#[test]
fn redirects_in_circles_end() {
    let fake = Fake::new(|asked, _| match asked.target.as_str() {
        "/v2/" => answer(200, b""),
        target => answer(302, b"").with(format!("Location: {target}")),
    });
    let repository = fake.connect(None).unwrap();
    let error = repository.manifest(&Selector::Tag("1".into())).unwrap_err();
    assert!(error.to_string().contains("circles"), "{error}");
}

#[test]
fn what_is_no_registry_is_told_apart() {
    let fake = Fake::new(|_, _| answer(404, b"<html>"));
    let error = fake.connect(None).unwrap_err().to_string();
    assert!(error.contains("this is no registry"), "{error}");
}

#[test]
fn tags_come_in_pages_of_the_same_registry() {
    let fake = Fake::new(|asked, _| match asked.target.as_str() {
        "/v2/" => answer(200, b""),
        "/v2/team/web/tags/list" => answer(200, br#"{"tags": ["1", "2"]}"#)
            .with("Link: </v2/team/web/tags/list?last=2>; rel=\"next\""),
        _ => answer(200, br#"{"tags": ["3"]}"#)
            .with("Link: <http://127.0.0.1:1/steal>; rel=\"next\""),
    });
    assert_eq!(fake.connect(None).unwrap().tags().unwrap(), ["1", "2", "3"]);
}

#[test]
fn what_a_registry_has_is_asked_of_its_index_or_its_list() {
    let index = Fake::new(|asked, _| match asked.target.as_str() {
        "/v1/search?q=we%20b&n=2" => answer(
            200,
            br#"{"results": [{"name": "web", "star_count": 7, "is_official": true},
                {"name": "a/web", "description": "another"}, {"name": "b/web"}]}"#,
        ),
        _ => answer(200, b""),
    });
    let found = index.connect(None).unwrap().search("we b", 2).unwrap();
    assert_eq!(
        (found.len(), found[0].star_count, found[0].is_official),
        (2, 7, true)
    );
    assert_eq!(found[1].description, "another");

    let list = Fake::new(|asked, _| match asked.target.as_str() {
        "/v2/" => answer(200, b""),
        "/v2/_catalog?n=1000" => answer(200, br#"{"repositories": ["db", "web"]}"#)
            .with("Link: </v2/_catalog?last=web>; rel=\"next\""),
        "/v2/_catalog?last=web" => answer(200, br#"{"repositories": ["web2", "web3"]}"#),
        _ => answer(404, b"page not found"),
    });
    let names = |limit| -> Vec<String> {
        let found = list.connect(None).unwrap().search("web", limit).unwrap();
        found.into_iter().map(|found| found.name).collect()
    };
    assert_eq!(names(25), ["web", "web2", "web3"]);
    assert_eq!(names(1), ["web"]);
}

#[test]
fn a_stream_is_sent_in_one_go_and_named_by_its_digest_at_the_end() {
    let fake = Fake::new(
        |asked, _| match (asked.method.as_str(), asked.target.as_str()) {
            ("POST", _) => answer(202, b"").with("Location: /v2/up/1?state=a"),
            ("PATCH", _) => answer(202, b"").with("Location: /v2/up/1?state=b"),
            ("PUT", _) => answer(201, b""),
            _ => answer(200, b""),
        },
    );
    let repository = fake.connect(None).unwrap();
    let sent = repository.put_stream(content().as_slice(), || Ok::<_, RegistryError>(()));
    let sent = sent.unwrap();
    assert_eq!((sent.digest, sent.size), (sha256(&content()), 1_200_000));
    let asked = fake.asked();
    assert!(asked[2].body == content());
    let end = format!(
        "/v2/up/1?state=b&digest=sha256%3A{}",
        sha256(&content()).hex()
    );
    assert_eq!(asked[3].target, end);
}

#[test]
fn a_stream_that_was_not_whole_is_never_named() {
    let fake = Fake::new(|asked, _| match asked.method.as_str() {
        "POST" | "PATCH" => answer(202, b"").with("Location: /v2/up/1"),
        _ => answer(200, b""),
    });
    let repository = fake.connect(None).unwrap();
    let broken = || Err(RegistryError::BadPlatform("torn".to_owned()));
    let error = repository.put_stream(&b"half"[..], broken).unwrap_err();
    assert!(error.to_string().contains("torn"), "{error}");
    let methods: Vec<String> = fake.asked().into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods, ["GET", "POST", "PATCH", "DELETE"]);
}
