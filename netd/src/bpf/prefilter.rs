//! The bit maps by which the tc programs pass most packets at once.
//!
//! The users of each bit are counted in memory and rebuilt from the other maps at start, so that a
//! bit a dead daemon left behind is cleared then.

use std::collections::{BTreeMap, BTreeSet};

use abi::frontend::{Bit, PREFILTER_SCTP_WORDS, PREFILTER_VIPS_WORDS, PREFILTER_WORDS};
use abi::map::{PREFILTER, PREFILTER_SCTP, PREFILTER_VIPS};
use aya::Ebpf;
use aya::maps::{Array, MapData, MapError};

use super::error::BpfError;
use super::object;

pub(super) struct Prefilter {
    map: Array<MapData, u64>,
    sctp: Array<MapData, u64>,
    vips: Array<MapData, u64>,
    users: BTreeMap<Bit, u32>,
}

impl Prefilter {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            map: object::take(object, PREFILTER)?,
            sctp: object::take(object, PREFILTER_SCTP)?,
            vips: object::take(object, PREFILTER_VIPS)?,
            users: BTreeMap::new(),
        })
    }

    /// Makes `bits` (with repetitions) the ones in use.
    pub(super) fn rebuild(&mut self, bits: impl Iterator<Item = Bit>) -> Result<(), BpfError> {
        self.users.clear();
        let mut words = BTreeMap::<u32, u64>::new();
        for bit in bits {
            *self.users.entry(bit).or_default() += 1;
            *words.entry(bit.word).or_default() |= bit.mask;
        }
        (0..PREFILTER_WORDS + PREFILTER_SCTP_WORDS + PREFILTER_VIPS_WORDS)
            .try_for_each(|word| self.set(word, words.get(&word).copied().unwrap_or(0)))
            .map_err(BpfError::map(PREFILTER))
    }

    /// One write for each word, however many of its bits are new.
    pub(super) fn add(&mut self, bits: impl Iterator<Item = Bit>) -> Result<(), BpfError> {
        let bits: Vec<Bit> = bits.collect();
        let mut words = BTreeMap::<u32, u64>::new();
        for bit in bits.iter().filter(|bit| !self.users.contains_key(bit)) {
            *words.entry(bit.word).or_default() |= bit.mask;
        }
        for (word, new) in words {
            self.set(word, self.word(word) | new)
                .map_err(BpfError::map(PREFILTER))?;
        }
        for bit in bits {
            *self.users.entry(bit).or_default() += 1;
        }
        Ok(())
    }

    /// As [`Self::add`]; one that was not added changes nothing.
    pub(super) fn remove(&mut self, bits: impl Iterator<Item = Bit>) -> Result<(), BpfError> {
        let mut words = BTreeSet::new();
        for bit in bits {
            match self.users.get_mut(&bit) {
                Some(users) if *users > 1 => *users -= 1,
                Some(_last) => {
                    self.users.remove(&bit);
                    words.insert(bit.word);
                }
                None => {}
            }
        }
        words
            .into_iter()
            .try_for_each(|word| self.set(word, self.word(word)))
            .map_err(BpfError::map(PREFILTER))
    }

    /// The word as the users have it.
    fn word(&self, word: u32) -> u64 {
        let first = Bit { word, mask: 0 };
        self.users
            .range(first..)
            .take_while(|(bit, _)| bit.word == word)
            .fold(0, |word, (bit, _)| word | bit.mask)
    }

    fn set(&mut self, word: u32, value: u64) -> Result<(), MapError> {
        let vips = word.checked_sub(PREFILTER_WORDS + PREFILTER_SCTP_WORDS);
        let (map, index) = match (word.checked_sub(PREFILTER_WORDS), vips) {
            (_, Some(index)) => (&mut self.vips, index),
            (Some(index), None) => (&mut self.sctp, index),
            (None, None) => (&mut self.map, word),
        };
        if map.get(&index, 0)? != value {
            map.set(index, value, 0)?;
        }
        Ok(())
    }
}
