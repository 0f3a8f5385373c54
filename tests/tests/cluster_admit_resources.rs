//! The CRDs on a real API server: every rule refuses what it must, with a message that names the field, and accepts what
//! it should.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use system_tests::cluster::Namespace;
use system_tests::command;
use system_tests::job::{merge, tiny};
use system_tests::refusals;

/// What the server says to a creation that goes no further than admission.
fn dry_run(namespace: &str, object: &Value) -> Result<Result<(), String>> {
    let output = command::output(
        "kubectl",
        &[
            "create",
            "--dry-run=server",
            "--namespace",
            namespace,
            "--filename",
            "-",
        ],
        Some(&object.to_string()),
    )?;
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

#[tokio::test]
async fn a_fine_tune_job_with_a_mistake_is_refused_as_the_table_says() -> Result<()> {
    let namespace = Namespace::create("admit").await?;
    let table = refusals::table()?;
    let mut wrong = Vec::new();
    for refusal in &table.creations {
        let name = refusal.name.as_deref().unwrap_or("job");
        let job = table.job(name, refusal.patch.clone().unwrap_or_else(|| json!({})));
        wrong.extend(refusal.unlike(dry_run(&namespace.name, &job)?));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test]
async fn ordinary_jobs_of_each_method_are_accepted() -> Result<()> {
    let namespace = Namespace::create("admit").await?;
    for changes in [
        json!({}),
        json!({"method": {"lora": null, "full": {}}}),
        json!({"baseModel": {"uri": "hf://org/na.me", "revision": "refs/pr/1"}}),
        json!({"baseModel": {"uri": "https://models.example/a.gguf?signature=x"}}),
        json!({"baseModel": {"uri": "gs://my_models.example/a/"}, "output": {"uri": "gs://results"}}),
        json!({"baseModel": {"uri": "az://models/a.gguf"}, "output": {"uri": "az://results/a/"}}),
        json!({"baseModel": {"uri": "pvc://models.shared/"}, "placement": {"cacheClaimName": "downloads"}}),
        json!({"dataset": {"train": [{"uri": "gs://data/"}, {"uri": "az://data/a"}, {"uri": "pvc://data/a/"}]}}),
        json!({"initialAdapter": {"uri": "gs://models/adapters/first/"}}),
        json!({"initialAdapter": {"uri": "hf://org/adapter@0123abc"}}),
        json!({"method": {"lora": null, "qlora": {}}}),
        json!({"method": {"lora": null, "qlora": {"quantization": {"type": "FP4", "doubleQuantization": false}}}}),
        json!({"method": {"lora": {"targetModules": ["q_proj", "v_proj"]}}, "training": {"maxSteps": null, "epochs": 2}}),
        json!({"method": {"lora": {"rankPattern": {"q_proj": 8}, "alphaPattern": {"mlp.*": 4}, "useRslora": true, "useDora": true, "dropout": 0.05}}, "training": {"neftuneNoiseAlpha": 5}}),
        json!({"method": {"lora": {"rank": 512, "useRslora": true}}, "output": {"adapter": {"engines": ["VLLM", "Finetune"]}}}),
        json!({"method": {"lora": {"useDora": true}}, "output": {"adapter": {"engines": ["Finetune"]}}}),
        json!({"method": {"lora": null, "qlora": {}}, "output": {"adapter": {"engines": ["VLLM", "SGLang", "Finetune"]}}}),
        json!({"method": {"lora": {"useRslora": true}}, "output": {"ggufAdapter": true}}),
        json!({"initialAdapter": {"uri": "s3://models/adapters/first/", "credentialsSecretRef": {"name": "models"}}}),
        json!({"objective": {"dpo": {"beta": 0.2}}}),
        json!({"objective": {"sft": {}}}),
        json!({"dataset": {"format": "Text", "appendEndOfSequence": false, "validation": null}}),
        json!({"dataset": {"format": "Alpaca", "columns": {"instruction": "task", "output": "answer", "system": "persona", "history": "past"}}}),
        json!({"dataset": {"columns": {"prompt": "question"}, "replay": {"sources": [{"uri": "s3://data/general/"}], "fraction": 0.05}}}),
        json!({"dataset": {"packing": true}, "training": {"optimizer": "AdamW8bit", "earlyStopping": {"patience": 3, "minImprovement": 0.001}}, "output": {"mergedModel": true}}),
        json!({"placement": {"nodeSelector": {"a/b": "c"}, "tolerations": [{"operator": "Exists"}], "resources": {"limits": {"vendor.example/device": "1", "memory": "80Gi"}}}}),
        json!({"placement": {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}], "resources": {"requests": {"cpu": 2}, "limits": {"cpu": "2500m", "vendor.example/device": 1}}}}),
    ] {
        let answer = dry_run(&namespace.name, &tiny("job", changes.clone()))?;
        ensure!(answer.is_ok(), "{changes}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn every_field_of_a_running_jobs_spec_is_immutable() -> Result<()> {
    let namespace = Namespace::create("admit").await?;
    let table = refusals::table()?;
    let job = table.job("job", json!({"dryRun": true}));
    namespace.apply(&job.to_string())?;
    for refusal in &table.changes {
        let mut changed = job.clone();
        merge(
            &mut changed["spec"],
            refusal.patch.clone().unwrap_or_default(),
        );
        let message = command::refusal(&namespace.name, &changed.to_string())?;
        let wrong = refusal.unlike(Err(message));
        ensure!(wrong.is_none(), "{wrong:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_adapter_that_breaks_a_rule_is_refused_with_the_fields_name() -> Result<()> {
    let namespace = Namespace::create("admit").await?;
    let engine = json!({"type": "Finetune", "port": 8000});
    let serving = |changes: Value| {
        let mut entry = json!({"deploymentName": "d", "engine": engine});
        merge(&mut entry, changes);
        json!({"serving": [entry]})
    };
    let digest = format!("sha256:{}", "0".repeat(64));
    for (case, spec, expected) in [
        (
            "a short digest",
            json!({"source": {"uri": "s3://adapters/a/", "digest": "sha256:00"}}),
            "spec.source.digest",
        ),
        (
            "a folder without a slash",
            json!({"source": {"uri": "s3://adapters/a", "digest": digest}}),
            "spec.source.uri",
        ),
        (
            "a source on the node",
            json!({"source": {"uri": "file:///tmp/", "digest": digest}}),
            "spec.source.uri",
        ),
        (
            "a source on a claim",
            json!({"source": {"uri": "pvc://adapters/a/", "digest": digest}}),
            "spec.source.uri",
        ),
        (
            "an unknown engine",
            serving(json!({"engine": {"type": "Abacus"}})),
            "spec.serving[0].engine.type",
        ),
        (
            "port 0",
            serving(json!({"engine": {"port": 0}})),
            "spec.serving[0].engine.port",
        ),
        (
            "no engine",
            serving(json!({"engine": null})),
            "spec.serving[0].engine",
        ),
        (
            "an alias with a slash",
            serving(json!({"alias": "../base"})),
            "spec.serving[0].alias",
        ),
        (
            "17 Deployments",
            json!({"serving": (0..17).map(|i| json!({"deploymentName": format!("d{i}"), "engine": engine})).collect::<Vec<_>>()}),
            "spec.serving",
        ),
        (
            "one Deployment twice",
            json!({"serving": [{"deploymentName": "d", "engine": engine}, {"deploymentName": "d", "engine": engine}]}),
            "Duplicate value",
        ),
    ] {
        let adapter = json!({"apiVersion": "finetune.dev/v1alpha1", "kind": "Adapter", "metadata": {"name": "a"}, "spec": spec});
        let message = dry_run(&namespace.name, &adapter)?
            .err()
            .unwrap_or_else(|| "accepted".to_owned());
        ensure!(
            message.contains(expected),
            "{case}: expected `{expected}`, got `{message}`"
        );
    }
    for spec in [
        serving(json!({"alias": "support-tone"})),
        json!({"source": {"uri": "gs://adapters/a/", "digest": digest}}),
        json!({"source": {"uri": "az://adapters/a/", "digest": digest}}),
    ] {
        let adapter = json!({"apiVersion": "finetune.dev/v1alpha1", "kind": "Adapter", "metadata": {"name": "a"}, "spec": spec});
        let answer = dry_run(&namespace.name, &adapter)?;
        ensure!(answer.is_ok(), "{spec}: {answer:?}");
    }
    Ok(())
}
