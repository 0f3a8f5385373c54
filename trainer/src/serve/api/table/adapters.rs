//! The fields of vLLM's requests to load and unload an adapter.

use super::field::{Field, acted_on, harmless};
use super::kind::Kind::{Boolean, Text};

pub(super) static LOAD: &[Field] = &[
    acted_on("lora_name", "the name under which it is served").is(Text),
    acted_on("lora_path", "an absolute path of a PEFT folder").is(Text),
    acted_on("load_inplace", "`true` is refused").is(Boolean),
];

pub(super) static UNLOAD: &[Field] = &[
    acted_on("lora_name", "the name under which it is served").is(Text),
    harmless("lora_int_id", "adapters have names only"),
];
