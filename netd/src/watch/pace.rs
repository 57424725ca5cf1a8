//! How often changes by others are undone, so that nobody is fought with at full speed.

use std::time::{Duration, Instant};

/// Repairs further apart than this have nothing to do with each other.
const CALM: Duration = Duration::from_secs(10);
/// So many repairs in a row are a dispute.
const DISPUTE: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The repairs so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    in_a_row: u32,
    last: Option<Instant>,
}

impl Pace {
    /// Notes that something had to be repaired. True when this begins a dispute: somebody undoes
    /// each repair.
    pub(super) fn repaired(&mut self, now: Instant) -> bool {
        let patience = CALM + self.pause();
        let soon = self
            .last
            .is_some_and(|last| now.duration_since(last) < patience);
        self.in_a_row = if soon { self.in_a_row + 1 } else { 1 };
        self.last = Some(now);
        self.in_a_row == DISPUTE
    }

    /// When the next look may be.
    pub(super) fn next(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| now.max(last + self.pause()))
    }

    /// Twice as long after every further repair of a dispute.
    fn pause(&self) -> Duration {
        match self.in_a_row.checked_sub(DISPUTE) {
            None => Duration::ZERO,
            Some(further) => (FIRST_PAUSE * 2_u32.pow(further.min(5))).min(LONGEST_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_now_and_then_is_repaired_at_once() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            assert!(!pace.repaired(now));
            assert_eq!(pace.next(now), now);
            now += CALM;
        }
    }

    #[test]
    fn a_dispute_is_told_once_and_gets_slower() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        let mut told = 0;
        for _ in 0..20 {
            told += u32::from(pace.repaired(now));
            pauses.push((pace.next(now) - now).as_secs());
            now = pace.next(now) + Duration::from_millis(10);
        }
        assert_eq!(told, 1);
        assert_eq!(pauses[..12], [0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16]);
        assert_eq!(pauses[12..], [30; 8]);
        // It is over when nothing had to be repaired for a while.
        now += CALM + LONGEST_PAUSE;
        assert!(!pace.repaired(now));
        assert_eq!(pace.next(now), now);
    }
}
