//! Images: names, removal, and the layers that come and go with them.

mod support;

use std::path::PathBuf;

use api::storage::ImageCreate;
use api::{ApiError, ErrorCode};
use storaged::ImageError;
use support::{Entry, State, config, create, file, image, import, mounted, read};

#[test]
fn images_answer_to_names_ids_and_starts_of_ids() {
    let state = State::new();
    let storaged = state.open();
    let made = image(&storaged, "web:v1", &[&[file("f", "x")]]);
    let id = made.id.clone();
    for reference in [
        "web:v1",
        "docker.io/library/web:v1",
        id.as_str(),
        id.hex(),
        &id.hex()[..12],
        &id.as_str()[..20],
    ] {
        assert_eq!(storaged.image(reference).unwrap().id, id, "{reference}");
    }
    for (reference, code) in [
        ("web", ErrorCode::NotFound),
        ("nope", ErrorCode::NotFound),
        ("UPPER:x", ErrorCode::InvalidInput),
        ("a b", ErrorCode::InvalidInput),
        (
            "sha256:0000000000000000000000000000000000000000000000000000000000000000",
            ErrorCode::NotFound,
        ),
    ] {
        assert_eq!(
            ApiError::from(storaged.image(reference).unwrap_err()).code,
            code,
            "{reference}"
        );
    }
    // A tag moves to the image that gets it last.
    let other = image(&storaged, "web:v2", &[&[file("g", "y")]]);
    let request = ImageCreate {
        config: other.config.clone(),
        tags: vec!["web:v1".to_owned()],
    };
    assert_eq!(
        storaged.create_image(request).unwrap().tags,
        ["web:v1", "web:v2"]
    );
    assert_eq!(storaged.image("web:v1").unwrap().id, other.id);
    assert_eq!(storaged.image(id.as_str()).unwrap().tags, [] as [&str; 0]);
}

#[test]
fn an_image_that_cannot_be_is_refused() {
    let state = State::new();
    let storaged = state.open();
    let layer = import(&storaged, None, &[file("f", "x")]);
    let good = config("a", std::slice::from_ref(&layer.diff_id));
    let missing = config("a", &[layer.diff_id.clone(), layer.diff_id.clone()]);
    for (config, tag) in [
        (missing.as_str(), "a"),
        ("{}", "a"),
        ("", "a"),
        (&good, "UPPER"),
        (&good, "a:b:c"),
    ] {
        let request = ImageCreate {
            config: config.to_owned(),
            tags: vec![tag.to_owned()],
        };
        storaged.create_image(request).expect_err(tag);
        assert_eq!(storaged.images(), []);
    }
}

#[test]
fn removal_follows_dockers_rules() {
    let state = State::new();
    let storaged = state.open();
    let base: &[Entry] = &[file("base", "b")];
    let a = image(&storaged, "a", &[base, &[file("own", "a")]]);
    let b = image(&storaged, "b", &[base]);
    create(&storaged, "container1", &a, false);
    let short = &a.id.hex()[..12];

    let message = storaged.remove_image("a", false).unwrap_err().to_string();
    let expected = format!(
        "conflict: unable to remove repository reference \"a\" (must force) - container container1 is using its referenced image {short}"
    );
    assert_eq!(message, expected);
    let message = storaged.remove_image(short, false).unwrap_err().to_string();
    assert!(
        message.contains("(must be forced) - image is being used by stopped container container1"),
        "{message}"
    );
    storaged.mount_rootfs("container1").unwrap();
    let message = storaged
        .remove_image(a.id.as_str(), true)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("(cannot be forced) - image is being used by running container"),
        "{message}"
    );
    storaged.remove_rootfs("container1").unwrap();

    let again = ImageCreate {
        config: a.config.clone(),
        tags: vec!["a2".to_owned()],
    };
    storaged.create_image(again).unwrap();
    let error = storaged.remove_image(a.id.as_str(), false).unwrap_err();
    assert!(matches!(error, ImageError::ManyTags(_)), "{error}");
    assert_eq!(
        storaged.remove_image("a2", false).unwrap(),
        ["Untagged: a2:latest"]
    );
    let report = storaged.remove_image("a", false).unwrap();
    assert_eq!(
        report[..2],
        [
            "Untagged: a:latest".to_owned(),
            format!("Deleted: {}", a.id)
        ]
    );
    assert_eq!(
        report.len(),
        3,
        "its own layer goes, the shared one stays: {report:?}"
    );
    assert_eq!(storaged.layers().len(), 1);
    assert_eq!(state.layer_directories().len(), 1);
    assert_eq!(read(mounted(&storaged, "c2", &b).join("base")), "b");
    assert!(matches!(
        storaged.remove_image("none", false),
        Err(ImageError::NotFound(_))
    ));
}

#[test]
fn a_container_outlives_its_image() {
    let state = State::new();
    let storaged = state.open();
    let image = image(&storaged, "a", &[&[file("f", "x")]]);
    create(&storaged, "c1", &image, false);
    storaged.remove_image("a", true).unwrap();
    let merged = PathBuf::from(storaged.mount_rootfs("c1").unwrap().path);
    assert_eq!(read(merged.join("f")), "x");
    storaged.remove_rootfs("c1").unwrap();
    assert_eq!(storaged.layers(), [], "and takes the layers with it");
    assert_eq!(state.layer_directories(), [] as [PathBuf; 0]);
}

#[test]
fn layers_wait_for_their_image_while_others_are_removed() {
    let state = State::new();
    let mut storaged = state.open();
    image(&storaged, "old", &[&[file("shared", "x")]]);
    let layer = import(&storaged, None, &[file("shared", "x")]);
    storaged.remove_image("old", false).unwrap();
    // Even if the daemon restarts in between.
    drop(storaged);
    storaged = state.open();
    let request = ImageCreate {
        config: config("new", &[layer.diff_id]),
        tags: vec!["new".to_owned()],
    };
    storaged.create_image(request).unwrap();
}

#[test]
fn status_and_metrics_say_what_is_there() {
    let state = State::new();
    let storaged = state.open();
    image(&storaged, "a", &[&[file("f", "12345")]]);
    assert_eq!(storaged.driver(), "overlay2");
    let status = storaged.driver_status();
    assert!(
        status.contains(&("Backing Filesystem".to_owned(), "tmpfs".to_owned())),
        "{status:?}"
    );
    assert!(
        status.contains(&("Supports d_type".to_owned(), "true".to_owned())),
        "{status:?}"
    );
    let mut text = String::new();
    storaged.metrics(&mut text);
    for line in [
        "hawser_storage_objects{kind=\"images\"} 1",
        "hawser_layer_bytes 5",
        "hawser_layer_imports_total{result=\"committed\"} 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} in:\n{text}"
        );
    }
}
