//! One question to an engine that listens on a UNIX socket.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, socket};

use super::files::MAX_STATE_FILE_BYTES;

/// How long an engine may take to answer.
pub const ENGINE_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of the head of an answer.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Header lines of an answer.
const MAX_HEADERS: usize = 64;

/// The body of the answer to `GET path`, if it is `200 OK`.
pub(crate) fn get(socket: &Path, path: &str) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + ENGINE_TIMEOUT;
    let mut stream = Timed { stream: connect(socket)?, deadline };
    stream.stream.set_write_timeout(Some(ENGINE_TIMEOUT))?;
    write!(
        stream.stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    )?;
    answer(&mut stream)
}

/// Does not wait for an engine that accepts nobody.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
    socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A stream that gives up at `deadline`, however slowly bytes trickle in.
struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                // A wait with a time limit is not taken up again by the kernel.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the engine's answer {what}"))
}

/// Reads one answer to its end.
pub(crate) fn answer(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (start, body) = loop {
        if let Some(head) = head(&bytes)? {
            break head;
        }
        if bytes.len() > MAX_HEAD_BYTES {
            return Err(invalid("has a head that is too long"));
        }
        more(stream, &mut bytes)?;
    };
    let mut rest = bytes.split_off(start);
    match body {
        Body::Length(length) if length > MAX_STATE_FILE_BYTES => Err(invalid("is too long")),
        Body::Length(length) => {
            while (rest.len() as u64) < length {
                more(stream, &mut rest)?;
            }
            rest.truncate(length as usize);
            Ok(rest)
        }
        Body::Chunked => chunks(stream, rest),
        Body::ToTheEnd => {
            stream.take(MAX_STATE_FILE_BYTES + 1).read_to_end(&mut rest)?;
            if rest.len() as u64 > MAX_STATE_FILE_BYTES { Err(invalid("is too long")) } else { Ok(rest) }
        }
    }
}

enum Body {
    Length(u64),
    Chunked,
    ToTheEnd,
}

/// Where the body starts, and how it ends. `None` as long as the head is not whole.
fn head(bytes: &[u8]) -> io::Result<Option<(usize, Body)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let status = response.parse(bytes).map_err(|error| invalid(&error.to_string()))?;
    let httparse::Status::Complete(start) = status else { return Ok(None) };
    if response.code != Some(200) {
        return Err(invalid(&format!("has status {}", response.code.unwrap_or_default())));
    }
    let mut body = Body::ToTheEnd;
    for header in response.headers {
        let value = str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(invalid("is encoded in another way than chunked"));
            }
            return Ok(Some((start, Body::Chunked)));
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            body = Body::Length(value.parse().map_err(|_| invalid("has a length that is no number"))?);
        }
    }
    Ok(Some((start, body)))
}

/// Puts chunks together. `pending` is what was read of them already.
fn chunks(stream: &mut impl Read, mut pending: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = httparse::parse_chunk_size(&pending).map_err(|_| invalid("has a chunk without a size"))?;
        let httparse::Status::Complete((start, size)) = size else {
            if pending.len() > MAX_HEAD_BYTES {
                return Err(invalid("has a chunk without a size"));
            }
            more(stream, &mut pending)?;
            continue;
        };
        if size == 0 {
            return Ok(body);
        }
        if size > MAX_STATE_FILE_BYTES - body.len() as u64 {
            return Err(invalid("is too long"));
        }
        // The chunk and the line end behind it.
        let end = start + size as usize;
        while pending.len() < end + 2 {
            more(stream, &mut pending)?;
        }
        body.extend_from_slice(&pending[start..end]);
        pending.drain(..end + 2);
    }
}

fn more(stream: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => {
            bytes.extend_from_slice(&buffer[..read]);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A byte at a time.
    struct Slow<'b>(&'b [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.0.len().min(1);
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn both(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let slow = answer(&mut Slow(bytes));
        let fast = answer(&mut &*bytes);
        assert_eq!(slow.as_ref().ok(), fast.as_ref().ok());
        fast
    }

    #[test]
    fn bodies() {
        for good in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\n{}rest"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\n{}",
        ] {
            assert_eq!(both(good).unwrap(), b"{}", "{}", good.escape_ascii());
        }
        for bad in [
            &b""[..],
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff0\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            b"SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert!(both(bad).is_err(), "{}", bad.escape_ascii());
        }
        let endless = [&b"HTTP/1.1 200 OK\r\nX: "[..], &vec![b'x'; 2 * MAX_HEAD_BYTES]].concat();
        assert!(both(&endless).is_err());
    }

    #[test]
    fn who_does_not_answer_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let slow = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").unwrap();
            // Until the other side has gone.
            while stream.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let start = Instant::now();
        assert!(get(&path, "/containers/x/json").is_err());
        assert!(start.elapsed() > ENGINE_TIMEOUT - ENGINE_TIMEOUT / 10, "{:?}", start.elapsed());
        assert!(start.elapsed() < 5 * ENGINE_TIMEOUT, "{:?}", start.elapsed());
        slow.join().unwrap();
        assert!(get(&dir.path().join("none"), "/").is_err());
    }
}
