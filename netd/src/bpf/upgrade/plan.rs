//! What becomes of the maps that an earlier daemon has pinned: a pure decision.

use std::collections::BTreeMap;

use sys::bpf::map::Shape;

/// The tail-call tables, which are led over and not copied.
pub(super) const TABLE_PREFIX: &str = "jump_";

/// An entry of an earlier layout as this one has it; `None` for one that it has no use for.
pub(in crate::bpf) type Conversion = fn(&[u8], &[u8]) -> Option<(Vec<u8>, Vec<u8>)>;

/// What becomes of a map.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    /// Both use it: the same layout.
    Share,
    /// Its entries go into another one, as they are: only the number of them that fit differs.
    Copy,
    /// Its entries go into another one, in another form.
    Convert(Conversion),
    /// Another one begins empty: counters of each CPU, rings, and tables that are made again.
    Anew,
    /// The slots of attached programs lead to the new programs.
    LeadOver,
}

/// A map that nobody knows how to carry over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) map: String,
    pub(super) has: Shape,
    pub(super) wants: Shape,
}

/// Whether any of the maps is not as it should be.
pub(super) fn differs(pinned: &BTreeMap<String, Shape>, wanted: &BTreeMap<String, Shape>) -> bool {
    let same = |(name, has): (&String, &Shape)| wanted.get(name).is_none_or(|wants| wants == has);
    !pinned.iter().all(same)
}

/// The fate of each map that is pinned and wanted. What is only wanted is made, what is only pinned
/// goes with the programs that used it.
pub(super) fn plan(
    pinned: &BTreeMap<String, Shape>,
    wanted: &BTreeMap<String, Shape>,
    conversions: &BTreeMap<&'static str, Conversion>,
) -> Result<BTreeMap<String, Fate>, Misfit> {
    let known = pinned
        .iter()
        .filter_map(|(name, has)| Some((name, has, wanted.get(name)?)));
    known
        .map(|(name, has, wants)| {
            let layout = |shape: &Shape| (shape.kind, shape.key_size, shape.value_size);
            let fate = match conversions.get(name.as_str()) {
                _ if name.starts_with(TABLE_PREFIX) => Fate::LeadOver,
                Some(conversion) => Fate::Convert(*conversion),
                None if has == wants => Fate::Share,
                None if !wants.holds_bytes() => Fate::Anew,
                None if layout(has) == layout(wants) => Fate::Copy,
                None => {
                    return Err(Misfit {
                        map: name.clone(),
                        has: *has,
                        wants: *wants,
                    });
                }
            };
            Ok((name.clone(), fate))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: Shape = Shape {
        kind: 1,
        key_size: 20,
        value_size: 8,
        max_entries: 100,
        flags: 1,
    };
    const PER_CPU: Shape = Shape { kind: 6, ..HASH };

    fn shapes(all: &[(&str, Shape)]) -> BTreeMap<String, Shape> {
        let all = all.iter();
        all.map(|(name, shape)| ((*name).to_owned(), *shape))
            .collect()
    }

    fn larger(shape: Shape) -> Shape {
        Shape {
            max_entries: 200,
            ..shape
        }
    }

    fn wider(shape: Shape) -> Shape {
        Shape {
            value_size: 16,
            ..shape
        }
    }

    #[test]
    fn each_map_has_the_gentlest_fate_that_fits() {
        let pinned = shapes(&[
            ("same", HASH),
            ("grown", HASH),
            ("counters", PER_CPU),
            ("gone", HASH),
            ("jump_tc", HASH),
        ]);
        let wanted = shapes(&[
            ("same", HASH),
            ("grown", larger(HASH)),
            ("counters", wider(PER_CPU)),
            ("new", HASH),
            ("jump_tc", HASH),
        ]);
        assert!(differs(&pinned, &wanted));
        let fates = plan(&pinned, &wanted, &BTreeMap::new()).unwrap();
        let shown: Vec<String> = fates
            .iter()
            .map(|(name, fate)| format!("{name} {fate:?}"))
            .collect();
        assert_eq!(
            shown,
            [
                "counters Anew",
                "grown Copy",
                "jump_tc LeadOver",
                "same Share"
            ]
        );
    }

    #[test]
    fn what_is_as_it_should_be_needs_no_upgrade() {
        let pinned = shapes(&[("same", HASH), ("gone", HASH)]);
        let wanted = shapes(&[("same", HASH), ("new", HASH)]);
        assert!(!differs(&pinned, &wanted));
    }

    #[test]
    fn another_layout_needs_a_conversion() {
        let (pinned, wanted) = (shapes(&[("a", HASH)]), shapes(&[("a", wider(HASH))]));
        let misfit = plan(&pinned, &wanted, &BTreeMap::new()).unwrap_err();
        assert_eq!((misfit.map.as_str(), misfit.wants), ("a", wider(HASH)));
        // An artificial change: values had four words and have eight now.
        let widen: Conversion = |key, value| {
            let wide = [value, &[0; 8]].concat();
            (value[0] != 0).then(|| (key.to_vec(), wide))
        };
        let fates = plan(&pinned, &wanted, &[("a", widen)].into()).unwrap();
        let Fate::Convert(convert) = fates["a"] else {
            panic!("{fates:?}");
        };
        let (key, value) = convert(&[7; 20], &[1; 8]).unwrap();
        assert_eq!((key.len(), value.len()), (20, 16));
        assert!(convert(&[7; 20], &[0; 8]).is_none(), "an entry of no use");
    }

    #[test]
    fn a_layout_that_looks_the_same_may_mean_something_else() {
        let same = shapes(&[("a", HASH)]);
        let swap: Conversion =
            |key, value| Some((key.to_vec(), value.iter().rev().copied().collect()));
        let fates = plan(&same, &same, &[("a", swap)].into()).unwrap();
        assert!(matches!(fates["a"], Fate::Convert(_)));
    }
}
