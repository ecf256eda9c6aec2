//! A small HTTP/1.1 client over a bare socket, and the smallest server an app can be.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    /// Lowercase, one a line.
    pub headers: String,
    pub body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path)
}

#[track_caller]
pub(crate) fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    exchange(address, method, path, "", "")
}

/// With header lines, each with its end, and a body.
#[track_caller]
pub(crate) fn exchange(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: volume.test\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    read_answer(stream, method)
}

/// As clients read: the head, the body that it announces, and then they close.
#[track_caller]
pub(crate) fn read_answer(stream: impl Read, method: &str) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "no HTTP answer: {head:?}");
    }
    let headers = head.trim_end().to_lowercase();
    let length = headers.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.filter(|_| method != "HEAD").unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    if length.is_none() {
        reader.read_to_end(&mut body).unwrap();
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, headers, body: String::from_utf8(body).unwrap() }
}

/// An app that answers every request with this status until the test ends.
pub(crate) fn app_answering(status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, status).ok();
        }
    });
    address
}

fn answer(mut stream: TcpStream, status: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// A port of loopback on which nothing listens.
pub(crate) fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
