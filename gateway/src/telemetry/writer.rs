//! Writes log lines to files and standard streams on a thread of its own. The request path hands lines over through a
//! bounded queue: when it is full, or a file cannot be written, lines are dropped and counted.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, opened for appending; with `reopen`, anew for each batch (Kong file-log `reopen`).
    File {
        /// Its path.
        path: PathBuf,
        /// Whether to open it anew each time.
        reopen: bool,
    },
}

struct Batch {
    sink: Sink,
    lines: Vec<u8>,
}

/// Batches that may wait; each is a line or a worker's gathered lines.
const QUEUE: usize = 4096;
/// Bytes that may wait: a line holds what clients send, and a disk may stand still.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// The handle that workers write through.
#[derive(Clone)]
pub struct LogWriter {
    queue: SyncSender<Batch>,
    dropped: Arc<AtomicU64>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl LogWriter {
    /// Starts the writing thread; it ends when the last handle is dropped and the queue is empty.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start() -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (writer, batches) = Self::with_queue();
        let (dropped, waiting) = (Arc::clone(&writer.dropped), Arc::clone(&writer.waiting_bytes));
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || {
            crate::privileges::of_files();
            write(&batches, &dropped, &waiting);
        })?;
        Ok((writer, thread))
    }

    fn with_queue() -> (Self, Receiver<Batch>) {
        let (queue, batches) = sync_channel(QUEUE);
        (LogWriter { queue, dropped: Arc::default(), waiting_bytes: Arc::default() }, batches)
    }

    /// Hands over whole lines, each with its newline. Never waits.
    pub fn write(&self, sink: &Sink, lines: Vec<u8>) {
        let bytes = lines.len();
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let lost = if before + bytes > WAITING_BYTES_MAX {
            Some(lines)
        } else {
            let sent = self.queue.try_send(Batch { sink: sink.clone(), lines });
            sent.err().map(|(TrySendError::Full(b) | TrySendError::Disconnected(b))| b.lines)
        };
        if let Some(lines) = lost {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.fetch_add(count(&lines), Ordering::Relaxed);
        }
    }

    /// Lines that were dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|b| **b == b'\n').count() as u64
}

fn write(batches: &Receiver<Batch>, dropped: &AtomicU64, waiting_bytes: &AtomicUsize) {
    let mut files: HashMap<PathBuf, File> = HashMap::new();
    while let Ok(batch) = batches.recv() {
        let written = match &batch.sink {
            Sink::Stdout => std::io::stdout().lock().write_all(&batch.lines),
            Sink::Stderr => std::io::stderr().lock().write_all(&batch.lines),
            Sink::File { path, reopen } => append(&mut files, path, *reopen, &batch.lines),
        };
        waiting_bytes.fetch_sub(batch.lines.len(), Ordering::Relaxed);
        if written.is_err() {
            dropped.fetch_add(count(&batch.lines), Ordering::Relaxed);
        }
    }
}

fn append(files: &mut HashMap<PathBuf, File>, path: &PathBuf, reopen: bool, lines: &[u8]) -> std::io::Result<()> {
    let open = || OpenOptions::new().create(true).append(true).open(path);
    if reopen {
        return open()?.write_all(lines);
    }
    if !files.contains_key(path) {
        files.insert(path.clone(), open()?);
    }
    let Some(file) = files.get_mut(path) else { return Ok(()) };
    let written = file.write_all(lines);
    if written.is_err() {
        // The next line tries a fresh handle: the disk may have room again, the file may be back.
        files.remove(path);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_reach_the_file_and_a_full_disk_is_counted() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a.log");
        let (writer, thread) = LogWriter::start().expect("thread");
        writer.write(&Sink::File { path: path.clone(), reopen: false }, b"one\n".to_vec());
        writer.write(&Sink::File { path: "/dev/full".into(), reopen: false }, b"x\ny\n".to_vec());
        let counter = Arc::clone(&writer.dropped);
        drop(writer);
        thread.join().expect("no panic");
        assert_eq!(std::fs::read_to_string(path).expect("file"), "one\n");
        assert_eq!(counter.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_waits_for_a_disk_that_stands_still_is_bounded_in_bytes() {
        let (writer, batches) = LogWriter::with_queue();
        let line = [vec![b'x'; 1 << 20], b"\n".to_vec()].concat();
        (0..100).for_each(|_| writer.write(&Sink::Stdout, line.clone()));
        let waiting = batches.try_iter().map(|b| b.lines.len()).sum::<usize>();
        assert!(waiting <= WAITING_BYTES_MAX, "{waiting}");
        assert_eq!(writer.dropped(), 69);
    }
}
