//! `volseed health`: asks the volseed in this container, and the app once volseed has handed over.
//!
//! For a HEALTHCHECK in an image without a shell or curl. Right for the container's whole life: while
//! seeding it is the server's answer; later, when nothing of ours answers any more, it is the app's,
//! or at least that the container's main process is another program. Where the address is not in
//! our own configuration, it is taken from the command line of the volseed at work.

use std::ffi::OsString;
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
use super::container::Container;
use crate::cli::config::HealthConfig;
use crate::cli::values::{Address, AppCheck, LOCALHOST};

/// What is asked for by another's command line, where that is of a volseed that seeds or waits.
pub(crate) type ReadCommand<'a> = &'a dyn Fn(&[OsString]) -> Option<HealthConfig>;

/// The most that is read of an answer, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Whether it is healthy; either way the line that says why, for people. Docker keeps it.
pub(crate) type Verdict = Result<String, String>;

struct Reply {
    status: u16,
    ours: bool,
    body: Vec<u8>,
}

/// Asks. Takes no longer than the configured timeout.
pub(crate) async fn ask(config: &HealthConfig, read: ReadCommand<'_>) -> Verdict {
    let late = |_| Err(format!("no answer within {}", humantime::format_duration(config.timeout)));
    tokio::time::timeout(config.timeout, verdict(config, read)).await.unwrap_or_else(late)
}

async fn verdict(config: &HealthConfig, read: ReadCommand<'_>) -> Verdict {
    let mut failed = None;
    if let Some(listen) = &config.listen {
        match ask_at(listen, &config.path).await {
            Ok(answer) if answer.ours => return answered(&answer),
            // The app has taken the port over.
            Ok(_) => return taken_over(&config.app_check).await,
            Err(error) => failed = Some((listen, error)),
        }
    }
    let container = Container::look();
    let at_work: Vec<HealthConfig> = container.volseeds().filter_map(read).collect();
    let admin = container.admin().and_then(read);
    let others = at_work.iter().chain(&admin);
    for (other, listen) in others.filter_map(|other| Some((other, other.listen.as_ref()?))) {
        if Some(listen) == config.listen.as_ref() {
            continue;
        }
        match ask_at(listen, &other.path).await {
            Ok(answer) if answer.ours => return answered(&answer),
            Ok(_) => {}
            Err(error) => failed = failed.or(Some((listen, error))),
        }
    }
    match (failed, at_work.is_empty()) {
        (Some((listen, error)), false) => {
            Err(format!("volseed is at work and does not answer on {listen}: {error}"))
        }
        (None, false) => Err(format!("volseed is at work and there is no address to ask: {SET_LISTEN}")),
        (failed, true) => {
            let theirs = admin.as_ref().map(|admin| &admin.app_check);
            let check = Some(&config.app_check).filter(|check| **check != AppCheck::None).or(theirs);
            match check.unwrap_or(&AppCheck::None) {
                AppCheck::None => handed_over(failed, container.shows_the_app()),
                check => ask_app(check).await,
            }
        }
    }
}

/// The app answers where volseed did.
async fn taken_over(check: &AppCheck) -> Verdict {
    match check {
        AppCheck::None => Ok("handed over to the app".into()),
        check => ask_app(check).await,
    }
}

/// What to do where the address is missing.
const SET_LISTEN: &str = "set VOLSEED_LISTEN with ENV in the image, to the address of --listen";

/// Nothing of ours answers, none of ours is seen at work, and the app is not to be asked.
fn handed_over(failed: Option<(&Address, io::Error)>, app_is_seen: bool) -> Verdict {
    let is_closed = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
    };
    match failed {
        _ if app_is_seen => Ok("handed over to the app".into()),
        // As long as we are at work the address is open: it does not take /proc to know.
        Some((listen, error)) if is_closed(&error) => {
            Ok(format!("handed over to the app: {listen} is closed (/proc does not show the app)"))
        }
        Some((listen, error)) => Err(format!(
            "no volseed answers on {listen} and /proc does not show the app; set VOLSEED_APP_CHECK: {error}"
        )),
        None => Err(format!(
            "no address to ask, and /proc does not show what runs here: {SET_LISTEN}, or VOLSEED_APP_CHECK"
        )),
    }
}

async fn ask_at(listen: &Address, path: &str) -> io::Result<Reply> {
    match listen {
        Address::Tcp(address) => {
            get(TcpStream::connect(reachable(*address)).await?, &reachable(*address).to_string(), path).await
        }
        Address::Port(port) => {
            get(connect(LOCALHOST, *port).await?, &format!("localhost:{port}"), path).await
        }
        Address::Unix(file) => get(UnixStream::connect(file).await?, "localhost", path).await,
    }
}

fn answered(answer: &Reply) -> Verdict {
    let line = line(answer);
    if answer.status < 400 { Ok(line) } else { Err(line) }
}

/// Asks the app: what it said, or what is wrong with it.
pub(crate) async fn ask_app(check: &AppCheck) -> Verdict {
    match check {
        AppCheck::None => Ok("the app runs".into()),
        AppCheck::Tcp { host, port } => {
            let place = if host == LOCALHOST { format!("port {port}") } else { format!("{host}:{port}") };
            match connect(host, *port).await {
                Ok(_) => Ok(format!("the app accepts connections on {place}")),
                Err(error) => Err(format!("the app does not accept connections on {place}: {error}")),
            }
        }
        AppCheck::Http { host, port, path } => {
            let asked = async { get(connect(host, *port).await?, &format!("{host}:{port}"), path).await };
            match asked.await {
                Ok(answer) if answer.status < 400 => Ok(format!("the app answers {}", answer.status)),
                Ok(answer) => Err(format!("the app answers {}", answer.status)),
                Err(error) => Err(format!("the app does not answer: {error}")),
            }
        }
    }
}

/// Connects to a host by name or number. The machine itself has two addresses, whatever `/etc/hosts` says:
/// an app may listen on either.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    if !host.eq_ignore_ascii_case(LOCALHOST) {
        return TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
    }
    match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(stream) => Ok(stream),
        Err(error) => TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| error),
    }
}

async fn get(stream: impl AsyncRead + AsyncWrite + Unpin, authority: &str, path: &str) -> io::Result<Reply> {
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
            Limited::new(response.into_body(), MAX_BODY)
                .collect()
                .await
                .map_err(io::Error::other)?
                .to_bytes()
                .to_vec()
        } else {
            Vec::new()
        };
        Ok(Reply { status, ours, body })
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

fn line(answer: &Reply) -> String {
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
