//! Packed rows against the same rows unpacked, for every family: loss, gradients, and that no document sees another.

use finetune_numerics::adapter::Lora;
use finetune_numerics::model::{Base, Batch, LoadOptions, Row, Storage};
use rstest::rstest;
use tch::Kind;
use trainer::base::BaseModelFiles;

use crate::expected::{Expected, expected};
use crate::families::for_every_family;
use crate::fixture::{assert_close, assert_near, path, tensors, trained};

/// Tokens, and for each whether it carries loss.
#[derive(Clone)]
struct Document {
    tokens: Vec<u32>,
    loss: Vec<bool>,
}

impl Document {
    fn row(&self) -> Row<'_> {
        Row {
            tokens: &self.tokens,
            loss: &self.loss,
        }
    }

    fn part(&self, range: std::ops::Range<usize>) -> Self {
        Self {
            tokens: self.tokens[range.clone()].to_vec(),
            loss: self.loss[range].to_vec(),
        }
    }
}

/// The rows of a fixture.
fn rows(file: &str, prefix: &str) -> Vec<Document> {
    let expected = tensors(file);
    let list =
        |name: &str| Vec::<Vec<i64>>::try_from(&expected[&format!("{prefix}{name}")]).unwrap();
    let pairs = list("tokens").into_iter().zip(list("labels"));
    pairs
        .map(|(tokens, labels)| Document {
            tokens: tokens.iter().map(|token| *token as u32).collect(),
            loss: labels.iter().map(|label| *label >= 0).collect(),
        })
        .collect()
}

/// What the reference gives for single rows of a family, for how far sums may be apart.
fn numbers(name: &str) -> Expected {
    expected(&format!("families/{name}/expected.safetensors"))
}

/// Two packed rows: whole rows of the fixture, longer than any window, between short ones.
fn packs(name: &str) -> Vec<Vec<Document>> {
    let rows = rows(&format!("families/{name}/expected.safetensors"), "");
    let (one, other) = (&rows[0], &rows[rows.len() - 1]);
    vec![
        vec![one.part(0..5), other.clone(), one.part(3..11)],
        vec![other.part(2..4), one.clone()],
    ]
}

fn packed(packs: &[Vec<Document>]) -> Batch {
    let rows: Vec<Vec<Row<'_>>> = packs
        .iter()
        .map(|documents| documents.iter().map(Document::row).collect())
        .collect();
    Batch::packed(&rows).unwrap()
}

fn unpacked(packs: &[Vec<Document>]) -> Batch {
    let rows: Vec<Row<'_>> = packs.iter().flatten().map(Document::row).collect();
    Batch::new(&rows).unwrap()
}

struct Model {
    base: Base,
    lora: Lora,
}

fn model(name: &str, storage: Storage) -> Model {
    let folder = path(&format!("families/{name}"));
    let files = BaseModelFiles::open(&folder).unwrap();
    let options = LoadOptions {
        compute: Kind::Float,
        storage,
    };
    let base = Base::load(files.config(), files.weights().unwrap().as_ref(), &options).unwrap();
    let lora = trainer::peft::read(&folder.join("adapter"), files.config())
        .unwrap()
        .lora;
    Model { base, lora }
}

impl Model {
    /// The mean loss; the gradients of the adapter are left behind.
    fn loss(&mut self, batch: &Batch) -> f64 {
        self.lora.parameters_mut().zero_gradients().unwrap();
        let tokens = trained(batch);
        let sum = self
            .base
            .loss_and_gradient(Some(&self.lora), batch, 1.0 / tokens, None)
            .unwrap()
            .read()
            .unwrap();
        let alone = self
            .base
            .loss(Some(&self.lora), batch, None)
            .unwrap()
            .read()
            .unwrap();
        assert!((alone.loss / sum.loss - 1.0).abs() < 1e-12);
        sum.loss / tokens
    }
}

for_every_family! {
    fn packed_rows_have_the_loss_and_the_gradients_of_unpacked_ones(name) {
    let packs = packs(name);
    let numbers = numbers(name);
    let (mut one, mut other) = (model(name, Storage::Frozen), model(name, Storage::Frozen));
    let (expected, ours) = (one.loss(&unpacked(&packs)), other.loss(&packed(&packs)));
    assert_near("loss", ours, expected, numbers.between("loss"));
    for parameter in one.lora.parameters().list() {
        let [ours, expected] =
            [&other, &one].map(|model| model.lora.parameters().gradient(parameter).unwrap());
        assert_close(&parameter.name, &ours, &expected, numbers.between("grad."));
    }
}
}

#[rstest]
fn no_document_sees_another(#[values("llama", "mistral", "gemma2", "gemma3", "phi3")] name: &str) {
    let packs = packs(name);
    for place in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)] {
        let run = |shift: u32| {
            let mut packs = packs.clone();
            let document = &mut packs[place.0][place.1];
            document.loss.fill(false);
            for token in &mut document.tokens {
                *token = 3 + (*token + shift) % 90;
            }
            let mut model = model(name, Storage::Frozen);
            let loss = model.loss(&packed(&packs));
            (loss, model.lora.parameters().gradients().unwrap().to_vec())
        };
        assert!(run(0) == run(17), "{place:?}");
    }
}

#[test]
fn all_weights_have_the_gradients_of_unpacked_rows_too() {
    let packs = packs("llama");
    let gradients = |batch: &Batch| {
        let base = model("llama", Storage::Trained).base;
        base.loss_and_gradient(None, batch, 1.0 / trained(batch), None)
            .unwrap();
        base
    };
    let (one, other) = (gradients(&unpacked(&packs)), gradients(&packed(&packs)));
    let numbers = numbers("llama");
    let [expected, ours] = [&one, &other].map(|base| base.parameters().unwrap());
    for parameter in expected.list() {
        let [ours, expected] =
            [ours, expected].map(|parameters| parameters.gradient(parameter).unwrap());
        assert_close(&parameter.name, &ours, &expected, numbers.between("grad."));
    }
}

#[test]
fn one_packed_row_has_the_references_loss_and_gradients_of_ragged_rows() {
    let expected = expected("expected/lora-tiny-llama.safetensors");
    let lengths = Vec::<i64>::try_from(&expected["ragged.lengths"]).unwrap();
    let rows = rows("expected/lora-tiny-llama.safetensors", "ragged.");
    let documents: Vec<Document> = rows
        .iter()
        .zip(lengths)
        .map(|(row, length)| row.part(0..length as usize))
        .collect();
    let base = crate::fixture::base("tiny-llama", Kind::Float, Storage::Frozen);
    let lora = crate::fixture::adapter("tiny-llama", "tiny-llama");
    let batch = packed(&[documents]);
    let tokens = trained(&batch);
    let sum = base
        .loss_and_gradient(Some(&lora), &batch, 1.0 / tokens, None)
        .unwrap()
        .read()
        .unwrap();
    expected.assert_near("ragged.loss", sum.loss / tokens);
    expected.assert_gradients(lora.parameters(), "ragged.grad.");
}

#[test]
fn without_its_borders_a_packed_row_has_another_loss() {
    let packs = packs("llama");
    let mut model = model("llama", Storage::Frozen);
    let right = model.loss(&packed(&packs));
    let leaking = Batch {
        documents: None,
        ..packed(&packs)
    };
    let wrong = model.loss(&leaking);
    assert!((wrong / right - 1.0).abs() > 1e-3, "{wrong} and {right}");
}

/// Of `phi3` the frequencies depend on the length of the sequence: from the ninth token on all are others.
#[rstest]
#[case::beside_a_longer_row(|rows: &[Document]| vec![unpacked_rows(rows)])]
#[case::in_a_packed_row(|rows: &[Document]| vec![packed(&[rows.to_vec()])])]
fn a_row_has_the_loss_and_the_gradients_that_it_has_alone(
    #[case] together: fn(&[Document]) -> Vec<Batch>,
) {
    let rows = rows("families/phi3/expected.safetensors", "");
    let rows = [rows[0].part(0..5), rows[1].clone(), rows[0].part(2..9)];
    assert!(rows[1].tokens.len() > 8);
    let of = |batches: &[Batch]| {
        let model = model("phi3", Storage::Frozen);
        let mut loss = 0.0;
        for batch in batches {
            let sum = model
                .base
                .loss_and_gradient(Some(&model.lora), batch, 0.1, None);
            loss += sum.unwrap().read().unwrap().loss;
        }
        (loss, model)
    };
    let alone: Vec<_> = rows
        .iter()
        .map(|row| unpacked_rows(std::slice::from_ref(row)))
        .collect();
    let (expected_loss, expected) = of(&alone);
    let (loss, ours) = of(&together(&rows));
    let numbers = numbers("phi3");
    assert_near("loss", loss, expected_loss, numbers.between("loss"));
    for parameter in expected.lora.parameters().list() {
        let [ours, expected] =
            [&ours, &expected].map(|model| model.lora.parameters().gradient(parameter).unwrap());
        assert_close(&parameter.name, &ours, &expected, numbers.between("grad."));
    }
}

fn unpacked_rows(rows: &[Document]) -> Batch {
    let rows: Vec<Row<'_>> = rows.iter().map(Document::row).collect();
    Batch::new(&rows).unwrap()
}
