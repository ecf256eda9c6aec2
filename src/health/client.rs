//! `volseed health`: asks the volseed in this container, and the app once volseed has handed over.
//!
//! For a HEALTHCHECK in an image without a shell or curl. Right for the container's whole life: while
//! seeding it is the server's answer; later, when nothing of ours answers any more, it is the app's,
//! or at least that the container's main process is another program.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, SERVER as SERVER_HEADER};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::SERVER;
use crate::config::{HealthConfig, SUPERVISOR};
use crate::options::{Address, AppCheck};

/// The most that is read of an answer, in bytes.
const MOST_BODY: usize = 64 << 10;

/// The verdict and the line that says why.
#[derive(Debug)]
pub struct Verdict {
    /// Whether the exit code is 0.
    pub healthy: bool,
    /// For people; Docker keeps it.
    pub line: String,
}

struct Answer {
    status: u16,
    ours: bool,
    body: Vec<u8>,
}

/// Asks. Takes no longer than the configured timeout.
pub async fn ask(config: &HealthConfig) -> Verdict {
    match tokio::time::timeout(config.timeout, verdict(config)).await {
        Ok(verdict) => verdict,
        Err(_) => unhealthy(format!("no answer within {}", humantime::format_duration(config.timeout))),
    }
}

async fn verdict(config: &HealthConfig) -> Verdict {
    let Some(listen) = &config.listen else {
        return app(config).await;
    };
    let asked = match listen {
        Address::Tcp(address) => get(&reachable(*address).to_string(), &config.path).await,
        Address::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => exchange(stream, "localhost", &config.path).await,
            Err(error) => Err(error),
        },
    };
    match asked {
        Ok(answer) if answer.ours => Verdict { healthy: answer.status < 400, line: line(&answer) },
        // The app has taken the port over.
        Ok(_) => app(config).await,
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            app(config).await
        }
        // Somebody holds the port and does not speak HTTP: the app, unless it is us.
        Err(_) if main_process_is_another() => app(config).await,
        Err(error) => unhealthy(format!("volseed does not answer: {error}")),
    }
}

async fn app(config: &HealthConfig) -> Verdict {
    match &config.app_check {
        AppCheck::None if main_process_is_another() => healthy("handed over to the app".into()),
        AppCheck::None => unhealthy("volseed is the main process and does not answer".into()),
        check => ask_app(check).await.map_or_else(unhealthy, healthy),
    }
}

/// Asks the app: what it said, or what is wrong with it.
pub(super) async fn ask_app(check: &AppCheck) -> std::result::Result<String, String> {
    match check {
        AppCheck::None => Ok("the app runs".into()),
        AppCheck::Tcp(port) => match TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await {
            Ok(_) => Ok(format!("the app accepts connections on port {port}")),
            Err(error) => Err(format!("the app does not accept connections on port {port}: {error}")),
        },
        AppCheck::Http { authority, path } => match get(authority, path).await {
            Ok(answer) if answer.status < 400 => Ok(format!("the app answers {}", answer.status)),
            Ok(answer) => Err(format!("the app answers {}", answer.status)),
            Err(error) => Err(format!("the app does not answer: {error}")),
        },
    }
}

async fn get(authority: &str, path: &str) -> io::Result<Answer> {
    exchange(TcpStream::connect(authority).await?, authority, path).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    authority: &str,
    path: &str,
) -> io::Result<Answer> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get(path)
        .header(HOST, authority)
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let ours = response.headers().get(SERVER_HEADER).is_some_and(|server| server == SERVER);
        let status = response.status().as_u16();
        // Only our own answer's body is of interest; an app's may be anything.
        let body = if ours {
            Limited::new(response.into_body(), MOST_BODY)
                .collect()
                .await
                .map_err(io::Error::other)?
                .to_bytes()
                .to_vec()
        } else {
            Vec::new()
        };
        Ok(Answer { status, ours, body })
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        result = &mut connection => match result {
            Ok(()) => exchange.await,
            Err(error) => Err(io::Error::other(error)),
        },
    }
}

/// What is listened to on every address is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn line(answer: &Answer) -> String {
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |key: &str| match &body[key] {
        serde_json::Value::Null => "?".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if let Some(output) = body["output"].as_str() {
        return format!("{}: {output}", text("phase"));
    }
    let percent = body["percent"].as_u64().map(|percent| format!(", {percent} %")).unwrap_or_default();
    format!("{}: {} files, {} bytes{percent}", text("phase"), text("files"), text("bytes"))
}

/// Whether the container's main process has become another program than this one. Behind an init
/// (`docker run --init`, `--supervise`) that is its only child; a volseed that is still at work there is
/// found.
fn main_process_is_another() -> bool {
    let Some(ours) = program("self") else { return false };
    if program("1").is_none_or(|main| main == ours && !main_process_supervises()) {
        return false;
    }
    let children = std::fs::read_to_string("/proc/1/task/1/children").unwrap_or_default();
    let own = std::process::id().to_string();
    !children
        .split_whitespace()
        .any(|child| child != own && program(child).is_some_and(|program| program == ours))
}

/// Whether the main process is a volseed that has nothing to do with the seed any more.
fn main_process_supervises() -> bool {
    let line = std::fs::read("/proc/1/cmdline").unwrap_or_default();
    line.split(|byte| *byte == 0).nth(1) == Some(SUPERVISOR.as_bytes())
}

/// The name of a process's program, readable by everybody (proc(5), `/proc/PID/comm`).
fn program(process: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{process}/comm")).ok()
}

fn healthy(line: String) -> Verdict {
    Verdict { healthy: true, line }
}

fn unhealthy(line: String) -> Verdict {
    Verdict { healthy: false, line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_asked_on_loopback() {
        for (listen, expected) in
            [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("192.0.2.1:80", "192.0.2.1:80")]
        {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), expected);
        }
    }
}
