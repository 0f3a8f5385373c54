//! An [`Outcome`] as a pod's termination message, which is never too long and never empty.
//!
//! Of what was published it says the digests alone: where the folders lie follows from the manifest and the layout.

use serde::Serialize;

use super::layout;
use super::outcome::Outcome;

/// The most bytes of a termination message. The kubelet cuts what is over 4096, and over 12 KiB divided by the number of the
/// pod's containers: with this much, three sidecars may stand beside the trainer.
pub const MAX_TERMINATION_MESSAGE: usize = 3072;

/// The most bytes of each text but the message, as JSON. A digest has 73, with its quotes.
const MAX_TEXT: usize = 80;

impl Outcome {
    /// The outcome as a termination message: JSON of at most [`MAX_TERMINATION_MESSAGE`] bytes. The message for people, and then
    /// the warnings, get the room that the rest leaves, and are cut there.
    pub fn termination_message(&self) -> String {
        let mut said = Self {
            message: String::new(),
            gguf_adapter: None,
            warnings: Vec::new(),
            ..self.clone()
        };
        for published in said.adapter.iter_mut().chain(&mut said.model) {
            published.uri = String::new();
        }
        for text in said.texts() {
            *text = cut(text, MAX_TEXT);
        }
        let taken = to_json(&said).len() + r#""message":,"warnings":[],"#.len();
        let room = MAX_TERMINATION_MESSAGE.saturating_sub(taken);
        said.message = cut(&self.message, room);
        said.warnings = first(
            &self.warnings,
            room - to_json(&said.message).len().min(room),
        );
        to_json(&said)
    }

    /// All texts but the message. Some are as long as the base's files, or a manifest written by hand, have them.
    fn texts(&mut self) -> Vec<&mut String> {
        let mut texts = vec![&mut self.uid, &mut self.spec_digest];
        texts.extend(&mut self.field);
        texts.extend(&mut self.version);
        for published in self.adapter.iter_mut().chain(&mut self.model) {
            texts.push(&mut published.digest);
        }
        if let Some(dataset) = &mut self.dataset {
            texts.extend([&mut dataset.digest, &mut dataset.format]);
        }
        if let Some(base) = &mut self.base_model {
            texts.extend(&mut base.identity);
            texts.extend(&mut base.revision);
            texts.extend(&mut base.digest);
            texts.extend(&mut base.architecture);
        }
        if let Some(plan) = &mut self.plan {
            texts.extend([&mut plan.method, &mut plan.learning_rate]);
        }
        if let Some(progress) = &mut self.progress {
            texts.push(&mut progress.uid);
            texts.extend(&mut progress.checkpoint_time);
        }
        texts
    }
}

fn to_json(value: &(impl Serialize + ?Sized)) -> String {
    // Keys are texts and no number is refused, so this cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// As much of `text` as fits into `bytes` bytes of JSON with its quotes, ending in `…` where some is left out.
fn cut(text: &str, bytes: usize) -> String {
    const ELLIPSIS: char = '…';
    if to_json(text).len() <= bytes {
        return text.to_owned();
    }
    let mut room = bytes.saturating_sub(2 + ELLIPSIS.len_utf8());
    let mut kept = String::new();
    let mut buffer = [0; 4];
    for character in text.chars() {
        // What needs an escape takes up to six bytes.
        let taken = to_json(&*character.encode_utf8(&mut buffer)).len() - 2;
        if taken > room {
            break;
        }
        room -= taken;
        kept.push(character);
    }
    kept.push(ELLIPSIS);
    kept
}

/// The first of `warnings`, each cut, that fit into `room` bytes of JSON, and how many more there are.
fn first(warnings: &[String], room: usize) -> Vec<String> {
    const EACH: usize = 300;
    let more = |count: usize| format!("{count} more, see {}", layout::DATASET_REPORT);
    let length = |text: &String| to_json(text).len() + ",".len();
    let mut left = room.saturating_sub(length(&more(warnings.len())));
    let fitting = warnings.iter().map(|warning| cut(warning, EACH));
    let mut kept: Vec<String> = fitting
        .take_while(|warning| {
            let fits = length(warning) <= left;
            left -= length(warning).min(left);
            fits
        })
        .collect();
    let rest = more(warnings.len() - kept.len());
    if kept.len() < warnings.len() && length(&rest) <= room {
        kept.push(rest);
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::super::outcome::{OutcomeReason, Published, Stage};
    use super::super::progress::{Progress, RunPhase};
    use super::*;
    use crate::fine_tune_job::{BaseModelStatus, DatasetStatus, PlanStatus};

    fn digest(of: char) -> String {
        format!("sha256:{}", of.to_string().repeat(64))
    }

    /// A result of everything that a job can publish, below a folder of `uri`.
    fn result(uri: &str) -> Outcome {
        let published = |name: char| Published {
            uri: format!(
                "{uri}/team-a/support/sha256-{}/",
                name.to_string().repeat(64)
            ),
            digest: digest(name),
        };
        Outcome {
            stage: Stage::Train,
            reason: OutcomeReason::Succeeded,
            message: String::new(),
            field: None,
            uid: "0a7a3c1e-9c4b-4f4e-8a53-0d0c0f6f2a11".into(),
            spec_digest: digest('5'),
            version: Some("0.1.0".into()),
            attempt: 3,
            adapter: Some(published('a')),
            model: Some(published('b')),
            gguf_adapter: Some(format!("{}adapter.gguf", published('a').uri)),
            dataset: Some(DatasetStatus {
                digest: digest('d'),
                format: "ChatMessages".into(),
                rows: 12_345,
                ..DatasetStatus::default()
            }),
            base_model: Some(BaseModelStatus {
                identity: Some(digest('1')),
                revision: Some("0".repeat(40)),
                digest: Some(digest('2')),
                architecture: Some("Gemma3ForConditionalGeneration".into()),
                parameters: Some(27_000_000_000),
            }),
            plan: Some(PlanStatus {
                method: "qlora".into(),
                learning_rate: "2e-4".into(),
                total_steps: 1000,
                ..PlanStatus::default()
            }),
            progress: Some(Progress {
                uid: "0a7a3c1e-9c4b-4f4e-8a53-0d0c0f6f2a11".into(),
                attempt: 3,
                phase: RunPhase::Publishing,
                step: 1000,
                total_steps: 1000,
                epoch: 2.999_999_999_999_99,
                loss: Some(1.234_567_890_123_456_7),
                validation_loss: Some(1.334_567_890_123_456_7),
                best_validation_loss: Some(1.334_567_890_123_456_7),
                best_step: Some(900),
                loss_spikes: Some(1),
                learning_rate: Some(1.234_567_890_123e-7),
                tokens_per_second: Some(1_234.567_890_123_4),
                tokens: 123_456_789,
                eta_seconds: Some(0),
                peak_memory_bytes: Some(12_345_678_901),
                checkpoint_step: Some(1000),
                checkpoint_time: Some("2026-01-01T00:00:00.123456789Z".into()),
            }),
            warnings: Vec::new(),
        }
    }

    #[track_caller]
    fn read(text: &str) -> Outcome {
        assert!(
            text.len() <= MAX_TERMINATION_MESSAGE,
            "{} bytes",
            text.len()
        );
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_final_loss_and_all_digests_fit_whatever_the_output_folder_is_called() {
        for uri in ["s3://a", &format!("s3://bucket/{}", "team/".repeat(400))] {
            let outcome = result(uri);
            let text = outcome.termination_message();
            assert!(text.len() < 2048, "{} bytes: room for sidecars", text.len());
            let read = read(&text);
            assert_eq!(read.adapter.unwrap().digest, digest('a'));
            assert_eq!(read.model.unwrap().digest, digest('b'));
            assert_eq!(read.progress, outcome.progress);
            assert_eq!(read.plan, outcome.plan);
            assert_eq!(read.dataset, outcome.dataset);
            assert_eq!(read.base_model, outcome.base_model);
        }
    }

    #[test]
    fn a_message_of_quotes_and_control_characters_is_cut_and_the_rest_stays() {
        let outcome = Outcome {
            message: "\u{1}é\"".repeat(4000),
            ..result("s3://a")
        };
        let read = read(&outcome.termination_message());
        assert!(read.message.ends_with('…') && read.message.len() > 300);
        assert_eq!(read.progress, outcome.progress);
    }

    #[test]
    fn many_warnings_are_cut_and_counted_and_nothing_else_goes_for_them() {
        let warning = "a row is longer than it may be, and this \"sentence\" is, too; ";
        let outcome = Outcome {
            warnings: vec![warning.repeat(8); 30],
            ..result("s3://a")
        };
        let few = read(&outcome.termination_message());
        assert_eq!(few.dataset, outcome.dataset);
        let (last, warnings) = few.warnings.split_last().unwrap();
        assert!(warnings.len() > 1 && warnings[0].ends_with('…'));
        assert_eq!(
            *last,
            format!("{} more, see dataset-report.json", 30 - warnings.len())
        );
    }

    #[test]
    fn a_short_message_is_whole() {
        let outcome = Outcome {
            message: "spec.dataset: line 3: …\n\t\"role\"".into(),
            ..result("s3://a")
        };
        assert_eq!(
            read(&outcome.termination_message()).message,
            outcome.message
        );
    }

    #[test]
    fn a_message_of_a_trainer_that_still_said_uris_is_read() {
        let text = format!(
            r#"{{"stage":"Train","reason":"Succeeded","uid":"u","specDigest":"s","attempt":1,"adapter":{{"uri":"s3://a/","digest":"{}"}},"ggufAdapter":"s3://a/adapter.gguf"}}"#,
            digest('a')
        );
        let read: Outcome = serde_json::from_str(&text).unwrap();
        assert_eq!(read.adapter.unwrap().uri, "s3://a/");
    }

    /// Texts of any characters, long ones too, of which many need an escape.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![".{0,40}", r#"["\\\n\x00-\x1f…é]{0,3000}"#]
    }

    proptest! {
        #[test]
        fn whatever_is_said_it_fits_and_names_the_result(
            uri in text(),
            message in text(),
            warnings in proptest::collection::vec(text(), 0..5),
            foreign in proptest::collection::vec(text(), 6),
            number in any::<i64>(),
            float in option::of(proptest::num::f64::NORMAL),
            all in any::<bool>(),
        ) {
            let mut outcome = Outcome { message, warnings, ..result(&uri) };
            if let (Some(dataset), Some(base), Some(plan), Some(progress)) =
                (&mut outcome.dataset, &mut outcome.base_model, &mut outcome.plan, &mut outcome.progress)
            {
                dataset.format.clone_from(&foreign[0]);
                base.architecture = Some(foreign[1].clone());
                base.revision = Some(foreign[2].clone());
                plan.method.clone_from(&foreign[3]);
                for count in [&mut dataset.rows, &mut dataset.tokens, &mut dataset.trainable_tokens,
                    &mut dataset.truncated_rows, &mut dataset.duplicate_rows, &mut dataset.validation_rows,
                    &mut dataset.leaked_rows, &mut dataset.replay_rows, &mut plan.micro_batch_size,
                    &mut plan.gradient_accumulation, &mut plan.total_steps] {
                    *count = number;
                }
                base.parameters = Some(number);
                plan.trainable_parameters = Some(number);
                plan.packed_rows = Some(number);
                for count in [&mut progress.step, &mut progress.total_steps, &mut progress.tokens] {
                    *count = number as u64;
                }
                progress.best_step = Some(number as u64);
                progress.loss_spikes = Some(number as u64);
                progress.eta_seconds = Some(number as u64);
                progress.peak_memory_bytes = Some(number as u64);
                progress.checkpoint_step = Some(number as u64);
                progress.loss = float;
                progress.validation_loss = float;
                progress.best_validation_loss = float;
                progress.learning_rate = float;
                progress.tokens_per_second = float;
            }
            if all {
                outcome.uid.clone_from(&foreign[4]);
                outcome.spec_digest.clone_from(&foreign[5]);
            }
            let said = outcome.termination_message();
            prop_assert!(said.len() <= MAX_TERMINATION_MESSAGE, "{} bytes", said.len());
            let read: Outcome = serde_json::from_str(&said).unwrap();
            prop_assert_eq!(read.adapter.unwrap().digest, digest('a'));
            prop_assert_eq!(read.model.unwrap().digest, digest('b'));
            // Reading a number may change its last digit.
            let near = |read: f64, said: f64| (read - said).abs() <= 1e-15 * said.abs();
            let loss = read.progress.unwrap().loss;
            prop_assert!(loss == float || loss.zip(float).is_some_and(|(read, said)| near(read, said)));
        }
    }
}
