//! The worker turn by turn, on tiny models: who runs, what memory is taken, and that neither changes an answer.

use std::path::Path;
use std::sync::Arc;

use finetune_numerics::model::{BLOCK, LoadOptions, Storage};
use finetune_numerics::ops::rope::Scaling;
use rstest::rstest;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::base::BaseModelFiles;
use crate::serve::key_value_memory::Budget;
use crate::serve::sampling::Sampling;

const BLOCK_TOKENS: usize = BLOCK as usize;

/// The tiny base of this name, turned by another scaling where there is one.
fn base(name: &str, scaling: Option<Scaling>) -> Base {
    base_in(Kind::Float, name, scaling)
}

fn base_in(compute: Kind, name: &str, scaling: Option<Scaling>) -> Base {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let files = BaseModelFiles::open(&folder).unwrap();
    let mut config = files.config().clone();
    if let Some(scaling) = scaling {
        config.rope.scaling = scaling;
    }
    let options = LoadOptions {
        compute,
        storage: Storage::Frozen,
    };
    Base::load(&config, files.weights().unwrap().as_ref(), &options).unwrap()
}

/// A worker of `most` answers at a time, with memory for so many blocks of tokens.
fn worker(base: Base, most: usize, blocks: usize) -> Worker {
    let token_bytes = base.config().key_value_bytes(base.compute()) as u64;
    let bytes = token_bytes * (blocks * BLOCK_TOKENS) as u64;
    let memory = KeyValueMemory::new(Budget::Fixed(bytes), token_bytes).unwrap();
    Worker::new(base, Vec::new(), most, memory, Metrics::new().unwrap())
}

struct Asked(UnboundedReceiver<Event>);

impl Worker {
    /// Asks for so many tokens after a prompt, the likeliest, with their log-probabilities.
    fn ask(&mut self, prompt: &[u32], tokens: usize) -> Asked {
        let (events, receiver) = tokio::sync::mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new(1));
        self.take(Command::Generate(Box::new(Generation {
            prompt: prompt.to_vec(),
            adapter: None,
            max_new_tokens: tokens,
            sampling: Sampling {
                temperature: 0.0,
                top_p: 1.0,
                top_k: None,
                seed: None,
            },
            stop_at_end_tokens: false,
            stop_token_ids: Vec::new(),
            alternatives: Some(0),
            score_prompt: false,
            events,
            _place: places.try_acquire_owned().unwrap(),
            since: Instant::now(),
        })));
        Asked(receiver)
    }

    /// Has the answer that came last wait, as where memory is short.
    fn put_last_back(&mut self) {
        let mut answer = self.running.pop_back().unwrap();
        answer.put_back(&self.base);
        self.waiting.push_front(answer);
    }

    fn is_done(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Works until all answers are given.
    fn finish(&mut self) {
        while !self.is_done() {
            self.turn();
        }
    }
}

impl Asked {
    /// The tokens that have come, and their log-probabilities; fails if the answer did.
    fn answer(&mut self) -> (Vec<u32>, Vec<f64>) {
        let (mut tokens, mut scores) = (Vec::new(), Vec::new());
        while let Ok(event) = self.0.try_recv() {
            match event {
                Event::Token(score) => {
                    tokens.push(score.token);
                    scores.push(score.log_probability.unwrap());
                }
                Event::Failed(error) => panic!("{error}"),
                Event::Prompt(_) | Event::Finished(_) => {}
            }
        }
        (tokens, scores)
    }
}

#[track_caller]
fn assert_same(found: &(Vec<u32>, Vec<f64>), expected: &(Vec<u32>, Vec<f64>)) {
    assert_eq!(found.0, expected.0);
    for (found, expected) in found.1.iter().zip(&expected.1) {
        assert!(
            (found - expected).abs() < 1e-4,
            "{found}, expected {expected}"
        );
    }
}

#[test]
fn of_eight_requests_two_hold_memory_at_a_time_and_all_are_answered() {
    let mut worker = worker(base("tiny-llama", None), 8, 2);
    let mut asked: Vec<_> = (0..8)
        .map(|token| worker.ask(&[5 + token, 6], 20))
        .collect();
    let mut most = 0;
    while !worker.is_done() {
        worker.turn();
        let holding = |answer: &&Answer| answer.cache.bytes() > 0;
        let holding = worker.running.iter().chain(&worker.waiting).filter(holding);
        most = most.max(holding.count());
        assert!(worker.metrics.key_value_bytes.get() <= worker.metrics.key_value_limit.get());
    }
    assert_eq!(most, 2);
    assert_eq!(worker.metrics.put_back.get(), 0);
    for asked in &mut asked {
        assert_eq!(asked.answer().0.len(), 20);
    }
}

#[test]
fn an_answer_that_went_back_to_wait_for_memory_is_what_it_would_have_been() {
    let tokens = 3 * BLOCK_TOKENS;
    let prompts = [[5, 6], [7, 8], [9, 10]];
    let expected = prompts.map(|prompt| {
        let mut worker = worker(base("tiny-llama", None), 8, 100);
        let mut asked = worker.ask(&prompt, tokens);
        worker.finish();
        asked.answer()
    });
    let mut worker = worker(base("tiny-llama", None), 8, 5);
    let mut asked = prompts.map(|prompt| worker.ask(&prompt, tokens));
    while !worker.is_done() {
        worker.turn();
        assert!(worker.metrics.key_value_bytes.get() <= worker.metrics.key_value_limit.get());
    }
    assert!(worker.metrics.put_back.get() > 0);
    for (asked, expected) in asked.iter_mut().zip(&expected) {
        assert_eq!(asked.answer(), *expected);
    }
}

#[rstest]
#[case::bfloat16("tiny-llama", None, Kind::BFloat16, CHUNK + 20)]
#[case::long("families/phi3", None, Kind::Float, 3)]
#[case::dynamic("families/llama", Some(Scaling::Dynamic { factor: 3.0, original_length: 8 }), Kind::Float, 3)]
fn an_answer_that_went_back_to_wait_is_the_same_to_the_last_bit(
    #[case] name: &str,
    #[case] scaling: Option<Scaling>,
    #[case] compute: Kind,
    #[case] prompt: usize,
) {
    let prompt: Vec<u32> = (0..prompt as u32).map(|place| 5 + place % 7).collect();
    let answer = |back_after: &[usize]| {
        let mut worker = worker(base_in(compute, name, scaling.clone()), 8, 10);
        let mut asked = worker.ask(&prompt, 20);
        for turn in 1.. {
            worker.turn();
            if worker.is_done() {
                return asked.answer();
            }
            if back_after.contains(&turn) {
                worker.put_last_back();
            }
        }
        unreachable!("it has no end")
    };
    let expected = answer(&[]);
    assert_eq!(expected.0.len(), 20);
    // In the prompt or just after it, in what was said, and while that is computed again.
    for back_after in [[1].as_slice(), &[8], &[15, 21], &[9, 11, 19]] {
        assert_eq!(answer(back_after), expected, "{back_after:?}");
    }
}

#[test]
fn a_prompt_that_is_computed_again_counts_once() {
    let mut worker = worker(base("tiny-llama", None), 8, 100);
    let prompt = [7; 2 * CHUNK + 20];
    let mut asked = worker.ask(&prompt, 5);
    let computed = |worker: &Worker| worker.metrics.prompt_tokens.get() as usize;
    worker.turn();
    worker.turn();
    assert_eq!(computed(&worker), 2 * CHUNK);
    worker.put_last_back();
    worker.turn();
    assert_eq!(computed(&worker), 2 * CHUNK);
    worker.turn();
    worker.turn();
    worker.turn();
    assert_eq!(computed(&worker), prompt.len());
    worker.put_last_back();
    worker.finish();
    assert_eq!(computed(&worker), prompt.len());
    assert_eq!(asked.answer().0.len(), 5);
}

#[test]
fn a_running_answer_gets_a_token_a_turn_while_seven_prompts_are_computed() {
    let mut worker = worker(base("tiny-llama", None), 8, 1000);
    let mut running = worker.ask(&[5, 6], 50);
    worker.turn();
    assert_eq!(running.answer().0.len(), 1);
    let prompt = [7; 2 * CHUNK + 20];
    let mut prompts: Vec<_> = (0..7).map(|_| worker.ask(&prompt, 1)).collect();
    let mut computed = worker.metrics.prompt_tokens.get();
    while worker.running.len() + worker.waiting.len() > 1 {
        worker.turn();
        assert_eq!(running.answer().0.len(), 1);
        let now = worker.metrics.prompt_tokens.get();
        assert!(now - computed <= CHUNK as u64);
        computed = now;
    }
    assert_eq!(computed as usize, 2 + 7 * prompt.len());
    assert!(prompts.iter_mut().all(|asked| asked.answer().0.len() == 1));
}

#[test]
fn an_answer_that_loaded_adapters_leave_no_memory_for_fails_and_others_go_on() {
    let base = base("tiny-llama", None);
    let token_bytes = base.config().key_value_bytes(base.compute()) as u64;
    let budget = Budget::Rest {
        memory: 2 * token_bytes * (5 * BLOCK_TOKENS) as u64,
        base: 0,
    };
    let memory = KeyValueMemory::new(budget, token_bytes).unwrap();
    let mut worker = Worker::new(base, Vec::new(), 8, memory, Metrics::new().unwrap());
    let mut long = worker.ask(&[5; 3 * BLOCK_TOKENS], 4);
    let mut short = worker.ask(&[6], 4);
    let _room = worker
        .memory
        .take(2 * token_bytes * (3 * BLOCK_TOKENS) as u64)
        .unwrap();
    worker.finish();
    assert_eq!(short.answer().0.len(), 4);
    match long.0.try_recv() {
        Ok(Event::Failed(error)) => assert!(error.to_string().contains("--kv-cache-memory")),
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::long("families/phi3", None)]
#[case::dynamic("families/llama", Some(Scaling::Dynamic { factor: 3.0, original_length: 8 }))]
fn an_answer_does_not_depend_on_how_long_it_may_become(
    #[case] name: &str,
    #[case] scaling: Option<Scaling>,
) {
    let answer = |tokens: usize| {
        let mut worker = worker(base(name, scaling.clone()), 8, 10);
        let mut asked = worker.ask(&[7, 8, 9], tokens);
        worker.finish();
        asked.answer()
    };
    let (tokens, scores) = answer(30);
    assert_eq!(tokens.len(), 30);
    for length in [1, 4, 6, 12] {
        let expected = (tokens[..length].to_vec(), scores[..length].to_vec());
        assert_same(&answer(length), &expected);
    }
}

#[test]
fn an_answer_that_crosses_the_original_length_is_what_the_model_says_without_a_cache() {
    let base = base("families/phi3", None);
    let mut sequence = vec![7_i64, 8, 9];
    let mut expected = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let tokens = Tensor::from_slice(&sequence).unsqueeze(0);
        let row = base.logits(None, &tokens).unwrap().get(0).get(-1);
        let logs = row.log_softmax(-1, Kind::Double);
        let token = logs.argmax(-1, false).int64_value(&[]);
        expected.0.push(token as u32);
        expected.1.push(logs.double_value(&[token]));
        sequence.push(token);
    }
    let mut worker = worker(base, 8, 10);
    let mut asked = worker.ask(&[7, 8, 9], 20);
    worker.finish();
    assert_same(&asked.answer(), &expected);
}
