//! Which rows lie end to end in one packed row. Pure, and the same for every epoch: the order of packed rows is what changes.

use std::collections::BTreeSet;

/// Rows of these lengths as packed rows of at most `capacity` tokens, each a list of rows in their order.
///
/// Best fit, the longest first: a row goes where it leaves the least room. A row longer than the capacity stands alone.
/// Packed rows are in the order of their first rows.
pub fn pack(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<usize> = (0..lengths.len()).collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(lengths[*row]), *row));
    let mut packs: Vec<Vec<usize>> = Vec::new();
    // By the room that is left, then by age.
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    for row in rows {
        let length = lengths[row];
        let (room, pack) = match open.range((length, 0)..).next().copied() {
            Some(best) => {
                open.remove(&best);
                best
            }
            None => {
                packs.push(Vec::new());
                (capacity.max(length), packs.len() - 1)
            }
        };
        packs[pack].push(row);
        if room > length {
            open.insert((room - length, pack));
        }
    }
    for pack in &mut packs {
        pack.sort_unstable();
    }
    packs.sort_unstable();
    packs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_goes_where_it_leaves_the_least_room() {
        // 6 + 4 and 5 + 3 + 2, not 6 + 3 and 5 + 4 and 2.
        assert_eq!(pack(&[3, 6, 2, 5, 4], 10), [vec![0, 2, 3], vec![1, 4]]);
    }

    #[test]
    fn rows_that_fill_a_packed_row_or_more_stand_alone() {
        assert_eq!(pack(&[10, 1, 12], 10), [vec![0], vec![1], vec![2]]);
        assert!(pack(&[], 10).is_empty());
    }

    proptest! {
        #[test]
        fn each_row_is_packed_once_and_none_overflows(
            lengths in prop::collection::vec(1_usize..=64, 0..200),
        ) {
            let packs = pack(&lengths, 64);
            let mut rows = packs.concat();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            let total: usize = lengths.iter().sum();
            for pack in &packs {
                prop_assert!(pack.iter().map(|row| lengths[*row]).sum::<usize>() <= 64);
            }
            // Two packed rows that are less than half full would have been one.
            prop_assert!(packs.len() <= 2 * total.div_ceil(64));
        }
    }
}
