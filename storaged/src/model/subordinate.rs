//! Subordinate ids (subuid(5)): which ids of the host the user namespaces of a user may have.

use std::collections::BTreeSet;

use api::owner::{IdMaps, IdRange};

/// How many ids a container has: those of every image there is, and few enough for many blocks.
pub(crate) const IDS: u32 = 65_536;

/// Ids in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// What a file grants to whoever has one of `names`, in its order. Lines that mean nothing count for
/// nothing, as for newuidmap(1).
pub(crate) fn parse(text: &str, names: &[&str]) -> Vec<Span> {
    let spans = text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
        // The last id of all is nobody's (`INVALID_UID` in the kernel's `linux/uidgid.h`).
        let fits = first.checked_add(count).is_some() && count > 0;
        // Nobody may be the host's root.
        (names.contains(&name) && fits && first > 0).then_some(Span { first, count })
    });
    spans.collect()
}

/// The block of ids number `n`, of those that the spans have one after the other. The last one may be
/// short; nothing beyond.
fn block(spans: &[Span], n: u32) -> Vec<IdRange> {
    let (mut skip, mut container) = (u64::from(n) * u64::from(IDS), 0);
    let mut ranges = Vec::new();
    for span in spans {
        let skipped = u32::try_from(skip).unwrap_or(u32::MAX).min(span.count);
        skip -= u64::from(skipped);
        let size = (span.count - skipped).min(IDS - container);
        if size > 0 {
            let host = span.first + skipped;
            ranges.push(IdRange {
                container,
                host,
                size,
            });
            container += size;
        }
    }
    ranges
}

/// The first block, which all containers share that ask for no ids of their own.
pub(crate) fn shared(uids: &[Span], gids: &[Span]) -> IdMaps {
    IdMaps {
        uids: block(uids, 0),
        gids: block(gids, 0),
    }
}

/// The first whole block that nobody has, after the one that is shared.
pub(crate) fn own(uids: &[Span], gids: &[Span], taken: &BTreeSet<u32>) -> Option<IdMaps> {
    let is_whole = |ranges: &[IdRange]| ranges.iter().map(|range| range.size).sum::<u32>() == IDS;
    let blocks = (1..).map(|n| IdMaps {
        uids: block(uids, n),
        gids: block(gids, n),
    });
    blocks
        .take_while(|maps| is_whole(&maps.uids) && is_whole(&maps.gids))
        .find(|maps| maps.host_uid(0).is_some_and(|root| !taken.contains(&root)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u32, count: u32) -> Span {
        Span { first, count }
    }

    #[test]
    fn lines_are_the_users_own_and_make_sense() {
        let text = "ann:100000:65536\nbob:1:2\n1000:7:3\nann:0:10\nann:4294967295:1\n\
                    ann:x:1\nann:5\n#\nann:5:0\n  ann:300000:1  \n";
        assert_eq!(
            parse(text, &["ann", "1000"]),
            [span(100_000, 65_536), span(7, 3), span(300_000, 1)]
        );
        assert_eq!(parse(text, &["eve"]), []);
    }

    #[test]
    fn blocks_go_across_spans() {
        let spans = [span(100_000, 65_000), span(500_000, 100_000)];
        let shared = shared(&spans, &spans[..1]);
        assert_eq!(shared.host_uid(64_999), Some(164_999));
        assert_eq!(shared.host_uid(65_000), Some(500_000));
        assert_eq!(shared.host_uid(65_535), Some(500_535));
        assert_eq!(shared.host_uid(65_536), None);
        assert_eq!(shared.host_gid(65_000), None, "short, but there");
    }

    #[test]
    fn everyone_has_a_block_of_ones_own() {
        let spans = [span(100_000, 3 * IDS + 5)];
        let mut taken = BTreeSet::new();
        for expected in [165_536, 231_072] {
            let maps = own(&spans, &spans, &taken).unwrap();
            assert_eq!(maps.host_uid(0), Some(expected));
            assert_eq!(maps.host_gid(IDS - 1), Some(expected + IDS - 1));
            taken.insert(expected);
        }
        assert_eq!(own(&spans, &spans, &taken), None, "half a block is none");
        taken.remove(&165_536);
        assert_eq!(
            own(&spans, &spans, &taken).unwrap().host_uid(0),
            Some(165_536)
        );
        assert_eq!(own(&spans, &[span(1, 2 * IDS - 1)], &taken), None);
    }
}
