//! The object store under test: the S3 gateway in the cluster, reached by its ClusterIP.

use anyhow::{Context, Result};
use object_store::ObjectStoreExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};

/// The root key of the test bed's gateway.
pub const ACCESS_KEY: &str = "finetune-demo";
/// Its secret.
pub const SECRET_KEY: &str = "finetune-demo-only";
/// The gateway as pods reach it.
pub const ENDPOINT_IN_PODS: &str = "http://s3.s3.svc.cluster.local:7070";

/// A Secret manifest with the gateway's credentials.
pub fn secret(name: &str) -> Result<String> {
    secret_with(name, &[("AWS_SECRET_ACCESS_KEY", SECRET_KEY)])
}

/// The same with some keys changed.
pub fn secret_with(name: &str, changes: &[(&str, &str)]) -> Result<String> {
    let mut data = serde_json::json!({
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": ENDPOINT_IN_PODS,
        "AWS_ALLOW_HTTP": "true",
    });
    for (key, value) in changes {
        data[*key] = serde_json::json!(value);
    }
    Ok(serde_json::to_string(&serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data,
    }))?)
}

/// The gateway's address on this side of the pods.
pub fn endpoint() -> Result<String> {
    let address = crate::command::kubectl(
        "get service s3 --namespace s3 --output jsonpath={.spec.clusterIP}",
    )?;
    Ok(format!("http://{}:7070", address.trim()))
}

/// A bucket of the test bed, which `make cluster-up` makes: `models`, `data` or `adapters`.
pub fn bucket(name: &str) -> Result<AmazonS3> {
    let endpoint = endpoint()?;
    AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(name)
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .build()
        .context("S3 client")
}

/// The text of the object at an `s3://` URI.
pub async fn text(uri: &str) -> Result<String> {
    let (bucket_name, key) = uri
        .strip_prefix("s3://")
        .and_then(|rest| rest.split_once('/'))
        .with_context(|| format!("{uri} is no s3:// URI of an object"))?;
    let object = bucket(bucket_name)?
        .get(&object_store::path::Path::from(key))
        .await?;
    Ok(String::from_utf8(object.bytes().await?.to_vec())?)
}
