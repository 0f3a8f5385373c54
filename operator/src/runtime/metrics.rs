//! The process's metrics, in a registry of their own. Names are controller-runtime's where it has one, so that existing
//! dashboards read them. A label is never a name that a user chose. A counter begins at 0 with every label value that is known
//! beforehand: Prometheus sees no increase in a series that begins at 1.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use finetune_crds::fine_tune_job::JobPhase;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::Error;

/// Methods and codes of the API server's answers that somebody may want to be told of: their series begin at 0.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
const CODES: [&str; 9] = ["0", "401", "403", "409", "422", "429", "500", "503", "504"];

/// What brings a gauge up to date before it is read.
type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

/// All metrics of this process.
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    reconcile_errors: IntCounterVec,
    reconcile_panics: IntCounterVec,
    reconcile_seconds: HistogramVec,
    active_workers: IntGaugeVec,
    max_workers: IntGaugeVec,
    retries: IntCounterVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    leader: IntGaugeVec,
    /// FineTuneJobs by phase, refreshed at each reading from the watch's store.
    pub fine_tune_jobs: IntGaugeVec,
    /// Phases that FineTuneJobs have entered.
    pub fine_tune_job_transitions: IntCounterVec,
    /// Adapters by phase, refreshed at each reading from the watch's store.
    pub adapters: IntGaugeVec,
    refreshes: Mutex<Vec<Refresh>>,
}

/// How a reconcile ended, as controller-runtime names it.
#[derive(Clone, Copy, Debug)]
pub enum ReconcileResult {
    /// Nothing more to do until something changes.
    Success,
    /// To be looked at again after a while.
    RequeueAfter,
    /// The object had changed meanwhile: at once again.
    Requeue,
    /// It failed.
    Error,
}

impl ReconcileResult {
    const ALL: [Self; 4] = [
        Self::Success,
        Self::RequeueAfter,
        Self::Requeue,
        Self::Error,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::RequeueAfter => "requeue_after",
            Self::Requeue => "requeue",
            Self::Error => "error",
        }
    }
}

impl Metrics {
    /// Registers everything. Fails only if two metrics have one name.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new();
        let seconds = prometheus::exponential_buckets(0.005, 2.0, 14)?;
        let metrics = Self {
            reconciles: counter(
                &registry,
                "controller_runtime_reconcile_total",
                "Reconciles, by controller and result.",
                &["controller", "result"],
            )?,
            reconcile_errors: counter(
                &registry,
                "controller_runtime_reconcile_errors_total",
                "Failed reconciles, by controller and kind of error.",
                &["controller", "error"],
            )?,
            reconcile_panics: counter(
                &registry,
                "controller_runtime_reconcile_panics_total",
                "Reconciles that a fault of the operator broke off, by controller.",
                &["controller"],
            )?,
            reconcile_seconds: histogram(
                &registry,
                "controller_runtime_reconcile_time_seconds",
                "Seconds a reconcile takes.",
                &["controller"],
                seconds.clone(),
            )?,
            active_workers: gauge(
                &registry,
                "controller_runtime_active_workers",
                "Reconciles under way.",
                &["controller"],
            )?,
            max_workers: gauge(
                &registry,
                "controller_runtime_max_concurrent_reconciles",
                "The most reconciles at once.",
                &["controller"],
            )?,
            retries: counter(
                &registry,
                "workqueue_retries_total",
                "Objects put back after an error or a conflict.",
                &["name"],
            )?,
            requests: counter(
                &registry,
                "rest_client_requests_total",
                "Answers of the API server, by method and status; 0 where there was none.",
                &["method", "code"],
            )?,
            request_seconds: histogram(
                &registry,
                "rest_client_request_duration_seconds",
                "Seconds until the head of the API server's answer.",
                &["method"],
                seconds,
            )?,
            leader: gauge(
                &registry,
                "leader_election_master_status",
                "1 while this process holds the Lease of that name.",
                &["name"],
            )?,
            fine_tune_jobs: gauge(
                &registry,
                "finetune_jobs",
                "FineTuneJobs that exist, by phase.",
                &["phase"],
            )?,
            fine_tune_job_transitions: counter(
                &registry,
                "finetune_job_transitions_total",
                "Phases that FineTuneJobs have entered.",
                &["phase"],
            )?,
            adapters: gauge(
                &registry,
                "finetune_adapters",
                "Adapters that exist, by phase.",
                &["phase"],
            )?,
            refreshes: Mutex::default(),
            registry: registry.clone(),
        };
        for phase in JobPhase::ALL {
            metrics
                .fine_tune_job_transitions
                .with_label_values(&[phase.as_str()]);
        }
        for method in METHODS {
            for code in CODES {
                metrics.requests.with_label_values(&[method, code]);
            }
        }
        Ok(Arc::new(metrics))
    }

    /// Has `refresh` called before each reading.
    pub fn before_reading(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        self.refreshes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(refresh));
    }

    /// Everything as Prometheus' text.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        for refresh in self
            .refreshes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            refresh(self);
        }
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// One answer of the API server; `code` 0 means none came.
    pub fn request(&self, method: &http::Method, code: u16, duration: Duration) {
        self.requests
            .with_label_values(&[method.as_str(), &code.to_string()])
            .inc();
        self.request_seconds
            .with_label_values(&[method.as_str()])
            .observe(duration.as_secs_f64());
    }

    /// Whether this process holds the Lease of that name.
    pub fn leading(&self, lease: &str, leads: bool) {
        self.leader
            .with_label_values(&[lease])
            .set(i64::from(leads));
    }

    /// A controller of this process, and how many reconciles it may do at once.
    pub fn controller(&self, controller: &str, workers: u16) {
        self.max_workers
            .with_label_values(&[controller])
            .set(i64::from(workers));
        for result in ReconcileResult::ALL {
            self.reconciles
                .with_label_values(&[controller, result.label()]);
        }
        for error in Error::OF_RECONCILES {
            self.reconcile_errors
                .with_label_values(&[controller, error]);
        }
        self.reconcile_panics.with_label_values(&[controller]);
        self.retries.with_label_values(&[controller]);
        self.active_workers.with_label_values(&[controller]);
    }

    /// Counts a reconcile of `controller` as under way until the answer is dropped.
    pub fn working(&self, controller: &str) -> impl Drop + use<> {
        let gauge = self.active_workers.with_label_values(&[controller]);
        gauge.inc();
        Working(gauge)
    }

    /// One reconcile.
    pub fn reconciled(&self, controller: &str, result: ReconcileResult, duration: Duration) {
        self.reconciles
            .with_label_values(&[controller, result.label()])
            .inc();
        self.reconcile_seconds
            .with_label_values(&[controller])
            .observe(duration.as_secs_f64());
        if matches!(result, ReconcileResult::Error | ReconcileResult::Requeue) {
            self.retries.with_label_values(&[controller]).inc();
        }
    }

    /// One reconcile that panicked.
    pub fn panicked(&self, controller: &str) {
        self.reconcile_panics.with_label_values(&[controller]).inc();
    }

    /// One failed reconcile, by the kind of its error.
    pub fn failed(&self, controller: &str, error: &'static str) {
        self.reconcile_errors
            .with_label_values(&[controller, error])
            .inc();
    }
}

struct Working(IntGauge);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: Vec<f64>,
) -> Result<HistogramVec, prometheus::Error> {
    let histogram = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reconcile_is_counted_and_a_gauge_is_refreshed_when_read() {
        let metrics = Metrics::new().unwrap();
        metrics.reconciled("x", ReconcileResult::Error, Duration::from_millis(20));
        metrics.before_reading(|metrics| {
            metrics
                .fine_tune_jobs
                .with_label_values(&["Training"])
                .set(7);
        });
        let text = metrics.text().unwrap();
        assert!(
            text.contains(
                "controller_runtime_reconcile_total{controller=\"x\",result=\"error\"} 1"
            )
        );
        assert!(text.contains("workqueue_retries_total{name=\"x\"} 1"));
        assert!(text.contains("finetune_jobs{phase=\"Training\"} 7"));
    }

    #[test]
    fn the_lease_that_is_held_is_told_by_its_name() {
        let metrics = Metrics::new().unwrap();
        metrics.leading("finetune-operator", false);
        let held = |value: i64| {
            format!("leader_election_master_status{{name=\"finetune-operator\"}} {value}")
        };
        assert!(metrics.text().unwrap().contains(&held(0)));
        metrics.leading("finetune-operator", true);
        assert!(metrics.text().unwrap().contains(&held(1)));
    }

    #[test]
    fn counters_begin_at_zero_so_that_the_first_failure_is_an_increase() {
        let metrics = Metrics::new().unwrap();
        metrics.controller("x", 8);
        let text = metrics.text().unwrap();
        for line in [
            "finetune_job_transitions_total{phase=\"Pending\"} 0",
            "finetune_job_transitions_total{phase=\"Succeeded\"} 0",
            "finetune_job_transitions_total{phase=\"Failed\"} 0",
            "controller_runtime_reconcile_total{controller=\"x\",result=\"error\"} 0",
            "controller_runtime_reconcile_errors_total{controller=\"x\",error=\"cluster\"} 0",
            "controller_runtime_reconcile_errors_total{controller=\"x\",error=\"deadline\"} 0",
            "controller_runtime_reconcile_errors_total{controller=\"x\",error=\"panic\"} 0",
            "controller_runtime_reconcile_panics_total{controller=\"x\"} 0",
            "workqueue_retries_total{name=\"x\"} 0",
            "rest_client_requests_total{code=\"0\",method=\"GET\"} 0",
            "rest_client_requests_total{code=\"503\",method=\"PATCH\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_worker_counts_only_while_it_works() {
        let metrics = Metrics::new().unwrap();
        let line = "controller_runtime_active_workers{controller=\"x\"}";
        let working = metrics.working("x");
        assert!(metrics.text().unwrap().contains(&format!("{line} 1")));
        drop(working);
        assert!(metrics.text().unwrap().contains(&format!("{line} 0")));
    }
}
