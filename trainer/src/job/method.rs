//! `spec.method`, in the types of the crate that computes: it knows no manifest.

use finetune_crds::fine_tune_job as manifest;
use finetune_numerics::adapter::LoraSettings;

use crate::base::BaseQuantization;

/// What of a model is trained.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainingMethod {
    /// Every weight.
    Full,
    /// An adapter on the base as its files have it.
    Lora(AdapterSettings),
    /// An adapter on the base in 4 bits.
    Qlora {
        /// The adapter.
        adapter: AdapterSettings,
        /// How the base is held.
        quantization: BaseQuantization,
    },
}

/// An adapter, and how it is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterSettings {
    /// Its parameters, and how they are scaled.
    pub lora: LoraSettings,
    /// The rate at which its inputs are left out in training.
    pub dropout: f64,
}

impl TrainingMethod {
    /// The one method that a spec without faults sets.
    pub fn of(method: &manifest::Method) -> Self {
        // Taken apart without `..`: a method that is not parsed here would train every weight.
        let manifest::Method {
            full: _,
            lora,
            qlora,
        } = method;
        if let Some(lora) = lora {
            Self::Lora(AdapterSettings::of(lora.clone()))
        } else if let Some(qlora) = qlora {
            Self::Qlora {
                adapter: AdapterSettings::of(qlora.lora()),
                quantization: BaseQuantization::from(&qlora.quantization),
            }
        } else {
            Self::Full
        }
    }

    /// Its name as the manifest has it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lora(_) => "lora",
            Self::Qlora { .. } => "qlora",
        }
    }

    /// The adapter that is trained, where one is.
    pub const fn adapter(&self) -> Option<&AdapterSettings> {
        match self {
            Self::Full => None,
            Self::Lora(adapter) | Self::Qlora { adapter, .. } => Some(adapter),
        }
    }
}

impl AdapterSettings {
    fn of(lora: manifest::Lora) -> Self {
        let manifest::Lora {
            rank,
            alpha,
            rank_pattern,
            alpha_pattern,
            use_rslora,
            use_dora,
            dropout,
            target_modules,
        } = lora;
        Self {
            lora: LoraSettings {
                rank,
                alpha,
                rank_pattern,
                alpha_pattern,
                use_rslora,
                use_dora,
                target_modules,
            },
            dropout,
        }
    }
}

#[cfg(test)]
mod tests {
    use finetune_numerics::ops::four_bit::Code;
    use serde_json::{Value, json};

    use super::*;

    fn of(method: Value) -> TrainingMethod {
        TrainingMethod::of(&serde_json::from_value(method).unwrap())
    }

    #[test]
    fn each_method_carries_what_the_manifest_says_of_it_and_its_name() {
        let full = of(json!({ "full": {} }));
        assert_eq!((full.name(), full.adapter()), ("full", None));

        let settings = json!({ "rank": 4, "dropout": 0.25, "useDora": true });
        let lora = of(json!({ "lora": settings }));
        let adapter = lora.adapter().unwrap();
        assert_eq!(lora.name(), "lora");
        assert_eq!((adapter.lora.rank, adapter.lora.use_dora), (4, true));
        assert_eq!(adapter.dropout.to_bits(), 0.25_f64.to_bits());

        let quantization = json!({ "type": "FP4", "doubleQuantization": false });
        let qlora = of(json!({
            "qlora": { "rank": 4, "dropout": 0.25, "useDora": true, "quantization": quantization },
        }));
        assert_eq!(qlora.name(), "qlora");
        let TrainingMethod::Qlora {
            adapter: of_qlora,
            quantization,
        } = &qlora
        else {
            panic!("{qlora:?}");
        };
        assert_eq!(of_qlora, adapter);
        assert_eq!(
            (quantization.code, quantization.double_quantization),
            (Code::Fp4, false)
        );
    }
}
