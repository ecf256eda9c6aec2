//! How entries become files in parallel: one producer, a bounded queue in the order of a schedule, N writers.

pub(crate) mod job;
pub(crate) mod pipeline;
pub(crate) mod queue;
pub(crate) mod schedule;
pub(crate) mod workers;
