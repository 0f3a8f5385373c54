//! `desired.json`: the adapters that this pod shall serve, as the inference Deployment's controller writes them.
//!
//! It is the only thing that the agent obeys. A file that does not parse changes nothing.

use std::collections::BTreeSet;

use finetune_artifacts::digest;
use finetune_crds::adapter::Engine;
use serde::{Deserialize, Serialize};

/// What the pod shall serve.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// The engine beside the agent.
    pub engine: Engine,
    /// The adapters, one an alias.
    #[serde(default)]
    pub adapters: Vec<DesiredAdapter>,
}

/// An alias and its versions.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredAdapter {
    /// The model name that clients use.
    pub alias: String,
    /// At most one of them is stable.
    pub versions: Vec<DesiredVersion>,
}

/// A version to hold.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredVersion {
    /// Its name in the engine: `<adapter>@<first 12 hexadecimal digits of the digest>`.
    pub version: String,
    /// Its folder in object storage.
    pub uri: String,
    /// The digest of the folder's manifest.
    pub digest: String,
    /// What it is for.
    pub role: Role,
}

/// What a version is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// The alias points to it, and the pod is not ready without it.
    Stable,
    /// Loaded and tested; no client sees it.
    Candidate,
}

/// Why a file was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not the JSON that was expected.
    #[error("desired.json does not parse: {0}")]
    Syntax(String),
    /// A value is wrong.
    #[error("desired.json: {0}")]
    Value(String),
}

impl Desired {
    /// Parses and checks the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let desired: Self =
            serde_json::from_slice(bytes).map_err(|error| Error::Syntax(error.to_string()))?;
        desired.check().map_err(Error::Value)?;
        Ok(desired)
    }

    /// All versions, stable ones first: they gate the pod's readiness.
    pub fn versions(&self) -> Vec<&DesiredVersion> {
        let all = || self.adapters.iter().flat_map(|adapter| &adapter.versions);
        let stable = all().filter(|version| version.role == Role::Stable);
        let candidates = all().filter(|version| version.role == Role::Candidate);
        stable.chain(candidates).collect()
    }

    fn check(&self) -> Result<(), String> {
        if !(1..=65535).contains(&self.engine.port) {
            return Err(format!(
                "engine.port is {}, expected 1 to 65535",
                self.engine.port
            ));
        }
        let mut aliases = BTreeSet::new();
        let mut names = BTreeSet::new();
        for adapter in &self.adapters {
            let alias = &adapter.alias;
            if alias.is_empty() || !aliases.insert(alias) {
                return Err(format!("alias `{alias}` is empty or there twice"));
            }
            for version in &adapter.versions {
                let name = &version.version;
                if !digest::is_digest(&version.digest) {
                    return Err(format!(
                        "version `{name}` has digest `{}`, expected `sha256:` and 64 hexadecimal digits",
                        version.digest
                    ));
                }
                let short = version.digest.get(7..19).unwrap_or_default();
                if name.rsplit_once('@').is_none_or(|(_, end)| end != short) {
                    return Err(format!(
                        "version `{name}` must end in `@{short}`, as its digest begins"
                    ));
                }
                if !names.insert(name) {
                    return Err(format!("version `{name}` is there twice"));
                }
            }
            if adapter.stable().count() > 1 {
                return Err(format!("alias `{alias}` has more than one stable version"));
            }
        }
        Ok(())
    }
}

impl DesiredAdapter {
    /// The stable version, if there is one.
    pub fn stable(&self) -> impl Iterator<Item = &DesiredVersion> {
        self.versions
            .iter()
            .filter(|version| version.role == Role::Stable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let mut value = serde_json::json!({
            "engine": {"type": "Finetune", "port": 8000},
            "adapters": [{"alias": "tone", "versions": [
                {"version": "tone@abababababab", "uri": "s3://m/a/", "digest": digest, "role": "stable"}
            ]}]
        });
        change(&mut value);
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn a_good_file_parses() {
        let desired = Desired::parse(&file(|_| {})).unwrap();
        assert_eq!(desired.versions()[0].role, Role::Stable);
    }

    #[rstest::rstest]
    #[case::digest("/adapters/0/versions/0/digest", "sha256:1".into(), "sha256:1")]
    #[case::name("/adapters/0/versions/0/version", "tone@000000000000".into(), "@abababababab")]
    #[case::alias("/adapters/0/alias", "".into(), "alias")]
    #[case::port("/engine/port", 0.into(), "engine.port is 0")]
    #[case::role("/adapters/0/versions/0/role", "boss".into(), "boss")]
    fn a_wrong_value_is_named(
        #[case] pointer: &str,
        #[case] value: serde_json::Value,
        #[case] message: &str,
    ) {
        let bytes = file(|file| *file.pointer_mut(pointer).unwrap() = value.clone());
        let error = Desired::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn two_stable_versions_of_one_alias_are_refused() {
        let bytes = file(|file| {
            let digest = format!("sha256:{}", "cd".repeat(32));
            let second = serde_json::json!({"version": "tone@cdcdcdcdcdcd", "uri": "s3://m/b/", "digest": digest, "role": "stable"});
            file["adapters"][0]["versions"]
                .as_array_mut()
                .unwrap()
                .push(second);
        });
        let error = Desired::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains("more than one stable"), "{error}");
    }
}
