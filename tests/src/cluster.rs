//! The cluster under test, and namespaces that are deleted when a test ends.

use anyhow::Result;
use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, ResourceExt};

/// The namespace of the chart.
pub const OPERATOR_NAMESPACE: &str = "finetune-system";

/// A client, by KUBECONFIG.
pub async fn client() -> Result<Client> {
    Ok(Client::try_default().await?)
}

/// A namespace of one test: labelled for Pod Security `restricted`, with a Secret `finetune-s3`, deleted at the end.
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// A client.
    pub client: Client,
}

impl Namespace {
    /// Creates a namespace whose name begins with `prefix`.
    pub async fn create(prefix: &str) -> Result<Self> {
        let client = client().await?;
        let object: NamespaceObject = serde_json::from_value(serde_json::json!({
            "metadata": {
                "generateName": format!("t-{prefix}-"),
                "labels": {
                    "pod-security.kubernetes.io/enforce": "restricted",
                    "pod-security.kubernetes.io/warn": "restricted",
                },
            },
        }))?;
        let created = Api::<NamespaceObject>::all(client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        let namespace = Self {
            name: created.name_any(),
            client,
        };
        // Admission refuses pods until the namespace's ServiceAccount is there.
        crate::wait::until("the default ServiceAccount", 30, || async {
            let api: Api<k8s_openapi::api::core::v1::ServiceAccount> = namespace.api();
            Ok(api.get_opt("default").await?.map(|_| ()))
        })
        .await?;
        crate::command::apply(&namespace.name, &crate::store::secret("finetune-s3")?)?;
        Ok(namespace)
    }

    /// An API of this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// `kubectl` in this namespace.
    pub fn kubectl(&self, line: &str) -> Result<String> {
        crate::command::kubectl(&format!("--namespace {} {line}", self.name))
    }

    /// `kubectl apply` in this namespace.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        crate::command::apply(&self.name, manifest)
    }

    /// The notes of all Events on objects called `name`.
    pub async fn events(&self, name: &str) -> Result<Vec<String>> {
        let api: Api<k8s_openapi::api::events::v1::Event> = self.api();
        let events = api.list(&ListParams::default()).await?;
        Ok(events
            .into_iter()
            .filter(|event| {
                event
                    .regarding
                    .as_ref()
                    .and_then(|regarding| regarding.name.as_deref())
                    == Some(name)
            })
            .map(|event| {
                format!(
                    "{}: {}",
                    event.reason.unwrap_or_default(),
                    event.note.unwrap_or_default()
                )
            })
            .collect())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A failed test keeps its namespace for a look, if FINETUNE_KEEP says so.
        if std::env::var_os("FINETUNE_KEEP").is_none() {
            let _ =
                crate::command::kubectl(&format!("delete namespace {} --wait=false", self.name));
        }
    }
}

/// The operator, away: whatever happens meanwhile is seen by nobody until this is dropped.
pub struct OperatorAway {
    replicas: String,
}

impl OperatorAway {
    /// Scales the operator to no pod and waits until none is left.
    pub async fn send() -> Result<Self> {
        let replicas = crate::command::kubectl(&format!(
            "--namespace {OPERATOR_NAMESPACE} get deployment/finetune-operator --output jsonpath={{.spec.replicas}}"
        ))?;
        let away = Self { replicas };
        scale_operator("0")?;
        crate::wait::until("the operator's pods to go", 60, || async {
            let pods = crate::command::kubectl(&format!(
                "--namespace {OPERATOR_NAMESPACE} get pods --output name"
            ))?;
            Ok(pods.trim().is_empty().then_some(()))
        })
        .await?;
        Ok(away)
    }
}

impl Drop for OperatorAway {
    fn drop(&mut self) {
        let _ = scale_operator(&self.replicas);
    }
}

fn scale_operator(replicas: &str) -> Result<String> {
    crate::command::kubectl(&format!(
        "--namespace {OPERATOR_NAMESPACE} scale deployment/finetune-operator --replicas={replicas}"
    ))
}

/// Background deletion: a Job's pods go with it.
pub fn background() -> DeleteParams {
    DeleteParams::background()
}
