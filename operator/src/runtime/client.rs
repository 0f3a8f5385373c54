//! The one client to the API server: a bound on requests at once, no hidden retries, each answer counted.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service};

use super::Error;
use super::metrics::Metrics;

/// Requests at once. A watch gives its permit back when the answer's head arrives.
const REQUESTS_AT_ONCE: usize = 32;

/// Connects as the process is told to: in a cluster by its ServiceAccount, else by KUBECONFIG.
pub async fn connect(metrics: &Arc<Metrics>) -> Result<Client, Error> {
    let mut config = Config::infer()
        .await
        .map_err(|error| Error::Connect(error.to_string()))?;
    // A failed reconcile is tried again anyway; retries inside the client could hold one for minutes.
    config.default_retry = false;
    let client = ClientBuilder::try_from(config)
        .map_err(|error| Error::Connect(error.to_string()))?
        .with_layer(&CountLayer(Arc::clone(metrics)))
        .with_layer(&ConcurrencyLimitLayer::new(REQUESTS_AT_ONCE))
        .build();
    Ok(client)
}

/// Counts answers by method and status.
#[derive(Clone)]
struct CountLayer(Arc<Metrics>);

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Count {
            inner,
            metrics: Arc::clone(&self.0),
        }
    }
}

/// See [`CountLayer`].
struct Count<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S, B> Service<Request<Body>> for Count<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = request.method().clone();
        let metrics = Arc::clone(&self.metrics);
        let answer = self.inner.call(request);
        let started = Instant::now();
        Box::pin(async move {
            let answer = answer.await;
            let code = answer
                .as_ref()
                .map_or(0, |response| response.status().as_u16());
            metrics.request(&method, code, started.elapsed());
            answer
        })
    }
}
