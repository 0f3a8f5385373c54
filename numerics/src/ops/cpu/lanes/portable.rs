//! Lanes for any processor, which the compiler maps to what there is.

use half::bf16;

use super::Lanes;
use crate::ops::cpu::memory::Element;

/// Lanes for any processor, which the compiler maps to what there is.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn of_each(make: impl Fn(usize) -> f32) -> Self {
        Self(std::array::from_fn(make))
    }
}

impl Lanes for Portable {
    const COUNT: usize = 8;

    #[inline(always)]
    fn splat(number: f32) -> Self {
        Self([number; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of numbers needs no other alignment than a number.
        Self(unsafe { from.cast::<[f32; 8]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; 8]>().write(self.0) }
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane] + other.0[lane])
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane] - other.0[lane])
    }

    #[inline(always)]
    fn times(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane] * other.0[lane])
    }

    #[inline(always)]
    fn over(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane] / other.0[lane])
    }

    #[inline(always)]
    fn times_plus(self, factor: Self, sum: Self) -> Self {
        Self::of_each(|lane| self.0[lane] * factor.0[lane] + sum.0[lane])
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane].max(other.0[lane]))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self::of_each(|lane| self.0[lane].min(other.0[lane]))
    }

    #[inline(always)]
    fn if_below(self, limit: Self, one: Self, other: Self) -> Self {
        Self::of_each(|lane| match self.0[lane] < limit.0[lane] {
            true => one.0[lane],
            false => other.0[lane],
        })
    }

    #[inline(always)]
    fn total(self) -> f32 {
        self.0.iter().sum()
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self::of_each(|lane| f32::from_bits(((self.0[lane] as i32 + 127) << 23) as u32))
    }

    type Table = [f32; 16];

    #[inline(always)]
    fn table(numbers: &[f32; 16], scale: f32, rounded: bool) -> [f32; 16] {
        numbers.map(|number| match rounded {
            true => bf16::round(number * scale).widen(),
            false => number * scale,
        })
    }

    #[inline(always)]
    unsafe fn look_up(table: &[f32; 16], indices: *const u8, to: *mut f32) {
        for at in 0..8 {
            // SAFETY: the caller's promise.
            unsafe {
                let byte = indices.add(at).read();
                to.add(2 * at).write(table[usize::from(byte >> 4)]);
                to.add(2 * at + 1).write(table[usize::from(byte & 0xf)]);
            }
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        let (from, to) = (from.cast::<u32>(), to.cast::<u32>());
        for row in 0..8 {
            for column in 0..8 {
                // SAFETY: the caller's promise.
                unsafe {
                    let number = from.add(row * from_stride + column).read();
                    to.add(column * to_stride + row).write(number);
                }
            }
        }
    }
}
