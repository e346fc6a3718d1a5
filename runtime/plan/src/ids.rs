//! Ids: which user and group numbers exist inside an action, and what they are outside.

use serde::{Deserialize, Serialize};

/// One line of a uid_map: `count` ids from `inside` are those from `outside` in the parent namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// The map of an action whose process runs as `own`, cloned from a namespace with the ids of `parent`.
///
/// The caller's id (0 in a parent made for an ordinary user) becomes `own`, so that the process has the caller's
/// rights over the caller's files; all other ids follow in order. A privileged caller's ids stay what they are.
pub fn action_map(own: u32, parent: &[Extent], privileged: bool) -> Vec<Extent> {
    if privileged {
        return parent
            .iter()
            .map(|e| Extent { inside: e.inside, outside: e.inside, count: e.count })
            .collect();
    }
    let others =
        parent.iter().map(|extent| u64::from(extent.inside) + u64::from(extent.count)).max().unwrap_or(1);
    let others = u32::try_from(others.saturating_sub(1)).unwrap_or(u32::MAX);
    let below = own.min(others);
    let mut map = Vec::with_capacity(3);
    if below > 0 {
        map.push(Extent { inside: 0, outside: 1, count: below });
    }
    map.push(Extent { inside: own, outside: 0, count: 1 });
    if others > below {
        map.push(Extent { inside: own + 1, outside: below + 1, count: others - below });
    }
    map
}

/// What `id` inside is in the parent namespace.
pub fn outside(map: &[Extent], id: u32) -> Option<u32> {
    let extent = map.iter().find(|e| id >= e.inside && id - e.inside < e.count)?;
    Some(extent.outside + (id - extent.inside))
}

/// What `id` of the parent's own parent is inside the parent namespace.
pub fn inside(map: &[Extent], id: u32) -> Option<u32> {
    let extent = map.iter().find(|e| id >= e.outside && id - e.outside < e.count)?;
    Some(extent.inside + (id - extent.outside))
}

/// `extent`, whose outside is in the parent namespace, with the parent's outside instead; cut where the parent's
/// map has a seam.
pub fn through(extent: Extent, parent: &[Extent]) -> Vec<Extent> {
    let mut pieces = Vec::new();
    let mut done = 0;
    while done < extent.count {
        let from = extent.outside + done;
        let Some(seam) = parent.iter().find(|e| from >= e.inside && from - e.inside < e.count) else { break };
        let count = (seam.count - (from - seam.inside)).min(extent.count - done);
        pieces.push(Extent {
            inside: extent.inside + done,
            outside: seam.outside + (from - seam.inside),
            count,
        });
        done += count;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDINARY: &[Extent] = &[
        Extent { inside: 0, outside: 1000, count: 1 },
        Extent { inside: 1, outside: 100_000, count: 65_536 },
    ];

    #[test]
    fn the_caller_keeps_its_own_number() {
        let map = action_map(1000, ORDINARY, false);
        assert_eq!(outside(&map, 1000), Some(0));
        assert_eq!(outside(&map, 0), Some(1));
        assert_eq!(outside(&map, 999), Some(1000));
        assert_eq!(outside(&map, 1001), Some(1001));
        assert_eq!(outside(&map, 65_536), Some(65_536));
        assert_eq!(outside(&map, 65_537), None);
    }

    #[test]
    fn root_inside_is_the_caller_when_asked_for() {
        let map = action_map(0, ORDINARY, false);
        assert_eq!(outside(&map, 0), Some(0));
        assert_eq!(outside(&map, 1), Some(1));
    }

    #[test]
    fn one_id_alone_is_mapped_alone() {
        let parent = [Extent { inside: 0, outside: 1000, count: 1 }];
        assert_eq!(action_map(1000, &parent, false), [Extent { inside: 1000, outside: 0, count: 1 }]);
    }

    #[test]
    fn a_number_beyond_the_range_is_mapped_too() {
        let map = action_map(200_000, ORDINARY, false);
        assert_eq!(outside(&map, 200_000), Some(0));
        assert_eq!(outside(&map, 65_535), Some(65_536));
        assert_eq!(outside(&map, 65_536), None);
    }

    #[test]
    fn a_privileged_caller_keeps_every_number() {
        let parent = [Extent { inside: 0, outside: 0, count: u32::MAX }];
        let map = action_map(1000, &parent, true);
        assert_eq!(outside(&map, 0), Some(0));
        assert_eq!(outside(&map, 77), Some(77));
    }

    #[test]
    fn a_map_seen_from_the_host_is_cut_at_the_parents_seams() {
        let whole = Extent { inside: 0, outside: 0, count: 65_537 };
        assert_eq!(through(whole, ORDINARY), ORDINARY);
        let host: Vec<_> =
            action_map(1000, ORDINARY, false).into_iter().flat_map(|e| through(e, ORDINARY)).collect();
        assert_eq!(outside(&host, 1000), Some(1000));
        assert_eq!(outside(&host, 0), Some(100_000));
    }

    #[test]
    fn no_two_ids_inside_share_one_outside() {
        for own in [0, 1, 2, 1000, 65_535, 65_536, 70_000] {
            let map = action_map(own, ORDINARY, false);
            let mut seen = std::collections::HashSet::new();
            for extent in &map {
                for step in 0..extent.count {
                    assert!(seen.insert(extent.outside + step), "own {own}: {extent:?}");
                    assert!(extent.outside + step <= 65_536);
                }
            }
        }
    }
}
