//! Probes as load balancers and their kind send them.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::kit::http::{self, app_answering, closed_port, read_answer};
use crate::kit::{Running, Sandbox, Tree, eventually, needs, run, seed};

fn seeding(sandbox: &Sandbox) -> Running {
    let running = seed("-", sandbox.volume()).fed().listening().start();
    running.address();
    running
}

/// What is answered to exactly these bytes, in two parts with time between them.
#[track_caller]
fn sent(address: SocketAddr, first: &[u8], second: &[u8]) -> http::Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(first).unwrap();
    stream.write_all(second).unwrap();
    read_answer(stream, "GET")
}

#[test]
fn what_is_no_request_is_answered_and_not_reset() {
    let sandbox = Sandbox::new();
    let running = seeding(&sandbox);
    // FastCGI begins like this: nginx in front of php-fpm sends it.
    let begin = [1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for _ in 0..20 {
        assert_eq!(sent(running.address(), &begin, &[4; 3000]).status, 400);
    }
}

#[test]
fn a_proxy_header_before_a_probe_is_passed_over() {
    let sandbox = Sandbox::new();
    let running = seeding(&sandbox);
    let request = b"GET /livez HTTP/1.1\r\nHost: volume.test\r\n\r\n";
    let binary = |command: u8, family: u8, rest: &[u8]| {
        let length = (rest.len() as u16).to_be_bytes();
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
    };
    let headers = [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 80\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 80\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        binary(0x21, 0x11, &[0; 12]),
        // What NLB adds to the addresses.
        binary(0x21, 0x21, &[0; 36 + 60]),
        binary(0x20, 0x00, &[]),
    ];
    for header in headers {
        let whole = [&header[..], request].concat();
        for cut in [0, 1, 8, 15, 16, header.len(), header.len() + 5] {
            let (first, second) = whole.split_at(cut.min(whole.len()));
            assert_eq!(sent(running.address(), first, second).status, 200, "{header:?} {cut}");
        }
    }
    assert_eq!(running.get("/livez").status, 200);
}

#[test]
fn a_proxy_header_without_an_end_is_not_waited_for() {
    let sandbox = Sandbox::new();
    let running = seeding(&sandbox);
    for begun in [&b"PROXY "[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"] {
        let mut stream = TcpStream::connect(running.address()).unwrap();
        stream.write_all(begun).unwrap();
        stream.write_all(&[b'x'; 4000]).ok();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let closed = std::io::Read::read(&mut stream, &mut [0]);
        let is_reset = |it: &std::io::Error| it.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(matches!(&closed, Ok(0)) || closed.as_ref().is_err_and(is_reset), "{closed:?}");
    }
}

#[test]
fn options_is_answered_like_get() {
    let sandbox = Sandbox::new();
    let running = seeding(&sandbox);
    for (path, status) in [("/livez", 200), ("/readyz", 503), ("/", 503)] {
        let answer = http::request(running.address(), "OPTIONS", path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.headers.contains("allow: get, head, options"), "{answer:?}");
    }
    // HAProxy's check where none other is configured.
    assert_eq!(sent(running.address(), b"OPTIONS /livez HTTP/1.0\r\n\r\n", b"").status, 200);
    let refused = http::exchange(running.address(), "POST", "/livez", "Content-Length: 0\r\n", "");
    assert!(refused.status == 405 && refused.headers.contains("allow: get, head, options"), "{refused:?}");
}

#[test]
fn a_slash_at_the_end_makes_no_difference() {
    let sandbox = Sandbox::new();
    let running = seed("-", sandbox.volume()).fed().listening().option("--ready-path", "/up/").start();
    for (path, status) in
        [("/livez/", 200), ("/healthz/", 200), ("/up", 503), ("/up/", 503), ("/metrics/", 200)]
    {
        assert_eq!(running.get(path).status, status, "{path}");
    }
}

#[test]
fn the_address_for_the_app_s_life_takes_the_same_methods() {
    let sandbox = Sandbox::on_disk();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let app = app_answering("200 OK");
    let running = run(source, sandbox.volume(), ["sh", "-c", "read -r line"])
        .flag("--supervise")
        .option("--admin", "127.0.0.1:0")
        .option("--app-check", format!("tcp:{app}"))
        .fed()
        .start();
    let address = running.address();
    eventually("the app is asked", || http::get(address, "/livez").json()["phase"] == "app");
    for method in ["GET", "HEAD", "OPTIONS"] {
        for path in ["/livez", "/livez/", "/readyz/"] {
            assert_eq!(http::request(address, method, path).status, 200, "{method} {path}");
        }
    }
    assert_eq!(http::exchange(address, "POST", "/livez", "Content-Length: 0\r\n", "").status, 405);
    let metrics = http::get(address, "/metrics").body;
    assert!(metrics.lines().any(|line| line == "volseed_stall_seconds 0"), "{metrics}");
}

/// Binds as many a server does, without `SO_REUSEADDR`.
const BINDS: &str = r#"
import socket, sys
listener = socket.socket()
try:
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    print("bound", flush=True)
except OSError as error:
    print(error, flush=True)
"#;

#[test]
fn an_app_without_reuseaddr_can_bind_after_probes() {
    if !needs::tools(&["python3"]) {
        return;
    }
    for supervise in [&[][..], &["--supervise"]] {
        let sandbox = Sandbox::on_disk();
        let port = closed_port().to_string();
        let mut running = run("-", sandbox.volume(), ["python3", "-c", BINDS, &port])
            .arguments(supervise)
            .option("--listen", format!("127.0.0.1:{port}"))
            .fed()
            .start();
        for _ in 0..200 {
            assert_eq!(running.get("/livez").status, 200);
        }
        running.feed(Tree::sample().archive());
        running.end_input();
        running.ends().exits(0).prints("bound");
    }
}
