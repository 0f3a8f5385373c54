//! Serves HTTP on a listener. Both programs use it, so that no connection of theirs is kept for a client that asks nothing.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How long a connection may be without a request: idle, or with a head that is not complete. Longer than the 60 seconds
/// after which load balancers let go of idle connections, since a server that closes first may cut a request on its way.
const IDLE: Duration = Duration::from_secs(75);
/// How long a connection that is to end waits for the rest of a head, and for a client that reads slowly.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long no connection is accepted where the system has no room for one.
const NO_ROOM: Duration = Duration::from_secs(1);

/// Answers the requests that come to `listener` with `service`, over HTTP/1 and HTTP/2. From `stop` on no connection is accepted;
/// those without a request are closed, and the others when their answers are complete. Ends when all are closed.
pub async fn serve<S, B>(listener: TcpListener, service: S, stop: impl Future<Output = ()>)
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (stopping, stopped) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = &mut stop => break,
        };
        tokio::spawn(connection(stream, service.clone(), stopped.clone()));
    }
    drop((listener, stopped));
    stopping.send_replace(());
    // Each connection has a receiver.
    stopping.closed().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Of a client that has gone already.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted; trying again");
                sleep(NO_ROOM).await;
            }
        }
    }
}

async fn connection<I, S, B>(stream: I, service: S, mut stopped: watch::Receiver<()>)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: tower_service::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let activity = Arc::new(Activity::default());
    let service = TowerToHyperService::new(service);
    let of_service = Arc::clone(&activity);
    let service = service_fn(move |request| {
        let running = Running::new(&of_service);
        let answer = service.call(request);
        async move {
            let answer = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| Answer {
                body,
                _running: running,
            }))
        }
    });
    let stream = TokioIo::new(Watched {
        stream,
        activity: Arc::clone(&activity),
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(stream, service));
    let mut check = pin!(sleep(IDLE));
    let mut ending = false;
    loop {
        let told = tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::trace!(%error, "a connection broke");
                }
                return;
            }
            // An error means that the server is gone.
            _ = stopped.changed(), if !ending => true,
            () = check.as_mut() => false,
        };
        let patience = if ending { LAST_WORDS } else { IDLE };
        let left = activity.left_of(patience);
        if !told && let Some(left) = left {
            check.as_mut().reset(Instant::now() + left);
        } else if ending {
            return;
        } else {
            ending = true;
            connection.as_mut().graceful_shutdown();
            check.as_mut().reset(Instant::now() + LAST_WORDS);
        }
    }
}

/// What happens on a connection.
struct Activity {
    requests: AtomicUsize,
    /// When the last request was answered, or bytes were last sent.
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            requests: AtomicUsize::new(0),
            last: Mutex::new(Instant::now()),
        }
    }
}

impl Activity {
    fn note(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long to wait until nothing has happened for `patience`. Absent: that is now.
    fn left_of(&self, patience: Duration) -> Option<Duration> {
        if self.requests.load(Ordering::Relaxed) > 0 {
            return Some(patience);
        }
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let left = patience.saturating_sub(last.elapsed());
        (!left.is_zero()).then_some(left)
    }
}

/// A request until its answer is complete, or nobody waits for it any more.
struct Running(Arc<Activity>);

impl Running {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.note();
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer, which is part of what runs.
struct Answer<B> {
    body: B,
    _running: Running,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that says when its client takes bytes: an answer is given to the connection faster than a slow client reads it.
struct Watched<I> {
    stream: I,
    activity: Arc<Activity>,
}

impl<I> Watched<I> {
    fn noted(&self, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(sent, Poll::Ready(Ok(_))) {
            self.activity.note();
        }
        sent
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.noted(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.noted(sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
