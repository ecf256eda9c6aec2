//! The server: probes, progress, a page and metrics over HTTP/1.1.
//!
//! Reads counters and answers; nothing that it does can wait for the volume. Clients are held to
//! limits in number, time and size. Where all places are taken the oldest connection is closed, on
//! whichever address it came: a probe is answered within milliseconds, so the oldest is none.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SERVER as SERVER_HEADER,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::libc;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::SERVER;
use super::listen::Socket;
use super::metrics;
use super::page::Page;
use super::proxy;
use crate::cli::config::ServerConfig;
use crate::cli::values::Address;
use crate::progress::{Phase, Progress, Snapshot};
use crate::text::one_line;

/// How long after a connection that could not be accepted the next one is tried.
const RETRY: Duration = Duration::from_millis(10);
/// The longest that a client may take for its request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a connection may live.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request head, in bytes; hyper's least.
const HEAD_BYTES: usize = 8192;
/// Types of answers.
pub(crate) const JSON: &str = "application/health+json";
const TEXT: &str = "text/plain; charset=utf-8";
/// What a client that is told 503 is asked to wait, in seconds.
const RETRY_SECONDS: &str = "5";
/// The longest that answers under way may take when the server ends.
const LAST_ANSWERS: Duration = Duration::from_millis(100);
/// What is still read of a request once it is answered, in bytes and time: closed before that, the
/// connection would be reset, and with it the answer on its way.
const LINGER_BYTES: u64 = 64 << 10;
const LINGER: Duration = Duration::from_millis(500);
/// How long a client that has its answer may take to close first. Who closes first keeps the connection
/// in TIME_WAIT for a minute; were that us, an app that binds without SO_REUSEADDR would find its port in
/// use. More than a round trip around the world; one that waits for our end waits no longer than that.
const CLIENT_CLOSES: Duration = Duration::from_millis(300);
/// The methods that are answered.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// Who answers.
pub(crate) trait Responder: Send + Sync + 'static {
    /// The answer to a request.
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// What is answered.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers while volumes are seeded.
#[derive(Debug)]
pub(crate) struct ProgressProbe {
    /// Paths and statuses.
    pub config: ServerConfig,
    /// For browsers.
    pub page: Page,
    /// How far the work is.
    pub progress: Arc<Progress>,
}

impl Responder for ProgressProbe {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        answer(request, self)
    }
}

/// A client's connection.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<C: AsyncRead + AsyncWrite + Unpin + Send> Connection for C {}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn new(socket: Socket) -> io::Result<Listener> {
        let fd: OwnedFd = socket.fd;
        Ok(match socket.address {
            Address::Unix(_) => Listener::Unix(UnixListener::from_std(fd.into())?),
            Address::Tcp(_) | Address::Port(_) => Listener::Tcp(TcpListener::from_std(fd.into())?),
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        Ok(match self {
            Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// The places for connections, of all addresses together.
struct Places {
    free: Arc<Semaphore>,
    count: usize,
    /// The connections that have one, the oldest first, and some that are over.
    taken: Mutex<VecDeque<AbortHandle>>,
}

impl Places {
    fn new(count: usize) -> Places {
        Places { free: Arc::new(Semaphore::new(count)), count, taken: Mutex::default() }
    }

    /// A place, for which the oldest connection is closed where none is free.
    async fn take(&self) -> OwnedSemaphorePermit {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return place;
        }
        self.close_oldest();
        // Its descriptor is closed first: aborting a task only asks for its end.
        Arc::clone(&self.free).acquire_owned().await.expect("the places are never closed")
    }

    fn add(&self, connection: AbortHandle) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() >= self.count {
            taken.retain(|connection| !connection.is_finished());
        }
        taken.push_back(connection);
    }

    fn close_oldest(&self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|connection| !connection.is_finished());
        if let Some(oldest) = taken.pop_front() {
            oldest.abort();
        }
    }
}

/// Answers on all `sockets` until `stop` is over, then ends what is under way and closes them. At most
/// `connections` are open at once, but one for each socket at least.
///
/// # Errors
/// When the runtime cannot watch a socket.
pub(crate) fn serve(
    sockets: Vec<Socket>,
    site: Arc<impl Responder>,
    connections: usize,
    stop: watch::Receiver<bool>,
) -> io::Result<impl Future<Output = ()>> {
    let listeners = sockets.into_iter().map(Listener::new).collect::<io::Result<Vec<_>>>()?;
    // One connection of each address is accepted before it has a place.
    let places = Arc::new(Places::new(connections.saturating_sub(listeners.len()).max(1)));
    Ok(async move {
        let mut all = JoinSet::new();
        for listener in listeners {
            all.spawn(serve_one(listener, Arc::clone(&site), Arc::clone(&places), stop.clone()));
        }
        while all.join_next().await.is_some() {}
    })
}

async fn serve_one(
    listener: Listener,
    site: Arc<impl Responder>,
    places: Arc<Places>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            accepted = listener.accept() => match accepted {
                Ok(stream) => stream,
                // Out of descriptors or memory for the moment: others may end soon.
                Err(error) => {
                    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                        places.close_oldest();
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            },
        };
        while connections.try_join_next().is_some() {}
        let place = places.take().await;
        places.add(connections.spawn(connection(stream, Arc::clone(&site), place)));
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_ANSWERS, all).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The sender is gone: stop.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Answers one client. The place is free again once the stream is closed.
async fn connection(stream: Box<dyn Connection>, site: Arc<impl Responder>, _place: OwnedSemaphorePermit) {
    let service = service_fn(|request: Request<Incoming>| {
        let site = Arc::clone(&site);
        // Pinned, so that the connection can be taken apart whatever came of it.
        Box::pin(async move {
            let mut answer = site.answer(&request).await;
            if request.method() == Method::OPTIONS {
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
            }
            Ok::<_, Infallible>(answer)
        })
    });
    let exchange = async {
        let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, proxy::skip_header(stream)).await else {
            return;
        };
        let mut connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        // What is no request is answered, too.
        let _ = std::future::poll_fn(|context| connection.poll_without_shutdown(context)).await;
        let mut rest = connection.into_parts().io.into_inner().take(LINGER_BYTES);
        let mut nowhere = tokio::io::sink();
        let closed = tokio::time::timeout(CLIENT_CLOSES, tokio::io::copy(&mut rest, &mut nowhere)).await;
        let _ = rest.get_mut().shutdown().await;
        if closed.is_err() {
            let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut nowhere)).await;
        }
    };
    // A client that breaks off or takes too long is its own problem.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, exchange).await;
}

#[derive(Serialize)]
struct Body<'a> {
    status: &'static str,
    /// Why not, where it is `fail` and not only a matter of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    #[serde(flatten)]
    snapshot: &'a Snapshot,
}

fn answer(request: &Request<Incoming>, site: &ProgressProbe) -> Answer {
    let path = request.uri().path();
    let accepts = request.headers().get(ACCEPT).and_then(|accepts| accepts.to_str().ok()).unwrap_or_default();
    if is_same(path, &site.config.args.metrics_path) {
        let (content_type, text) = metrics::text(site.progress.measured(), None, accepts);
        return respond(StatusCode::OK, content_type, text.into_bytes());
    }
    let snapshot = site.progress.snapshot();
    if !is_answered(request.method()) && is_probe(path, &site.config) {
        return other_method();
    }
    let code = status(path, &site.config, &snapshot);
    if accepts.contains("text/html") && !is_probe(path, &site.config) {
        return respond(code, "text/html; charset=utf-8", site.page.fill(&snapshot).into_bytes());
    }
    let output = if snapshot.phase == Phase::Failed {
        Some("it failed; the log says why".to_owned())
    } else if is_stalled(&site.config, &snapshot) {
        Some(format!("nothing has moved for {} s", snapshot.stall_seconds))
    } else {
        None
    };
    let body = Body { status: if code.is_success() { "pass" } else { "fail" }, output, snapshot: &snapshot };
    if request.uri().query().is_some_and(|query| query.split('&').any(|key| key == "verbose")) {
        return respond(code, TEXT, verbose(&body).into_bytes());
    }
    let mut json = serde_json::to_vec(&body).unwrap_or_default();
    json.push(b'\n');
    respond(code, JSON, json)
}

/// The same for people, a line each.
fn verbose(body: &Body<'_>) -> String {
    let json = serde_json::to_value(body).unwrap_or_default();
    let line = |(key, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::Null => format!("{key}: -\n"),
        serde_json::Value::String(text) => format!("{key}: {}\n", one_line(text)),
        other => format!("{key}: {other}\n"),
    };
    json.as_object().map(|fields| fields.iter().map(line).collect()).unwrap_or_default()
}

pub(crate) fn respond(code: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(SERVER_HEADER, HeaderValue::from_static(SERVER));
    if code == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
    }
    response
}

/// Whether a probe with this method is answered. HAProxy asks by OPTIONS where it is not told otherwise.
pub(crate) fn is_answered(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

pub(crate) fn other_method() -> Answer {
    let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, format!("{METHODS}\n").into_bytes());
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
    response
}

/// Whether a path is this one; a `/` at the end makes no difference.
pub(crate) fn is_same(path: &str, probe: &str) -> bool {
    path.trim_end_matches('/') == probe.trim_end_matches('/')
}

pub(crate) fn is_one_of(path: &str, probes: &[String]) -> bool {
    probes.iter().any(|probe| is_same(path, probe))
}

pub(crate) fn is_probe(path: &str, config: &ServerConfig) -> bool {
    [&config.args.live_path, &config.args.ready_path, &config.args.started_path]
        .iter()
        .any(|probes| is_one_of(path, probes))
}

fn is_stalled(config: &ServerConfig, snapshot: &Snapshot) -> bool {
    snapshot.phase != Phase::Complete && snapshot.stall_seconds >= config.args.stall.as_secs().max(1)
}

fn status(path: &str, config: &ServerConfig, snapshot: &Snapshot) -> StatusCode {
    let dead = is_stalled(config, snapshot) || snapshot.phase == Phase::Failed;
    if is_one_of(path, &config.args.live_path) && !dead {
        StatusCode::OK
    } else if dead || is_probe(path, config) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::from_u16(config.args.seeding_status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// What a client that sends just these bytes is answered.
#[cfg(any(fuzzing, test))]
pub(crate) async fn answer_to(request: &[u8], site: Arc<impl Responder>) -> Vec<u8> {
    let (mut client, server) = tokio::io::duplex(64 << 10);
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("nobody else has it");
    let serving = tokio::spawn(connection(Box::new(server), site, place));
    // It may have closed already.
    let _ = client.write_all(request).await;
    let _ = client.shutdown().await;
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    serving.await.expect("a connection does not panic");
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(phase: Phase, stall_seconds: u64, expected: [u16; 4]) {
        let progress = Progress::default();
        progress.enter(phase);
        let snapshot = Snapshot { stall_seconds, ..progress.snapshot() };
        let config = ServerConfig::with(&["--seeding-status=202"]);
        let found =
            ["/healthz", "/startupz/", "/readyz", "/"].map(|path| status(path, &config, &snapshot).as_u16());
        assert_eq!(found, expected, "{phase:?} {stall_seconds}");
    }

    #[test]
    fn every_phase_has_its_answers() {
        let working = [Phase::Checking, Phase::Waiting, Phase::Seeding, Phase::Syncing, Phase::Publishing];
        for phase in working.into_iter().chain([Phase::Upgrading, Phase::Migrating]) {
            check(phase, 0, [200, 503, 503, 202]);
            check(phase, 120, [503, 503, 503, 503]);
        }
        check(Phase::Complete, 500, [200, 503, 503, 202]);
        check(Phase::Failed, 0, [503, 503, 503, 503]);
    }
}
