//! By hand each mistake of `crds/tests/refusals.yaml` gets the one fault that the table says.

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

#[derive(Deserialize)]
struct Table {
    good: Value,
    creations: Vec<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    mistake: String,
    name: Option<String>,
    #[serde(default)]
    patch: Value,
    by_hand: Option<String>,
}

fn table() -> Table {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/tests/refusals.yaml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// RFC 7386: objects merge, null removes, anything else replaces.
fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, change) in patch {
                if change.is_null() {
                    target.remove(&key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), change);
                }
            }
        }
        (target, patch) => *target = patch,
    }
}

/// What is wrong with the good job after a change.
fn faults(good: &Value, name: &str, patch: Value) -> Vec<String> {
    let mut spec = good.clone();
    if !patch.is_null() {
        merge(&mut spec, patch);
    }
    let manifest = json!({
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": { "name": name },
        "spec": spec,
    });
    match parse(&manifest.to_string(), Path::new("job.yaml")) {
        Ok(_) => Vec::new(),
        Err(Error::Faults { faults, .. }) => {
            faults.iter().map(|(_, fault)| fault.to_string()).collect()
        }
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn the_good_job_of_the_table_has_no_fault() {
    assert!(faults(&table().good, "job", Value::Null).is_empty());
}

#[test]
fn each_mistake_gets_the_one_fault_that_the_table_says() {
    let Table { good, creations } = table();
    assert!(creations.len() > 100, "{} rows", creations.len());
    let mut wrong = Vec::new();
    for refusal in creations {
        let name = refusal.name.as_deref().unwrap_or("job");
        let found = faults(&good, name, refusal.patch);
        let is_as_said = match (&refusal.by_hand, found.as_slice()) {
            (Some(expected), [fault]) => fault.starts_with(expected),
            (None, []) => true,
            _ => false,
        };
        if !is_as_said {
            let mistake = &refusal.mistake;
            wrong.push(format!(
                "{mistake}: expected {:?}, got {found:?}",
                refusal.by_hand
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
