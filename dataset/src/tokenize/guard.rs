//! The library reads some tokenizers without complaint and panics when it works with them. Such a file is as wrong as one that it
//! refuses.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Error;

/// Runs what the library does with the tokenizer that comes from `origin`.
pub(super) fn guarded<T>(origin: &str, work: impl FnOnce() -> T) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        Error::invalid(
            origin,
            "the tokenizer breaks down over a text, expected one that takes any: correct its normalizer, its pre-tokenizer or its \
             decoder, or take the file from its source anew",
        )
    })
}
