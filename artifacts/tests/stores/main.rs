//! Google Cloud Storage and Azure Blob Storage: the same promises as S3, against small servers that speak their APIs, and
//! against emulators where `make stores` has started them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a panic is the report"
)]

mod azure;
mod cache_entries;
mod claims;
mod contents;
mod emulators;
mod google;
mod identity;
mod process;
mod promises;
mod refusals;
mod shared_cache;
