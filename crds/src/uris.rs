//! Which URIs a resource of the cluster may name: patterns of the schema, and the schemes for messages and checks.
//!
//! A pod sees no file of its node, so `file://` is none of them. `finetune_artifacts::uri` parses what these let through.

/// The schemes that results are written to.
pub const WRITABLE: [&str; 3] = ["s3://", "gs://", "az://"];
/// The schemes that bases and data are read from.
pub const READABLE: [&str; 6] = ["s3://", "gs://", "az://", "pvc://", "hf://", "https://"];
/// The schemes that an adapter is read from: those of folders.
pub const READABLE_FOLDERS: [&str; 5] = ["s3://", "gs://", "az://", "pvc://", "hf://"];

/// A bucket, without a slash behind it.
macro_rules! bucket {
    () => {
        "(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]|gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]|az://[a-z0-9][a-z0-9-]{1,61}[a-z0-9])"
    };
}

/// The volume of a claim or a repository of the Hub, and what lies in them. A claim has the name of a Kubernetes object: at most
/// 253 characters, which a pattern cannot count within labels, so dots are free here and stand between labels for the trainer.
macro_rules! claim_or_hub {
    () => {
        r"pvc://[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?(/.*)?|hf://[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_].*"
    };
}

/// The folder of results.
pub const OUTPUT: &str = concat!("^", bucket!(), "(/.*)?$");
/// The folder of a published version.
pub(crate) const VERSION: &str = concat!("^", bucket!(), "/.*/$");
/// A base: a folder or one file.
pub const BASE: &str = concat!(
    "^(",
    bucket!(),
    "/.+|",
    claim_or_hub!(),
    "|https://[^/@]+/.*[^/])$"
);
/// Rows: a folder or one file.
pub const ROWS: &str = concat!(
    "^(",
    bucket!(),
    "/.*|",
    claim_or_hub!(),
    "|https://[^/@]+/.*[^/])$"
);
/// The folder of an adapter.
pub const ADAPTER: &str = concat!("^(", bucket!(), "/.+|", claim_or_hub!(), ")$");

/// The patterns of the URIs of a FineTuneJob. By hand each of these may be a `file://` instead.
pub const OF_A_JOB: [&str; 4] = [OUTPUT, BASE, ROWS, ADAPTER];

/// The schemes as a message lists them: `s3://, gs:// or az://`.
pub fn list(schemes: &[&str]) -> String {
    match schemes {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [others @ .., last] => format!("{} or {last}", others.join(", ")),
    }
}

/// Whether `uri` has one of the schemes.
pub fn has_scheme(uri: &str, schemes: &[&str]) -> bool {
    schemes.iter().any(|scheme| uri.starts_with(scheme))
}

/// The claim of a `pvc://` URI.
pub fn claim_of(uri: &str) -> Option<&str> {
    let rest = uri.strip_prefix("pvc://")?;
    Some(rest.split_once('/').map_or(rest, |(claim, _)| claim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_listed_as_a_person_would() {
        assert_eq!(list(&WRITABLE), "s3://, gs:// or az://");
        assert_eq!(list(&["s3://"]), "s3://");
    }

    #[test]
    fn a_claim_is_named_by_pvc_alone() {
        assert_eq!(claim_of("pvc://team-data/a/b"), Some("team-data"));
        assert_eq!(claim_of("pvc://team-data"), Some("team-data"));
        assert_eq!(claim_of("s3://team-data/a"), None);
    }
}
