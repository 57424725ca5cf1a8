use super::*;

fn parse(driver: &str, options: &[(&str, &str)]) -> Result<Settings, LogOptionError> {
    let options = options
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Settings::parse(&LogConfig {
        driver: driver.to_owned(),
        config: options.collect(),
    })
}

fn files(driver: &str, options: &[(&str, &str)]) -> Files {
    parse(driver, options).unwrap().files().unwrap()
}

#[test]
fn every_driver_has_its_defaults() {
    assert_eq!(files("", &[]), JSON);
    assert_eq!(files("json-file", &[]), JSON);
    assert_eq!(files("local", &[]), LOCAL);
    assert_eq!(files("journald", &[]), LOCAL);
    assert!(parse("none", &[]).unwrap().files().is_none());
    let gelf = parse("gelf", &[("gelf-address", "tcp://h")]).unwrap();
    let Driver::Gelf(gelf) = gelf.driver else {
        panic!("another driver");
    };
    assert_eq!(gelf.packing, Packing::Gzip(1));
    let syslog = parse("syslog", &[("cache-disabled", "true")]).unwrap();
    assert!(syslog.files().is_none());
    assert_eq!(syslog.mode, Mode::Blocking);
    let Driver::Syslog(syslog) = syslog.driver else {
        panic!("another driver");
    };
    assert_eq!((syslog.address, syslog.facility), (Address::Here, 3));
}

#[test]
fn options_are_taken() {
    let options = [("max-size", "10m"), ("max-file", "2"), ("compress", "true")];
    let expected = Files {
        max_size: 10 << 20,
        max_files: 2,
        compress: true,
        ..JSON
    };
    assert_eq!(files("json-file", &options), expected);
    let options = [("cache-max-size", "1k"), ("cache-compress", "f")];
    let cache = files("syslog", &options);
    assert_eq!((cache.max_size, cache.compress), (1 << 10, false));
    let lossy = [("mode", "non-blocking"), ("max-buffer-size", "4k")];
    assert_eq!(
        parse("local", &lossy).unwrap().mode,
        Mode::NonBlocking { buffer: 4096 }
    );
    // One file has nothing to compress, which is fine unless it was asked for.
    assert!(!files("local", &[("max-file", "1")]).compress);
}

#[test]
fn what_is_wrong_is_named() {
    for (driver, key, value, words) in [
        ("splunk", "", "", "no log driver named \"splunk\""),
        ("gelf", "", "", "needs --log-opt gelf-address"),
        ("gelf", "gelf-address", "http://x", "udp:// or tcp://"),
        ("gelf", "gelf-compression-level", "10", "-1 to 9"),
        ("gelf", "gelf-compression-type", "xz", "gzip, zlib or none"),
        ("fluentd", "fluentd-address", "udp://x", "tls://"),
        ("fluentd", "fluentd-async", "perhaps", "true or false"),
        (
            "fluentd",
            "fluentd-request-ack",
            "true",
            "unknown log opt \"fluentd-request-ack\" for fluentd",
        ),
        ("none", "max-size", "1m", "driver none"),
        ("json-file", "colour", "red", "unknown log opt \"colour\""),
        (
            "local",
            "labels",
            "x",
            "unknown log opt \"labels\" for local",
        ),
        (
            "journald",
            "max-size",
            "1m",
            "unknown log opt \"max-size\" for journald",
        ),
        ("json-file", "max-size", "lots", "max-size=\"lots\""),
        ("json-file", "max-file", "0", "max-file=\"0\""),
        ("json-file", "compress", "maybe", "true or false"),
        ("json-file", "mode", "sometimes", "blocking or non-blocking"),
        ("json-file", "max-buffer-size", "1m", "mode=non-blocking"),
        ("json-file", "env-regex", "(", "env-regex"),
        ("json-file", "tag", "{{.Nmae}}", "Nmae"),
        ("json-file", "tag", "{{", "tag"),
        ("syslog", "syslog-address", "http://x", "udp://"),
        ("syslog", "syslog-facility", "loud", "facility"),
        ("syslog", "syslog-format", "rfc1", "rfc5424micro"),
        ("syslog", "syslog-tls-cert", "/c", "syslog-tls-key"),
        ("syslog", "cache-max-file", "x", "cache-max-file"),
    ] {
        let options = [(key, value)];
        let options = if key.is_empty() { &[][..] } else { &options };
        let error = parse(driver, options).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let both = [("compress", "true"), ("max-file", "1")];
    assert!(parse("json-file", &both).is_err());
}
