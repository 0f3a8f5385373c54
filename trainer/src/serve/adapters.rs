//! Which adapters are served under which name. The weights themselves lie with the worker; here are names only.
//!
//! A name is bound to one load for as long as it is there: replacing weights under a name does not exist.

use super::request_error::RequestError;

/// The most characters of a name. An Adapter's own name has up to 253; the agent adds 13 of the version's digest.
const MAX_NAME: usize = 512;

/// One load of an adapter. Never used again after an unload.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct AdapterId(u64);

/// A served adapter.
#[derive(Clone, Debug)]
pub(super) struct Served {
    /// The name in `model`.
    pub(super) name: String,
    /// Where it was loaded from, as asked for.
    pub(super) root: String,
    /// When, in seconds since 1970.
    pub(super) created: i64,
    /// Its weights at the worker.
    pub(super) id: AdapterId,
}

/// The adapters by name, in the order of their loading.
#[derive(Debug)]
pub(super) struct Adapters {
    base_name: String,
    most: usize,
    last_id: u64,
    served: Vec<Served>,
}

impl Adapters {
    /// None yet, at most `most`.
    pub(super) const fn new(base_name: String, most: usize) -> Self {
        Self {
            base_name,
            most,
            last_id: 0,
            served: Vec::new(),
        }
    }

    /// What `model` names: an adapter, or none for the base.
    pub(super) fn find(&self, model: &str) -> Result<Option<AdapterId>, RequestError> {
        if model == self.base_name {
            return Ok(None);
        }
        let served = self.served.iter().find(|served| served.name == model);
        served
            .map(|served| Some(served.id))
            .ok_or_else(|| RequestError::UnknownModel(model.to_owned()))
    }

    /// Refuses a name that cannot be loaded, in vLLM's words where it has some.
    pub(super) fn check(&self, name: &str) -> Result<(), RequestError> {
        let length = name.chars().count();
        if length > MAX_NAME {
            return Err(RequestError::AdapterName(format!(
                "'lora_name' has {length} characters, expected at most {MAX_NAME}"
            )));
        }
        if let Some(control) = name.chars().find(|character| character.is_control()) {
            return Err(RequestError::AdapterName(format!(
                "'lora_name' has the control character {control:?}, expected none"
            )));
        }
        if name == self.base_name {
            return Err(RequestError::AdapterName(format!(
                "'{name}' is the base model's name; give the adapter another one"
            )));
        }
        if self.served.iter().any(|served| served.name == name) {
            return Err(RequestError::AdapterName(format!(
                "The lora adapter '{name}' has already been loaded."
            )));
        }
        if self.served.len() >= self.most {
            let (count, most) = (self.served.len(), self.most);
            return Err(RequestError::TooManyAdapters { count, most });
        }
        Ok(())
    }

    /// A number for the next load.
    pub(super) const fn next_id(&mut self) -> AdapterId {
        self.last_id += 1;
        AdapterId(self.last_id)
    }

    /// Serves `served` from now on.
    pub(super) fn add(&mut self, served: Served) {
        self.served.push(served);
    }

    /// Serves `name` no longer.
    pub(super) fn remove(&mut self, name: &str) -> Result<AdapterId, RequestError> {
        let index = self.served.iter().position(|served| served.name == name);
        let index = index.ok_or_else(|| RequestError::UnknownAdapter(name.to_owned()))?;
        Ok(self.served.remove(index).id)
    }

    /// All of them.
    pub(super) fn list(&self) -> &[Served] {
        &self.served
    }
}
