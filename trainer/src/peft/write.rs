//! Writes an adapter folder.

use std::path::Path;

use finetune_artifacts::safetensors_file::{self, Dtype, TensorData};
use finetune_crds::contract::layout::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use finetune_numerics::adapter::{Lora, LoraSettings};
use finetune_numerics::architecture::{ModelConfig, Wiring};

use super::{AdapterConfig, Error};

/// From this many target modules on, PEFT shortens full module paths to suffixes.
const SHORTENED_FROM: usize = 20;
const ALL_LINEAR: &str = "all-linear";

impl AdapterConfig {
    /// The configuration of an adapter that was trained with `settings` and this rate of dropout on the base at `base_model`.
    pub fn of_training(
        config: &ModelConfig,
        settings: &LoraSettings,
        dropout: f64,
        base_model: &str,
    ) -> Self {
        let all = settings
            .target_modules
            .iter()
            .any(|word| word == ALL_LINEAR);
        let projections = config.projections();
        let paths: Vec<String> = (0..config.layers)
            .flat_map(|layer| projections.iter().map(move |p| p.module(config, layer)))
            .collect();
        // Beside the decoder of a multimodal model stand modules with the same last names.
        let alone = config.wiring.decoder == Wiring::LLAMA.decoder;
        let target_modules = if !all {
            settings.target_modules.clone()
        } else if paths.len() < SHORTENED_FROM || !alone {
            paths
        } else {
            projections.iter().map(|p| p.name().to_owned()).collect()
        };
        Self {
            rank: settings.rank,
            alpha: settings.alpha as f64,
            rank_pattern: settings.rank_pattern.clone(),
            alpha_pattern: settings
                .alpha_pattern
                .iter()
                .map(|(pattern, alpha)| (pattern.clone(), *alpha as f64))
                .collect(),
            rank_stabilized: settings.use_rslora,
            dora: settings.use_dora,
            dropout,
            target_modules,
            base_model: Some(base_model.to_owned()),
            revision: None,
        }
    }
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` into `folder`, which exists.
pub fn write(folder: &Path, config: &AdapterConfig, lora: &Lora) -> Result<(), Error> {
    let path = folder.join(ADAPTER_CONFIG);
    std::fs::write(&path, config.to_bytes()).map_err(|source| Error::Io { path, source })?;

    let parameters = lora.parameters();
    let values = parameters.values()?;
    let tensors: Vec<(&str, Vec<usize>, Vec<u8>)> = parameters
        .list()
        .iter()
        .map(|parameter| {
            let shape = parameter.shape.iter().map(|size| *size as usize).collect();
            let range = parameter.offset..parameter.offset + parameter.length();
            let bytes = values[range].iter().flat_map(|x| x.to_le_bytes()).collect();
            (parameter.name.as_str(), shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let data = TensorData {
            dtype: Dtype::F32,
            shape,
            bytes,
        };
        (*name, data)
    });
    safetensors_file::write(&folder.join(ADAPTER_WEIGHTS), views, Some(("format", "pt")))?;
    Ok(())
}
