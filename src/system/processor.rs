//! How busy the processors are: this machine's, and the share of them that this container may use.
//!
//! Knows nothing of what they are busy with. Nothing here is an error: what cannot be told is 0.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::limits::Limits;

/// A reading, to be compared with a later moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessorReading {
    at: Instant,
    ours: Duration,
    machine: ProcessorTimes,
}

/// Of all processors together since the machine started, in the kernel's ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ProcessorTimes {
    idle: u64,
    all: u64,
}

impl ProcessorReading {
    pub(crate) fn now() -> ProcessorReading {
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        ProcessorReading {
            at: Instant::now(),
            ours: Duration::try_from(spent).unwrap_or_default(),
            machine: std::fs::read_to_string("/proc/stat")
                .ok()
                .and_then(|stat| times(&stat))
                .unwrap_or_default(),
        }
    }

    /// How much of the processor time that there was since this reading is used, 0 to 1: of the machine's by
    /// anybody (the client and its interrupts are not ours), or of the container's by this process, whichever is more.
    pub(crate) fn busy_since(&self) -> f64 {
        let now = ProcessorReading::now();
        let allowed = (now.at - self.at).as_secs_f64() * Limits::read().processors;
        let ours = (now.ours.saturating_sub(self.ours)).as_secs_f64() / allowed;
        // A quota is kept to within its period: a little more may be used.
        share(self.machine, now.machine).max(ours).min(1.0)
    }
}

fn share(then: ProcessorTimes, now: ProcessorTimes) -> f64 {
    let all = now.all.saturating_sub(then.all);
    let busy = all.saturating_sub(now.idle.saturating_sub(then.idle));
    busy as f64 / all.max(1) as f64
}

/// `cpu  user nice system idle iowait irq softirq steal …`, the first line of /proc/stat (proc(5)). What follows is
/// counted in `user` and `nice` already.
fn times(stat: &str) -> Option<ProcessorTimes> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let numbers: Vec<u64> = numbers.map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let idle = numbers.get(3)? + numbers.get(4)?;
    Some(ProcessorTimes { idle, all: numbers.iter().sum() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_all_that_is_neither_idle_nor_a_wait_for_a_disk() {
        let cases = [
            ("cpu  0 0 0 0 0 0 0 0 0 0\n", "cpu  10 5 30 40 10 1 3 1 7 0\n", 0.5),
            ("cpu  10 5 30 40 10 1 3 1 7 0\n", "cpu  20 5 70 41 10 1 3 1 7 0\n", 50.0 / 51.0),
            ("cpu  10 5 30 40 10 1 3 1 7 0\n", "cpu  10 5 30 40 10 1 3 1 7 0\n", 0.0),
        ];
        for (then, now, expected) in cases {
            assert_eq!(share(times(then).unwrap(), times(now).unwrap()), expected, "{now}");
        }
        assert_eq!(
            [times(""), times("cpu0 1 2 3 4 5\n"), times("cpu  1 2 3\n"), times("cpu  1 x 3 4 5\n")],
            [None; 4]
        );
    }

    #[test]
    fn a_process_that_waits_is_less_busy_than_one_that_works() {
        let reading = ProcessorReading {
            machine: ProcessorTimes { idle: u64::MAX, all: u64::MAX },
            ..ProcessorReading::now()
        };
        while reading.at.elapsed() < Duration::from_millis(20) {}
        assert!(reading.busy_since() > 0.0);
    }
}
