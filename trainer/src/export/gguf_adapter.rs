//! An adapter as llama.cpp loads it: one GGUF file with the tensors that its `convert_lora_to_gguf.py` writes of a PEFT folder.
//!
//! llama.cpp multiplies B·A by alpha / r, with one alpha for the whole file and the r of each pair of tensors. A module that is
//! scaled otherwise (rsLoRA, patterns) has the rest of its scale in B, which that script leaves out. Magnitudes of DoRA have
//! no place in the format.

use std::path::Path;

use finetune_artifacts::gguf::{self, Entry, TensorData};
use finetune_numerics::adapter::Lora;
use finetune_numerics::architecture::{ModelConfig, Projection};
use finetune_numerics::ops::low_rank::LowRank;

use crate::base::{Family, row_in_file, turned_heads};
use crate::failure::Failure;

/// What the file says of itself beside the adapter.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The adapter's name.
    pub name: &'a str,
    /// The base's name, as PEFT's configuration has it.
    pub base: &'a str,
    /// The base's commit.
    pub revision: Option<&'a str>,
}

/// Writes the adapter on a base of this shape to `path`.
pub fn write(
    path: &Path,
    config: &ModelConfig,
    lora: &Lora,
    about: About<'_>,
) -> Result<(), Failure> {
    let fault = |what: String| Failure::invalid(format!("spec.output.ggufAdapter: {what}"));
    let family = Family::of_class(&config.architecture);
    let llama_cpp = family.and_then(|family| family.llama_cpp).ok_or_else(|| {
        fault(format!(
            "llama.cpp has no architecture for a {}",
            config.architecture
        ))
    })?;
    if let Some(module) = lora.modules().iter().find(|module| module.dora) {
        return Err(fault(format!(
            "`{}` has magnitudes (DoRA), for which GGUF has no place",
            module.name
        )));
    }
    let first = lora.modules().first();
    let alpha = first.map_or(0.0, |module| module.scaling * module.rank as f64) as f32;
    let mut tensors = Vec::new();
    for layer in 0..config.layers {
        for &projection in config.projections() {
            if let Some(adapter) = &lora.layer(layer as usize)[projection as usize] {
                let heads = turned_heads(projection, config).filter(|_| llama_cpp.reorders_heads);
                tensors.extend(pair(layer, projection, adapter, alpha, heads)?);
            }
        }
    }
    let mut metadata = vec![
        ("general.architecture", Entry::Text(llama_cpp.architecture)),
        ("general.type", Entry::Text("adapter")),
        ("adapter.type", Entry::Text("lora")),
        ("general.name", Entry::Text(about.name)),
        ("general.base_model.count", Entry::Unsigned(1)),
        ("general.base_model.0.name", Entry::Text(about.base)),
    ];
    if let Some(revision) = about.revision {
        metadata.push(("general.base_model.0.version", Entry::Text(revision)));
    }
    metadata.push(("adapter.lora.alpha", Entry::Float(alpha)));
    // LLAMA_FTYPE_ALL_F32 and GGML_QNT_VERSION.
    metadata.push(("general.file_type", Entry::Unsigned(0)));
    metadata.push(("general.quantization_version", Entry::Unsigned(2)));
    let tensors: Vec<_> = tensors.iter().map(Owned::data).collect();
    gguf::write(path, &metadata, &tensors).map_err(Failure::internal)
}

struct Owned {
    name: String,
    shape: [usize; 2],
    values: Vec<f32>,
}

impl Owned {
    fn data(&self) -> TensorData<'_> {
        TensorData {
            name: &self.name,
            shape: &self.shape,
            values: &self.values,
        }
    }
}

/// A (r, in) and B (out, r) of a module. `heads`: of how many B's rows are reordered.
fn pair(
    layer: i64,
    projection: Projection,
    adapter: &LowRank,
    alpha: f32,
    heads: Option<usize>,
) -> Result<[Owned; 2], Failure> {
    let name = format!("blk.{layer}.{}.weight", projection.gguf_name());
    let (rank, input) = adapter.a.size2()?;
    let (output, _) = adapter.b.size2()?;
    let (rank, input, output) = (rank as usize, input as usize, output as usize);
    let a = values(&adapter.a)?;
    let mut b = values(&adapter.b)?;
    let rest = adapter.scaling * rank as f64 / f64::from(alpha);
    // Alpha is rounded to fp32; a factor that is 1 but for that would only round B.
    if (rest - 1.0).abs() > f64::from(f32::EPSILON) {
        for value in &mut b {
            *value = (f64::from(*value) * rest) as f32;
        }
    }
    if let Some(heads) = heads {
        let mut ordered = vec![0.0; b.len()];
        for (row, values) in b.chunks_exact(rank).enumerate() {
            let start = row_in_file(row, heads, output) * rank;
            ordered[start..start + rank].copy_from_slice(values);
        }
        b = ordered;
    }
    Ok([
        Owned {
            name: format!("{name}.lora_a"),
            shape: [rank, input],
            values: a,
        },
        Owned {
            name: format!("{name}.lora_b"),
            shape: [output, rank],
            values: b,
        },
    ])
}

fn values(tensor: &tch::Tensor) -> Result<Vec<f32>, Failure> {
    let flat = tensor.f_contiguous()?.f_view([-1])?;
    let mut values = vec![0.0; flat.numel()];
    flat.f_copy_data(&mut values, flat.numel())?;
    Ok(values)
}
