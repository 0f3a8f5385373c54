//! Attention on the CPU: one task for each head of each document.
#![expect(
    clippy::needless_range_loop,
    reason = "of iterators here the compiler would make calls without the instructions"
)]

mod backward;
mod block;
mod few;
mod forward;
mod groups;
mod task;

use tch::{Device, Kind, Tensor};

use self::backward::Backward;
use self::groups::{Order, Parts};
use self::task::{Forward, Output};
use super::{AttentionGradients, AttentionSettings, SavedAttention};
use crate::ops::cpu::lanes::{self, LanesKernel};
use crate::ops::cpu::memory::{self, Element, Planes, Shared, slice, slice_mut};
use crate::ops::cpu::threads;
use crate::ops::random::Dropout;
use crate::ops::{Error, Result};

/// The output (B·T, K·G·D), and the logarithms of the sums.
pub(super) fn forward<T: Element>(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    settings: AttentionSettings,
    documents: Option<&[Vec<i64>]>,
) -> Result<(Tensor, Tensor)> {
    let sizes = Sizes::of(queries, keys)?;
    let Sizes {
        batch,
        heads,
        length,
        width,
        ..
    } = sizes;
    let [batch_size, heads_size, length_size, width_size] =
        [batch, heads, length, width].map(|size| size as i64);
    let by_head = queries.f_view([batch_size, heads_size, length_size, width_size])?;
    let padded = sizes.has_padding(documents);
    let rows = [batch_size * length_size, heads_size * width_size];
    let mut output = blank(&rows, T::KIND, padded)?;
    let mut log_sums = blank(
        &[batch_size * heads_size * length_size],
        Kind::Float,
        padded,
    )?;
    let (queries, keys, values) = (
        Planes::<T>::new(&by_head)?,
        Planes::new(keys)?,
        Planes::new(values)?,
    );
    let numbers = Shared::new(slice_mut::<T>(&mut output)?);
    let mut sums = Rest(slice_mut::<f32>(&mut log_sums)?);
    let mut tasks = Vec::new();
    for part in sizes.parts(documents, settings.dropout)? {
        tasks.push(Forward {
            part,
            settings,
            queries,
            keys,
            values,
            output: Output {
                numbers,
                first: ((part.batch * length + part.first) * heads + part.head) * width,
                stride: heads * width,
                width,
            },
            log_sums: sums.take(part.before, part.queries),
        });
    }
    run_all(tasks, width, |task| task.part);
    Ok((output, log_sums))
}

/// The gradients.
pub(super) fn backward<T: Element>(
    saved: &SavedAttention,
    d_output: &Tensor,
) -> Result<AttentionGradients> {
    let sizes = Sizes::of(&saved.queries, &saved.keys)?;
    let Sizes {
        batch,
        heads,
        length,
        keys,
        width,
        ..
    } = sizes;
    if keys != length {
        return Err(Error::Input(format!(
            "a backward of {length} queries over {keys} keys, expected as many: those of a cache have no gradient"
        )));
    }
    let [batch_size, heads_size, length_size, width_size] =
        [batch, heads, length, width].map(|size| size as i64);
    let by_head = [batch_size, heads_size, length_size, width_size];
    let queries = saved.queries.f_view(by_head)?;
    let as_heads = |rows: &Tensor| {
        rows.f_view([batch_size, length_size, heads_size, width_size])?
            .f_transpose(1, 2)
    };
    let (output, d_output) = (as_heads(&saved.output)?, as_heads(d_output)?);
    let padded = sizes.has_padding(saved.documents.as_deref());
    let mut d_queries = blank(&by_head, T::KIND, padded)?;
    // Of keys and values each query head has its own part, fp32; those of a group are added in order.
    let mut d_keys = blank(&by_head, Kind::Float, padded)?;
    let mut d_values = blank(&by_head, Kind::Float, padded)?;
    let inputs = backward::Inputs {
        queries: Planes::<T>::new(&queries)?,
        keys: Planes::new(&saved.keys)?,
        values: Planes::new(&saved.values)?,
        output: Planes::new(&output)?,
        d_output: Planes::new(&d_output)?,
    };
    let mut of_queries = Rest(slice_mut::<T>(&mut d_queries)?);
    let mut of_keys = Rest(slice_mut::<f32>(&mut d_keys)?);
    let mut of_values = Rest(slice_mut::<f32>(&mut d_values)?);
    let mut log_sums = slice::<f32>(&saved.log_sums)?;
    let mut tasks = Vec::new();
    for part in sizes.parts(saved.documents.as_deref(), saved.settings.dropout)? {
        let numbers = (part.before * width, part.queries * width);
        let (of_part, rest) = log_sums[part.before..].split_at(part.queries);
        log_sums = rest;
        tasks.push(Backward {
            part,
            settings: saved.settings,
            inputs,
            log_sums: of_part,
            d_queries: of_queries.take(numbers.0, numbers.1),
            d_keys: of_keys.take(numbers.0, numbers.1),
            d_values: of_values.take(numbers.0, numbers.1),
        });
    }
    run_all(tasks, width, |task| task.part);
    let mut keys = memory::empty::<T>(&saved.keys.size())?;
    let key_heads = heads / sizes.groups;
    let rows = [batch_size * length_size, key_heads as i64 * width_size];
    let mut values = memory::empty::<T>(&rows)?;
    for (parts, sums, order) in [
        (&d_keys, &mut keys, Order::ByHead),
        (&d_values, &mut values, Order::ByToken),
    ] {
        let parts = Parts {
            numbers: slice::<f32>(parts)?,
            groups: sizes.groups,
            key_heads,
            length,
            width,
        };
        parts.sum(slice_mut::<T>(sums)?, order);
    }
    Ok(AttentionGradients {
        queries: d_queries.f_view_as(&saved.queries)?,
        keys,
        values,
    })
}

/// Runs the tasks, of rows of `width` numbers, on libtorch's threads, or here where they are not worth another thread.
fn run_all<K: LanesKernel + Send>(mut tasks: Vec<K>, width: usize, part_of: impl Fn(&K) -> Part) {
    /// Products of numbers: some ten microseconds of one thread.
    const LEAST: usize = 1 << 20;
    let pairs = |task: &K| part_of(task).queries * part_of(task).keys;
    if tasks.iter().map(pairs).sum::<usize>() * width < LEAST {
        tasks.into_iter().for_each(lanes::run);
        return;
    }
    // The long ones first, so that no thread is left with one alone at the end.
    tasks.sort_by_key(|task| std::cmp::Reverse(pairs(task)));
    threads::run_all(tasks, lanes::run);
}

/// A tensor that tasks write: all of it, unless there may be padding, which keeps zeros.
fn blank(shape: &[i64], kind: Kind, padded: bool) -> Result<Tensor> {
    let options = (kind, Device::Cpu);
    Ok(match padded {
        true => Tensor::f_zeros(shape, options)?,
        false => Tensor::f_empty(shape, options)?,
    })
}

/// What tasks before have left of a tensor's numbers.
struct Rest<'a, T>(&'a mut [T]);

impl<'a, T> Rest<'a, T> {
    /// Takes `length` numbers after the next `before` ones.
    fn take(&mut self, before: usize, length: usize) -> &'a mut [T] {
        let (_, rest) = std::mem::take(&mut self.0).split_at_mut(before);
        let (own, rest) = rest.split_at_mut(length);
        self.0 = rest;
        own
    }
}

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// B.
    batch: usize,
    /// K·G.
    heads: usize,
    /// G.
    groups: usize,
    /// T.
    length: usize,
    /// S.
    keys: usize,
    /// D.
    width: usize,
}

/// What one task computes: the queries of one document, of one head.
#[derive(Clone, Copy, Debug)]
struct Part {
    batch: usize,
    head: usize,
    key_head: usize,
    /// The document's first query, and its first key.
    first: usize,
    /// The numbers of queries and of keys.
    queries: usize,
    keys: usize,
    /// Padding before it, in tokens: that of the row before.
    before: usize,
    /// The dropout of the document, and the row of its mask for the first query.
    dropout: Option<(Dropout, usize)>,
}

impl Sizes {
    fn of(queries: &Tensor, keys: &Tensor) -> Result<Self> {
        let (batch, key_heads, groups, length, width) = queries.size5()?;
        let seen = keys.size4()?.2;
        if seen < length {
            return Err(Error::Shape {
                name: "keys".to_owned(),
                found: keys.size(),
                expected: vec![batch, key_heads, length, width],
            });
        }
        Ok(Self {
            batch: batch as usize,
            heads: (key_heads * groups) as usize,
            groups: groups as usize,
            length: length as usize,
            keys: seen as usize,
            width: width as usize,
        })
    }

    /// Whether rows have tokens that belong to no document.
    fn has_padding(&self, documents: Option<&[Vec<i64>]>) -> bool {
        let is_short = |lengths: &Vec<i64>| lengths.iter().sum::<i64>() < self.length as i64;
        documents.is_some_and(|documents| documents.iter().any(is_short))
    }

    /// All tasks, in the order in which their queries lie in (B, heads, T).
    fn parts(&self, documents: Option<&[Vec<i64>]>, dropout: Option<Dropout>) -> Result<Vec<Part>> {
        let mut parts = Vec::new();
        let mut before = 0;
        for batch in 0..self.batch {
            let lengths = match documents {
                None => vec![self.length],
                Some(documents) => self.lengths(documents, batch)?,
            };
            for head in 0..self.heads {
                let mut first = 0;
                for &queries in &lengths {
                    let dropout = dropout.map(|dropout| match documents {
                        None => (dropout, (batch * self.heads + head) * self.length),
                        Some(_) => (dropout.of_part(batch as u32, first as u32), head * queries),
                    });
                    parts.push(Part {
                        batch,
                        head,
                        key_head: head / self.groups,
                        first,
                        queries,
                        keys: match documents {
                            None => self.keys,
                            Some(_) => queries,
                        },
                        before: std::mem::take(&mut before),
                        dropout,
                    });
                    first += queries;
                }
                before += self.length - first;
            }
        }
        Ok(parts)
    }

    /// The lengths of the documents of one row, if they are within it.
    fn lengths(&self, documents: &[Vec<i64>], row: usize) -> Result<Vec<usize>> {
        let lengths: Vec<usize> = documents
            .get(row)
            .into_iter()
            .flatten()
            .filter_map(|length| usize::try_from(*length).ok().filter(|length| *length > 0))
            .collect();
        let sum: usize = lengths.iter().sum();
        match documents.len() == self.batch && self.keys == self.length && sum <= self.length {
            true => Ok(lengths),
            false => Err(Error::Input(format!(
                "documents of {sum} tokens in row {row} of {}, expected those of {} rows of at most {} tokens",
                documents.len(),
                self.batch,
                self.length
            ))),
        }
    }
}
