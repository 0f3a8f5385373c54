//! A checkpoint's files in a local directory.

use std::collections::BTreeMap;
use std::path::Path;

use finetune_artifacts::safetensors_file::{self, Dtype, SafetensorsFile, TensorData};
use finetune_crds::fine_tune_job::ComputeType;
use finetune_numerics::optimizer;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::local_file;
use crate::metrics_log::{MetricsLog, StepReport};

use super::{Best, Checkpoint, Conduct, Identity, RunState};

const TENSORS: &str = "state.safetensors";
pub(super) const STATE: &str = "state.json";
const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "events.tfevents";
const VALUES: &str = "parameters";
const BEST: &str = "best_parameters";
/// Before the names of the optimiser's own tensors.
const OPTIMIZER: &str = "optimizer.";

/// `state.json`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    step: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    best_step: Option<u64>,
    identity: Identity,
    /// A line of `metrics.jsonl`, to be read as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unvalidated: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compute_type: Option<ComputeType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dealing: Option<u32>,
}

/// How the run computes whose `state.json` has these bytes.
pub(super) fn conduct(state: &[u8]) -> Option<Conduct> {
    let state: State = serde_json::from_slice(state).ok()?;
    Some(Conduct {
        compute_type: state.compute_type?,
        dealing: state.dealing?,
    })
}

/// Writes all files of a checkpoint into `folder`.
pub(super) fn write(folder: &Path, identity: &Identity, run: &RunState<'_>) -> Result<(), Failure> {
    // safetensors are little endian, as every machine that libtorch runs on.
    let floats = |values| {
        let bytes = bytemuck::cast_slice::<f32, u8>(values);
        (Dtype::F32, [values.len()], bytes)
    };
    let mut tensors = vec![(VALUES.to_owned(), floats(run.parameters.values()?))];
    if let Some(best) = run.best {
        tensors.push((BEST.to_owned(), floats(&best.values)));
    }
    for (name, state) in run.optimizer.state() {
        let tensor = match state {
            optimizer::State::Float(numbers) => floats(numbers),
            optimizer::State::Code(codes) => (Dtype::U8, [codes.len()], codes),
        };
        tensors.push((format!("{OPTIMIZER}{name}"), tensor));
    }
    let data = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let data = TensorData {
            dtype: *dtype,
            shape,
            bytes,
        };
        (name.as_str(), data)
    });
    safetensors_file::write(&folder.join(TENSORS), data, None)?;
    let state = State {
        step: run.optimizer.steps(),
        best_step: run.best.map(|best| best.step),
        identity: identity.clone(),
        unvalidated: run
            .unvalidated
            .map(serde_json::to_string)
            .transpose()
            .map_err(Failure::internal)?,
        compute_type: Some(run.conduct.compute_type),
        dealing: Some(run.conduct.dealing),
    };
    local_file::write(
        &folder.join(STATE),
        serde_json::to_vec(&state).map_err(Failure::internal)?,
    )?;
    local_file::write(&folder.join(METRICS), run.metrics.to_jsonl())?;
    local_file::write(&folder.join(EVENTS), run.metrics.events())?;
    Ok(())
}

/// Reads all files of a checkpoint from `folder`; `origin` names it in messages.
pub(super) fn read(
    folder: &Path,
    origin: &str,
    identity: &Identity,
) -> Result<Checkpoint, Failure> {
    let state: State =
        serde_json::from_slice(&std::fs::read(folder.join(STATE))?).map_err(Failure::internal)?;
    if let Some(difference) = difference(&state.identity, identity) {
        return Err(Failure::invalid(format!(
            "checkpoint {origin} is of another run: {difference}; choose another --work, or remove the folder to train from the start"
        )));
    }
    let tensors = SafetensorsFile::open(&folder.join(TENSORS)).map_err(Failure::internal)?;
    let metrics = std::fs::read_to_string(folder.join(METRICS))?;
    let events = std::fs::read(folder.join(EVENTS))?;
    let mut optimizer = BTreeMap::new();
    for name in tensors.names() {
        if let Some(part) = name.strip_prefix(OPTIMIZER) {
            let tensor = tensors.tensor(name).map_err(Failure::internal)?;
            optimizer.insert(part.to_owned(), tensor.bytes.to_vec());
        }
    }
    let best = match state.best_step {
        Some(step) => Some(Best {
            step,
            values: floats(&tensors, BEST, identity.parameters)?,
        }),
        None => None,
    };
    Ok(Checkpoint {
        step: state.step,
        values: floats(&tensors, VALUES, identity.parameters)?,
        optimizer,
        best,
        metrics: MetricsLog::parse(&metrics, events).map_err(Failure::internal)?,
        unvalidated: state
            .unvalidated
            .map(|line| StepReport::parse(&line))
            .transpose()
            .map_err(Failure::internal)?,
    })
}

/// What tells two runs apart, in words.
fn difference(found: &Identity, expected: &Identity) -> Option<String> {
    let Identity {
        spec_digest,
        earlier_spec_digest: _,
        dataset_digest,
        base_digest,
        parameters,
    } = found;
    let of_spec = if *spec_digest == expected.earlier_spec_digest {
        &expected.earlier_spec_digest
    } else {
        &expected.spec_digest
    };
    [
        ("the spec", spec_digest, of_spec),
        ("the data", dataset_digest, &expected.dataset_digest),
        ("the base", base_digest, &expected.base_digest),
    ]
    .into_iter()
    .find(|(_, found, expected)| found != expected)
    .map(|(what, found, expected)| format!("{what} has digest {expected}, and had {found}"))
    .or_else(|| {
        (*parameters != expected.parameters).then(|| {
            format!(
                "it has {parameters} parameters, expected {}",
                expected.parameters
            )
        })
    })
}

fn floats(tensors: &SafetensorsFile, name: &str, count: usize) -> Result<Vec<f32>, Failure> {
    let tensor = tensors.tensor(name).map_err(Failure::internal)?;
    tensor
        .to_f32()
        .filter(|values| values.len() == count)
        .ok_or_else(|| {
            Failure::internal(format!(
                "{name} is {:?} {:?}, expected F32 [{count}]",
                tensor.dtype, tensor.shape
            ))
        })
}
