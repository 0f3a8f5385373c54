//! The generated files are what the types say, and the chart has the same ones.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::path::Path;
use std::process::Command;

use finetune_crds::names::condition;
use serde_json::Value;

#[test]
fn generated_files_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(env!("CARGO_BIN_EXE_generate-crds"))
        .args(["--check", "crds/yaml", "docs/reference.md"])
        .current_dir(&root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for name in ["finetunejobs.yaml", "adapters.yaml"] {
        let read = |folder: &str| std::fs::read_to_string(root.join(folder).join(name)).unwrap();
        assert_eq!(
            read("crds/yaml"),
            read("charts/finetune-operator/files/crds"),
            "the chart's {name} is not that of crds/yaml; run `make generate`"
        );
    }
}

/// The schemas below `schema` with the description that `kubectl explain` shows for each.
fn fields<'a>(
    schema: &'a Value,
    path: &str,
    shown: &'a str,
    found: &mut Vec<(String, &'a Value, &'a str)>,
) {
    found.push((path.to_owned(), schema, shown));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let description = field["description"].as_str().unwrap_or_default();
        fields(field, &format!("{path}.{name}"), description, found);
    }
    if schema["items"].is_object() {
        fields(&schema["items"], &format!("{path}[]"), shown, found);
    }
}

/// The one version of a definition.
fn version(name: &str) -> Result<Value, Box<dyn std::error::Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("yaml")
        .join(name);
    let definition: Value = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
    Ok(definition["spec"]["versions"][0].clone())
}

#[test]
fn every_choice_of_a_field_is_explained_where_the_field_is() {
    let mut choices = 0;
    for name in ["finetunejobs.yaml", "adapters.yaml"] {
        let schema = version(name).unwrap()["schema"]["openAPIV3Schema"].clone();
        let mut found = Vec::new();
        fields(&schema, name, "", &mut found);
        for (path, field, shown) in found {
            for choice in field["enum"].as_array().into_iter().flatten() {
                // An optional field lists null, too.
                if let Some(choice) = choice.as_str() {
                    choices += 1;
                    assert!(
                        shown.contains(&format!("`{choice}`: ")),
                        "{path} does not say what {choice} means: {shown}"
                    );
                }
            }
        }
    }
    assert!(choices > 30, "{choices} choices");
}

#[test]
fn a_set_of_choices_may_have_them_all() {
    let mut sets = 0;
    for name in ["finetunejobs.yaml", "adapters.yaml"] {
        let schema = version(name).unwrap()["schema"]["openAPIV3Schema"].clone();
        let mut found = Vec::new();
        fields(&schema, name, "", &mut found);
        for (path, field, _) in found {
            if let Some(choices) = field["items"]["enum"].as_array()
                && let Some(most) = field["maxItems"].as_u64()
            {
                sets += 1;
                assert_eq!(most as usize, choices.len(), "{path}");
            }
        }
    }
    assert!(sets > 0);
}

#[test]
fn every_condition_is_explained_where_the_conditions_are() {
    let of_job = [
        condition::DATASET_VALID,
        condition::PODS_RUNNING,
        condition::PROGRESS_REPORTED,
        condition::PUBLISHED,
        condition::COMPLETE,
        condition::FAILED,
        condition::STALLED,
        condition::RECONCILING,
    ];
    let of_adapter = [
        condition::READY,
        condition::VERIFIED,
        condition::LOADED,
        condition::CONFLICT,
        condition::BASE_MODEL_CHECKED,
        condition::RECONCILING,
        condition::STALLED,
    ];
    for (name, types) in [
        ("finetunejobs.yaml", &of_job[..]),
        ("adapters.yaml", &of_adapter[..]),
    ] {
        let version = version(name).unwrap();
        let schema = &version["schema"]["openAPIV3Schema"];
        let shown = schema["properties"]["status"]["properties"]["conditions"]["description"]
            .as_str()
            .unwrap();
        for type_ in types {
            assert!(shown.contains(&format!("`{type_}`")), "{name}: {type_}");
        }
    }
}

#[test]
fn the_columns_name_adapter_reason_version_and_alias() {
    let columns = |name: &str| -> Vec<(String, i64)> {
        version(name).unwrap()["additionalPrinterColumns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|column| {
                let path = column["jsonPath"].as_str().unwrap().to_owned();
                (path, column["priority"].as_i64().unwrap_or_default())
            })
            .collect()
    };
    let has = |name: &str, path: &str, priority| {
        assert!(
            columns(name).contains(&(path.to_owned(), priority)),
            "{name}: {path}"
        );
    };
    has("finetunejobs.yaml", ".status.result.adapterName", 1);
    has("finetunejobs.yaml", ".status.reason", 1);
    has("adapters.yaml", ".status.stable.version", 0);
    has("adapters.yaml", ".status.serving[*].alias", 0);
    // Ready says why it is so, whatever the state.
    let why = r#".status.conditions[?(@.type=="Ready")].reason"#;
    has("adapters.yaml", why, 1);
}
