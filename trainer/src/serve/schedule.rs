//! Who computes what in a turn of the worker: which answers run, and how many tokens each of them computes. Pure: it knows
//! neither the model nor a clock.

use finetune_numerics::model::blocks_of;

/// Of answers in the order in which they came, of so many tokens each, how many of the first may run at a time: as many as the
/// memory of `blocks` blocks holds, and at most `most`. Nobody overtakes: an answer that waits for memory is not passed by
/// shorter ones, or it might wait for ever.
pub(super) fn may_run(
    tokens: impl IntoIterator<Item = usize>,
    blocks: usize,
    most: usize,
) -> usize {
    let mut taken = 0;
    tokens
        .into_iter()
        .take(most)
        .take_while(|tokens| {
            taken += blocks_of(*tokens as i64) as usize;
            taken <= blocks
        })
        .count()
}

/// A running answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pending {
    /// Its tokens that are to be computed before another one is chosen, at least one: what is left of the prompt, or a token that was
    /// chosen.
    pub(super) left: usize,
    /// The turn in which it last computed a chunk of its prompt or, before that, came.
    pub(super) served: u64,
}

/// How many tokens each answer computes in a turn. Who has one left computes it, so that running answers get on by a token a
/// turn. All others together compute `chunk` tokens at most, those first that have waited longest. Prompts are cut at every
/// `chunk` tokens whoever else is there, so that others change no sum.
pub(super) fn shares(answers: &[Pending], chunk: usize) -> Vec<usize> {
    let mut shares: Vec<usize> = answers
        .iter()
        .map(|answer| usize::from(answer.left == 1))
        .collect();
    let mut order: Vec<usize> = (0..answers.len()).filter(|at| shares[*at] == 0).collect();
    order.sort_by_key(|at| answers[*at].served);
    let mut budget = chunk;
    for at in order {
        let wanted = answers[at].left.min(chunk);
        if wanted <= budget {
            shares[at] = wanted;
            budget -= wanted;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use finetune_numerics::model::BLOCK;

    fn pending(left: &[usize]) -> Vec<Pending> {
        let of = |left: &usize| Pending {
            left: *left,
            served: 0,
        };
        left.iter().map(of).collect()
    }

    #[test]
    fn seven_long_prompts_delay_a_running_answer_by_one_chunk_a_token() {
        let mut left = vec![1000; 7];
        left.push(1);
        let shares = shares(&pending(&left), 256);
        assert_eq!(shares[7], 1);
        assert_eq!(shares.iter().sum::<usize>(), 257);
    }

    #[test]
    fn long_prompts_are_computed_in_turn() {
        let mut answers = pending(&[1000, 600, 600]);
        let mut order = Vec::new();
        for turn in 1..=10 {
            let shares = shares(&answers, 256);
            for (at, share) in shares
                .into_iter()
                .enumerate()
                .filter(|(_, share)| *share > 0)
            {
                order.push((at, share));
                answers[at].left -= share;
                answers[at].served = turn;
            }
            if answers.iter().all(|answer| answer.left == 0) {
                break;
            }
            answers.retain(|answer| answer.left > 0);
        }
        let first: Vec<_> = order.iter().take(6).copied().collect();
        assert_eq!(
            first,
            [(0, 256), (1, 256), (2, 256), (0, 256), (1, 256), (2, 256)]
        );
    }

    #[test]
    fn short_prompts_share_a_turn() {
        assert_eq!(shares(&pending(&[20, 30, 1, 40]), 256), [20, 30, 1, 40]);
    }

    #[test]
    fn an_answer_that_waits_for_memory_is_not_passed_by_a_shorter_one() {
        let block = BLOCK as usize;
        assert_eq!(may_run([block, 3 * block, 1], 3, 8), 1);
        assert_eq!(may_run([block, 2 * block, 1], 3, 8), 2);
        assert_eq!(may_run([block, block + 1, 1], 4, 8), 3);
        assert_eq!(may_run([1, 1, 1], 4, 2), 2);
        assert_eq!(may_run([5 * block], 4, 8), 0);
    }

    proptest! {
        #[test]
        fn no_turn_computes_more_than_a_chunk_of_prompts_and_somebody_always_gets_on(
            answers in prop::collection::vec((1_usize..2000, 0_u64..9), 1..12),
        ) {
            let answers: Vec<_> = answers.into_iter().map(|(left, served)| Pending { left, served }).collect();
            let shares = shares(&answers, 256);
            let of_prompts = |(share, answer): (&usize, &Pending)| if answer.left > 1 { *share } else { 0 };
            let computed: usize = shares.iter().zip(&answers).map(of_prompts).sum();
            prop_assert!(computed <= 256);
            for (share, answer) in shares.iter().zip(&answers) {
                prop_assert!(*share <= answer.left);
                prop_assert!(answer.left > 1 || *share == 1);
            }
            let longest_waiting = answers.iter().filter(|answer| answer.left > 1).map(|answer| answer.served).min();
            if let Some(served) = longest_waiting {
                prop_assert!(shares.iter().zip(&answers).any(|(share, answer)| *share > 1 && answer.served == served));
            }
        }

        #[test]
        fn what_runs_has_room_and_one_more_would_not(
            tokens in prop::collection::vec(1_usize..1000, 0..20), blocks in 0_usize..40, most in 0_usize..12,
        ) {
            let running = may_run(tokens.iter().copied(), blocks, most);
            let taken = |count: usize| -> usize { tokens[..count].iter().map(|tokens| blocks_of(*tokens as i64) as usize).sum() };
            prop_assert!(running <= most && taken(running) <= blocks);
            if running < tokens.len().min(most) {
                prop_assert!(taken(running + 1) > blocks);
            }
        }
    }
}
