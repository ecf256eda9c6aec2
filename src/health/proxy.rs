//! The PROXY protocol, versions 1 and 2, in front of a request: what a load balancer puts there for the
//! app, AWS' NLB with its own health checks too.
//!
//! It is passed over, bounded in length, and not trusted: no answer depends on who asks. What
//! is no such header is the request and goes on unchanged.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Version 1, a line for people, ends within 107 bytes (proxy-protocol.txt, 2.1).
const TEXT: &[u8] = b"PROXY ";
const TEXT_BYTES: usize = 107;
/// Version 2, binary: 12 bytes that no other protocol begins with, then version, family and length (2.2).
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const BINARY_HEAD: usize = 16;
/// The longest rest of a version 2 header that is taken: addresses are 36 bytes, NLB's details few.
const BINARY_BYTES: usize = 4096;

/// A stream of which a part was read already: that comes first.
#[derive(Debug)]
pub(crate) struct Resumed<S> {
    first: Vec<u8>,
    stream: S,
}

/// The stream behind its PROXY header, where it has one.
///
/// # Errors
/// When the header is longer than it may be, or the client is gone within it.
pub(crate) async fn skip_header<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Resumed<S>> {
    let mut read = Vec::with_capacity(BINARY_HEAD);
    loop {
        let Some(length) = header(&read)? else {
            return Ok(Resumed { first: read, stream });
        };
        if length <= read.len() {
            read.drain(..length);
            return Ok(Resumed { first: read, stream });
        }
        // Never more than the header is known to have: what follows may come by the same packet.
        let mut part = (&mut stream).take((length - read.len()) as u64);
        if part.read_buf(&mut read).await? == 0 {
            return Ok(Resumed { first: read, stream });
        }
    }
}

/// How many bytes the header has at least that begins like this; nothing where this is none.
fn header(read: &[u8]) -> io::Result<Option<usize>> {
    let begins_like = |signature: &[u8]| read.iter().zip(signature).all(|(byte, expected)| byte == expected);
    if begins_like(BINARY) {
        let Some(head) = read.get(..BINARY_HEAD) else { return Ok(Some(read.len() + 1)) };
        let rest = usize::from(u16::from_be_bytes([head[14], head[15]]));
        return if rest > BINARY_BYTES { Err(too_long()) } else { Ok(Some(BINARY_HEAD + rest)) };
    }
    if !begins_like(TEXT) {
        return Ok(None);
    }
    match read.windows(2).position(|end| end == b"\r\n") {
        Some(end) => Ok(Some(end + 2)),
        None if read.len() >= TEXT_BYTES => Err(too_long()),
        None => Ok(Some(read.len() + 1)),
    }
}

fn too_long() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "PROXY header too long")
}

impl<S: AsyncRead + Unpin> AsyncRead for Resumed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, into);
        }
        let count = this.first.len().min(into.remaining());
        into.put_slice(&this.first[..count]);
        this.first.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Resumed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sent: &[u8], expected: Option<&[u8]>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut left = Vec::new();
        let found = runtime.block_on(async { skip_header(sent).await?.read_to_end(&mut left).await });
        assert_eq!(found.ok().map(|_| &left[..]), expected, "{sent:?}");
    }

    #[test]
    fn a_header_is_passed_over_and_nothing_else() {
        let request = b"GET /livez HTTP/1.1\r\n\r\n";
        let binary = |rest: &[u8]| {
            let length = (rest.len() as u16).to_be_bytes();
            [BINARY, &[0x21, 0x11], &length, rest].concat()
        };
        check(request, Some(request));
        check(b"", Some(b""));
        check(b"PR", Some(b"PR"));
        check(b"POST / HTTP/1.1\r\n\r\n", Some(b"POST / HTTP/1.1\r\n\r\n"));
        check(b"\r\nGET / HTTP/1.1\r\n\r\n", Some(b"\r\nGET / HTTP/1.1\r\n\r\n"));
        check(&[b"PROXY UNKNOWN\r\n", &request[..]].concat(), Some(request));
        check(&[b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 80\r\n", &request[..]].concat(), Some(request));
        check(&[&binary(&[]), &request[..]].concat(), Some(request));
        check(&[&binary(&[7; 40]), &request[..]].concat(), Some(request));
        check(&[&binary(&[7; 4097]), &request[..]].concat(), None);
        check(&[b"PROXY ", &[b'x'; 200][..]].concat(), None);
    }
}
