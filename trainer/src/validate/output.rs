//! The rules of `spec.output`.

use finetune_artifacts::uri::Location;
use finetune_crds::fine_tune_job::{Method, Output};
use finetune_crds::uris;

use super::{Fault, check_uri, cut, is_name, name_rule};

pub(super) fn check_output(output: &Output, method: &Method, faults: &mut Vec<Fault>) {
    if let Some(uri) = &output.uri {
        check_uri("spec.output.uri", uri, faults);
        if Location::parse(uri).is_ok_and(|location| !location.is_writable()) {
            faults.push(Fault::new(
                "spec.output.uri",
                format!(
                    "is `{}`, which is for reading only: expected a folder, file://, {}",
                    cut(uri),
                    uris::list(&uris::WRITABLE)
                ),
            ));
        }
    }
    if output.adapter.is_some() && method.full.is_some() {
        faults.push(Fault::new(
            "spec.output.adapter",
            "is set with method full, which makes a whole model: remove it, or use lora or qlora",
        ));
    }
    if output.merged_model && method.full.is_some() {
        faults.push(Fault::new(
            "spec.output.mergedModel",
            "is true with method full, which makes a whole model anyway: remove it, or use lora or qlora",
        ));
    }
    if output.gguf_adapter && method.full.is_some() {
        faults.push(Fault::new(
            "spec.output.ggufAdapter",
            "is true with method full, which makes no adapter: remove it, or use lora or qlora",
        ));
    }
    let of_qlora = method.qlora.as_ref().is_some_and(|set| set.use_dora);
    if output.gguf_adapter && (of_qlora || method.lora.as_ref().is_some_and(|set| set.use_dora)) {
        faults.push(Fault::new(
            "spec.output.ggufAdapter",
            "is true with useDora, for whose magnitudes GGUF has no place: set one of them to false",
        ));
    }
    // The name becomes a folder of the result, so it is held to its rule whoever wrote the manifest.
    if let Some(adapter) = output
        .adapter
        .as_ref()
        .and_then(|adapter| adapter.name.as_deref())
        && !is_name(adapter)
    {
        faults.push(Fault::new("spec.output.adapter.name", name_rule(adapter)));
    }
}
