//! How much memory the keys and values of answers may take, and what fits into it. Who runs is decided in `schedule`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use finetune_numerics::model::BLOCK;

use super::Error;

/// The blocks of tokens that adapters must leave: room for the golden sample by which an adapter is tested, of up to 96 tokens and
/// one more.
const BLOCKS_BESIDE_ADAPTERS: usize = 2;
const LEAST_TOKENS: u64 = BLOCKS_BESIDE_ADAPTERS as u64 * BLOCK as u64;

/// What `--kv-cache-memory` says, or what follows from the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Budget {
    /// So many bytes.
    Fixed(u64),
    /// Half of what base and adapters leave of the memory. The other half is for libtorch, activations and requests.
    Rest {
        /// What the process may use, in bytes.
        memory: u64,
        /// What the process holds once the base is loaded.
        base: u64,
    },
}

impl Budget {
    /// In bytes, while adapters take so many.
    pub(super) const fn bytes(self, adapters: u64) -> u64 {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Rest { memory, base } => memory.saturating_sub(base).saturating_sub(adapters) / 2,
        }
    }
}

/// The memory for keys and values, as the HTTP side and the worker see it.
#[derive(Clone, Debug)]
pub(super) struct KeyValueMemory {
    budget: Budget,
    token_bytes: u64,
    /// What adapters take, in bytes.
    adapters: Arc<AtomicU64>,
}

impl KeyValueMemory {
    /// For a model of which a token takes `token_bytes`, without adapters. A budget in which not one block of tokens fits is
    /// refused.
    pub(super) fn new(budget: Budget, token_bytes: u64) -> Result<Self, Error> {
        let memory = Self {
            budget,
            token_bytes,
            adapters: Arc::new(AtomicU64::new(0)),
        };
        if memory.blocks() > 0 {
            return Ok(memory);
        }
        let (bytes, least) = (budget.bytes(0), token_bytes * BLOCK as u64);
        Err(Error::KeyValueMemory(match budget {
            Budget::Fixed(_) => {
                format!("{bytes} bytes, expected at least {least}, which {BLOCK} tokens take")
            }
            Budget::Rest { memory, base } => format!(
                "the base takes {base} bytes of the {memory} that this process may use, which leaves {bytes} for keys and values, \
                 expected at least {least}; raise the memory limit, or set this"
            ),
        }))
    }

    /// What it is now, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.budget.bytes(self.adapters.load(Ordering::Relaxed))
    }

    /// The blocks of tokens that fit.
    pub(super) fn blocks(&self) -> usize {
        self.blocks_of(self.bytes())
    }

    const fn blocks_of(&self, bytes: u64) -> usize {
        (bytes / (self.token_bytes * BLOCK as u64)) as usize
    }

    /// The most tokens of prompt and answer together that fit while nothing else runs.
    pub(super) fn tokens(&self) -> usize {
        self.blocks().saturating_mul(BLOCK as usize)
    }

    /// The same once no adapter is loaded any more.
    pub(super) fn tokens_without_adapters(&self) -> usize {
        let blocks = self.blocks_of(self.budget.bytes(0));
        blocks.saturating_mul(BLOCK as usize)
    }

    /// Takes the bytes of an adapter, unless they would leave room for fewer than 128 tokens.
    pub(super) fn take(&self, bytes: u64) -> Result<AdapterRoom, NoRoom> {
        let taken = self
            .adapters
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |adapters| {
                let adapters = adapters.saturating_add(bytes);
                let blocks = self.blocks_of(self.budget.bytes(adapters));
                (blocks >= BLOCKS_BESIDE_ADAPTERS).then_some(adapters)
            });
        match taken {
            Ok(_) => Ok(AdapterRoom {
                adapters: Arc::clone(&self.adapters),
                bytes,
            }),
            Err(adapters) => Err(NoRoom {
                bytes,
                left: self.budget.bytes(adapters.saturating_add(bytes)),
                least: self.token_bytes * LEAST_TOKENS,
                cure: match self.budget {
                    Budget::Fixed(_) => "raise --kv-cache-memory",
                    Budget::Rest { .. } => {
                        "unload another one first, or raise the memory limit or --kv-cache-memory"
                    }
                },
            }),
        }
    }
}

/// The memory that an adapter takes, given back when the last answer that needs its weights has let go of them.
#[derive(Debug)]
pub(super) struct AdapterRoom {
    adapters: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for AdapterRoom {
    fn drop(&mut self) {
        self.adapters.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// An adapter would leave too little memory for keys and values.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the adapter takes {bytes} bytes, beside which there would be {left} for keys and values, expected at least {least}, which \
     {} tokens take; {cure}",
    LEAST_TOKENS
)]
pub(crate) struct NoRoom {
    bytes: u64,
    left: u64,
    least: u64,
    cure: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_base_and_adapters_leave_is_halved() {
        let rest = Budget::Rest {
            memory: 1000 * MIB,
            base: 300 * MIB,
        };
        assert_eq!(rest.bytes(0), 350 * MIB);
        assert_eq!(rest.bytes(100 * MIB), 300 * MIB);
        assert_eq!(rest.bytes(900 * MIB), 0);
        assert_eq!(Budget::Fixed(5 * MIB).bytes(900 * MIB), 5 * MIB);
        let memory = KeyValueMemory::new(rest, MIB).unwrap();
        assert_eq!((memory.blocks(), memory.tokens()), (5, 5 * BLOCK as usize));
        let room = memory.take(100 * MIB).unwrap();
        assert_eq!(memory.blocks(), 4);
        drop(room);
        assert_eq!(memory.blocks(), 5);
    }

    #[test]
    fn an_adapter_that_leaves_fewer_than_two_blocks_is_refused_and_takes_nothing() {
        let rest = Budget::Rest {
            memory: 1000 * MIB,
            base: 300 * MIB,
        };
        let memory = KeyValueMemory::new(rest, MIB).unwrap();
        let _first = memory.take(300 * MIB).unwrap();
        let refused = memory.take(200 * MIB).unwrap_err().to_string();
        for part in [200 * MIB, 100 * MIB, 128 * MIB] {
            assert!(refused.contains(&part.to_string()), "{refused}");
        }
        for part in ["unload another one", "--kv-cache-memory"] {
            assert!(refused.contains(part), "{refused}");
        }
        assert_eq!(memory.bytes(), 200 * MIB);
        assert!(memory.take(144 * MIB).is_ok());
    }

    #[test]
    fn adapters_take_nothing_of_a_fixed_budget_that_has_room_for_two_blocks() {
        let fixed = |bytes| KeyValueMemory::new(Budget::Fixed(bytes), MIB).unwrap();
        let two = fixed(128 * MIB);
        let _room = two.take(u64::MAX).unwrap();
        assert_eq!(two.tokens(), 128);
        let refused = fixed(127 * MIB).take(1).unwrap_err().to_string();
        assert!(
            refused.ends_with("which 128 tokens take; raise --kv-cache-memory"),
            "{refused}"
        );
    }

    #[test]
    fn what_fits_without_adapters_does_not_depend_on_those_that_are_loaded() {
        let rest = Budget::Rest {
            memory: 1000 * MIB,
            base: 300 * MIB,
        };
        let memory = KeyValueMemory::new(rest, MIB).unwrap();
        let _room = memory.take(300 * MIB).unwrap();
        assert_eq!(memory.tokens(), 3 * 64);
        assert_eq!(memory.tokens_without_adapters(), 5 * 64);
    }

    #[test]
    fn a_budget_without_room_for_a_block_is_refused_by_name() {
        let error = KeyValueMemory::new(Budget::Fixed(1000), 100).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("--kv-cache-memory") && error.contains("1000") && error.contains("6400"),
            "{error}"
        );
        let rest = Budget::Rest {
            memory: 500,
            base: 400,
        };
        let error = KeyValueMemory::new(rest, 100).unwrap_err().to_string();
        assert!(error.contains("400") && error.contains("500"), "{error}");
    }
}
