//! Whether a manifest is the one that the command line means.
//!
//! A cluster's manifest lies in a ConfigMap, and who may write that is not who wrote the FineTuneJob. What is trained and where the
//! result goes follow from the spec, the name and the namespace: the operator says all of them from its own knowledge.

use std::path::Path;

use super::Error;
use super::frame::Metadata;
use crate::validate::cut;

/// What the command line says of the manifest; what is absent is not asked, as by hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meant<'a> {
    /// The digest of its spec. Where it is given, the manifest is a cluster's: the operator that wrote it may be newer than this
    /// trainer.
    pub spec_digest: Option<&'a str>,
    /// The job's namespace.
    pub namespace: Option<&'a str>,
    /// Its name.
    pub name: Option<&'a str>,
    /// Its UID.
    pub uid: Option<&'a str>,
}

/// A value of `metadata` that is not the one that was meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Other {
    field: &'static str,
    found: String,
    expected: String,
}

impl Meant<'_> {
    /// Refuses a spec that is not the one that was meant, and names the fields of it that are not known here.
    pub(super) fn check_spec(
        &self,
        path: &Path,
        found: &str,
        unknown: Vec<String>,
    ) -> Result<(), Error> {
        let Some(expected) = self.spec_digest else {
            return Ok(());
        };
        if found != expected {
            return Err(Error::OtherSpec {
                path: path.to_owned(),
                found: found.to_owned(),
                expected: expected.to_owned(),
                unknown,
            });
        }
        if !unknown.is_empty() {
            tracing::warn!(
                "{}: this trainer ({}) does not know {} and passes over what they say: its image is older than the operator; give both the same version",
                path.display(),
                env!("CARGO_PKG_VERSION"),
                unknown.join(", ")
            );
        }
        Ok(())
    }

    /// Refuses the manifest of another job: its result would go to that job's folder.
    pub(super) fn check_metadata(&self, path: &Path, metadata: &Metadata) -> Result<(), Error> {
        let others: Vec<_> = [
            ("namespace", &metadata.namespace, self.namespace),
            ("name", &metadata.name, self.name),
            ("uid", &metadata.uid, self.uid),
        ]
        .into_iter()
        .filter_map(|(field, found, expected)| {
            let expected = expected.filter(|expected| found != expected)?;
            Some(Other {
                field,
                found: found.clone(),
                expected: expected.to_owned(),
            })
        })
        .collect();
        if others.is_empty() {
            return Ok(());
        }
        Err(Error::OtherJob {
            path: path.to_owned(),
            others,
        })
    }
}

/// Why a manifest is not the one that was written, and the cure.
pub(super) const CHANGED: &str =
    "somebody has changed the manifest since; delete it, and the operator writes it again";

/// Why a spec may have another digest than was meant.
pub(super) fn why_other(unknown: &[String]) -> String {
    if unknown.is_empty() {
        return CHANGED.to_owned();
    }
    format!(
        "this trainer ({}) does not know {}, on which the training depends; use a trainer image of the operator's version",
        env!("CARGO_PKG_VERSION"),
        unknown.join(", ")
    )
}

/// All values that differ, each beside the flag that says what it should be.
pub(super) fn listed(others: &[Other]) -> String {
    let each: Vec<String> = others
        .iter()
        .map(|other| {
            format!(
                "metadata.{} is `{}`, but --job-{} is `{}`",
                other.field,
                cut(&other.found),
                other.field,
                other.expected
            )
        })
        .collect();
    each.join("; ")
}
