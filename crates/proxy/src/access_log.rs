//! Access log lines, formatted by the worker and written by a thread of their own.
//!
//! A worker appends to its own buffer and hands it over when it is large or has waited; a writer that falls behind
//! loses whole buffers, counted, and never holds up traffic. What a line says is decided in `record.rs`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// Bytes after which a worker hands its lines over without waiting for the next sweep.
const BATCH: usize = 32 * 1024;

/// Batches that may wait for the writer.
const QUEUE: usize = 256;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of words for a person.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The standard output of the process.
    Stdout,
    /// The standard error of the process.
    Stderr,
    /// A file that is appended to, and opened again by [`crate::Proxy::reopen_logs`].
    File(PathBuf),
}

/// The access log of a proxy: none, or a target and a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where lines go.
    pub target: LogTarget,
    /// What a line looks like.
    pub format: LogFormat,
}

enum Message {
    Lines(Vec<u8>),
    Reopen,
    Flush(SyncSender<()>),
}

/// The writer's end that workers share.
pub(crate) struct Sink {
    pub(crate) format: LogFormat,
    queue: SyncSender<Message>,
    dropped: AtomicU64,
}

impl Sink {
    /// Starts the writer.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub(crate) fn start(log: &AccessLog) -> io::Result<Arc<Sink>> {
        let (queue, inbox) = sync_channel(QUEUE);
        let target = match &log.target {
            LogTarget::Stdout => Output::Stdout,
            LogTarget::Stderr => Output::Stderr,
            LogTarget::File(path) => {
                let named = |error: io::Error| {
                    io::Error::new(error.kind(), format!("the access log {} cannot be opened: {error}", path.display()))
                };
                Output::File(path.clone(), open(path).map_err(named)?)
            }
        };
        let _detached: JoinHandle<()> =
            std::thread::Builder::new().name("access-log".into()).spawn(move || write_all(target, &inbox))?;
        Ok(Arc::new(Sink { format: log.format, queue, dropped: AtomicU64::new(0) }))
    }

    /// Batches that were lost because the target did not keep up.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn reopen(&self) {
        let _ = self.queue.send(Message::Reopen);
    }

    /// Returns when everything that was handed over before is written.
    pub(crate) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }

    fn hand_over(&self, lines: Vec<u8>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(Message::Lines(lines)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The lines of one worker that are not handed over yet.
pub(crate) struct LogBuffer {
    sink: Arc<Sink>,
    lines: Vec<u8>,
}

impl LogBuffer {
    pub(crate) fn new(sink: Arc<Sink>) -> Self {
        Self { sink, lines: Vec::new() }
    }

    pub(crate) fn format(&self) -> LogFormat {
        self.sink.format
    }

    /// Where the next line is appended; [`LogBuffer::end_line`] follows.
    pub(crate) fn line(&mut self) -> &mut Vec<u8> {
        &mut self.lines
    }

    pub(crate) fn end_line(&mut self) {
        self.lines.push(b'\n');
        if self.lines.len() >= BATCH {
            self.hand_over();
        }
    }

    /// Hands over what has gathered.
    pub(crate) fn hand_over(&mut self) {
        if !self.lines.is_empty() {
            self.sink.hand_over(std::mem::take(&mut self.lines));
        }
    }
}

enum Output {
    Stdout,
    Stderr,
    File(PathBuf, File),
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_all(mut output: Output, inbox: &Receiver<Message>) {
    while let Ok(message) = inbox.recv() {
        match message {
            Message::Lines(lines) => {
                let written = match &mut output {
                    Output::Stdout => io::stdout().lock().write_all(&lines),
                    Output::Stderr => io::stderr().lock().write_all(&lines),
                    Output::File(_, file) => file.write_all(&lines),
                };
                if let Err(error) = written {
                    tracing::warn!(%error, "access log lines were lost");
                }
            }
            Message::Reopen => {
                if let Output::File(path, file) = &mut output {
                    match open(path) {
                        Ok(fresh) => *file = fresh,
                        Err(error) => {
                            tracing::error!(%error, path = %path.display(), "the access log could not be opened again; the old file stays in use");
                        }
                    }
                }
            }
            Message::Flush(done) => {
                let _ = io::stdout().flush();
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_the_file_in_order() {
        let path = std::env::temp_dir().join(format!("transept-access-log-{}", std::process::id()));
        let log = AccessLog { target: LogTarget::File(path.clone()), format: LogFormat::Json };
        let sink = Sink::start(&log).unwrap();
        let mut buffer = LogBuffer::new(sink.clone());
        for line in ["one", "two"] {
            buffer.line().extend_from_slice(line.as_bytes());
            buffer.end_line();
        }
        buffer.hand_over();
        sink.flush();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let path = std::env::temp_dir().join(format!("transept-no-directory-{}/access.log", std::process::id()));
        let log = AccessLog { target: LogTarget::File(path.clone()), format: LogFormat::Json };
        let why = Sink::start(&log).err().expect("no directory");
        assert_eq!(why.kind(), io::ErrorKind::NotFound);
        assert!(why.to_string().contains(&path.display().to_string()), "{why}");
    }
}
