//! The names of what lies in object storage. Paths end in `/` where they are folders.
//!
//! ```text
//! <output.uri>/<namespace>/<adapter>/sha256-<64 hex>/      a published version: immutable
//! <output.uri>/<namespace>/<job>/model/sha256-<64 hex>/    method full, or output.mergedModel
//! <output.uri>/.finetune/jobs/<uid>/                       the job's own, kept
//! <output.uri>/.finetune/work/<uid>/                       passing: prepared/ attempts/<N>/
//! ```

/// The list of a folder's files, written last: where it is, the folder is complete.
pub const MANIFEST: &str = "manifest.json";
/// How the job ended.
pub const OUTCOME: &str = "outcome.json";
/// What was decided for the run.
pub const PLAN: &str = "plan.json";
/// One row a step, with OpenAI's column names.
pub const METRICS_CSV: &str = "metrics.csv";
/// One JSON object a step.
pub const METRICS_JSONL: &str = "metrics.jsonl";
/// The same for TensorBoard, which reads the folder.
pub const TENSORBOARD: &str = "tensorboard/events.out.tfevents.0.trainer";
/// What the data looks like, as JSON.
pub const DATASET_REPORT: &str = "dataset-report.json";
/// Log-probabilities that prove the adapter.
pub const GOLDEN: &str = "golden.json";
/// PEFT's configuration of an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// PEFT's weights of an adapter.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// The same adapter for llama.cpp, beside PEFT's files (`output.ggufAdapter`).
pub const ADAPTER_GGUF: &str = "adapter.gguf";
/// In the passing folder: the base's URI with the commit that the job stays with, where it lies on the Hugging Face Hub.
pub const PINNED_BASE: &str = "base-uri";
/// The claim of an attempt.
pub const CLAIM: &str = "claim.json";

/// `uri` without the slashes at its end.
fn stem(uri: &str) -> &str {
    uri.trim_end_matches('/')
}

/// The job's own folder, which is kept.
pub fn job_folder(output_uri: &str, uid: &str) -> String {
    format!("{}/.finetune/jobs/{uid}/", stem(output_uri))
}

/// The job's passing folder, which is deleted after publishing.
pub fn work_folder(output_uri: &str, uid: &str) -> String {
    format!("{}/.finetune/work/{uid}/", stem(output_uri))
}

/// The folder of an adapter's versions.
pub fn adapter_folder(output_uri: &str, namespace: &str, adapter: &str) -> String {
    format!("{}/{namespace}/{adapter}/", stem(output_uri))
}

/// The folder of a job's whole models.
pub fn model_folder(output_uri: &str, namespace: &str, job: &str) -> String {
    format!("{}/{namespace}/{job}/model/", stem(output_uri))
}

/// The folder name of a digest: `sha256:<hex>` becomes `sha256-<hex>/`.
pub fn version_folder(digest: &str) -> String {
    format!("{}/", digest.replacen(':', "-", 1))
}

/// The folder of what was published with `digest` below `folder`, which ends in `/`.
pub fn published_folder(folder: &str, digest: &str) -> String {
    format!("{folder}{}", version_folder(digest))
}

/// The prepared data set, below the passing folder.
pub const PREPARED: &str = "prepared/";
/// The attempts, below the passing folder.
pub const ATTEMPTS: &str = "attempts/";

/// An attempt's folder, below the passing folder. Zero-padded, so that a listing is in order.
pub fn attempt_folder(attempt: u32) -> String {
    format!("{ATTEMPTS}{attempt:06}/")
}

/// A checkpoint's folder, below an attempt's.
pub fn checkpoint_folder(step: u64) -> String {
    format!("checkpoints/{step:09}/")
}

/// The engine name of an adapter's version: `<adapter>@<first 12 hexadecimal digits>`.
pub fn version_name(adapter: &str, digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    format!("{adapter}@{}", hex.get(..12).unwrap_or(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_of_the_output_uri_changes_nothing() {
        assert_eq!(job_folder("s3://a/b/", "u"), "s3://a/b/.finetune/jobs/u/");
        assert_eq!(job_folder("s3://a/b", "u"), job_folder("s3://a/b//", "u"));
    }

    #[test]
    fn a_version_is_named_by_its_digest() {
        let digest = format!("sha256:{}", "4f0c9e1b22aa".to_owned() + &"0".repeat(52));
        assert_eq!(version_name("support", &digest), "support@4f0c9e1b22aa");
        assert!(version_folder(&digest).starts_with("sha256-4f0c"));
    }
}
