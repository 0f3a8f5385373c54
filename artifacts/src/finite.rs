//! Finds the weight that is no number. One NaN in a file makes every loss NaN, hours later and far from its place.

/// Elements that are looked at together, before any one of them is asked for.
const CHUNK: usize = 1024;

/// The first element of little-endian fp32 that is infinite or no number.
pub fn first_fault_f32(bytes: &[u8]) -> Option<usize> {
    first_fault(bytes, |bytes: [u8; 4]| {
        u32::from_le_bytes(bytes) & 0x7f80_0000 == 0x7f80_0000
    })
}

/// The same of fp16.
pub fn first_fault_f16(bytes: &[u8]) -> Option<usize> {
    first_fault(bytes, |bytes: [u8; 2]| {
        u16::from_le_bytes(bytes) & 0x7c00 == 0x7c00
    })
}

/// The same of bf16.
pub fn first_fault_bf16(bytes: &[u8]) -> Option<usize> {
    first_fault(bytes, |bytes: [u8; 2]| {
        u16::from_le_bytes(bytes) & 0x7f80 == 0x7f80
    })
}

/// What is wrong with a tensor of this shape whose element `index`, counted row by row, is no number.
pub fn fault(shape: &[usize], index: usize) -> String {
    let mut rest = index;
    let mut place: Vec<usize> = shape
        .iter()
        .rev()
        .map(|size| {
            let at = rest % size.max(&1);
            rest /= size.max(&1);
            at
        })
        .collect();
    place.reverse();
    format!(
        "element {place:?} is infinite or no number: the file is damaged, or the training that made it diverged; take another \
         copy"
    )
}

fn first_fault<const N: usize>(bytes: &[u8], is_fault: impl Fn([u8; N]) -> bool) -> Option<usize> {
    let elements = bytes.as_chunks::<N>().0;
    // Without a way out within a chunk, the loop over it becomes a few instructions for many elements.
    let chunk = elements.chunks(CHUNK).position(|chunk| {
        chunk
            .iter()
            .fold(false, |found, element| found | is_fault(*element))
    })?;
    let start = chunk * CHUNK;
    let within = elements[start..]
        .iter()
        .position(|element| is_fault(*element))?;
    Some(start + within)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn the_first_element_that_is_no_number_is_found_wherever_it_lies() {
        for at in [0, 1, 1023, 1024, 2999] {
            for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![f32::MAX; 3000];
                values[2999] = f32::NAN;
                values[at] = fault;
                let wide: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                let half: Vec<u8> = values
                    .iter()
                    .map(|x| {
                        if x.is_finite() {
                            f16::MAX
                        } else {
                            f16::from_f32(*x)
                        }
                    })
                    .flat_map(f16::to_le_bytes)
                    .collect();
                let brain: Vec<u8> = values
                    .iter()
                    .map(|x| {
                        if x.is_finite() {
                            bf16::MAX
                        } else {
                            bf16::from_f32(*x)
                        }
                    })
                    .flat_map(bf16::to_le_bytes)
                    .collect();
                assert_eq!(first_fault_f32(&wide), Some(at));
                assert_eq!(first_fault_f16(&half), Some(at));
                assert_eq!(first_fault_bf16(&brain), Some(at));
            }
        }
        let sound: Vec<u8> = [0.0, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX, f32::MIN]
            .iter()
            .flat_map(|x: &f32| x.to_le_bytes())
            .collect();
        assert_eq!(first_fault_f32(&sound), None);
    }

    #[test]
    fn its_place_is_told_by_row_and_column() {
        assert!(fault(&[3, 5], 7).starts_with("element [1, 2] is"));
        assert!(fault(&[8], 7).starts_with("element [7] is"));
        assert!(fault(&[], 0).starts_with("element [] is"));
    }
}
