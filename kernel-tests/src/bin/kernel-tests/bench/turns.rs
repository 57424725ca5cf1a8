//! Taking turns: everything that is compared is measured in the same run, one after the other.

use std::time::{Duration, Instant};

use anyhow::Result;

/// One turn of a player.
pub(crate) type Sample<'a, T> = Box<dyn FnMut() -> Result<T> + 'a>;
/// What a player's turns yielded, or why it cannot play.
pub(crate) type Figures<T> = Result<Vec<T>, String>;

/// A player leaves early, with the figures it has, when its turns have taken this long together.
const BUDGET: Duration = Duration::from_secs(120);
/// Figures that a player has to have for that.
const ENOUGH: usize = 5;

/// What the orders are drawn from: the same in every run.
const SEED: u64 = 1;

/// Lets all players take `runs` turns each, in an order drawn anew for every repeat, so that none
/// always bears what the same other one leaves behind: memory that the kernel still frees, caches.
/// The first turn of each warms caches and does not count.
///
/// A player that fails is out: its figures are the reason.
pub(crate) fn take<'a, T>(
    runs: usize,
    players: impl IntoIterator<Item = Result<Sample<'a, T>, String>>,
) -> Vec<Figures<T>> {
    let mut players: Vec<Player<'a, T>> = players.into_iter().map(Player::new).collect();
    let mut order: Vec<usize> = (0..players.len()).collect();
    let mut lots = fastrand::Rng::with_seed(SEED);
    for repeat in 0..=runs {
        lots.shuffle(&mut order);
        for &place in &order {
            players[place].turn(repeat > 0);
        }
    }
    players
        .into_iter()
        .map(|player| player.sample.map(|_sample| player.figures))
        .collect()
}

struct Player<'a, T> {
    sample: Result<Sample<'a, T>, String>,
    figures: Vec<T>,
    spent: Duration,
}

impl<'a, T> Player<'a, T> {
    fn new(sample: Result<Sample<'a, T>, String>) -> Self {
        Self {
            sample,
            figures: Vec::new(),
            spent: Duration::ZERO,
        }
    }

    fn turn(&mut self, counts: bool) {
        let Ok(sample) = &mut self.sample else {
            return;
        };
        if self.spent > BUDGET && self.figures.len() >= ENOUGH {
            return;
        }
        let begin = Instant::now();
        match sample() {
            Ok(figure) if counts => self.figures.push(figure),
            Ok(_warm) => {}
            Err(error) => self.sample = Err(format!("{error:#}")),
        }
        self.spent += begin.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;

    use super::*;

    #[test]
    fn the_first_turn_does_not_count() {
        let mut figures = [100, 1, 2, 3].into_iter();
        let sample: Sample<'_, i32> = Box::new(move || Ok(figures.next().unwrap()));
        assert_eq!(take(3, [Ok(sample)]), [Ok(vec![1, 2, 3])]);
    }

    #[test]
    fn all_play_in_every_repeat_and_follow_each_other_by_lot() {
        let order = RefCell::new(String::new());
        let player = |name: char| -> Result<Sample<'_, ()>, String> {
            let order = &order;
            Ok(Box::new(move || {
                order.borrow_mut().push(name);
                Ok(())
            }))
        };
        take(20, [player('a'), player('b'), player('c')]);
        let order = order.into_inner();
        for repeat in order.as_bytes().chunks(3) {
            let mut players = repeat.to_vec();
            players.sort_unstable();
            assert_eq!(players, b"abc");
        }
        for pair in ["ab", "ba", "ac", "ca", "bc", "cb"] {
            assert!(order.contains(pair), "{pair} in {order}");
        }
    }

    #[test]
    fn a_player_that_fails_is_out_and_the_others_go_on() {
        let mut turns = 0;
        let fails: Sample<'_, i32> = Box::new(move || {
            turns += 1;
            if turns == 3 {
                bail!("no more");
            }
            Ok(turns)
        });
        let plays: Sample<'_, i32> = Box::new(|| Ok(1));
        let figures = take(3, [Ok(fails), Err("absent".to_owned()), Ok(plays)]);
        let [failed, absent, played] = &figures[..] else {
            panic!("{figures:?}");
        };
        assert_eq!(failed, &Err("no more".to_owned()));
        assert_eq!(absent, &Err("absent".to_owned()));
        assert_eq!(played, &Ok(vec![1, 1, 1]));
    }
}
