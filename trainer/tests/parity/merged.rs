//! A base with an adapter merged into it says what base and adapter say, for every family.

use finetune_numerics::model::{Base, LoadOptions, Storage, WeightSource};
use rstest::rstest;
use tch::{Kind, Tensor};
use trainer::base::BaseModelFiles;
use trainer::export::Merged;

use crate::expected::{MISTAKE, expected};
use crate::families::for_every_family;
use crate::fixture::{assert_close, distance, path};

const FROZEN: LoadOptions = LoadOptions {
    compute: Kind::Float,
    storage: Storage::Frozen,
};

/// The same weights in another type.
struct As<'a>(&'a dyn WeightSource, Kind);

impl WeightSource for As<'_> {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn tensor(&self, name: &str) -> finetune_numerics::ops::Result<Tensor> {
        Ok(self.0.tensor(name)?.to_kind(self.1))
    }
}

for_every_family! {
    fn merged_weights_equal_base_and_adapter(name) {
    let folder = path(&format!("families/{name}"));
    let files = BaseModelFiles::open(&folder).unwrap();
    let lora = trainer::peft::read(&folder.join("adapter"), files.config())
        .unwrap()
        .lora;
    let numbers = expected(&format!("families/{name}/expected.safetensors"));
    let tokens = &numbers["tokens"];
    let weights = files.weights().unwrap();
    let stored = As(weights.as_ref(), Kind::Float);
    let base = Base::load(files.config(), &stored, &FROZEN).unwrap();
    let merged = Merged::new(&stored, &lora);
    let one = Base::load(files.config(), &merged, &FROZEN).unwrap();

    let with_adapter = base.logits(Some(&lora), tokens).unwrap();
    let ours = one.logits(None, tokens).unwrap();
    assert_close("logits", &ours, &with_adapter, numbers.between("logits"));
    let alone = distance(&base.logits(None, tokens).unwrap(), &with_adapter);
    assert!(
        alone > MISTAKE,
        "the adapter moves the logits by {alone} only"
    );
}
}

#[rstest]
#[case("tiny-llama-rslora", "tiny-llama")]
#[case("tiny-llama-patterns", "tiny-llama")]
#[case("tiny-llama-64-dora", "tiny-llama-64")]
#[case("tiny-llama-bias-dora", "tiny-llama-bias")]
fn every_kind_of_adapter_is_merged(#[case] adapter: &str, #[case] model: &str) {
    let files = BaseModelFiles::open(&path(model)).unwrap();
    let adapter = path(&format!("adapters/{adapter}"));
    let lora = trainer::peft::read(&adapter, files.config()).unwrap().lora;
    let tokens = Tensor::from_slice(&[5_i64, 80, 300, 17, 42, 9]).unsqueeze(0);
    let weights = files.weights().unwrap();
    let base = Base::load(files.config(), weights.as_ref(), &FROZEN).unwrap();
    let merged = Merged::new(weights.as_ref(), &lora);
    let one = Base::load(files.config(), &merged, &FROZEN).unwrap();
    let expected = base.logits(Some(&lora), &tokens).unwrap();
    let ours = one.logits(None, &tokens).unwrap();
    let numbers = crate::expected::expected(&format!("expected/lora-{model}.safetensors"));
    assert_close("logits", &ours, &expected, numbers.between("logits"));
}

#[test]
fn each_weight_keeps_the_type_of_its_file() {
    let files = BaseModelFiles::open(&path("tiny-llama")).unwrap();
    let lora = crate::fixture::adapter("tiny-llama", "tiny-llama");
    let weights = files.weights().unwrap();
    let stored = As(weights.as_ref(), Kind::BFloat16);
    let merged = Merged::new(&stored, &lora);
    for name in stored.names() {
        let (before, after) = (stored.tensor(&name).unwrap(), merged.tensor(&name).unwrap());
        assert_eq!(after.kind(), Kind::BFloat16);
        // All linear layers are adapted, and nothing else.
        assert_eq!(before != after, name.contains("_proj"), "{name}");
    }
}
