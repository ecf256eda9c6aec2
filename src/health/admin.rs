//! Probes and metrics for the app's whole life, beside its supervisor.
//!
//! A process of its own: what it needs is in nobody else's memory, and where it is not asked for it does
//! not exist. It is live while it answers; ready and started are what the app itself says.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::ACCEPT;
use hyper::{Request, StatusCode};
use tokio::sync::watch;

use super::client::{Verdict, ask_app};
use super::listen::Socket;
use super::metrics;
use super::server;
use super::server::{
    Answer, JSON, ProgressProbe, Responder, is_answered, is_one_of, is_probe, is_same, other_method, respond,
};
use crate::cli::values::AppCheck;
use crate::error::{Context, Result};
use crate::exit::Exit;
use crate::system::limits::FileBudget;

/// The longest that the app may take to answer its check: below the few seconds of an orchestrator.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

struct Admin {
    seeding: Arc<ProgressProbe>,
    check: AppCheck,
}

impl Admin {
    async fn app(&self) -> Verdict {
        let late = |_| Err(format!("the app does not answer within {} s", CHECK_TIMEOUT.as_secs()));
        tokio::time::timeout(CHECK_TIMEOUT, ask_app(&self.check)).await.unwrap_or_else(late)
    }
}

impl Responder for Admin {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let (path, config) = (request.uri().path(), &self.seeding.config);
        let header = request.headers().get(ACCEPT).and_then(|accepts| accepts.to_str().ok());
        if is_same(path, &config.args.metrics_path) {
            let measured = self.seeding.progress.measured();
            let (content_type, text) =
                metrics::text(measured, Some(self.app().await.is_ok()), header.unwrap_or_default());
            return respond(StatusCode::OK, content_type, text.into_bytes());
        }
        if !is_answered(request.method()) && is_probe(path, config) {
            return other_method();
        }
        let verdict = match path {
            path if is_one_of(path, &config.args.live_path) => Ok("the app runs".to_owned()),
            path if is_probe(path, config) => self.app().await,
            _ => {
                let body = b"{\"status\":\"fail\",\"output\":\"no such probe\"}\n".to_vec();
                return respond(StatusCode::NOT_FOUND, JSON, body);
            }
        };
        let (code, status, output) = match verdict {
            Ok(output) => (StatusCode::OK, "pass", output),
            Err(output) => (StatusCode::SERVICE_UNAVAILABLE, "fail", output),
        };
        let body = serde_json::json!({ "status": status, "phase": "app", "output": output });
        respond(code, JSON, format!("{body}\n").into_bytes())
    }
}

/// Answers until the process ends.
///
/// # Errors
/// Exit 71 when the runtime cannot be had.
pub(crate) fn run(sockets: Vec<Socket>, seeding: Arc<ProgressProbe>, check: AppCheck) -> Result<()> {
    super::runtime()?.block_on(async {
        let (_never, stop) = watch::channel(false);
        // A probe may hold a connection to the app, too; nothing else here holds much.
        let connections = FileBudget::read().connections();
        let served = server::serve(sockets, Arc::new(Admin { seeding, check }), connections, stop);
        served.context("listen on", "--admin").map_err(|error| error.exit(Exit::System))?.await;
        Ok(())
    })
}
