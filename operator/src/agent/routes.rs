//! Which version answers for which model name, and how many requests each version is answering.
//!
//! A lookup counts the request under the same lock that a switch takes: once an alias has moved, the count of its old
//! version only falls, so that 0 means drained.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::engine::Facts;

/// The current table.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    table: RwLock<Table>,
}

/// Where requests go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// The engine's address; `None` before the first `desired.json`.
    pub engine: Option<String>,
    /// The base's names.
    pub bases: BTreeSet<String>,
    /// The version of each alias; `None` while none is proven and loaded.
    pub aliases: BTreeMap<String, Option<String>>,
    /// What the engine says of bases and versions.
    pub facts: BTreeMap<String, Facts>,
    in_flight: BTreeMap<String, Arc<AtomicUsize>>,
}

/// A name that clients may use now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Served {
    /// The name.
    pub id: String,
    /// The base, of an alias.
    pub parent: Option<String>,
    /// What the engine says of the base, or of the version that answers for the alias.
    pub facts: Facts,
}

/// Where one request goes.
#[derive(Debug)]
pub(crate) enum Route {
    /// To the base, under the name that the client gave.
    Base {
        /// The engine's address.
        engine: String,
    },
    /// To a version.
    Version {
        /// The engine's address.
        engine: String,
        /// Its name in the engine.
        version: String,
        /// Held until the last byte of the answer.
        in_flight: InFlight,
    },
    /// The name is known and nothing can answer for it now.
    NotReady,
    /// Nobody knows the name.
    Unknown,
}

/// A request on its way; dropping it ends the count.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Routes {
    /// Where a request for `model` goes. An alias comes before a base of the same name.
    pub(crate) fn resolve(&self, model: &str) -> Route {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let Some(engine) = table.engine.clone() else {
            return Route::NotReady;
        };
        match table.aliases.get(model) {
            Some(Some(version)) => {
                let Some(count) = table.in_flight.get(version) else {
                    return Route::NotReady;
                };
                count.fetch_add(1, Ordering::SeqCst);
                Route::Version {
                    engine,
                    version: version.clone(),
                    in_flight: InFlight(count.clone()),
                }
            }
            Some(None) => Route::NotReady,
            None if table.bases.contains(model) => Route::Base { engine },
            None => Route::Unknown,
        }
    }

    /// All names that clients may use now: bases, then aliases that answer.
    pub(crate) fn served(&self) -> Vec<Served> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let facts = |name: &String| table.facts.get(name).copied().unwrap_or_default();
        let bases = table.bases.iter().map(|base| Served {
            id: base.clone(),
            parent: None,
            facts: facts(base),
        });
        let aliases = table.aliases.iter().filter_map(|(alias, version)| {
            let version = version.as_ref()?;
            Some(Served {
                id: alias.clone(),
                parent: table.bases.first().cloned(),
                facts: facts(version),
            })
        });
        bases.chain(aliases).collect()
    }

    /// Whether `name` is an alias, answering or not.
    pub(crate) fn is_alias(&self, name: &str) -> bool {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.aliases.contains_key(name)
    }

    /// Replaces the table in one step.
    pub(crate) fn switch(
        &self,
        engine: Option<String>,
        bases: BTreeSet<String>,
        aliases: BTreeMap<String, Option<String>>,
        facts: BTreeMap<String, Facts>,
    ) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        for version in aliases.values().flatten() {
            table.in_flight.entry(version.clone()).or_default();
        }
        let used: BTreeSet<_> = aliases.values().flatten().cloned().collect();
        table
            .in_flight
            .retain(|version, count| used.contains(version) || count.load(Ordering::SeqCst) > 0);
        table.engine = engine;
        table.bases = bases;
        table.aliases = aliases;
        table.facts = facts;
    }

    /// Versions that answer requests now.
    pub(crate) fn in_flight(&self) -> BTreeSet<String> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let busy = |count: &AtomicUsize| count.load(Ordering::SeqCst) > 0;
        let counts = table.in_flight.iter().filter(|(_, count)| busy(count));
        counts.map(|(version, _)| version.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts_of(name: &str) -> Facts {
        Facts {
            created: Some(name.len() as i64),
            max_model_len: Some(128),
        }
    }

    fn served(id: &str, parent: Option<&str>, facts: Facts) -> Served {
        Served {
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
            facts,
        }
    }

    fn switch(routes: &Routes, version: Option<&str>) {
        let aliases = [("tone".to_owned(), version.map(str::to_owned))].into();
        let bases = ["base".to_owned()].into();
        let facts = ["base", "one"].map(|name| (name.to_owned(), facts_of(name)));
        routes.switch(Some("http://engine".into()), bases, aliases, facts.into());
    }

    #[test]
    fn a_request_counts_on_its_version_until_it_is_dropped_also_after_a_switch() {
        let routes = Routes::default();
        switch(&routes, Some("one"));
        let route = routes.resolve("tone");
        switch(&routes, Some("two"));
        assert_eq!(routes.in_flight(), ["one".to_owned()].into());
        drop(route);
        assert_eq!(routes.in_flight(), BTreeSet::new());
    }

    #[test]
    fn an_alias_without_a_version_is_not_ready_and_never_the_base() {
        let routes = Routes::default();
        assert!(matches!(routes.resolve("base"), Route::NotReady));
        switch(&routes, None);
        assert!(matches!(routes.resolve("tone"), Route::NotReady));
        assert!(matches!(routes.resolve("base"), Route::Base { .. }));
        assert!(matches!(routes.resolve("else"), Route::Unknown));
        assert_eq!(routes.served(), [served("base", None, facts_of("base"))]);
    }

    #[test]
    fn an_alias_is_described_as_the_version_that_answers_for_it() {
        let routes = Routes::default();
        let alias = |facts| served("tone", Some("base"), facts);
        switch(&routes, Some("one"));
        assert_eq!(routes.served()[1], alias(facts_of("one")));
        switch(&routes, Some("unlisted"));
        assert_eq!(routes.served()[1], alias(Facts::default()));
    }
}
