//! The benches run where no peer is.

#[cfg(test)]
mod root {
    use std::fs;
    use std::process::Command;

    use kernel_tests::program;
    use serde_json::Value;

    fn rows(words: &str) -> Vec<Value> {
        let scratch = tempfile::tempdir().unwrap();
        let json = scratch.path().join("rows.json");
        let mut bench = Command::new(program::under_test("kernel-tests").unwrap());
        bench.arg("bench").args(words.split(' '));
        // An empty directory of peers.
        bench
            .arg("--json")
            .arg(&json)
            .env("HAWSER_PEERS", scratch.path());
        program::output(&mut bench).unwrap_or_else(|error| panic!("{error:#}"));
        serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap()
    }

    #[track_caller]
    fn assert_ours_alone(row: &Value) {
        assert!(row["ours"].as_f64().is_some_and(|ours| ours > 0.0), "{row}");
        assert!(row["peer"].is_null() && row["ratio"].is_null(), "{row}");
        let note = row["note"].as_str().unwrap_or_default();
        assert!(note.contains("does not exist"), "{row}");
    }

    #[test]
    fn storage_is_measured_without_peers() {
        let rows = rows("storage scale-import --runs 1 --image-mib 8 --volumes 10 --volume-mib 64");
        // Two imports beside three ways of them, four depths, two sizes of files that are kept and that
        // are not, commit, two of volumes, two of mounts, one beside podman, a restart, two copies in
        // three places.
        assert_eq!(rows.len(), 27);
        for row in &rows {
            assert!(row["ours"].as_f64().is_some_and(|ours| ours > 0.0), "{row}");
        }
    }

    #[test]
    fn attaches_are_measured_without_peers() {
        let rows = rows("cni-add scale-range --runs 1 --ports 4");
        // Two peers: ADD and DEL, and the range.
        assert_eq!(rows.len(), 6);
        rows.iter().for_each(assert_ours_alone);
    }

    #[test]
    fn packets_are_timed_on_the_programs_of_a_daemon() {
        let rows = rows("packets --runs 1 --published 1,3");
        // Eleven ways of both families, an empty program among them, twice.
        assert_eq!(rows.len(), 44);
        for row in &rows {
            assert!(row["ours"].as_f64().is_some_and(|ours| ours > 0.0), "{row}");
            assert_eq!((&row["unit"], &row["peer"]), (&"ns".into(), &Value::Null));
        }
    }

    #[test]
    fn no_question_is_lost_while_containers_come() {
        let rows = rows("scale-names --runs 1 --zone 4 --storm 20");
        let (lost, others): (Vec<Value>, Vec<Value>) =
            rows.into_iter().partition(|row| row["unit"] == "queries");
        // Of the kernel and of the daemon, each with two windows, quiet and in a storm.
        assert_eq!(lost.len(), 8);
        for row in &lost {
            assert_eq!(
                (&row["ours"], &row["goal_met"]),
                (&0.0.into(), &true.into()),
                "{row}"
            );
        }
        let (ours, peers): (Vec<Value>, Vec<Value>) = others.into_iter().partition(|row| {
            row["peer_name"]
                .as_str()
                .unwrap_or_default()
                .starts_with("hawser")
        });
        assert_eq!(ours.len(), 4);
        peers.iter().for_each(assert_ours_alone);
    }
}
