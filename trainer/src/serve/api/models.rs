//! `/v1/models` and vLLM's requests to load and unload an adapter.

use serde::{Deserialize, Serialize};

/// The answer of `/v1/models`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ModelList {
    /// `list`.
    pub(crate) object: &'static str,
    /// The base first, then the adapters in the order in which they were loaded.
    pub(crate) data: Vec<ModelCard>,
}

/// One model, with vLLM's fields.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ModelCard {
    /// The name that requests have in `model`.
    pub(crate) id: String,
    /// `model`.
    pub(crate) object: &'static str,
    /// When it was loaded, in seconds since 1970.
    pub(crate) created: i64,
    /// This server.
    pub(crate) owned_by: &'static str,
    /// Where it was loaded from, as it was asked for.
    pub(crate) root: String,
    /// The base, of an adapter.
    pub(crate) parent: Option<String>,
    /// The most tokens of prompt and answer together.
    pub(crate) max_model_len: usize,
}

/// `POST /v1/load_lora_adapter`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LoadAdapterRequest {
    /// The name under which it is to be served.
    pub(crate) lora_name: Option<String>,
    /// An absolute path of a PEFT folder on the server's machine.
    pub(crate) lora_path: Option<String>,
    /// vLLM's switch to replace weights under a name; refused, because running answers would change midway.
    pub(crate) load_inplace: Option<bool>,
}

/// `POST /v1/unload_lora_adapter`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct UnloadAdapterRequest {
    /// The name under which it is served.
    pub(crate) lora_name: Option<String>,
}
