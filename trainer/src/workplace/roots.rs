//! Who names the folders of a run: a failure of the file system in a local one ends with what to change, and a bucket that is not
//! there is told by the flag or field that names it.

use std::io::ErrorKind;
use std::path::PathBuf;

use finetune_artifacts::uri::Location;

use crate::failure::{LocalFault, MissingBucket};

/// The field below which the operator puts the folders of its jobs.
const OUTPUT: &str = "spec.output.uri";

/// Folders, each with the flag or field that names it.
#[derive(Clone, Debug, Default)]
pub(super) struct Roots {
    local: Vec<(PathBuf, &'static str)>,
    in_buckets: Vec<Named>,
}

/// What lies in a bucket.
#[derive(Clone, Debug)]
struct Named {
    name: &'static str,
    /// As the flag or field has it.
    value: String,
    /// As messages have it.
    uri: String,
}

impl Named {
    /// Whether `uri` is this or lies below it.
    fn holds(&self, uri: &str) -> bool {
        let below = uri.strip_prefix(self.uri.trim_end_matches('/'));
        below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }
}

impl Roots {
    /// Takes in that `name` names `folder`.
    pub(super) fn add(&mut self, folder: PathBuf, name: &'static str) {
        self.local.push((folder, name));
    }

    /// The same for the folder of a URI, where it is one of this machine or of a bucket.
    pub(super) fn add_uri(&mut self, uri: &str, name: &'static str) {
        if let Ok(Location::File { path, .. }) = Location::parse(uri) {
            self.add(path, name);
        }
        self.add_source(uri, name);
    }

    /// The same for what is only read, where it lies in a bucket.
    pub(super) fn add_source(&mut self, uri: &str, name: &'static str) {
        if let Ok(location @ Location::Bucket { .. }) = Location::parse(uri) {
            self.in_buckets.push(Named {
                name,
                value: uri.to_owned(),
                uri: location.to_string(),
            });
        }
    }

    /// Who names the bucket, and what is said of it then.
    pub(super) fn of_bucket(&self, missing: &MissingBucket) -> Option<(&'static str, String)> {
        let mut named = self
            .in_buckets
            .iter()
            .filter(|named| named.holds(&missing.uri))
            .max_by_key(|named| named.uri.len())?;
        // The operator's flags are made of the manifest's field, which is what a person knows.
        if named.name.starts_with("--") {
            let mut outputs = self.in_buckets.iter().filter(|named| named.name == OUTPUT);
            let bucket = bucket_of(&named.uri);
            named = outputs
                .find(|output| bucket_of(&output.uri) == bucket)
                .unwrap_or(named);
        }
        let (name, value, problem) = (named.name, &named.value, &missing.problem);
        Some((
            name,
            format!("{name} is `{value}`, but {problem}: create it, or correct the URI"),
        ))
    }

    /// What to do, where the file lies in one of the folders and the folder is at fault rather than the file.
    pub(super) fn cure(&self, fault: &LocalFault) -> Option<String> {
        let first = match fault.kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free room there",
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => "make it writable",
            _ => return None,
        };
        let (_, name) = self
            .local
            .iter()
            .filter(|(folder, _)| fault.path.starts_with(folder))
            .max_by_key(|(folder, _)| folder.components().count())?;
        Some(format!("{first}, or choose another folder with {name}"))
    }
}

/// Scheme and bucket of a URI.
fn bucket_of(uri: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    Some((scheme, rest.split('/').next().unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        "/run/scratch/attempts/000001/claim.json",
        ErrorKind::ReadOnlyFilesystem,
        Some("make it writable, or choose another folder with --work")
    )]
    #[case(
        "/run/cache/outgoing-1/state.safetensors",
        ErrorKind::StorageFull,
        Some("free room there, or choose another folder with --cache")
    )]
    #[case("/runner/x", ErrorKind::StorageFull, None)]
    #[case("/run/outcome.json", ErrorKind::IsADirectory, None)]
    fn a_full_or_read_only_folder_is_named_by_the_flag_that_chose_it(
        #[case] path: &str,
        #[case] kind: ErrorKind,
        #[case] expected: Option<&str>,
    ) {
        let mut roots = Roots::default();
        roots.add_uri("file:///run/", "--work");
        roots.add_uri("s3://run/", "--passing");
        roots.add("/run/cache".into(), "--cache");
        let fault = LocalFault {
            path: path.into(),
            kind,
        };
        assert_eq!(roots.cure(&fault).as_deref(), expected);
    }

    #[rstest]
    #[case::of_the_operators_folders(
        "s3://nowhere",
        "s3://nowhere/.finetune/work/1/",
        "s3://nowhere/.finetune/work/1/prepared/report.json",
        Some(
            "spec.output.uri is `s3://nowhere`, but bucket `x` is not there: create it, or correct the URI"
        )
    )]
    #[case::of_a_work_folder_by_hand(
        "s3://results/a/",
        "s3://nowhere/work/",
        "s3://nowhere/work/scratch/prepared/report.json",
        Some(
            "--work is `s3://nowhere/work/`, but bucket `x` is not there: create it, or correct the URI"
        )
    )]
    #[case::of_the_base(
        "s3://models",
        "s3://models/.finetune/work/1/",
        "s3://models/base/config.json",
        Some(
            "spec.baseModel.uri is `s3://models/base`, but bucket `x` is not there: create it, or correct the URI"
        )
    )]
    #[case::of_another_bucket_whose_name_begins_alike(
        "s3://nowhere",
        "s3://nowhere/work/",
        "s3://nowhere-else/rows.jsonl",
        None
    )]
    fn a_missing_bucket_is_named_by_the_field_or_flag_that_chose_it(
        #[case] output: &str,
        #[case] work: &str,
        #[case] uri: &str,
        #[case] expected: Option<&str>,
    ) {
        let mut roots = Roots::default();
        roots.add_uri(work, "--work");
        roots.add_uri(output, OUTPUT);
        roots.add_source("s3://models/base", "spec.baseModel.uri");
        let missing = MissingBucket {
            uri: uri.to_owned(),
            problem: "bucket `x` is not there".to_owned(),
        };
        let said = roots.of_bucket(&missing).map(|(_, message)| message);
        assert_eq!(said.as_deref(), expected);
    }
}
