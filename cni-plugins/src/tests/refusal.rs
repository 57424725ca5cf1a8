//! Whole calls that the daemon has no part in.

use expect_test::{Expect, expect};

use super::ENVIRONMENT;
use crate::{Role, run};

/// A call that fails before the daemon is asked.
#[track_caller]
fn check_refusal(environment: &[(&str, &str)], input: &str, expected: Expect) {
    let lookup = |name: &str| {
        let found = environment.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let outcome = run(Role::Interface, &lookup, &mut input.as_bytes());
    assert!(!outcome.success);
    expected.assert_eq(&outcome.reply);
}

#[test]
fn refusals_name_what_is_wrong_and_carry_the_specifications_code() {
    let config = r#"{"cniVersion":"1.0.0","name":"shop"}"#;
    check_refusal(
        &[("CNI_COMMAND", "")],
        "",
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"invalid environment variables","details":"CNI_COMMAND is not set: this is a hawser CNI plugin, container runtimes run it with a command in CNI_COMMAND and a network configuration on standard input"}"#
        ]],
    );
    check_refusal(
        &[("CNI_COMMAND", "add")],
        config,
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"invalid environment variables","details":"CNI_COMMAND=\"add\" is not a command: expected ADD, DEL, CHECK, GC, STATUS or VERSION"}"#
        ]],
    );
    check_refusal(
        &[("CNI_COMMAND", "ADD"), ("CNI_IFNAME", "eth0")],
        config,
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"invalid environment variables","details":"ADD needs CNI_CONTAINERID, CNI_NETNS"}"#
        ]],
    );
    check_refusal(
        &[
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_IFNAME", "eth0"),
        ],
        config,
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"invalid environment variables","details":"CNI_CONTAINERID=\"../x\": expected [a-zA-Z0-9][a-zA-Z0-9_.-]*"}"#
        ]],
    );
    check_refusal(
        &[("CNI_COMMAND", "STATUS")],
        config,
        expect![[
            r#"{"cniVersion":"1.0.0","code":1,"msg":"incompatible CNI version","details":"STATUS needs cniVersion 1.1.0, the network configuration says 1.0.0"}"#
        ]],
    );
    check_refusal(
        &ENVIRONMENT,
        r#"{"cniVersion":"2.0.0","name":"shop"}"#,
        expect![[
            r#"{"cniVersion":"1.1.0","code":1,"msg":"incompatible CNI version","details":"cniVersion \"2.0.0\" is not supported: use one of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"}"#
        ]],
    );
    check_refusal(
        &ENVIRONMENT,
        "{",
        expect![[
            r#"{"cniVersion":"1.1.0","code":6,"msg":"cannot decode content","details":"the network configuration is not valid: EOF while parsing an object at line 1 column 1"}"#
        ]],
    );
    check_refusal(
        &ENVIRONMENT,
        r#"{"cniVersion":"0.4.0"}"#,
        expect![[
            r#"{"cniVersion":"0.4.0","code":7,"msg":"invalid network configuration","details":"network configuration: network: missing, and so is \"name\""}"#
        ]],
    );
    let mut unknown_key = ENVIRONMENT.to_vec();
    unknown_key.push(("CNI_ARGS", "FOO=bar"));
    check_refusal(
        &unknown_key,
        config,
        expect![[
            r#"{"cniVersion":"1.1.0","code":4,"msg":"invalid environment variables","details":"CNI_ARGS=\"FOO=bar\": unknown key \"FOO\"; add IgnoreUnknown=1 to pass it over"}"#
        ]],
    );
}

#[test]
fn version_answers_whatever_is_asked_in() {
    let lookup = |name: &str| (name == "CNI_COMMAND").then(|| "VERSION".to_owned());
    for (input, echoed) in [
        (r#"{"cniVersion":"0.3.1"}"#, "0.3.1"),
        (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
        ("", "1.1.0"),
        ("{}", "1.1.0"),
    ] {
        let outcome = run(Role::Interface, &lookup, &mut input.as_bytes());
        assert!(outcome.success);
        assert_eq!(
            outcome.reply,
            format!(
                r#"{{"cniVersion":"{echoed}","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}}"#
            )
        );
    }
}
