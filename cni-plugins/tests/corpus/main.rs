//! Replays the inputs of the fuzz target `cni_stdin`.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails here")]

mod judge;

use std::path::Path;

#[test]
fn every_input_of_the_corpus_is_answered() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/cni_stdin");
    let mut count = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus") {
        let path = entry.expect("the corpus").path();
        judge::judge(&std::fs::read(&path).expect("an input"));
        count += 1;
    }
    assert!(count > 20, "{count} inputs");
}

/// Cuts and flips every input in every place: most of what a fuzzer finds first.
#[test]
fn damaged_inputs_are_answered() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/cni_stdin");
    for entry in std::fs::read_dir(corpus).expect("the corpus") {
        let input = std::fs::read(entry.expect("the corpus").path()).expect("an input");
        for at in 0..input.len() {
            judge::judge(&input[..at]);
            let mut flipped = input.clone();
            flipped[at] ^= 0x11;
            judge::judge(&flipped);
        }
    }
}
