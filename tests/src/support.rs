//! The example, trained once for all tests that look at it: SmolLM2 on examples/support, served on two replicas. The support
//! desk's answers are trained on as a table of questions and answers, the glossary as the conversations that the example has, so
//! that both are held to what the example reaches.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use finetune_crds::Adapter;
use object_store::{ObjectStoreExt, path::Path};
use serde::Deserialize;

use crate::cluster::Namespace;
use crate::{command, fine_tune_job, store, wait};

/// A held-out question.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    /// The question, in words that training never had.
    pub question: String,
    /// What an answer must hold.
    pub key_fact: String,
}

/// The folder of the example.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/support")
}

/// A manifest of the example.
pub fn manifest(name: &str) -> Result<String> {
    let path = folder().join(name);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The held-out questions of a file.
pub fn questions(name: &str) -> Result<Vec<Question>> {
    manifest(name)?
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

/// The name of the namespace where the example runs, once both adapters answer. The first caller does the work.
pub fn world() -> Result<String> {
    static WORLD: OnceLock<std::result::Result<String, String>> = OnceLock::new();
    // For a developer who looks at one test again: a namespace where an earlier run has trained.
    if let Ok(namespace) = std::env::var("FINETUNE_SUPPORT_NAMESPACE") {
        return Ok(namespace);
    }
    let outcome = WORLD.get_or_init(|| {
        // Of its own: the runtimes of tests end with them.
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
            runtime
                .block_on(make())
                .map_err(|error| format!("{error:#}"))
        })
        .join()
        .unwrap_or_else(|_| Err("the set-up of the example panicked".to_owned()))
    });
    outcome.clone().map_err(|error| anyhow!(error))
}

/// Uploads, applies and waits.
async fn make() -> Result<String> {
    let model = std::env::var("FINETUNE_MODEL")
        .context("FINETUNE_MODEL is not set; `make test` sets it")?;
    let models = store::bucket("models")?;
    let bytes = std::fs::read(&model).with_context(|| format!("cannot read {model}"))?;
    models
        .put(
            &Path::from("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf"),
            bytes.into(),
        )
        .await?;
    let data = store::bucket("data")?;
    for (name, text) in [
        ("faq.csv", table(&manifest("train.jsonl")?)?),
        (
            "support/glossary/train.jsonl",
            manifest("glossary/train.jsonl")?,
        ),
    ] {
        data.put(&Path::from(name), text.into_bytes().into())
            .await?;
    }
    let namespace = std::mem::ManuallyDrop::new(Namespace::create("support").await?);
    for name in ["inference.yaml", "adapters.yaml"] {
        namespace.apply(&manifest(name)?)?;
    }
    // One after the other: two trainers on two cores take more than twice as long.
    for (name, job) in [
        ("support", on_the_table(&manifest("job.yaml")?)?),
        ("glossary", manifest("job-glossary.yaml")?),
    ] {
        namespace.apply(&job)?;
        fine_tune_job::succeeded(&namespace, name, 1200).await?;
    }
    for name in ["support", "glossary"] {
        wait::object(&namespace.api::<Adapter>(), name, "Ready", 300, is_ready).await?;
    }
    Ok(namespace.name.clone())
}

/// The first question and answer of each conversation, as a spreadsheet has them.
fn table(conversations: &str) -> Result<String> {
    let quoted = |message: &serde_json::Value| -> Result<String> {
        let text = message["content"].as_str().context("no content")?;
        Ok(format!("\"{}\"", text.replace('"', "\"\"")))
    };
    let mut table = "question,answer\n".to_owned();
    for line in conversations.lines() {
        let row: serde_json::Value = serde_json::from_str(line)?;
        let (question, answer) = (&row["messages"][0], &row["messages"][1]);
        table.extend([&*quoted(question)?, ",", &*quoted(answer)?, "\n"]);
    }
    Ok(table)
}

/// The example's job on the table, with what the page on data says for one.
fn on_the_table(job: &str) -> Result<String> {
    let page = folder().join("../../docs/data.md");
    let page = std::fs::read_to_string(&page).context("docs/data.md")?;
    let said = |key: &str| {
        let line = page.lines().map(str::trim);
        let mut line = line.filter(|line| line.starts_with(key) && line.contains('{'));
        line.next()
            .with_context(|| format!("docs/data.md has no line `{key}`"))
    };
    let changed = job
        .replace(
            "train:\n      - uri: s3://data/support/train.jsonl",
            said("train: [{ uri: s3://data/faq.csv")?,
        )
        .replace("format: Messages", said("columns:")?);
    anyhow::ensure!(
        changed.contains("faq.csv") && changed.contains("columns") && !changed.contains("Messages"),
        "examples/support/job.yaml is not as expected: {job}"
    );
    Ok(changed)
}

/// Whether an Adapter answers everywhere.
pub fn is_ready(adapter: &Adapter) -> bool {
    let status = adapter.status.as_ref();
    status.is_some_and(|status| {
        status.observed_generation == adapter.metadata.generation
            && status
                .conditions
                .iter()
                .any(|c| c.type_ == finetune_crds::names::condition::READY && c.status == "True")
    })
}

/// The Service's address inside the cluster's network.
pub fn url(namespace: &str) -> Result<String> {
    let address = command::kubectl(&format!(
        "get service support-model --namespace {namespace} --output jsonpath={{.spec.clusterIP}}"
    ))?;
    Ok(format!("http://{}", address.trim()))
}

/// The mean loss over the rows that the job on the table held back, of the 4-bit base alone or with a published adapter, as
/// `trainer evaluate` finds it.
pub fn validation_loss(adapter: Option<&str>) -> Result<f64> {
    let work = tempfile::tempdir()?;
    let file = work.path().join("job.yaml");
    std::fs::write(&file, on_the_table(&manifest("job.yaml")?)?)?;
    // Tests lie in target/<profile>/deps, the binaries beside that folder.
    let executable = std::env::current_exe()?;
    let trainer = executable
        .parent()
        .and_then(std::path::Path::parent)
        .context("no target folder")?
        .join("trainer");
    let mut evaluate = std::process::Command::new(trainer);
    evaluate
        .arg("evaluate")
        .arg("--file")
        .arg(&file)
        .arg("--work")
        .arg(work.path())
        .args(["--rows", "validation"]);
    if let Some(adapter) = adapter {
        evaluate.args(["--adapter", adapter]);
    }
    let output = evaluate
        .env("AWS_ACCESS_KEY_ID", store::ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", store::SECRET_KEY)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ENDPOINT_URL", store::ENDPOINT_IN_PODS)
        .env("AWS_ALLOW_HTTP", "true")
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "trainer evaluate: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = std::fs::read(work.path().join("evaluation.json"))?;
    let evaluation: serde_json::Value = serde_json::from_slice(&text)?;
    evaluation["loss"]
        .as_f64()
        .context("evaluation.json has no loss")
}
