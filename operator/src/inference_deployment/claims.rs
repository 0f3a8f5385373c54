//! Which Adapter may use which alias of a Deployment. Pure, and the same for both controllers that ask.
//!
//! The oldest Adapter that names a Deployment says what its engine is; an alias belongs to the oldest that claims it.

use std::collections::BTreeMap;
use std::fmt;

use finetune_crds::Adapter;
use finetune_crds::adapter::Serving;
use kube::ResourceExt;

/// An Adapter that names the Deployment.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    /// The Adapter.
    pub adapter: &'a Adapter,
    /// Its entry for the Deployment.
    pub serving: &'a Serving,
    /// The model name that it asks for.
    pub alias: String,
    /// Why it gets nothing here.
    pub refusal: Option<Refusal>,
}

/// Why an Adapter gets nothing on a Deployment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// An older Adapter has the alias.
    Alias {
        /// The older Adapter.
        holder: String,
        /// The alias.
        alias: String,
    },
    /// An older Adapter says otherwise what the Deployment's engine is.
    Engine {
        /// The older Adapter.
        holder: String,
        /// What it says.
        theirs: String,
        /// What this one says.
        ours: String,
    },
}

impl Refusal {
    /// A word for a condition.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Alias { .. } => "AliasTaken",
            Self::Engine { .. } => "EngineDiffers",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias { holder, alias } => write!(
                f,
                "the alias `{alias}` belongs to the older Adapter {holder}; set another spec.serving[].alias"
            ),
            Self::Engine {
                holder,
                theirs,
                ours,
            } => write!(
                f,
                "the older Adapter {holder} says that the engine is {theirs}, spec.serving[] here says {ours}; let both \
                 say the same"
            ),
        }
    }
}

/// All Adapters that name `deployment` and are not being deleted, the oldest first.
pub fn claims<'a>(deployment: &str, adapters: &'a [Adapter]) -> Vec<Claim<'a>> {
    let mut claims: Vec<Claim<'a>> = adapters
        .iter()
        .filter(|adapter| adapter.metadata.deletion_timestamp.is_none())
        .filter_map(|adapter| {
            let serving = adapter
                .spec
                .serving
                .iter()
                .find(|serving| serving.deployment_name == deployment)?;
            Some(Claim {
                adapter,
                serving,
                alias: alias(adapter, serving),
                refusal: None,
            })
        })
        .collect();
    // Two Adapters of one second are told apart by name: every controller must come to the same end.
    claims.sort_by_key(|claim| {
        let created = claim
            .adapter
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0);
        (created, claim.adapter.name_any())
    });
    let first = claims
        .first()
        .map(|claim| (claim.adapter.name_any(), engine(claim.serving)));
    let mut holders: BTreeMap<String, String> = BTreeMap::new();
    for claim in &mut claims {
        claim.refusal = match (&first, holders.get(&claim.alias)) {
            (Some((holder, theirs)), _) if *theirs != engine(claim.serving) => {
                Some(Refusal::Engine {
                    holder: holder.clone(),
                    theirs: theirs.clone(),
                    ours: engine(claim.serving),
                })
            }
            (_, Some(holder)) => Some(Refusal::Alias {
                holder: holder.clone(),
                alias: claim.alias.clone(),
            }),
            _ => None,
        };
        if claim.refusal.is_none() {
            holders.insert(claim.alias.clone(), claim.adapter.name_any());
        }
    }
    claims
}

/// The model name under which clients ask for the adapter.
pub fn alias(adapter: &Adapter, serving: &Serving) -> String {
    serving.alias.clone().unwrap_or_else(|| adapter.name_any())
}

/// An engine in words.
fn engine(serving: &Serving) -> String {
    let container = serving.container_name.as_deref().unwrap_or("the only one");
    format!(
        "{:?} on port {} in container {container}",
        serving.engine.type_, serving.engine.port
    )
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::adapter;
    use super::*;

    fn refusals(adapters: &[Adapter]) -> Vec<(String, Option<&'static str>)> {
        claims("server", adapters)
            .iter()
            .map(|claim| {
                (
                    claim.adapter.name_any(),
                    claim.refusal.as_ref().map(Refusal::reason),
                )
            })
            .collect()
    }

    #[test]
    fn the_older_adapter_keeps_the_alias() {
        let mut younger = adapter("a-younger", 20);
        younger.spec.serving[0].alias = Some("tone".into());
        let adapters = [younger, adapter("tone", 10)];
        assert_eq!(
            refusals(&adapters),
            [
                ("tone".into(), None),
                ("a-younger".into(), Some("AliasTaken"))
            ]
        );
        let claims = claims("server", &adapters);
        assert!(
            claims[1]
                .refusal
                .as_ref()
                .unwrap()
                .to_string()
                .contains("older Adapter tone")
        );
    }

    #[test]
    fn a_deleted_adapter_claims_nothing() {
        let mut older = adapter("older", 1);
        older.spec.serving[0].alias = Some("tone".into());
        older.metadata.deletion_timestamp = older.metadata.creation_timestamp.clone();
        assert_eq!(
            refusals(&[older, adapter("tone", 10)]),
            [("tone".into(), None)]
        );
    }

    #[test]
    fn the_oldest_says_what_the_engine_is() {
        let mut other = adapter("other", 20);
        other.spec.serving[0].engine.port = 9000;
        let adapters = [adapter("tone", 10), other];
        assert_eq!(
            refusals(&adapters),
            [
                ("tone".into(), None),
                ("other".into(), Some("EngineDiffers"))
            ]
        );
    }

    #[test]
    fn a_refused_adapter_keeps_no_alias_from_others() {
        let mut refused = adapter("refused", 20);
        refused.spec.serving[0].engine.port = 9000;
        refused.spec.serving[0].alias = Some("free".into());
        let adapters = [adapter("tone", 10), refused, adapter("free", 30)];
        assert_eq!(refusals(&adapters)[2], ("free".into(), None));
    }
}
