//! The families of models: one row each, which whoever must know them all goes through.

use finetune_numerics::architecture::ModelConfig;

use super::keys::Keys;
use super::{gemma, granite, llama, olmo2, phi3, qwen};
use crate::base::Error;

/// Reads the keys of a family's `config.json`, all but those that no family reads.
type Read = fn(&mut Keys, &str) -> Result<ModelConfig, Error>;

/// A family of models.
#[derive(Debug)]
pub struct Family {
    /// A short name of its own.
    pub name: &'static str,
    /// The class of its checkpoints, which `architectures` of `config.json` names.
    pub class: &'static str,
    pub(super) read: Read,
    /// What llama.cpp makes of it; absent where it does not know it.
    pub llama_cpp: Option<LlamaCpp>,
}

/// What llama.cpp calls a family, and how its converter lays out the family's weights.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LlamaCpp {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Whether the rows of queries and keys are reordered, because neighbouring elements of a head are turned together: in the
    /// script, the classes that derive from `LlamaModel`.
    pub reorders_heads: bool,
}

/// All families.
pub static FAMILIES: [Family; 11] = [
    Family {
        name: "llama",
        class: "LlamaForCausalLM",
        read: llama::llama,
        llama_cpp: Some(reordered("llama")),
    },
    Family {
        name: "mistral",
        class: "MistralForCausalLM",
        read: llama::mistral,
        llama_cpp: Some(reordered("llama")),
    },
    Family {
        name: "qwen2",
        class: "Qwen2ForCausalLM",
        read: qwen::qwen2,
        llama_cpp: Some(plain("qwen2")),
    },
    Family {
        name: "qwen3",
        class: "Qwen3ForCausalLM",
        read: qwen::qwen3,
        llama_cpp: Some(plain("qwen3")),
    },
    Family {
        name: "gemma",
        class: "GemmaForCausalLM",
        read: gemma::gemma,
        llama_cpp: Some(plain("gemma")),
    },
    Family {
        name: "gemma2",
        class: "Gemma2ForCausalLM",
        read: gemma::gemma2,
        llama_cpp: Some(plain("gemma2")),
    },
    Family {
        name: "gemma3",
        class: "Gemma3ForCausalLM",
        read: gemma::gemma3,
        llama_cpp: Some(plain("gemma3")),
    },
    Family {
        name: "gemma3-multimodal",
        class: "Gemma3ForConditionalGeneration",
        read: gemma::gemma3_multimodal,
        llama_cpp: Some(plain("gemma3")),
    },
    Family {
        name: "phi3",
        class: "Phi3ForCausalLM",
        read: phi3::phi3,
        llama_cpp: Some(plain("phi3")),
    },
    Family {
        name: "olmo2",
        class: "Olmo2ForCausalLM",
        read: olmo2::olmo2,
        llama_cpp: Some(plain("olmo2")),
    },
    Family {
        name: "granite",
        class: "GraniteForCausalLM",
        read: granite::granite,
        llama_cpp: Some(reordered("granite")),
    },
];

impl Family {
    /// The family of this class.
    pub fn of_class(class: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.class == class)
    }
}

const fn plain(architecture: &'static str) -> LlamaCpp {
    LlamaCpp {
        architecture,
        reorders_heads: false,
    }
}

const fn reordered(architecture: &'static str) -> LlamaCpp {
    LlamaCpp {
        architecture,
        reorders_heads: true,
    }
}
