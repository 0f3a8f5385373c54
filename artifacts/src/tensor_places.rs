//! Where tensors lie in a file: the checks that every reader of weights needs, in one place.
//!
//! Nothing that a file says is trusted: a name, a shape or an offset that does not hold is refused before memory is taken
//! for it.

use std::collections::BTreeMap;
use std::ops::Range;

/// The longest name of a key or tensor, in bytes.
const MAX_NAME: usize = 1024;

/// Refuses a name that is empty, absurdly long or would garble a message.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let shown: String = name.chars().take(40).collect();
        return Err(format!(
            "a key or tensor is named {shown:?}, expected 1 to {MAX_NAME} bytes without control characters"
        ));
    }
    Ok(())
}

/// The elements of a tensor of this shape, whose bits can still be counted.
pub(crate) fn elements(name: &str, shape: &[usize]) -> Result<usize, String> {
    shape
        .iter()
        .try_fold(1usize, |product, size| product.checked_mul(*size))
        .filter(|elements| elements.checked_mul(64).is_some())
        .ok_or_else(|| {
            format!("tensor `{name}` of shape {shape:?} is larger than this machine can hold")
        })
}

/// What a header says of a tensor's place.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The tensor.
    pub(crate) name: String,
    /// Where it begins, from the start of the data.
    pub(crate) offset: u64,
    /// Its bytes.
    pub(crate) size: usize,
}

/// What holds for all tensors of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Where the data begin.
    pub(crate) start: usize,
    /// The length of the whole file.
    pub(crate) length: usize,
    /// Of what each offset is a multiple.
    pub(crate) alignment: u64,
    /// Whether every byte of the data must belong to a tensor.
    pub(crate) without_gaps: bool,
}

/// The place of each tensor in the file. No two overlap, and none lies outside.
pub(crate) fn places(
    mut claims: Vec<Claim>,
    layout: Layout,
) -> Result<BTreeMap<String, Range<usize>>, String> {
    claims.sort_by(|left, right| {
        (left.offset, left.size, &left.name).cmp(&(right.offset, right.size, &right.name))
    });
    let mut places = BTreeMap::new();
    let mut free = 0_u64;
    let mut last = String::new();
    for claim in claims {
        let Claim { name, offset, size } = claim;
        if places.contains_key(&name) {
            return Err(format!("tensor `{name}` is there twice"));
        }
        if !offset.is_multiple_of(layout.alignment) {
            return Err(format!(
                "tensor `{name}` lies at {offset}, expected a multiple of {}",
                layout.alignment
            ));
        }
        if offset < free {
            return Err(format!("tensor `{name}` overlaps `{last}`"));
        }
        if layout.without_gaps && offset > free {
            return Err(unclaimed(free, offset, &format!("before tensor `{name}`")));
        }
        let range = layout
            .start
            .checked_add(usize::try_from(offset).unwrap_or(usize::MAX))
            .and_then(|first| Some(first..first.checked_add(size)?))
            .filter(|range| range.end <= layout.length)
            .ok_or_else(|| {
                format!("tensor `{name}` lies beyond the end of the file: is it complete?")
            })?;
        free = offset + size as u64;
        last.clone_from(&name);
        places.insert(name, range);
    }
    let data = layout.length.saturating_sub(layout.start) as u64;
    if layout.without_gaps && free < data {
        return Err(unclaimed(free, data, "at the end of the file"));
    }
    Ok(places)
}

fn unclaimed(from: u64, to: u64, place: &str) -> String {
    format!("bytes {from} to {to} of its data, {place}, belong to no tensor")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(claims: &[(&str, u64, usize)], without_gaps: bool) -> String {
        let claims = claims
            .iter()
            .map(|&(name, offset, size)| Claim {
                name: name.to_owned(),
                offset,
                size,
            })
            .collect();
        let layout = Layout {
            start: 8,
            length: 24,
            alignment: 4,
            without_gaps,
        };
        places(claims, layout).err().unwrap_or_default()
    }

    #[test]
    fn places_that_tensors_cannot_have_are_refused() {
        assert_eq!(fault(&[("a", 0, 8), ("b", 8, 8), ("c", 8, 0)], true), "");
        assert_eq!(fault(&[("a", 0, 4), ("b", 8, 4)], false), "");
        for (claims, expected) in [
            (&[("a", 0, 8), ("b", 4, 8)][..], "`b` overlaps `a`"),
            (
                &[("a", 0, 8), ("b", 6, 8)],
                "`b` lies at 6, expected a multiple of 4",
            ),
            (
                &[("a", 0, 8), ("b", 12, 4)],
                "bytes 8 to 12 of its data, before tensor `b`",
            ),
            (
                &[("a", 0, 8)],
                "bytes 8 to 16 of its data, at the end of the file",
            ),
            (&[("a", 0, 17)], "`a` lies beyond the end of the file"),
            (
                &[("a", 0, usize::MAX)],
                "`a` lies beyond the end of the file",
            ),
            (
                &[("a", 0, 16), ("b", u64::MAX - 3, 1)],
                "belong to no tensor",
            ),
            (&[("a", 0, 8), ("a", 8, 8)], "`a` is there twice"),
        ] {
            let found = fault(claims, true);
            assert!(found.contains(expected), "{claims:?}: {found}");
        }
        let found = fault(&[("a", 0, 16), ("b", u64::MAX - 3, 1)], false);
        assert!(found.contains("`b` lies beyond the end"), "{found}");
    }

    #[test]
    fn an_absurd_shape_is_refused_before_memory_is_taken_for_it() {
        assert_eq!(elements("a", &[2, 3]), Ok(6));
        assert_eq!(elements("a", &[]), Ok(1));
        assert_eq!(elements("a", &[usize::MAX, 0, 2]), Ok(0));
        assert!(elements("a", &[usize::MAX / 2, 4]).is_err());
        assert!(elements("a", &[usize::MAX / 32]).is_err());
    }
}
