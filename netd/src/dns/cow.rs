//! A hash map whose copies are cheap, so that every publication can be an immutable snapshot.
//!
//! The entries are spread over shards behind `Arc`s. A clone copies the shard pointers only, and a
//! change after it copies the one shard it touches. Publishing one endpoint into a network of
//! thousands therefore costs about the same as into an empty one.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// At 1 000 endpoints of five names a shard holds about 80 entries.
const SHARDS: usize = 64;

#[derive(Debug, Clone)]
pub(super) struct CowMap<K, V> {
    shards: Box<[Arc<HashMap<K, V, RandomState>>]>,
    hasher: RandomState,
}

impl<K, V> Default for CowMap<K, V> {
    fn default() -> Self {
        let hasher = RandomState::new();
        let empty = Arc::new(HashMap::with_hasher(hasher.clone()));
        Self {
            shards: vec![empty; SHARDS].into(),
            hasher,
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> CowMap<K, V> {
    fn shard_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        // Bits in the middle: a shard places its entries by the low ones and tells them apart by
        // the high ones, which would be alike in a whole shard.
        (self.hasher.hash_one(key) >> 32) as usize % SHARDS
    }

    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards[self.shard_of(key)].get(key)
    }

    pub(super) fn get_key_value<Q>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards[self.shard_of(key)].get_key_value(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let shard = self.shard_of(&key);
        Arc::make_mut(&mut self.shards[shard]).insert(key, value);
    }

    /// The value of `key`, for changing; copies its shard when a clone of the map shares it.
    pub(super) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = self.shard_of(key);
        Arc::make_mut(&mut self.shards[shard]).get_mut(key)
    }

    /// Like [`Self::get_mut`], with a default value put in when there is none.
    pub(super) fn get_or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        let shard = self.shard_of(&key);
        Arc::make_mut(&mut self.shards[shard])
            .entry(key)
            .or_default()
    }

    pub(super) fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = self.shard_of(key);
        if self.shards[shard].contains_key(key) {
            Arc::make_mut(&mut self.shards[shard]).remove(key);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.shards.iter().flat_map(|shard| shard.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut map = CowMap::default();
        for key in 0..1000 {
            map.insert(key, key);
        }
        let copy = map.clone();
        map.remove(&7);
        map.insert(8, 80);
        map.insert(5000, 1);
        assert_eq!(
            (map.get(&7), map.get(&8), map.len()),
            (None, Some(&80), 1000)
        );
        assert_eq!(
            (copy.get(&7), copy.get(&8), copy.len()),
            (Some(&7), Some(&8), 1000)
        );
        assert_eq!(copy.get(&5000), None);
    }

    #[test]
    fn removing_everything_leaves_it_empty() {
        let mut map = CowMap::default();
        assert!(map.is_empty());
        map.insert("a", ());
        map.remove("a");
        map.remove("b");
        assert!(map.is_empty());
    }
}
