//! Transports that deliver JSON lines: to a file, and to a UNIX socket.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use sls_core::{AlertTransport, BoxError, EncodedAlert};

/// More bytes than a socket holds for a receiver that does not read, by the kernel's default (212,992).
const MAX_UNREAD: usize = 256 << 10;

/// Appends alerts to a file, one line of JSON each. A file that was rotated away or removed is made anew; only its owner may
/// read it, for arguments of programs hold secrets. The path may also lead to a FIFO.
///
/// After a line of which only a part could be written, as on a full disk, a new line begins with the whole alert.
#[derive(Debug)]
pub struct FileTransport {
    path: PathBuf,
    file: Option<File>,
    /// Whether the file ends within a line.
    torn: bool,
}

impl FileTransport {
    /// Appends to this file, which is opened with the first alert.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, torn: false }
    }

    /// Opens the file now, so that an error is known at once. A FIFO is left for later, for it may have no reader yet.
    ///
    /// # Errors
    /// When it can be neither opened nor made.
    pub fn open(&mut self) -> io::Result<()> {
        if !fs::metadata(&self.path).is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            self.current()?;
        }
        Ok(())
    }

    fn current(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take().filter(|file| is_file_at(file, &self.path)) {
            Some(file) => file,
            None => {
                let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
                self.torn = ends_within_a_line(&self.path);
                file
            }
        };
        Ok(self.file.insert(file))
    }
}

impl AlertTransport for FileTransport {
    fn send(&mut self, alert: &EncodedAlert) -> Result<(), BoxError> {
        self.current()?;
        let begin = if self.torn { "\n" } else { "" };
        // One write a line, so that a reader never sees half of one.
        let line = format!("{begin}{}\n", alert.json);
        let Some(file) = &mut self.file else { return Ok(()) };
        self.torn = true;
        file.write_all(line.as_bytes())?;
        self.torn = false;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        if let Some(file) = &self.file
            && file.metadata()?.is_file()
        {
            file.sync_data()?;
        }
        Ok(())
    }
}

/// Whether the open file is still the one that its path names, and was not rotated away.
fn is_file_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn ends_within_a_line(path: &Path) -> bool {
    let last = || -> io::Result<u8> {
        if !fs::metadata(path)?.is_file() {
            return Ok(b'\n');
        }
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last[0])
    };
    last().is_ok_and(|last| last != b'\n')
}

/// Sends alerts to a listening UNIX stream socket, one line of JSON each, and connects again when the receiver has gone. If it
/// went without having read everything, it gets all that it may not have read once more.
#[derive(Debug)]
pub struct UnixTransport {
    path: PathBuf,
    stream: Option<UnixStream>,
    /// The last lines, which the receiver may not have read.
    unread: VecDeque<String>,
    unread_bytes: usize,
}

impl UnixTransport {
    /// Connects to this socket with the first alert.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), stream: None, unread: VecDeque::new(), unread_bytes: 0 }
    }

    /// The connection. On a new one everything unread comes first.
    fn current(&mut self) -> io::Result<&mut UnixStream> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let mut stream = UnixStream::connect(&self.path)?;
                for line in &self.unread {
                    stream.write_all(line.as_bytes())?;
                }
                stream
            }
        };
        Ok(self.stream.insert(stream))
    }

    /// Gives the connection up.
    fn disconnect(&mut self) {
        // What closed it with something unread says so; one that closes after the last word has read all.
        let reset = self.stream.take().and_then(|stream| stream.take_error().ok().flatten());
        if reset.is_none() {
            self.unread.clear();
            self.unread_bytes = 0;
        }
    }

    fn remember(&mut self, line: String) {
        self.unread_bytes += line.len();
        self.unread.push_back(line);
        // The last one stays, however long.
        while self.unread_bytes > MAX_UNREAD && self.unread.len() > 1 {
            self.unread_bytes -= self.unread.pop_front().map_or(0, |line| line.len());
        }
    }

    /// Whether the receiver has closed the connection.
    fn is_closed(&mut self) -> io::Result<bool> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        let mut poll = [rustix::event::PollFd::new(&*stream, rustix::event::PollFlags::RDHUP)];
        rustix::event::poll(&mut poll, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(!poll[0].revents().is_empty())
    }
}

impl AlertTransport for UnixTransport {
    fn send(&mut self, alert: &EncodedAlert) -> Result<(), BoxError> {
        if self.is_closed()? {
            self.disconnect();
        }
        let line = format!("{}\n", alert.json);
        let written = self.current()?.write_all(line.as_bytes());
        if let Err(error) = written {
            self.disconnect();
            return Err(error.into());
        }
        self.remember(line);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BoxError> {
        if self.is_closed()? && self.stream.as_ref().is_some_and(|stream| matches!(stream.take_error(), Ok(Some(_)))) {
            self.stream = None;
            return Err("the receiver went away without having read everything".into());
        }
        Ok(())
    }
}
