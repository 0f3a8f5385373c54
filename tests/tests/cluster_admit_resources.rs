//! The CRDs on a real API server: every rule refuses what it must, with a message that names the field, and accepts what
//! it should.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use system_tests::cluster::Namespace;
use system_tests::command;
use system_tests::job::{merge, tiny};

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
async fn a_fine_tune_job_that_breaks_a_rule_is_refused_with_the_fields_name() -> Result<()> {
    let namespace = Namespace::create("admit").await?;
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "no method",
            json!({"method": {"lora": null}}),
            "method needs exactly one of full, lora and qlora",
        ),
        (
            "two methods",
            json!({"method": {"full": {}}}),
            "method needs exactly one of full, lora and qlora",
        ),
        (
            "epochs and steps",
            json!({"training": {"epochs": 1}}),
            "training.epochs and training.maxSteps are both set",
        ),
        (
            "a micro batch over the batch",
            json!({"training": {"microBatchSize": 9}}),
            "training.microBatchSize is greater than training.batchSize",
        ),
        (
            "no output",
            json!({"output": null}),
            "spec.output.uri is absent",
        ),
        (
            "no output URI",
            json!({"output": {"uri": null}}),
            "spec.output.uri is absent",
        ),
        (
            "an adapter of a whole model",
            json!({"method": {"lora": null, "full": {}}, "output": {"adapter": {"name": "a"}}}),
            "spec.output.adapter is set with method full",
        ),
        (
            "a file on the node",
            json!({"baseModel": {"uri": "file:///etc/passwd"}}),
            "spec.baseModel.uri",
        ),
        (
            "a base over plain http",
            json!({"baseModel": {"uri": "http://models.example/a.gguf"}}),
            "spec.baseModel.uri",
        ),
        (
            "a folder over https",
            json!({"baseModel": {"uri": "https://models.example/a/"}}),
            "spec.baseModel.uri",
        ),
        (
            "a revision of a bucket",
            json!({"baseModel": {"revision": "main"}}),
            "baseModel.revision applies to hf:// only",
        ),
        (
            "a result on the Hub",
            json!({"output": {"uri": "hf://org/name"}}),
            "spec.output.uri",
        ),
        (
            "a base on a claim whose name climbs",
            json!({"baseModel": {"uri": "pvc://../a/"}}),
            "spec.baseModel.uri",
        ),
        (
            "a container with a name of a bucket",
            json!({"baseModel": {"uri": "az://my_models/a/"}}),
            "spec.baseModel.uri",
        ),
        (
            "a result on a claim",
            json!({"output": {"uri": "pvc://results/"}}),
            "spec.output.uri",
        ),
        (
            "an adapter at a URL",
            json!({"initialAdapter": {"uri": "https://models.example/a"}}),
            "spec.initialAdapter.uri",
        ),
        (
            "a cache that is no claim",
            json!({"placement": {"cacheClaimName": "team/downloads"}}),
            "spec.placement.cacheClaimName",
        ),
        (
            "data on the node",
            json!({"dataset": {"train": [{"uri": "file:///etc/passwd"}]}}),
            "spec.dataset.train[0].uri",
        ),
        (
            "output on the node",
            json!({"output": {"uri": "file:///tmp"}}),
            "spec.output.uri",
        ),
        (
            "no data",
            json!({"dataset": {"train": []}}),
            "spec.dataset.train",
        ),
        (
            "65 sources",
            json!({"dataset": {"train": vec![json!({"uri": "s3://data/a"}); 65]}}),
            "spec.dataset.train",
        ),
        (
            "both kinds of validation",
            json!({"dataset": {"validation": {"sources": [{"uri": "s3://data/a"}]}}}),
            "dataset.validation needs exactly one of fraction and sources",
        ),
        (
            "no kind of validation",
            json!({"dataset": {"validation": {"fraction": null}}}),
            "dataset.validation needs exactly one of fraction and sources",
        ),
        (
            "a fraction over a half",
            json!({"dataset": {"validation": {"fraction": 0.6}}}),
            "spec.dataset.validation.fraction",
        ),
        (
            "an end of sequence for messages",
            json!({"dataset": {"format": "Messages", "appendEndOfSequence": true}}),
            "dataset.appendEndOfSequence applies to format Text only",
        ),
        (
            "columns of another format",
            json!({"dataset": {"format": "Text", "columns": {"prompt": "question"}}}),
            "dataset.columns names a column that dataset.format does not have",
        ),
        (
            "a column without a name",
            json!({"dataset": {"columns": {"prompt": ""}}}),
            "spec.dataset.columns.prompt",
        ),
        (
            "replay without sources",
            json!({"dataset": {"replay": {"sources": [], "fraction": 0.1}}}),
            "spec.dataset.replay.sources",
        ),
        (
            "replay of more than a half",
            json!({"dataset": {"replay": {"sources": [{"uri": "s3://data/a"}], "fraction": 0.6}}}),
            "spec.dataset.replay.fraction",
        ),
        (
            "an unknown format",
            json!({"dataset": {"format": "Pickle"}}),
            "spec.dataset.format",
        ),
        (
            "an unknown part for loss",
            json!({"dataset": {"lossOn": "Everything"}}),
            "spec.dataset.lossOn",
        ),
        (
            "a sequence of one",
            json!({"dataset": {"maxSequenceLength": 1}}),
            "spec.dataset.maxSequenceLength",
        ),
        (
            "rank 0",
            json!({"method": {"lora": {"rank": 0}}}),
            "spec.method.lora.rank",
        ),
        (
            "rank over the bound",
            json!({"method": {"lora": {"rank": 1025}}}),
            "spec.method.lora.rank",
        ),
        (
            "alpha 0",
            json!({"method": {"lora": {"alpha": 0}}}),
            "spec.method.lora.alpha",
        ),
        (
            "no modules",
            json!({"method": {"lora": {"targetModules": []}}}),
            "spec.method.lora.targetModules",
        ),
        (
            "an unknown code",
            json!({"method": {"lora": null, "qlora": {"quantization": {"type": "INT3"}}}}),
            "spec.method.qlora.quantization.type",
        ),
        (
            "two objectives",
            json!({"objective": {"sft": {}, "dpo": {}}}),
            "objective needs exactly one of sft and dpo",
        ),
        (
            "a beta of 0",
            json!({"objective": {"dpo": {"beta": 0.0}}}),
            "spec.objective.dpo.beta",
        ),
        (
            "preferences for a whole model",
            json!({"method": {"lora": null, "full": {}}, "objective": {"dpo": {}}}),
            "spec.objective.dpo is set with method full",
        ),
        (
            "passes of several answers",
            json!({"objective": {"dpo": {}}, "training": {"microBatchSize": 2}}),
            "spec.training.microBatchSize is set with objective dpo",
        ),
        (
            "a rank of 0 in a pattern",
            json!({"method": {"lora": {"rankPattern": {"q_proj": 0}}}}),
            "spec.method.lora.rankPattern",
        ),
        (
            "an alpha over the bound in a pattern",
            json!({"method": {"lora": null, "qlora": {"alphaPattern": {"q_proj": 65537}}}}),
            "spec.method.qlora.alphaPattern",
        ),
        (
            "a dropout of nearly all",
            json!({"method": {"lora": {"dropout": 0.95}}}),
            "spec.method.lora.dropout",
        ),
        (
            "noise of 0",
            json!({"training": {"neftuneNoiseAlpha": 0.0}}),
            "spec.training.neftuneNoiseAlpha",
        ),
        (
            "an adapter to go on from on the node",
            json!({"initialAdapter": {"uri": "file:///tmp/a/"}}),
            "spec.initialAdapter.uri",
        ),
        (
            "an adapter to go on from with method full",
            json!({"method": {"lora": null, "full": {}}, "initialAdapter": {"uri": "s3://models/a/"}}),
            "spec.initialAdapter is set with method full",
        ),
        (
            "batch 0",
            json!({"training": {"batchSize": 0}}),
            "spec.training.batchSize",
        ),
        (
            "a learning rate of 0",
            json!({"training": {"learningRate": 0.0}}),
            "spec.training.learningRate",
        ),
        (
            "a warm-up over the whole",
            json!({"training": {"warmupFraction": 1.5}}),
            "spec.training.warmupFraction",
        ),
        (
            "an unknown schedule",
            json!({"training": {"schedule": "Stairs"}}),
            "spec.training.schedule",
        ),
        (
            "an unknown type",
            json!({"training": {"computeType": "Float8"}}),
            "spec.training.computeType",
        ),
        (
            "a negative seed",
            json!({"training": {"seed": -1}}),
            "spec.training.seed",
        ),
        (
            "early stopping without validation",
            json!({"dataset": {"validation": null}, "training": {"earlyStopping": {"patience": 2}}}),
            "training.earlyStopping needs a validation loss",
        ),
        (
            "no patience at all",
            json!({"training": {"earlyStopping": {"patience": 0}}}),
            "spec.training.earlyStopping.patience",
        ),
        (
            "early stopping without its patience",
            json!({"training": {"earlyStopping": {"minImprovement": 0.1}}}),
            "spec.training.earlyStopping.patience",
        ),
        (
            "a negative improvement",
            json!({"training": {"earlyStopping": {"patience": 1, "minImprovement": -0.1}}}),
            "spec.training.earlyStopping.minImprovement",
        ),
        (
            "an unknown optimiser",
            json!({"training": {"optimizer": "SGD"}}),
            "spec.training.optimizer",
        ),
        (
            "packed preferences",
            json!({"dataset": {"packing": true}, "objective": {"dpo": {}}, "training": {"microBatchSize": null}}),
            "dataset.packing is true with objective dpo",
        ),
        (
            "packing with noise",
            json!({"dataset": {"packing": true}, "training": {"neftuneNoiseAlpha": 5.0}}),
            "dataset.packing is true with training.neftuneNoiseAlpha",
        ),
        (
            "packing that is no flag",
            json!({"dataset": {"packing": "Always"}}),
            "spec.dataset.packing",
        ),
        (
            "a merged model of a whole model",
            json!({"method": {"lora": null, "full": {}}, "output": {"mergedModel": true}}),
            "spec.output.mergedModel is true with method full",
        ),
        (
            "a GGUF of a whole model",
            json!({"method": {"lora": null, "full": {}}, "output": {"ggufAdapter": true}}),
            "spec.output.ggufAdapter is true with method full",
        ),
        (
            "a GGUF with DoRA",
            json!({"method": {"lora": {"useDora": true}}, "output": {"ggufAdapter": true}}),
            "spec.output.ggufAdapter is true with useDora",
        ),
        (
            "DoRA for vLLM",
            json!({"method": {"lora": {"useDora": true}}, "output": {"adapter": {"engines": ["Finetune", "VLLM"]}}}),
            "spec.output.adapter.engines has VLLM, which serves no DoRA",
        ),
        (
            "a rank over vLLM's",
            json!({"method": {"lora": null, "qlora": {"rankPattern": {"q_proj": 513}}}, "output": {"adapter": {"engines": ["VLLM"]}}}),
            "spec.output.adapter.engines has VLLM, which serves ranks of up to 512",
        ),
        (
            "rsLoRA for SGLang",
            json!({"method": {"lora": {"useRslora": true}}, "output": {"adapter": {"engines": ["SGLang"]}}}),
            "spec.output.adapter.engines has SGLang, which scales by alpha / rank",
        ),
        (
            "patterns for SGLang",
            json!({"method": {"lora": {"alphaPattern": {"q_proj": 4}}}, "output": {"adapter": {"engines": ["SGLang"]}}}),
            "spec.output.adapter.engines has SGLang, which knows one rank and one alpha",
        ),
        (
            "an engine named twice",
            json!({"output": {"adapter": {"engines": ["VLLM", "VLLM"]}}}),
            "spec.output.adapter.engines",
        ),
        (
            "an unknown engine",
            json!({"output": {"adapter": {"engines": ["LMDeploy"]}}}),
            "spec.output.adapter.engines",
        ),
        (
            "checkpoints every 0 steps",
            json!({"checkpoint": {"everySteps": 0}}),
            "spec.checkpoint.everySteps",
        ),
        (
            "no checkpoint kept",
            json!({"checkpoint": {"keep": 0}}),
            "spec.checkpoint.keep",
        ),
        (
            "a quantity that is none",
            json!({"placement": {"resources": {"limits": {"memory": "much"}}}}),
            "spec.placement.resources.limits",
        ),
        (
            "a quantity that is neither a number nor a text",
            json!({"placement": {"resources": {"limits": {"cpu": true}}}}),
            "spec.placement.resources.limits",
        ),
        (
            "seconds of a toleration that evicts nothing",
            json!({"placement": {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}]}}),
            "a toleration with tolerationSeconds needs effect NoExecute",
        ),
        (
            "an output URI that leaves no room for what is below it",
            json!({"output": {"uri": format!("s3://adapters/{}", "a".repeat(250))}}),
            "spec.output.uri",
        ),
        (
            "a toleration with a value for Exists",
            json!({"placement": {"tolerations": [{"operator": "Exists", "value": "x"}]}}),
            "a toleration with operator Exists takes no value",
        ),
        (
            "negative retries",
            json!({"maxRetries": -1}),
            "spec.maxRetries",
        ),
        (
            "a Secret's name with a slash",
            json!({"output": {"credentialsSecretRef": {"name": "other/secret"}}}),
            "spec.output.credentialsSecretRef.name",
        ),
    ];
    let mut faults = Vec::new();
    for (case, changes, expected) in cases {
        match dry_run(&namespace.name, &tiny("job", changes))? {
            Ok(()) => faults.push(format!("{case}: accepted")),
            Err(message) if !message.contains(expected) => {
                faults.push(format!("{case}: expected `{expected}`, got {message}"));
            }
            Err(_) => {}
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

#[tokio::test]
async fn a_name_that_cannot_name_a_service_is_refused() -> Result<()> {
    let namespace = Namespace::create("admit").await?;
    for (name, expected) in [
        ("a".repeat(53), "longer than 52 characters"),
        ("1st".to_owned(), "must begin with a letter"),
        ("a.b".to_owned(), "must begin with a letter"),
    ] {
        let message = dry_run(&namespace.name, &tiny(&name, json!({})))?
            .err()
            .unwrap_or_default();
        ensure!(
            message.contains(expected),
            "{name}: expected `{expected}`, got `{message}`"
        );
    }
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
    let job = tiny("job", json!({"dryRun": true}));
    namespace.apply(&job.to_string())?;
    for (field, changes) in [
        (
            "spec.baseModel",
            json!({"baseModel": {"uri": "s3://models/other/"}}),
        ),
        ("spec.dataset", json!({"dataset": {"validation": null}})),
        ("spec.method", json!({"method": {"lora": {"rank": 8}}})),
        ("spec.objective", json!({"objective": {"dpo": {}}})),
        (
            "spec.initialAdapter",
            json!({"initialAdapter": {"uri": "s3://models/a/"}}),
        ),
        ("spec.training", json!({"training": {"seed": 7}})),
        ("spec.checkpoint", json!({"checkpoint": {"keep": 5}})),
        (
            "spec.output",
            json!({"output": {"adapter": {"name": "other"}}}),
        ),
        (
            "spec.placement",
            json!({"placement": {"nodeSelector": {"a": "b"}}}),
        ),
        ("spec.maxRetries", json!({"maxRetries": 9})),
        ("spec.dryRun", json!({"dryRun": false})),
    ] {
        let mut changed = job.clone();
        merge(&mut changed["spec"], changes);
        let message = command::refusal(&namespace.name, &changed.to_string())?;
        ensure!(
            message.contains(&format!("{field} is immutable")),
            "{field}: {message}"
        );
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
