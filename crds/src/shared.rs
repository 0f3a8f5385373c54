//! Small types that both custom resources use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The name of a Secret in the object's own namespace.
///
/// The operator never reads the Secret: it mounts it into the pods that need it.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// The Secret's name.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = crate::patterns::SECRET)
    )]
    pub name: String,
}

/// A base model's place and, once read, its identity and digest.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BaseModelReference {
    /// Where the base lies, as the job named it.
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
    /// What the store said of the files before they were read: names, sizes and entity tags, as a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub identity: Option<String>,
    /// The digest of the base's own manifest: `sha256:` and 64 hexadecimal digits over config, tokenizer and weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub digest: Option<String>,
}
