//! Where and with what a FineTuneJob's pods run. The types are ours and bounded: the rules on them must stay
//! affordable for the API server.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// Where and with what the pods run.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Of the train pod. The prepare pod gets cpu, memory and ephemeral storage of it alone.
    pub resources: Resources,
    /// Seconds between SIGTERM and SIGKILL: the time for a last checkpoint.
    #[schemars(range(min = 1, max = 86_400))]
    pub termination_grace_period_seconds: i64,
    /// Labels that a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32), transform = bounded_values)]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// The pods' priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// The pods' runtime class: a name of the cluster's RuntimeClasses, such as `gvisor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// The ServiceAccount whose identity the pods have towards the cloud. They get no Kubernetes token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// A PersistentVolumeClaim of the namespace in which downloads of bases and data are kept for later jobs. Several pods
    /// may use it at once, if its access mode lets them. Absent: each pod downloads for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = crate::patterns::CLAIM)
    )]
    pub cache_claim_name: Option<String>,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            resources: Resources::default(),
            termination_grace_period_seconds: 120,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            priority_class_name: None,
            runtime_class_name: None,
            service_account_name: None,
            cache_claim_name: None,
        }
    }
}

/// Requests and limits, as a container has them: quantities as numbers or as text, `2` or `"500m"`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// The most that the container may use.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "amounts"
    )]
    #[schemars(extend("maxProperties" = 16), transform = quantities)]
    pub limits: BTreeMap<String, String>,
    /// What is set aside for it.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "amounts"
    )]
    #[schemars(extend("maxProperties" = 16), transform = quantities)]
    pub requests: BTreeMap<String, String>,
}

/// A taint that the pods tolerate.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.operator != 'Exists' || !has(self.value)",
        "message": "a toleration with operator Exists takes no value: remove it",
    },
    {
        "rule": "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
        "message": "a toleration with tolerationSeconds needs effect NoExecute, the one that evicts: set it, or remove tolerationSeconds",
    },
]))]
pub struct Toleration {
    /// The taint's key; absent with operator Exists: all taints.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub key: Option<String>,
    /// How key and value are compared.
    pub operator: TolerationOperator,
    /// The taint's value.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// The taint's effect; absent: all effects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub effect: Option<String>,
    /// With effect NoExecute: the seconds for which a running pod stays once its node has the taint. Absent: for ever; 0: not at
    /// all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How a toleration compares.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TolerationOperator {
    /// Key and value are equal.
    #[default]
    Equal,
    /// The key exists.
    Exists,
}

/// Bounds the values of a string map.
fn bounded_values(schema: &mut schemars::Schema) {
    schema.insert(
        "additionalProperties".to_owned(),
        serde_json::json!({ "type": "string", "maxLength": 253 }),
    );
}

/// A map of quantities, written as whole numbers or as text.
fn quantities(schema: &mut schemars::Schema) {
    schema.insert(
        "additionalProperties".to_owned(),
        serde_json::json!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "pattern": crate::patterns::QUANTITY,
        }),
    );
}

/// Quantities as text, whichever way they were written.
fn amounts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let amounts = BTreeMap::<String, Amount>::deserialize(from)?;
    Ok(amounts
        .into_iter()
        .map(|(key, Amount(text))| (key, text))
        .collect())
}

/// A quantity, a number or a text.
struct Amount(String);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AmountVisitor)
    }
}

struct AmountVisitor;

impl Visitor<'_> for AmountVisitor {
    type Value = Amount;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a quantity, such as 2, \"500m\" or 3Gi")
    }

    fn visit_i64<E>(self, number: i64) -> Result<Amount, E> {
        Ok(Amount(number.to_string()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Amount, E> {
        Ok(Amount(number.to_string()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Amount, E> {
        Ok(Amount(number.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Amount, E> {
        Ok(Amount(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_may_be_a_number_or_a_text() {
        let read: Resources = serde_json::from_value(serde_json::json!({
            "limits": { "cpu": 2, "memory": "3Gi", "ephemeral-storage": 1_073_741_824_u64 },
            "requests": { "cpu": 0.5 },
        }))
        .unwrap();
        assert_eq!(read.limits["cpu"], "2");
        assert_eq!(read.limits["memory"], "3Gi");
        assert_eq!(read.limits["ephemeral-storage"], "1073741824");
        assert_eq!(read.requests["cpu"], "0.5");
        let written: Resources =
            serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap();
        assert_eq!(written, read);
        let refused =
            serde_json::from_value::<Resources>(serde_json::json!({ "limits": { "cpu": true } }));
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("expected a quantity")
        );
    }
}
