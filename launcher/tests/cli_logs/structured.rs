//! Servers that take structured messages: GELF and fluentd's forward protocol.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use flate2::read::GzDecoder;
use serde_json::Value;

use super::{lost, ran, run, shown};
use crate::cli_support::Host;

const PATIENCE: Duration = Duration::from_secs(20);

/// All that the first client says, until it hangs up.
fn first_client(listener: TcpListener) -> impl FnOnce() -> Vec<u8> {
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        said
    });
    || reader.join().unwrap()
}

fn gelf_over_udp(socket: &UdpSocket) -> Value {
    let mut buffer = [0; 65536];
    let mut packed = Vec::new();
    loop {
        let length = socket.recv(&mut buffer).unwrap();
        let datagram = &buffer[..length];
        assert!(length <= 1420, "{length}");
        let Some(chunk) = datagram.strip_prefix(&[0x1e, 0x0f]) else {
            packed.extend_from_slice(datagram);
            break;
        };
        packed.extend_from_slice(&chunk[10..]);
        if chunk[8] + 1 == chunk[9] {
            break;
        }
    }
    let mut text = String::new();
    match packed.starts_with(b"{") {
        true => text = String::from_utf8(packed).unwrap(),
        false => drop(GzDecoder::new(&*packed).read_to_string(&mut text).unwrap()),
    }
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_gelf_server_gets_every_line_with_what_is_known_of_the_container() {
    let host = Host::new();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("gelf-address=udp://{}", socket.local_addr().unwrap());
    let flags = [
        "--log-driver",
        "gelf",
        "--log-opt",
        &address,
        "--log-opt",
        "tag=t1",
    ];
    let more = ["--label", "tier=web", "--log-opt", "labels=tier"];
    ran(
        &host,
        &[&flags[..], &more].concat(),
        "echo out; sleep 0.2; echo err >&2",
    );
    let (out, err) = (gelf_over_udp(&socket), gelf_over_udp(&socket));
    for (message, text, level) in [(out, "out", 6), (err, "err", 3)] {
        assert_eq!(
            (&message["short_message"], &message["level"]),
            (&text.into(), &level.into())
        );
        assert_eq!(
            (&message["version"], &message["_tag"]),
            (&"1.1".into(), &"t1".into())
        );
        let known = [
            &message["_container_name"],
            &message["_image_name"],
            &message["_tier"],
        ];
        assert_eq!(known, ["web", "bb", "web"]);
        assert!(message["timestamp"].as_f64().unwrap() > 1.7e9, "{message}");
    }
    assert_eq!(shown(&host, &["logs", "web"]), "out\n");
    assert_eq!(lost(&host), 0);
}

#[test]
fn a_long_line_comes_in_chunks_and_over_tcp_in_one_piece() {
    let host = Host::new();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("gelf-address=udp://{}", socket.local_addr().unwrap());
    let flags = ["--log-driver", "gelf", "--log-opt", &address, "--log-opt"];
    let script = "head -c 5000 /dev/zero | tr '\\0' x; echo";
    ran(
        &host,
        &[&flags[..], &["gelf-compression-type=none"]].concat(),
        script,
    );
    assert_eq!(
        gelf_over_udp(&socket)["short_message"].as_str().unwrap(),
        "x".repeat(5000)
    );

    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("gelf-address=tcp://{}", listener.local_addr().unwrap());
    let said = first_client(listener);
    ran(
        &host,
        &["--log-driver", "gelf", "--log-opt", &address],
        script,
    );
    let said = said();
    let message: Value = serde_json::from_slice(said.strip_suffix(&[0]).unwrap()).unwrap();
    assert_eq!(message["short_message"].as_str().unwrap(), "x".repeat(5000));
}

#[test]
fn fluentd_gets_every_line_and_may_be_away() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("fluentd-address={}", listener.local_addr().unwrap());
    let flags = [
        "--log-driver",
        "fluentd",
        "--log-opt",
        &address,
        "--log-opt",
    ];
    let said = first_client(listener);
    ran(
        &host,
        &[&flags[..], &["tag=docker.{{.Name}}"]].concat(),
        "echo out; echo err >&2",
    );
    let said = said();
    // A tag, a time, and a map of four.
    assert!(said.starts_with(b"\x93\xaadocker.web\xce"), "{said:?}");
    let has = |part: &[u8]| said.windows(part.len()).any(|window| window == part);
    assert!(has(b"\x84\xaccontainer_id\xd9\x40"), "{said:?}");
    assert!(
        has(b"\xaecontainer_name\xa4/web\xa6source\xa6stdout\xa3log\xa3out"),
        "{said:?}"
    );
    assert!(has(b"\xa6source\xa6stderr\xa3log\xa3err"), "{said:?}");
    assert_eq!(shown(&host, &["logs", "web"]), "out\n");
    host.ok(&["rm", "-f", "web"]);

    // Nobody listens there any more.
    let refused = run(&[&flags[..4], &["bb", "true"]].concat());
    host.refused(&refused, 125, "fluentd at tcp://");
    ran(
        &host,
        &[&flags[..], &["fluentd-async=true"]].concat(),
        "echo out",
    );
    assert_eq!(lost(&host), 1);
}
