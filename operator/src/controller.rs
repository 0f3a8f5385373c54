//! `operator controller`: wires the lease, the health server and all reconcilers into one process. Decides nothing.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use finetune_crds::FineTuneJob;
use finetune_crds::names::port;
use jiff::Timestamp;
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Recorder, Reporter};
use tokio_util::sync::CancellationToken;

use crate::runtime::context::Backoff;
use crate::runtime::lease::{self, Candidate};
use crate::runtime::metrics::Metrics;
use crate::runtime::poll::PodReader;
use crate::runtime::server::{self, Readiness};
use crate::runtime::{Context, Error, client, shutdown, watch};
use crate::settings::{AgentArguments, OperatorSettings};
use crate::{adapter, fine_tune_job, inference_deployment};

/// What the process waits for until the API server has answered about the lease.
const FIRST_ANSWER: &str = "the first answer about the lease";
/// How long reconciles under way may take after SIGTERM; a pod has 30 s by default.
const GRACE: Duration = Duration::from_secs(20);

/// Flags of `operator controller`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Image of the pods that prepare and train.
    #[arg(long, env = "FINETUNE_TRAINER_IMAGE", value_name = "IMAGE")]
    pub trainer_image: String,
    /// When a node pulls that image. Absent: Kubernetes decides by the image's tag.
    #[arg(long, env = "FINETUNE_TRAINER_IMAGE_PULL_POLICY", value_name = "POLICY",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    pub trainer_image_pull_policy: Option<String>,
    #[command(flatten)]
    agent: AgentArguments,
    /// Address for /metrics, /livez and /readyz; [::] is every address, of IPv4 too.
    #[arg(
        long,
        env = "FINETUNE_LISTEN",
        value_name = "ADDRESS",
        default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port::CONTROLLER))
    )]
    pub listen: SocketAddr,
    /// Namespace of the Lease by which one replica leads. Absent: the process's own.
    #[arg(long, env = "FINETUNE_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of that Lease. Two installations in one namespace need two names.
    #[arg(
        long,
        env = "FINETUNE_LEASE_NAME",
        value_name = "NAME",
        default_value = "finetune-operator"
    )]
    pub lease_name: String,
    /// Seconds after which another replica takes over from one that is silent.
    #[arg(long, env = "FINETUNE_LEASE_SECONDS", value_name = "SECONDS", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(3..=600))]
    pub lease_seconds: u64,
    /// Name of this replica in the Lease and in Events. Absent: the host's name.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub replica_name: Option<String>,
}

/// Runs until SIGTERM, or until the lease is lost.
pub async fn run(arguments: Arguments) -> Result<(), Error> {
    let shutdown = shutdown::token()
        .map_err(|error| Error::Argument(format!("cannot listen for signals: {error}")))?;
    let metrics =
        Metrics::new().map_err(|error| Error::Argument(format!("metrics clash: {error}")))?;
    let readiness = Readiness::default();
    readiness.wait_for(FIRST_ANSWER);
    server::start(arguments.listen, Arc::clone(&metrics), readiness.clone()).await?;
    let client = client::connect(&metrics).await?;
    let replica = replica_name(&arguments);
    metrics.leading(&arguments.lease_name, false);
    let mut candidate = Candidate::new(
        client.clone(),
        lease::LeaseSettings {
            namespace: arguments
                .lease_namespace
                .clone()
                .unwrap_or_else(|| client.default_namespace().to_owned()),
            name: arguments.lease_name.clone(),
            // Unique even if two processes have one name.
            holder: format!("{replica}-{:08x}", rand::random::<u32>()),
            duration: Duration::from_secs(arguments.lease_seconds),
        },
        clock,
    );
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "waiting to lead");
    tokio::select! {
        () = candidate.acquire(|| readiness.done(FIRST_ANSWER)) => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    metrics.leading(&arguments.lease_name, true);
    tracing::info!("leading");
    let controllers = async {
        let watch = tokio::select! {
            watch = watch::config::<PartialObjectMeta<FineTuneJob>>(&client) => watch,
            () = shutdown.cancelled() => return Ok(()),
        };
        let context = Arc::new(Context {
            recorder: Recorder::new(
                client.clone(),
                Reporter {
                    controller: "finetune-operator".to_owned(),
                    instance: Some(replica),
                },
            ),
            client,
            now: clock,
            metrics,
            readiness,
            pods: PodReader::new()?,
            settings: OperatorSettings {
                trainer_image: arguments.trainer_image,
                trainer_image_pull_policy: arguments.trainer_image_pull_policy,
                agent: arguments.agent.into(),
            },
            watch,
            backoff: Backoff::default(),
        });
        tokio::select! {
            outcome = controllers(context, shutdown.clone()) => outcome,
            () = overdue(&shutdown) => {
                tracing::warn!("some reconciles are still under way; they are cut off and can be repeated");
                Ok(())
            }
        }
    };
    candidate
        .lead(controllers, end)
        .await
        .map_err(Error::LeaseLost)?
}

/// Ends the process, whatever its other threads are doing: another may begin.
fn end(why: &str) {
    tracing::error!("{}", Error::LeaseLost(why.to_owned()));
    std::process::exit(1);
}

/// All reconcilers of this process, one a line.
async fn controllers(context: Arc<Context>, shutdown: CancellationToken) -> Result<(), Error> {
    tokio::try_join!(
        fine_tune_job::run(Arc::clone(&context), shutdown.clone()),
        adapter::run(Arc::clone(&context), shutdown.clone()),
        inference_deployment::run(context, shutdown),
    )?;
    Ok(())
}

async fn overdue(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

fn replica_name(arguments: &Arguments) -> String {
    arguments
        .replica_name
        .clone()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "finetune-operator".to_owned())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the edge at which the clock is read; it goes on as a parameter"
)]
fn clock() -> Timestamp {
    Timestamp::now()
}
