//! How the watches of this process begin: streamed object by object where the API server can, else as one list. Knows no
//! resource.
//!
//! The API server does not page a list from its cache: the whole kind comes as one body, decoded at a stretch. A streamed
//! list comes as events, which take neither that memory nor that time.
//!
//! RBAC: `watch` finetunejobs.

use std::fmt::Debug;
use std::time::Duration;

use kube::api::WatchParams;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

/// The longest to wait before the API server is asked again.
const LONGEST: Duration = Duration::from_secs(30);
/// No object has this label: only whether the server takes the question is of interest.
const NOTHING: &str = "finetune.dev/streaming-lists=asked";

/// How to watch, as the API server can: asks it once for a streamed list of nothing of kind `K`. Returns once it has answered.
pub async fn config<K>(client: &Client) -> watcher::Config
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let whole = watcher::Config::default().any_semantic();
    let api = Api::<K>::all(client.clone());
    let question = WatchParams {
        label_selector: Some(NOTHING.to_owned()),
        timeout: Some(1),
        bookmarks: true,
        send_initial_events: true,
        ..WatchParams::default()
    };
    let mut backoff = watcher::DefaultBackoff::default();
    loop {
        match api.watch_metadata(&question, "0").await {
            Ok(_) => return whole.streaming_lists(),
            Err(kube::Error::Api(answer))
                if (400..500).contains(&answer.code) && answer.code != 429 =>
            {
                tracing::info!(
                    why = answer.message,
                    "the API server streams no lists: they come whole"
                );
                return whole;
            }
            Err(error) => {
                tracing::warn!(%error, "the API server does not say yet whether it streams lists");
            }
        }
        tokio::time::sleep(backoff.next().unwrap_or(LONGEST)).await;
    }
}

#[cfg(test)]
mod tests {
    use finetune_crds::FineTuneJob;
    use kube::runtime::watcher::InitialListStrategy;
    use serde_json::json;

    use super::*;
    use crate::runtime::fake_api::{self, refusal};

    #[tokio::test]
    async fn lists_are_streamed_where_the_api_server_can() {
        let (client, record) = fake_api::client(|_| (200, json!({})));
        let config = config::<FineTuneJob>(&client).await;
        assert_eq!(
            config.initial_list_strategy,
            InitialListStrategy::StreamingList
        );
        assert_eq!(
            record.lines(),
            ["GET /apis/finetune.dev/v1alpha1/finetunejobs"]
        );
    }

    #[tokio::test]
    async fn lists_come_whole_from_an_api_server_that_refuses_to_stream_them() {
        let (client, _) = fake_api::client(|_| {
            refusal(422, "Invalid", "sendInitialEvents is forbidden for watch")
        });
        let config = config::<FineTuneJob>(&client).await;
        assert_eq!(config.initial_list_strategy, InitialListStrategy::ListWatch);
    }
}
