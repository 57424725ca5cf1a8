//! `--device` and `--device-cgroup-rule`.

use super::ResourceError;
use crate::container::{DeviceMapping, DeviceRule, are_device_permissions};

/// # Errors
/// [`ResourceError::Value`].
pub fn mappings(texts: &[String]) -> Result<Vec<DeviceMapping>, ResourceError> {
    texts.iter().map(|text| mapping(text)).collect()
}

/// `HOST-PATH[:PATH][:PERMISSIONS]`.
fn mapping(text: &str) -> Result<DeviceMapping, ResourceError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, path, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, mode] if are_device_permissions(mode) => (*host, *host, *mode),
        [host, path] => (*host, *path, "rwm"),
        [host, path, mode] if are_device_permissions(mode) => (*host, *path, *mode),
        _ => ("", "", ""),
    };
    // As Docker, an empty place in the container means the same place.
    let path = if path.is_empty() { host } else { path };
    if !host.starts_with('/') || !path.starts_with('/') {
        return Err(ResourceError::Value {
            flag: "--device",
            text: text.to_owned(),
            expected: "HOST-PATH[:PATH[:PERMISSIONS]] with absolute paths and permissions of r, w and m",
        });
    }
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: path.to_owned(),
        cgroup_permissions: permissions.to_owned(),
    })
}

/// # Errors
/// [`ResourceError::Value`].
pub fn rules(texts: &[String]) -> Result<Option<Vec<String>>, ResourceError> {
    for text in texts {
        if DeviceRule::parse(text).is_none() {
            return Err(ResourceError::Value {
                flag: "--device-cgroup-rule",
                text: text.clone(),
                expected: "TYPE MAJOR:MINOR PERMISSIONS, such as 'c 42:* rmw'",
            });
        }
    }
    Ok((!texts.is_empty()).then(|| texts.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_place_and_permissions() {
        let parse = |text: &str| {
            mapping(text).map(|device| {
                [
                    device.path_on_host,
                    device.path_in_container,
                    device.cgroup_permissions,
                ]
                .join(" ")
            })
        };
        for (text, expected) in [
            ("/dev/fuse", "/dev/fuse /dev/fuse rwm"),
            ("/dev/null:/dev/mynull", "/dev/null /dev/mynull rwm"),
            ("/dev/null:r", "/dev/null /dev/null r"),
            ("/dev/null:/dev/x:rw", "/dev/null /dev/x rw"),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "null", "/dev/null:rz", "/dev/null:/x:rr", "/a:/b:r:w"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rule_is_a_type_numbers_and_permissions() {
        assert_eq!(
            DeviceRule::parse("c 42:* rmw"),
            Some(DeviceRule {
                kind: 'c',
                major: Some(42),
                minor: None,
                access: "rmw".to_owned()
            })
        );
        for bad in [
            "",
            "c",
            "d 1:2 r",
            "c 1 r",
            "c 1:x r",
            "c 1:2 rx",
            "c 1:2 r w",
        ] {
            assert!(rules(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
