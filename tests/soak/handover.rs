//! Real apps that take the listening socket over from volseed while clients keep connecting: nginx, gunicorn, php-fpm.
//!
//! With `--pass-socket` no connection is refused or reset from volseed's first answer to the app's, and every answer
//! is one of the two; without it, how long the gap is.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::kit::http::closed_port;
use crate::kit::{Sandbox, Tree, eventually, needs, run as volseed_run};
use crate::rounds::Counts;
use crate::{report, rounds, row};

/// Hammers a port while volseed seeds and hands it to nginx, gunicorn and php-fpm
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Rounds of each app, by exec and supervised
    #[arg(long, default_value_t = 1, value_name = "N")]
    rounds: u64,
}

const CLIENTS: usize = 6;
/// What the seed takes, and how long the app is watched after its first answer.
const FILES: usize = 400;
const WATCHED: Duration = Duration::from_millis(500);

struct App {
    name: &'static str,
    tool: &'static str,
    passing: Option<&'static str>,
    command: fn(&Path, u16) -> Vec<String>,
    ask: fn(&mut TcpStream) -> std::io::Result<&'static str>,
}

const APPS: [App; 5] = [
    App { name: "nginx", tool: "nginx", passing: Some("nginx"), command: nginx, ask: http },
    App { name: "gunicorn", tool: "gunicorn", passing: Some("listen-fds"), command: gunicorn, ask: http },
    App { name: "php-fpm", tool: "php-fpm8.2", passing: Some("php-fpm"), command: php_fpm, ask: fastcgi },
    App { name: "nginx, socket closed", tool: "nginx", passing: None, command: nginx, ask: http },
    App { name: "gunicorn, socket closed", tool: "gunicorn", passing: None, command: gunicorn, ask: http },
];

/// One connection. A refusal is known only after it: another client may have been answered in between.
struct Attempt {
    began: Instant,
    ended: Instant,
    came: &'static str,
}

pub(crate) fn run(arguments: &Arguments) -> usize {
    let began = Instant::now();
    let (mut rows, mut broken) = (Vec::new(), 0);
    for app in APPS.iter().filter(|app| needs::tools(&[app.tool])) {
        for is_supervised in [false, true] {
            let how = if is_supervised { "supervised" } else { "exec" };
            let (mut total, mut gaps) = (Counts::default(), Vec::new());
            let name = format!("handover to {}, {how}", app.name);
            // One at a time: each keeps both processors busy.
            broken += rounds::play(
                &name,
                0..arguments.rounds,
                1,
                |_| round(app, is_supervised),
                |(counts, gap)| {
                    total.add_all(counts);
                    gaps.push(gap);
                },
            );
            if gaps.is_empty() {
                continue;
            }
            let least = gaps.iter().copied().fold(f64::INFINITY, f64::min);
            let most = gaps.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut row = row![app.name, app.passing.unwrap_or("—"), how];
            row.extend(CAME.iter().map(|came| total.of(came).to_string()));
            row.push(format!("{:.0} ({least:.0} to {most:.0})", report::median(gaps)));
            rows.push(row);
        }
    }
    report::heading(
        "handover",
        &format!("{} rounds each, {CLIENTS} clients", arguments.rounds),
        began.elapsed(),
    );
    let mut head = vec!["app", "--pass-socket", "how"];
    head.extend(["answers of volseed", "of the app"]);
    head.extend(&CAME[2..]);
    head.push("ms without an answer");
    report::table(&head, &rows);
    broken
}

const CAME: [&str; 7] = ["volseed", "app", "refused", "reset", "empty", "broken", "timeout"];

/// What came of the attempts that began after volseed's first answer, and the time from its last to the app's first.
fn round(app: &App, is_supervised: bool) -> (Counts, f64) {
    let sandbox = Sandbox::new();
    let source = Tree::many("files", FILES).write_to(&sandbox.directory("source"));
    let port = closed_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let command = (app.command)(&sandbox.directory("app"), port);
    let mut volseed = volseed_run(&source, sandbox.volume(), command)
        .arguments(["--log-level", "error", "--workers", "1"])
        .option("--listen", address.to_string())
        .in_container();
    if let Some(way) = app.passing {
        volseed = volseed.option("--pass-socket", way);
    }
    if is_supervised {
        volseed = volseed.flag("--supervise");
    }
    let running = volseed.start();
    let (log, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let attempt = attempt(app, address);
                    log.lock().unwrap().push(attempt);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let over = OnDrop(&over);
        eventually(&format!("an answer of {}; it said: {}", app.name, running.stderr()), || {
            log.lock().unwrap().iter().any(|attempt: &Attempt| attempt.came == "app")
        });
        std::thread::sleep(WATCHED);
        drop(over);
    });
    judged(app, &log.into_inner().unwrap())
}

/// Ends the clients, also where a promise was broken.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn judged(app: &App, log: &[Attempt]) -> (Counts, f64) {
    let ended = |who| log.iter().filter(move |attempt| attempt.came == who).map(|attempt| attempt.ended);
    let first = ended("volseed").min().unwrap_or(log[0].ended);
    let mut counts = Counts::default();
    log.iter().filter(|attempt| attempt.began >= first).for_each(|attempt| counts.add(attempt.came, 1));
    if app.passing.is_some() {
        let lost: Vec<_> = CAME[2..].iter().filter(|came| counts.of(came) > 0).collect();
        assert!(lost.is_empty(), "connections were lost: {lost:?}");
    }
    let theirs = ended("app").min().unwrap();
    let ours = ended("volseed").filter(|&ours| ours < theirs).max().unwrap_or(first);
    (counts, theirs.saturating_duration_since(ours).as_secs_f64() * 1000.0)
}

fn attempt(app: &App, address: SocketAddr) -> Attempt {
    let began = Instant::now();
    let came = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        (app.ask)(&mut stream)
    });
    let came = came.unwrap_or_else(|error| match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "timeout",
        _ => "reset",
    });
    Attempt { began, ended: Instant::now(), came }
}

fn http(stream: &mut TcpStream) -> std::io::Result<&'static str> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let said = answer(stream)?;
    let head = said.split("\r\n\r\n").next().unwrap_or_default().to_lowercase();
    Ok(match head {
        head if head.contains("server: volseed") => "volseed",
        head if head.starts_with("http/1.1 200 ") => "app",
        head if head.is_empty() => "empty",
        _ => "broken",
    })
}

/// A FastCGI request for php-fpm's ping, which volseed answers as the HTTP that it is not (FastCGI 1.0, section 3.3).
fn fastcgi(stream: &mut TcpStream) -> std::io::Result<&'static str> {
    let record = |kind, content: &[u8]| {
        [&[1, kind, 0, 1, 0, u8::try_from(content.len()).unwrap(), 0, 0], content].concat()
    };
    let pairs = [
        ("SCRIPT_NAME", "/ping"),
        ("SCRIPT_FILENAME", "/ping"),
        ("REQUEST_METHOD", "GET"),
        ("QUERY_STRING", ""),
    ];
    let pairs = pairs.map(|(name, value)| {
        [&[name.len() as u8, value.len() as u8], name.as_bytes(), value.as_bytes()].concat()
    });
    let begin = record(1, &[0, 1, 0, 0, 0, 0, 0, 0]);
    stream.write_all(&[begin, record(4, &pairs.concat()), record(4, b""), record(5, b"")].concat())?;
    let said = answer(stream)?;
    Ok(match said {
        said if said.contains("pong") => "app",
        said if said.starts_with("HTTP/1.1 400") => "volseed",
        said if said.is_empty() => "empty",
        _ => "broken",
    })
}

/// What comes until the end, or until an HTTP body is whole: as a probe does, the client closes first.
fn answer(stream: &mut TcpStream) -> std::io::Result<String> {
    let (mut said, mut buffer) = (String::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer)?;
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
        let whole = said.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let lengths = head
                .lines()
                .filter_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            head.starts_with("HTTP/") && lengths.into_iter().any(|length: usize| body.len() >= length)
        });
        if count == 0 || whole {
            return Ok(said);
        }
    }
}

fn nginx(directory: &Path, port: u16) -> Vec<String> {
    let (config, at) = (directory.join("nginx.conf"), directory.display());
    let text = format!(
        "daemon off; pid {at}/nginx.pid; error_log stderr; events {{ }}\n\
         http {{ access_log off; server {{ listen 127.0.0.1:{port}; location / {{ return 200 app; }} }} }}\n"
    );
    fs::write(&config, text).unwrap();
    vec!["nginx".into(), "-c".into(), config.display().to_string()]
}

fn gunicorn(directory: &Path, port: u16) -> Vec<String> {
    let text =
        "def app(environ, start):\n    start('200 OK', [('Content-Length', '3')])\n    return [b'app']\n";
    fs::write(directory.join("webapp.py"), text).unwrap();
    let bind = format!("127.0.0.1:{port}");
    let directory = directory.display().to_string();
    let flags =
        ["--log-level", "error", "--workers", "2", "--chdir", &directory, "--bind", &bind, "webapp:app"];
    [&["gunicorn"], &flags[..]].concat().into_iter().map(str::to_owned).collect()
}

fn php_fpm(directory: &Path, port: u16) -> Vec<String> {
    let (config, at) = (directory.join("fpm.conf"), directory.display());
    let text = format!(
        "[global]\nerror_log = {at}/fpm.log\npid = {at}/fpm.pid\n[www]\nuser = nobody\ngroup = nogroup\n\
         listen = 127.0.0.1:{port}\npm = static\npm.max_children = 2\nping.path = /ping\n"
    );
    fs::write(&config, text).unwrap();
    vec!["php-fpm8.2".into(), "--nodaemonize".into(), "--fpm-config".into(), config.display().to_string()]
}
