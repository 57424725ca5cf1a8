use super::*;

const HERE: &str = "/home/me";

fn short(spec: &str) -> String {
    shown(parse_short(spec, "", Path::new(HERE)))
}

fn long(spec: &str) -> String {
    shown(parse_long(spec, Path::new(HERE)))
}

fn shown(mount: Result<MountSpec, MountError>) -> String {
    let mount = match mount {
        Ok(mount) => mount,
        Err(error) => return format!("! {error}"),
    };
    let source = match &mount.source {
        Source::Bind { path, create } => {
            format!("bind{} {}", if *create { "+" } else { "" }, path.display())
        }
        Source::Tmpfs { options } => format!("tmpfs [{options}]"),
        Source::Volume(volume) => format!(
            "volume {}{}{}{}{}",
            volume.name.as_ref().map_or("-", |name| name.as_str()),
            match volume.subpath.as_str() {
                "" => String::new(),
                part => format!("/{part}"),
            },
            if volume.no_copy { " nocopy" } else { "" },
            volume.driver,
            volume
                .options
                .iter()
                .chain(&volume.labels)
                .map(|(key, value)| format!(" {key}={value}"))
                .collect::<String>(),
        ),
    };
    let access = if mount.read_only { "ro" } else { "rw" };
    let propagation = match mount.propagation.as_str() {
        "" => String::new(),
        word => format!(" {word}"),
    };
    let recursion = match mount.recursion {
        Recursion::Enabled => String::new(),
        other => format!(" {other:?}"),
    };
    format!(
        "{source} at {} {access}{propagation}{recursion}",
        mount.destination
    )
}

#[test]
fn short_forms() {
    let rows = [
        ("/data", "volume - at /data rw"),
        ("vol:/data", "volume vol at /data rw"),
        ("vol:/data:ro", "volume vol at /data ro"),
        ("vol:/data:ro,nocopy", "volume vol nocopy at /data ro"),
        ("/src:/dst", "bind+ /src at /dst rw"),
        (
            "/src/../x/:/dst//a/./b:ro,rslave",
            "bind+ /x at /dst/a/b ro rslave",
        ),
        ("/a:/dst:idmap,ro", "bind+ /a at /dst ro"),
        ("./x:/dst:z", "bind+ /home/me/x at /dst rw"),
        ("/a/b c:/dst:rw", "bind+ /a/b c at /dst rw"),
    ];
    for (spec, expected) in rows {
        assert_eq!(short(spec), expected, "{spec}");
    }
}

#[test]
fn short_forms_that_are_refused() {
    for (spec, part) in [
        ("", "absolute"),
        (":/data", "invalid volume specification"),
        ("vol:relative", "mount path must be absolute"),
        ("vol:/data:wrong", "invalid mode: wrong"),
        ("/a:/data:idmap=uids=0-1-2", "invalid mode: idmap=uids"),
        ("vol:/data:ro,rw", "invalid mode: rw"),
        ("vol:/data:shared", "invalid mode: shared"),
        ("/x:/data:nocopy", "invalid mode: nocopy"),
        ("a:b:c:d", "invalid volume specification"),
        ("bad name:/m", "invalid volume name"),
        ("v/w:/m", "invalid volume name"),
        ("vol:/", "destination can't be '/'"),
        ("/:/", "destination can't be '/'"),
        ("vol:/a/..", "destination can't be '/'"),
    ] {
        let message = short(spec);
        assert!(
            message.starts_with("! ") && message.contains(part),
            "{spec}: {message}"
        );
    }
}

#[test]
fn long_forms() {
    let rows = [
        ("source=v1,target=/m", "volume v1 at /m rw"),
        ("type=volume,src=v1,dst=/m,readonly", "volume v1 at /m ro"),
        ("type=volume,dst=/m", "volume - at /m rw"),
        ("src=v1,destination=/m,ro=false", "volume v1 at /m rw"),
        ("type=bind,source=/s,target=/m,ro", "bind /s at /m ro"),
        ("type=bind,source=/s,target=/m,idmap", "bind /s at /m rw"),
        (
            "type=bind,source=s,target=/m,bind-propagation=rshared",
            "bind /home/me/s at /m rw rshared",
        ),
        (
            "type=tmpfs,dst=/m,tmpfs-size=2m,tmpfs-mode=1777",
            "tmpfs [size=2097152,mode=1777] at /m rw",
        ),
        (
            "src=v1,dst=/m,volume-nocopy,volume-label=a=b",
            "volume v1 nocopy a=b at /m rw",
        ),
        (
            "src=v1,dst=/m,volume-subpath=./a//b/",
            "volume v1/a/b at /m rw",
        ),
        (
            "type=bind,src=/s,dst=/m,bind-recursive=enabled",
            "bind /s at /m rw",
        ),
        (
            "type=bind,src=/s,dst=/m,bind-recursive=disabled",
            "bind /s at /m rw Disabled",
        ),
        (
            "type=bind,src=/s,dst=/m,bind-nonrecursive,ro",
            "bind /s at /m ro Disabled",
        ),
        (
            "type=bind,src=/s,dst=/m,bind-recursive=writable,ro",
            "bind /s at /m ro Writable",
        ),
        (
            "type=bind,src=/s,dst=/m,ro,bind-recursive=readonly,bind-propagation=rprivate",
            "bind /s at /m ro rprivate ReadOnly",
        ),
        (
            "src=v1,dst=/m,volume-opt=type=nfs,\"volume-opt=o=addr=1,rw\"",
            "volume v1 o=addr=1,rw type=nfs at /m rw",
        ),
    ];
    for (spec, expected) in rows {
        assert_eq!(long(spec), expected, "{spec}");
    }
}

#[test]
fn long_forms_that_are_refused() {
    for (spec, part) in [
        ("source=/srv/d,target=/m", "say type=bind"),
        ("source=a/d,target=/m", "invalid volume name"),
        ("type=bind,target=/m", "source is required"),
        ("type=volume,source=v1", "target is required"),
        ("type=nope,target=/m", "mount type unknown: \"nope\""),
        ("source=v1, target=/m", "unexpected key \" target\""),
        ("source=v1,target=rel", "must be absolute"),
        ("bogus=1,target=/m", "unexpected key \"bogus\""),
        (
            "type=tmpfs,source=v1,dst=/m",
            "source does not go with type tmpfs",
        ),
        (
            "type=bind,src=/a,dst=/m,volume-opt=a=b",
            "volume-opt does not go with type bind",
        ),
        (
            "type=tmpfs,dst=/m,tmpfs-size=lots",
            "invalid value for tmpfs-size",
        ),
        (
            "type=tmpfs,dst=/m,tmpfs-mode=9",
            "invalid value for tmpfs-mode",
        ),
        ("src=v1,dst=/m,ro=perhaps", "invalid value for ro"),
        (
            "type=tmpfs,dst=/m,idmap",
            "idmap does not go with type tmpfs",
        ),
        ("src=,dst=/m", "invalid value for src"),
        (
            "type=bind,src=/a,dst=/m,bind-propagation=x",
            "invalid value for bind-propagation",
        ),
        (
            "type=bind,src=/a,dst=/m,bind-recursive=yes",
            "invalid value for bind-recursive",
        ),
        (
            "type=bind,src=/a,dst=/m,bind-recursive=readonly",
            "bind-recursive=readonly goes with readonly only",
        ),
        (
            "type=bind,src=/a,dst=/m,bind-recursive=writable",
            "bind-recursive=writable goes with readonly only",
        ),
        (
            "type=bind,src=/a,dst=/m,ro,bind-recursive=readonly,bind-propagation=rslave",
            "goes with bind-propagation=rprivate only",
        ),
        (
            "src=v,dst=/m,bind-recursive=disabled",
            "bind-recursive does not go with type volume",
        ),
        (
            "type=bind,src=/a,dst=/m,volume-subpath=x",
            "volume-subpath does not go with type bind",
        ),
        (
            "src=v,dst=/m,volume-subpath=/x",
            "invalid value for volume-subpath",
        ),
        (
            "src=v,dst=/m,volume-subpath=a/../../x",
            "invalid value for volume-subpath",
        ),
        (
            "src=v,dst=/m,volume-subpath=.",
            "invalid value for volume-subpath",
        ),
        ("", "unexpected key \"\""),
    ] {
        let message = long(spec);
        assert!(
            message.starts_with("! ") && message.contains(part),
            "{spec}: {message}"
        );
    }
}

#[test]
fn tmpfs_options_are_checked() {
    let parsed = |spec| parse_tmpfs(spec).map_err(|error| error.to_string());
    assert_eq!(parsed("/t"), Ok(("/t".into(), String::new())));
    assert_eq!(
        parsed("/t:size=1m,mode=1777,exec"),
        Ok(("/t".into(), "size=1m,mode=1777,exec".into()))
    );
    for bad in ["t", "/t:size", "/t:noexec=1", "/t:bogus", "/"] {
        assert!(parsed(bad).is_err(), "{bad}");
    }
}

#[test]
fn two_mounts_at_one_place_are_refused() {
    assert!(check_distinct(["/a", "/b"]).is_ok());
    let error = check_distinct(["/a", "/b", "/a"]).unwrap_err();
    assert_eq!(error.to_string(), "duplicate mount point: /a");
}
