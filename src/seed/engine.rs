//! How entries become files in parallel: a bounded queue in the order of a schedule, and N writers.

pub(crate) mod feed;
mod fifo;
pub(crate) mod job;
pub(crate) mod pipeline;
pub(crate) mod queue;
pub(crate) mod schedule;
pub(crate) mod workers;

/// What the queue locks and waits with. `tests/queue.rs` compiles the queue with a model of it.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
}
