//! Services under load while the daemon is killed, and while members come and go.

#[cfg(test)]
mod root {
    use std::time::Duration;

    use kernel_tests::soak;

    /// `cargo xtask bench soak` does the same for as long as it is told to.
    const LONG_ENOUGH: Duration = Duration::from_secs(20);

    #[test]
    fn no_connection_notices_a_daemon_that_is_killed_every_second() {
        let outcome = soak::kills(LONG_ENOUGH).unwrap();
        println!("{outcome}");
        assert!(outcome.failures.is_empty(), "{outcome}");
        assert!(outcome.events >= 8, "{outcome}");
        assert!(outcome.opened > 1000, "{outcome}");
    }

    #[test]
    fn members_join_drain_and_die_and_only_the_dead_ones_connections_are_lost() {
        let outcome = soak::churn(LONG_ENOUGH, 3).unwrap();
        println!("{outcome}, {:.0} connections a second", outcome.rate());
        assert!(outcome.failures.is_empty(), "{outcome}");
        assert!(outcome.events >= 4, "{outcome}");
        assert!(outcome.opened > 1000, "{outcome}");
    }
}
