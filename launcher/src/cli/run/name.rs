//! Random names for containers that were given none.

const ADJECTIVES: [&str; 40] = [
    "able", "amber", "bold", "brave", "brisk", "calm", "clever", "coastal", "daring", "eager",
    "early", "fair", "fleet", "gentle", "golden", "hardy", "honest", "humble", "jolly", "keen",
    "kind", "lively", "lucky", "mellow", "merry", "nimble", "noble", "patient", "proud", "quick",
    "quiet", "ready", "silent", "steady", "sunny", "swift", "tidy", "vivid", "wise", "witty",
];

/// Navigators, shipbuilders and people who measured the sea.
const SURNAMES: [&str; 40] = [
    "amundsen",
    "baffin",
    "barents",
    "beaufort",
    "bering",
    "bowditch",
    "cabot",
    "cook",
    "cousteau",
    "dampier",
    "davis",
    "drake",
    "earle",
    "ekman",
    "fitzroy",
    "flinders",
    "franklin",
    "frobisher",
    "gama",
    "hadley",
    "harrison",
    "hudson",
    "humboldt",
    "kidd",
    "laperouse",
    "magellan",
    "maury",
    "mercator",
    "nansen",
    "parry",
    "peary",
    "piccard",
    "ross",
    "scoresby",
    "shackleton",
    "slocum",
    "tasman",
    "tharp",
    "vancouver",
    "zheng",
];

/// Two bytes choose one of 1600 names; `attempt` adds a digit when that one was taken.
pub fn random(bytes: [u8; 2], attempt: u32) -> String {
    let adjective = ADJECTIVES[usize::from(bytes[0]) % ADJECTIVES.len()];
    let surname = SURNAMES[usize::from(bytes[1]) % SURNAMES.len()];
    match attempt {
        0 => format!("{adjective}_{surname}"),
        _ => format!("{adjective}_{surname}{attempt}"),
    }
}

#[cfg(test)]
mod tests {
    use api::id::ContainerName;

    use super::*;

    #[test]
    fn every_choice_is_a_valid_name() {
        for byte in 0..=255 {
            let name = random([byte, 255 - byte], u32::from(byte));
            assert!(ContainerName::parse(&name).is_ok(), "{name}");
        }
        assert_eq!(random([0, 0], 0), "able_amundsen");
    }
}
