//! The patterns of texts that are no URIs, and what each pattern of a FineTuneJob's schema asks for in words.

use crate::uris;

/// A Secret.
pub(crate) const SECRET: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
/// A branch, tag or commit of the Hub.
pub(crate) const REVISION: &str = r"^[A-Za-z0-9][A-Za-z0-9._/-]*$";
/// An Adapter, whose name is a model's for clients and a folder in storage.
pub(crate) const ADAPTER: &str = r"^[a-z]([-a-z0-9]*[a-z0-9])?$";
/// A PersistentVolumeClaim.
pub(crate) const CLAIM: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A quantity of Kubernetes.
pub(crate) const QUANTITY: &str =
    r"^([0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]+)?$";

const IN_WORDS: [(&str, &str); 9] = [
    (
        SECRET,
        "the name of a Secret: a-z, 0-9, - and ., a letter or digit first and last",
    ),
    (
        REVISION,
        "a branch, tag or commit: letters, digits, ., _, / and -, a letter or digit first",
    ),
    (ADAPTER, "a-z, 0-9 and -, a letter first and no - last"),
    (
        CLAIM,
        "the name of a PersistentVolumeClaim: a-z, 0-9, - and ., a letter or digit before and after each .",
    ),
    (QUANTITY, "a quantity, such as 2, 500m or 3Gi"),
    (
        uris::BASE,
        "a folder or one file, such as s3://bucket/path/, hf://owner/name or https://host/file.gguf",
    ),
    (
        uris::ROWS,
        "a folder or one file, such as s3://bucket/path/ or s3://bucket/file.jsonl",
    ),
    (
        uris::ADAPTER,
        "a folder, such as s3://bucket/path/ or hf://owner/name",
    ),
    (
        uris::OUTPUT,
        "a bucket or a folder in it, such as s3://bucket/path",
    ),
];

/// What a pattern of a FineTuneJob's schema asks for, to go on after "expected".
pub fn in_words(pattern: &str) -> Option<&'static str> {
    IN_WORDS
        .into_iter()
        .find_map(|(known, words)| (known == pattern).then_some(words))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn patterns(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(fields) => {
                found.extend(
                    fields
                        .get("pattern")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                );
                fields.values().for_each(|each| patterns(each, found));
            }
            Value::Array(items) => items.iter().for_each(|each| patterns(each, found)),
            _ => {}
        }
    }

    #[test]
    fn each_pattern_of_a_jobs_spec_is_said_in_words() {
        let mut found = Vec::new();
        let schema = crate::schema::fine_tune_job();
        patterns(&schema["properties"]["spec"], &mut found);
        assert!(found.len() > 10, "{found:?}");
        for pattern in &found {
            assert!(in_words(pattern).is_some(), "{pattern}");
        }
        for (pattern, words) in IN_WORDS {
            assert!(found.iter().any(|each| each == pattern), "{words}");
        }
    }
}
