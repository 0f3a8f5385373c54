//! A checkpoint's files in a local directory.

use std::path::Path;

use finetune_artifacts::safetensors_file::{self, Dtype, SafetensorsFile, TensorData};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::optimizer::{AdamW, Parameters};
use crate::train::metrics_log::MetricsLog;

use super::{Checkpoint, Identity};

const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";
const METRICS: &str = "metrics.jsonl";
const VALUES: &str = "parameters";
const FIRST_MOMENT: &str = "first_moment";
const SECOND_MOMENT: &str = "second_moment";

/// `state.json`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    step: u64,
    identity: Identity,
}

/// Writes all files of a checkpoint into `folder`.
pub(super) fn write(
    folder: &Path,
    step: u64,
    identity: &Identity,
    parameters: &Parameters,
    optimizer: &AdamW,
    metrics: &MetricsLog,
) -> Result<(), Failure> {
    let shape = [parameters.count()];
    // safetensors are little endian, as every machine that libtorch runs on.
    let data = |values| TensorData {
        dtype: Dtype::F32,
        shape: &shape,
        bytes: bytemuck::cast_slice::<f32, u8>(values),
    };
    let tensors = [
        (VALUES, data(parameters.values()?)),
        (FIRST_MOMENT, data(&optimizer.first_moment)),
        (SECOND_MOMENT, data(&optimizer.second_moment)),
    ];
    safetensors_file::write(&folder.join(TENSORS), tensors, None).map_err(Failure::internal)?;
    let state = State {
        step,
        identity: identity.clone(),
    };
    std::fs::write(
        folder.join(STATE),
        serde_json::to_vec(&state).map_err(Failure::internal)?,
    )?;
    std::fs::write(folder.join(METRICS), metrics.to_jsonl())?;
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
    Ok(Checkpoint {
        step: state.step,
        values: floats(&tensors, VALUES, identity.parameters)?,
        first_moment: floats(&tensors, FIRST_MOMENT, identity.parameters)?,
        second_moment: floats(&tensors, SECOND_MOMENT, identity.parameters)?,
        metrics: MetricsLog::parse(&metrics, state.step).map_err(Failure::internal)?,
    })
}

/// What tells two runs apart, in words.
fn difference(found: &Identity, expected: &Identity) -> Option<String> {
    let Identity {
        spec_digest,
        dataset_digest,
        base_digest,
        parameters,
    } = found;
    [
        ("the spec", spec_digest, &expected.spec_digest),
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
