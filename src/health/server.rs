//! The server: probes and progress over HTTP/1.1.
//!
//! Reads counters and answers; nothing that it does can wait for the volume. Clients are held to
//! limits in number, time and size.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SERVER as SERVER_HEADER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::SERVER;
use crate::config::ServerConfig;
use crate::progress::{Phase, Progress, Snapshot};

/// Connections at once; the next one waits in the backlog.
const MOST_CONNECTIONS: usize = 256;
/// The longest that a client may take for its request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a connection may live.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request head, in bytes; hyper's least.
const HEAD_BYTES: usize = 8192;
/// What a client that is told 503 is asked to wait, in seconds.
const RETRY_SECONDS: &str = "5";
/// The longest that answers under way may take when the server ends.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

/// Answers on `listener` until `stop` is over, then ends what is under way and closes.
pub async fn serve(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    progress: Arc<Progress>,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = tokio::select! {
            () = &mut stop => break,
            place = place => place,
        };
        let Ok(place) = accepted else { break };
        let stream = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors or memory for the moment: others may end soon.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
        };
        let (config, progress) = (Arc::clone(&config), Arc::clone(&progress));
        connections.spawn(async move {
            connection(stream, config, progress).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_ANSWERS, all).await;
}

async fn connection(stream: TcpStream, config: Arc<ServerConfig>, progress: Arc<Progress>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request.uri().path(), &config, &progress.snapshot());
        async { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off or takes too long is its own problem.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
}

#[derive(Serialize)]
struct Body<'a> {
    status: &'static str,
    #[serde(flatten)]
    snapshot: &'a Snapshot,
}

fn answer(path: &str, config: &ServerConfig, snapshot: &Snapshot) -> Response<Full<Bytes>> {
    let code = status(path, config, snapshot);
    let status = if code.is_success() { "pass" } else { "fail" };
    let mut body = serde_json::to_vec(&Body { status, snapshot }).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/health+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(SERVER_HEADER, HeaderValue::from_static(SERVER));
    if code == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
    }
    response
}

fn status(path: &str, config: &ServerConfig, snapshot: &Snapshot) -> StatusCode {
    let is = |paths: &[String]| paths.iter().any(|probe| probe == path);
    let stalled =
        snapshot.phase != Phase::Complete && snapshot.stall_seconds >= config.stall.as_secs().max(1);
    let dead = stalled || snapshot.phase == Phase::Failed;
    if is(&config.live) && !dead {
        StatusCode::OK
    } else if dead || is(&config.live) || is(&config.ready) || is(&config.started) {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::from_u16(config.seeding_status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ServerConfig {
        ServerConfig {
            listen: ":0".parse().unwrap(),
            live: vec!["/livez".into(), "/healthz".into()],
            ready: vec!["/readyz".into()],
            started: vec!["/startupz".into()],
            seeding_status: 202,
            stall: Duration::from_secs(120),
        }
    }

    #[track_caller]
    fn check(phase: Phase, stall_seconds: u64, expected: [u16; 4]) {
        let progress = Progress::default();
        progress.enter(phase);
        let snapshot = Snapshot { stall_seconds, ..progress.snapshot() };
        let found =
            ["/healthz", "/startupz", "/readyz", "/"].map(|path| status(path, &config(), &snapshot).as_u16());
        assert_eq!(found, expected, "{phase:?} {stall_seconds}");
    }

    #[test]
    fn every_phase_has_its_answers() {
        for phase in [Phase::Checking, Phase::Waiting, Phase::Seeding, Phase::Syncing, Phase::Publishing] {
            check(phase, 0, [200, 503, 503, 202]);
            check(phase, 120, [503, 503, 503, 503]);
        }
        check(Phase::Complete, 500, [200, 503, 503, 202]);
        check(Phase::Failed, 0, [503, 503, 503, 503]);
    }
}
