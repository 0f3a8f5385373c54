//! Wrong inputs end with code 10 and a message that names the place and the cure; nothing is left behind.

use crate::bench::{Bench, Ended, fixture, rows};

#[test]
fn a_malformed_row_17_is_named() {
    let bench = Bench::new(5);
    let mut rows = rows(40);
    rows[16] = r#"{"messages": [{"role": "user", "content": "cut"#.to_owned();
    bench.write_data(&rows);
    bench.run("train").refused(&["train.jsonl", "17"]);
    bench.run("prepare").refused(&["train.jsonl", "17"]);
}

#[test]
fn a_missing_file_is_named() {
    let bench = Bench::new(5);
    std::fs::remove_file(bench.data()).unwrap();
    bench
        .run("train")
        .refused(&["train.jsonl", "does not exist"]);
}

#[test]
fn a_missing_base_is_named() {
    let bench = Bench::with("no-such-base", |_| {});
    bench.run("prepare").refused(&["no-such-base"]);
}

#[test]
fn messages_without_a_chat_template_are_refused() {
    let bench = bench_with_base(|folder| {
        let path = folder.join("tokenizer_config.json");
        let mut config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config.as_object_mut().unwrap().remove("chat_template");
        std::fs::write(path, config.to_string()).unwrap();
    });
    bench.run("prepare").refused(&["chat template"]);
}

#[test]
fn an_unsupported_architecture_is_named() {
    let bench = bench_with_base(|folder| {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(
            path,
            text.replace("LlamaForCausalLM", "MambaForCausalLM")
                .replace("\"llama\"", "\"mamba\""),
        )
        .unwrap();
    });
    bench.run("prepare").refused(&["amba", "expected"]);
}

#[test]
fn target_modules_that_the_model_lacks_are_named_before_training() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["method"]["lora"]["targetModules"] = serde_json::json!(["c_attn"]);
    });
    bench.run("prepare").refused(&["c_attn", "q_proj"]);
}

#[test]
fn a_faulty_manifest_is_refused_with_field_and_line() {
    let bench = Bench::with("tiny-llama", |job| {
        job["spec"]["training"]["epochs"] = 1.into();
        job["spec"]["training"]["maxSteps"] = 1.into();
    });
    bench
        .run("train")
        .refused(&["line", "spec.training has both epochs and maxSteps"]);
    std::fs::remove_file(bench.job()).unwrap();
    bench.run("train").refused(&["job.yaml", "--file"]);
}

#[test]
fn a_namespace_that_leads_out_of_the_results_folder_is_refused_before_anything_is_trained() {
    let bench = Bench::with("tiny-llama", |job| {
        job["metadata"]["namespace"] = "../../../../esc".into();
    });
    bench
        .run("train")
        .refused(&["line", "metadata.namespace is `../../../../esc`"]);
    assert!(!bench.work().exists());
}

#[test]
fn a_work_folder_that_is_a_file_is_refused_by_name() {
    let bench = Bench::new(5);
    let file = bench.data().display().to_string();
    for work in [file.clone(), format!("{file}/below")] {
        let output = bench.command_in("prepare", &work).output().unwrap();
        Ended::from(output).refused(&["--work is", "train.jsonl is a file"]);
    }
}

#[test]
fn a_refusal_is_told_by_the_termination_message_and_leaves_no_outcome() {
    let bench = Bench::new(5);
    bench.write_data(&["not json".to_owned()]);
    let message = bench.work().with_extension("message");
    bench
        .run_with(
            "prepare",
            &["--termination-message", &message.display().to_string()],
        )
        .refused(&[]);
    let outcome: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(message).unwrap()).unwrap();
    assert_eq!(
        (&outcome["stage"], &outcome["reason"]),
        (&"Prepare".into(), &"InvalidInput".into())
    );
    assert!(outcome["message"].as_str().unwrap().contains("train.jsonl"));
    assert!(!bench.work().join("outcome.json").exists());
}

#[test]
fn a_loss_that_is_no_number_ends_as_diverged_and_publishes_nothing() {
    let bench = bench_with_base(|folder| {
        let path = folder.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        // The last weights of the file, so great that their sum is not a number any more.
        let last = bytes.len() - 8 * size_of::<f32>();
        bytes[last..].copy_from_slice(&f32::MAX.to_le_bytes().repeat(8));
        std::fs::write(path, bytes).unwrap();
    });
    let ended = bench.run("train");
    assert_eq!(ended.code, Some(13), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("lower training.learningRate"),
        "{}",
        ended.stderr
    );
    assert!(!bench.work().join("outcome.json").exists());
}

/// A job on a copy of the tiny model that `change` has spoilt.
fn bench_with_base(change: impl Fn(&std::path::Path)) -> Bench {
    let bench = Bench::new(5);
    let copy = bench.work().with_file_name("base");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(fixture("tiny-llama")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    change(&copy);
    let job = std::fs::read_to_string(bench.job()).unwrap();
    let original = format!("file://{}/", fixture("tiny-llama").display());
    std::fs::write(
        bench.job(),
        job.replace(&original, &format!("file://{}/", copy.display())),
    )
    .unwrap();
    bench
}
