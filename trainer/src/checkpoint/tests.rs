use std::path::Path;

use finetune_numerics::optimizer::{NewParameter, OptimizerKind};

use crate::manifest_file;
use crate::metrics_log::StepReport;
use crate::workplace::Places;

use super::*;

/// A small tensor and one whose optimiser state has 8 bits, its last block not whole.
const SHAPES: [&[i64]; 2] = [&[2, 3], &[4100]];
const COUNT: usize = 4106;
const CONDUCT: Conduct = Conduct {
    compute_type: ComputeType::BFloat16,
    dealing: 3,
};

fn parameters() -> Parameters {
    let names = ["a", "b"].map(str::to_owned).into_iter();
    let shapes = SHAPES.map(<[i64]>::to_vec);
    let parameters = names
        .zip(shapes)
        .map(|(name, shape)| NewParameter::new(name, shape));
    Parameters::zeros(parameters.collect()).unwrap()
}

fn optimizer() -> Optimizer {
    Optimizer::new(OptimizerKind::AdamW8bit, &parameters(), 0.0)
}

/// A place of its own for each test, and the state of a run in it.
struct Bench {
    folder: tempfile::TempDir,
    place: Workplace,
    identity: Identity,
    parameters: Parameters,
    optimizer: Optimizer,
    metrics: MetricsLog,
    best: Option<Best>,
    unvalidated: Option<StepReport>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = "apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: { name: tiny }
spec:
  baseModel: { uri: file:///base/ }
  dataset: { train: [ { uri: file:///train.jsonl } ] }
  method: { lora: {} }
";
        let job = manifest_file::parse(manifest, Path::new("job.yaml")).unwrap();
        let places = Places {
            work: folder.path().join("work").display().to_string(),
            passing: None,
            cache: Some(folder.path().join("cache")),
            outgoing: None,
            credentials: None,
        };
        Self {
            place: Workplace::open(&job, &places).unwrap(),
            folder,
            identity: Identity {
                spec_digest: "spec".into(),
                earlier_spec_digest: "earlier spec".into(),
                dataset_digest: "data".into(),
                base_digest: "base".into(),
                parameters: COUNT,
            },
            optimizer: optimizer(),
            parameters: parameters(),
            metrics: MetricsLog::default(),
            best: None,
            unvalidated: None,
        }
    }

    async fn claim(&self) -> Attempt {
        Attempt::claim(
            &self.place.passing,
            "test".into(),
            jiff::Timestamp::UNIX_EPOCH,
        )
        .await
        .unwrap()
    }

    /// Makes a step's worth of change and saves it.
    async fn save(&mut self, attempt: &Attempt, keep: usize) -> Result<(), Failure> {
        let (_, gradients) = self.parameters.both_mut().unwrap();
        for (index, gradient) in gradients.iter_mut().enumerate() {
            *gradient = (index as f32 / 3.0).sin();
        }
        self.optimizer.step(&mut self.parameters, 0.1, 0.0).unwrap();
        let step = self.optimizer.steps();
        let report = StepReport {
            step,
            loss: 1.0 / step as f64,
            learning_rate: 0.1,
            gradient_norm: 1.0,
            tokens: 5,
            ..StepReport::default()
        };
        self.metrics
            .push(report, jiff::Timestamp::UNIX_EPOCH)
            .unwrap();
        let run = RunState {
            parameters: &self.parameters,
            optimizer: &self.optimizer,
            metrics: &self.metrics,
            best: self.best.as_ref(),
            unvalidated: self.unvalidated.as_ref(),
            conduct: CONDUCT,
        };
        write(&self.place, attempt, &self.identity, &run).await?;
        delete_old(&self.place, attempt, keep).await
    }

    fn folders(&self, attempt: u32) -> Vec<String> {
        let folder = self
            .folder
            .path()
            .join(format!("work/scratch/attempts/{attempt:06}/checkpoints"));
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .map(|entries| {
                entries
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect()
            })
            .unwrap_or_default();
        names.sort();
        names
    }
}

#[tokio::test]
async fn what_was_saved_is_restored_to_the_bit() {
    let mut bench = Bench::new();
    let attempt = bench.claim().await;
    bench.save(&attempt, 2).await.unwrap();
    bench.save(&attempt, 2).await.unwrap();
    let checkpoint = newest(&bench.place, &bench.identity)
        .await
        .unwrap()
        .unwrap();

    let (mut parameters, mut optimizer) = (parameters(), optimizer());
    checkpoint.restore(&mut parameters, &mut optimizer).unwrap();
    assert_eq!(
        parameters.values().unwrap(),
        bench.parameters.values().unwrap()
    );
    assert_eq!(optimizer, bench.optimizer);
    assert_eq!(checkpoint.metrics, bench.metrics);
    assert_eq!(checkpoint.best, None);
}

#[tokio::test]
async fn a_checkpoint_with_the_earlier_form_of_the_specs_digest_is_gone_on_from() {
    let mut bench = Bench::new();
    let attempt = bench.claim().await;
    let today = bench.identity.clone();
    bench
        .identity
        .spec_digest
        .clone_from(&today.earlier_spec_digest);
    bench.save(&attempt, 2).await.unwrap();
    let checkpoint = newest(&bench.place, &today).await.unwrap();
    assert_eq!(checkpoint.map(|found| found.step), Some(1));
}

#[tokio::test]
async fn the_best_weights_lie_beside_the_last_ones() {
    let mut bench = Bench::new();
    let attempt = bench.claim().await;
    bench.best = Some(Best {
        step: 1,
        values: vec![0.5; COUNT],
    });
    bench.save(&attempt, 2).await.unwrap();
    let checkpoint = newest(&bench.place, &bench.identity)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(checkpoint.best, bench.best);
    assert_ne!(checkpoint.values, vec![0.5; COUNT]);
}

#[tokio::test]
async fn a_step_that_is_not_yet_validated_is_kept_to_the_last_digit() {
    let mut bench = Bench::new();
    let attempt = bench.claim().await;
    bench.unvalidated = Some(StepReport {
        step: 1,
        // serde_json reads 9.054250067662279 as 9.05425006766228.
        loss: 9.054_250_067_662_279,
        spike: true,
        ..StepReport::default()
    });
    bench.save(&attempt, 2).await.unwrap();
    let checkpoint = newest(&bench.place, &bench.identity)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(checkpoint.unvalidated, bench.unvalidated);
}

#[tokio::test]
async fn how_a_run_computes_is_known_from_its_newest_checkpoint_that_can_be_read() {
    let mut bench = Bench::new();
    assert_eq!(conduct(&bench.place).await.unwrap(), None);
    let attempt = bench.claim().await;
    for _ in 0..2 {
        bench.save(&attempt, 2).await.unwrap();
    }
    let newest = bench
        .folder
        .path()
        .join("work/scratch/attempts/000001/checkpoints/000000002/state.json");
    std::fs::write(newest, "torn").unwrap();
    assert_eq!(conduct(&bench.place).await.unwrap(), Some(CONDUCT));
}

#[tokio::test]
async fn the_state_of_another_optimiser_is_refused() {
    let mut bench = Bench::new();
    let attempt = bench.claim().await;
    bench.save(&attempt, 2).await.unwrap();
    let checkpoint = newest(&bench.place, &bench.identity)
        .await
        .unwrap()
        .unwrap();
    let mut other = Optimizer::new(OptimizerKind::AdamW, &parameters(), 0.0);
    let failure = checkpoint
        .restore(&mut parameters(), &mut other)
        .unwrap_err();
    assert!(failure.message.contains("first_moment"), "{failure}");
}

#[tokio::test]
async fn only_the_newest_are_kept_and_those_of_superseded_attempts_go_too() {
    let mut bench = Bench::new();
    let first = bench.claim().await;
    for _ in 0..3 {
        bench.save(&first, 2).await.unwrap();
    }
    assert_eq!(bench.folders(1), ["000000002", "000000003"]);
    let second = bench.claim().await;
    bench.save(&second, 2).await.unwrap();
    assert_eq!(bench.folders(1), ["000000003"]);
    bench.save(&second, 2).await.unwrap();
    assert!(bench.folders(1).is_empty());
    assert_eq!(bench.folders(2), ["000000004", "000000005"]);
}

#[tokio::test]
async fn a_superseded_attempt_completes_nothing() {
    let mut bench = Bench::new();
    let first = bench.claim().await;
    bench.save(&first, 2).await.unwrap();
    let _second = bench.claim().await;
    let failure = bench.save(&first, 2).await.unwrap_err();
    assert_eq!(failure.reason, OutcomeReason::Superseded);
    assert_eq!(
        newest(&bench.place, &bench.identity)
            .await
            .unwrap()
            .unwrap()
            .step,
        1
    );
}

#[tokio::test]
async fn what_was_written_of_a_checkpoint_that_fails_is_deleted() {
    let mut bench = Bench::new();
    let attempt = bench.claim().await;
    // A folder that is not empty lies where a file is to go.
    let in_the_way = bench
        .folder
        .path()
        .join("work/scratch/attempts/000001/checkpoints/000000001/state.safetensors/x");
    std::fs::create_dir_all(in_the_way).unwrap();
    let failure = bench.save(&attempt, 2).await.unwrap_err();
    assert!(
        failure.message.contains("state.safetensors")
            && !failure.message.contains("LocalFileSystem"),
        "{failure}"
    );
    assert!(bench.folders(1).is_empty(), "{:?}", bench.folders(1));
    bench.save(&attempt, 2).await.unwrap();
    assert_eq!(bench.folders(1), ["000000002"]);
}

#[tokio::test]
async fn one_without_a_manifest_or_with_a_damaged_file_is_passed_over() {
    let mut bench = Bench::new();
    let attempt = bench.claim().await;
    for _ in 0..3 {
        bench.save(&attempt, 3).await.unwrap();
    }
    let folder = bench
        .folder
        .path()
        .join("work/scratch/attempts/000001/checkpoints");
    std::fs::remove_file(folder.join("000000003/manifest.json")).unwrap();
    std::fs::write(folder.join("000000002/state.safetensors"), "torn").unwrap();
    assert_eq!(
        newest(&bench.place, &bench.identity)
            .await
            .unwrap()
            .unwrap()
            .step,
        1
    );
}

#[tokio::test]
async fn one_that_cannot_be_brought_here_is_not_taken_for_a_damaged_one() {
    let mut bench = Bench::new();
    let attempt = bench.claim().await;
    bench.save(&attempt, 2).await.unwrap();
    bench.place.local = bench.folder.path().join("nowhere");
    let failure = newest(&bench.place, &bench.identity).await.unwrap_err();
    assert!(failure.message.contains("nowhere"), "{failure}");
}

#[tokio::test]
async fn one_of_another_run_is_refused_with_what_differs() {
    let mut bench = Bench::new();
    let attempt = bench.claim().await;
    bench.save(&attempt, 1).await.unwrap();
    bench.identity.base_digest = "other".into();
    let failure = newest(&bench.place, &bench.identity).await.unwrap_err();
    assert_eq!(failure.reason, OutcomeReason::InvalidInput);
    assert!(
        failure
            .message
            .contains("the base has digest other, and had base"),
        "{failure}"
    );
}

#[test]
fn only_checkpoint_folders_have_a_step() {
    assert_eq!(step_of("attempts/000001/checkpoints/000000100/"), Some(100));
    assert_eq!(step_of("attempts/000001/"), None);
    let folder = format!(
        "{}{}",
        layout::attempt_folder(1),
        layout::checkpoint_folder(7)
    );
    assert_eq!(step_of(&folder), Some(7));
}

#[test]
fn the_newest_is_that_of_the_highest_step_then_of_the_highest_attempt() {
    let place = |step, attempt| Place {
        step,
        attempt,
        folder: String::new(),
    };
    let mut places = vec![place(10, 1), place(9, 3), place(10, 2)];
    places.sort();
    assert_eq!(places.pop(), Some(place(10, 2)));
}
