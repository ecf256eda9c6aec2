//! The three pipes of a running volseed, none of which may ever stop the test.

use std::io::{Read, Write};
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::PATIENCE;

/// Writes to a pipe from a thread of its own: a reader that stopped must not stop the test.
pub(crate) struct Feeder {
    bytes: Option<Sender<Vec<u8>>>,
}

impl Feeder {
    pub(crate) fn start(mut pipe: ChildStdin) -> Self {
        let (bytes, queue): (_, Receiver<Vec<u8>>) = channel();
        std::thread::spawn(move || {
            for bytes in queue {
                if pipe.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        Self { bytes: Some(bytes) }
    }

    pub(crate) fn send(&self, bytes: Vec<u8>) {
        self.bytes.as_ref().expect("not ended yet").send(bytes).ok();
    }

    /// Closes the pipe once everything sent so far is written.
    pub(crate) fn end(&mut self) {
        self.bytes = None;
    }
}

/// What a pipe brought so far.
pub(crate) struct Transcript {
    shared: Arc<(Mutex<Said>, Condvar)>,
}

#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    ended: bool,
}

impl Transcript {
    pub(crate) fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::new((Mutex::new(Said::default()), Condvar::new()));
        let said = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                let count = pipe.read(&mut buffer).unwrap_or(0);
                let mut state = said.0.lock().unwrap();
                state.bytes.extend_from_slice(&buffer[..count]);
                state.ended = count == 0;
                said.1.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        Self { shared }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.0.lock().unwrap().bytes).into_owned()
    }

    /// Everything, once the last writer has closed the pipe.
    pub(crate) fn whole(&self) -> String {
        let state = self.shared.0.lock().unwrap();
        let (_state, late) = self.shared.1.wait_timeout_while(state, PATIENCE, |state| !state.ended).unwrap();
        assert!(!late.timed_out(), "somebody still holds a pipe of a process that ended");
        drop(_state);
        self.text()
    }

    #[track_caller]
    pub(crate) fn line_with(&self, wanted: &str) -> String {
        self.find(wanted).unwrap_or_else(|| panic!("{wanted:?} was never said:\n{}", self.text()))
    }

    /// Waits for a line with this text; nothing where the pipe ends before, or it takes too long.
    pub(crate) fn find(&self, wanted: &str) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.0.lock().unwrap();
        loop {
            let text = String::from_utf8_lossy(&state.bytes).into_owned();
            let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(line) = complete.lines().find(|line| line.contains(wanted)) {
                return Some(line.to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self.shared.1.wait_timeout(state, left).unwrap().0;
        }
    }
}
