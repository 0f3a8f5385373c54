//! Chooses general data and mixes it in. Pure: nothing depends on chance, so that the same files give the same rows.

use std::collections::HashSet;

use finetune_artifacts::rows::Row;

/// As many of `rows` as make `fraction` of all rows, `count` others given. Those with the least hashes are taken, so that a
/// grown file changes few of them; none twice, and none of the `taken` ones.
pub(super) fn choose<'rows>(
    rows: &'rows [Row],
    fraction: f64,
    count: usize,
    taken: &HashSet<[u8; 32]>,
) -> Chosen<'rows> {
    let wanted = (count as f64 * fraction / (1.0 - fraction))
        .round()
        .max(1.0) as usize;
    let mut seen = HashSet::new();
    let mut hashed: Vec<([u8; 32], &Row)> = rows
        .iter()
        .map(|row| (row.content.hash(), row))
        .filter(|(hash, _)| !taken.contains(hash) && seen.insert(*hash))
        .collect();
    hashed.sort_by_key(|(hash, _)| *hash);
    hashed.truncate(wanted);
    Chosen {
        rows: hashed.into_iter().map(|(_, row)| row).collect(),
        wanted,
    }
}

/// The rows that are mixed in.
#[derive(Debug, Default)]
pub(super) struct Chosen<'rows> {
    pub(super) rows: Vec<&'rows Row>,
    /// How many there should be.
    pub(super) wanted: usize,
}

/// `rows` in their order with `others` spread evenly between them.
pub(super) fn interleave<T>(rows: Vec<T>, others: Vec<T>) -> Vec<T> {
    let (many, few) = (rows.len(), others.len());
    let mut result = Vec::with_capacity(many + few);
    let mut others = others.into_iter();
    let mut placed = 0;
    for (done, row) in rows.into_iter().enumerate() {
        while placed < few && (2 * placed + 1) * many <= 2 * few * done {
            result.extend(others.next());
            placed += 1;
        }
        result.push(row);
    }
    result.extend(others);
    result
}

#[cfg(test)]
mod tests {
    use finetune_artifacts::rows::RowContent;

    use super::*;

    fn rows(range: std::ops::Range<usize>) -> Vec<Row> {
        range
            .map(|number| Row {
                file: "general.jsonl".into(),
                line: number + 1,
                content: RowContent::Text(format!("text {number}")),
            })
            .collect()
    }

    #[test]
    fn the_fraction_is_of_all_rows() {
        let general = rows(0..1000);
        let chosen = choose(&general, 0.2, 400, &HashSet::new());
        assert_eq!((chosen.rows.len(), chosen.wanted), (100, 100));
    }

    #[test]
    fn too_few_rows_are_taken_once_each() {
        let general = [rows(0..30), rows(0..30)].concat();
        let chosen = choose(&general, 0.5, 400, &HashSet::new());
        assert_eq!((chosen.rows.len(), chosen.wanted), (30, 400));
    }

    #[test]
    fn rows_that_are_there_already_are_not_taken() {
        let general = rows(0..10);
        let taken: HashSet<_> = general[..7].iter().map(|row| row.content.hash()).collect();
        let chosen = choose(&general, 0.5, 400, &taken);
        assert!(chosen.rows.iter().all(|row| row.line > 7));
        assert_eq!(chosen.rows.len(), 3);
    }

    #[test]
    fn a_grown_file_changes_few_rows() {
        let (small, large) = (rows(0..1000), rows(0..1100));
        let lines = |general: &[Row]| -> HashSet<usize> {
            let chosen = choose(general, 0.5, 100, &HashSet::new()).rows;
            chosen.into_iter().map(|row| row.line).collect()
        };
        let kept = lines(&small).intersection(&lines(&large)).count();
        assert!(kept >= 80, "{kept}");
    }

    #[test]
    fn others_stand_evenly_between_the_rows() {
        let mixed = interleave(vec![0; 8], vec![1; 2]);
        assert_eq!(mixed, [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(interleave(vec![], vec![1, 1]), [1, 1]);
        assert_eq!(interleave(vec![0], vec![1, 1, 1]).len(), 4);
    }
}
