//! The schema by which the API server takes or refuses a manifest, for those that no API server has seen.

use kube::CustomResourceExt;
use serde_json::Value;

use crate::FineTuneJob;

/// The OpenAPI schema of a [`FineTuneJob`], as its CustomResourceDefinition has it: what lies below `openAPIV3Schema`.
pub fn fine_tune_job() -> Value {
    let versions = FineTuneJob::crd().spec.versions;
    let schema = versions.into_iter().find_map(|version| version.schema);
    let schema = schema.and_then(|schema| schema.open_api_v3_schema);
    // Strings, numbers and lists of them: serialising cannot fail.
    serde_json::to_value(schema).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_names_the_fields_of_a_job_and_their_types() {
        let schema = fine_tune_job();
        let rank = "/properties/spec/properties/method/properties/lora/properties/rank/type";
        assert_eq!(schema.pointer(rank), Some(&Value::from("integer")));
    }
}
