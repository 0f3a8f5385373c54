//! How this installation is set up, from the flags of `operator controller`: the images of its pods, and how the agent is run
//! beside engines.

use serde_json::Value;

/// How this installation is set up, from flags.
#[derive(Clone, Debug, Default)]
pub struct OperatorSettings {
    /// The image of the pods that prepare and train.
    pub trainer_image: String,
    /// When a node pulls that image: Always, IfNotPresent or Never. Absent: Kubernetes decides by the tag.
    pub trainer_image_pull_policy: Option<String>,
    /// How the agent beside inference engines is run.
    pub agent: AgentSettings,
}

/// Flags of `operator controller` about the agent.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArguments {
    /// Image of the agent that is put beside inference engines: this program's own.
    #[arg(long, env = "FINETUNE_AGENT_IMAGE", value_name = "IMAGE")]
    pub agent_image: String,
    /// When a node pulls that image. Absent: Kubernetes decides by the image's tag.
    #[arg(long, env = "FINETUNE_AGENT_IMAGE_PULL_POLICY", value_name = "POLICY",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    pub agent_image_pull_policy: Option<String>,
    /// Requests and limits of the agent, as JSON in the form of a container's `resources`.
    #[arg(long, env = "FINETUNE_AGENT_RESOURCES", value_name = "JSON", default_value = "{}", value_parser = resources)]
    pub agent_resources: Value,
}

/// How the agent is run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentSettings {
    /// Its image.
    pub image: String,
    /// When a node pulls it.
    pub image_pull_policy: Option<String>,
    /// Its requests and limits.
    pub resources: Value,
}

impl From<AgentArguments> for AgentSettings {
    fn from(arguments: AgentArguments) -> Self {
        Self {
            image: arguments.agent_image,
            image_pull_policy: arguments.agent_image_pull_policy,
            resources: arguments.agent_resources,
        }
    }
}

/// Parses by the API's own type, so that a slip is found at the start and not in every Deployment.
fn resources(text: &str) -> Result<Value, String> {
    let expected =
        |error| format!("expected JSON such as {{\"limits\": {{\"memory\": \"256Mi\"}}}}: {error}");
    let typed: k8s_openapi::api::core::v1::ResourceRequirements =
        serde_json::from_str(text).map_err(expected)?;
    serde_json::to_value(typed).map_err(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_checked_at_the_start() {
        let good = resources(r#"{"limits": {"memory": "256Mi"}}"#).unwrap();
        assert_eq!(good["limits"]["memory"], "256Mi");
        assert!(resources("256Mi").unwrap_err().contains("expected JSON"));
        assert!(resources(r#"{"limits": 5}"#).is_err());
    }
}
