//! Plays rounds on several threads, counts the promises that were broken in them and says which.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

/// After so many broken promises the rest would say the same.
const ENOUGH_BROKEN: usize = 10;

/// Which rounds are played: enough to repeat one of them alone.
#[derive(clap::Args)]
pub(crate) struct Numbers {
    /// Number of the first round, to repeat one
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub first: u64,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    pub seed: u64,
    /// Rounds at once
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub jobs: usize,
}

impl Numbers {
    pub(crate) fn of(&self, rounds: u64) -> Range<u64> {
        self.first..self.first + rounds
    }

    /// What a round draws from: the same for the same seed, name and number.
    pub(crate) fn draw(&self, name: &str, number: u64) -> fastrand::Rng {
        let name = name.bytes().fold(self.seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let mut draw = fastrand::Rng::with_seed(name.wrapping_mul(1_000_003).wrapping_add(number));
        draw.u64(..);
        draw
    }
}

/// Sums by name, of one round or of many.
#[derive(Default)]
pub(crate) struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub(crate) fn add(&mut self, name: &'static str, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    pub(crate) fn add_all(&mut self, other: Counts) {
        other.0.into_iter().for_each(|(name, count)| self.add(name, count));
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

/// Plays the rounds on so many threads and hands on what comes of each. Says how many broke a promise.
pub(crate) fn play<T: Send>(
    name: &str,
    numbers: Range<u64>,
    jobs: usize,
    round: impl Fn(u64) -> T + Sync,
    mut each: impl FnMut(T),
) -> usize {
    let next = AtomicU64::new(numbers.start);
    let (results, received) = mpsc::channel();
    let mut broken = 0;
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (results, next, round) = (results.clone(), &next, &round);
            let end = numbers.end;
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return;
                    }
                    let result = catch_unwind(AssertUnwindSafe(|| round(number)));
                    results.send((number, result.map_err(|panic| text_of(&*panic)))).ok();
                }
            });
        }
        drop(results);
        for (done, (number, result)) in received.into_iter().enumerate() {
            match result {
                Ok(result) => each(result),
                Err(what) => {
                    eprintln!("BROKEN: {name}, round {number}: {what}");
                    broken += 1;
                }
            }
            if broken >= ENOUGH_BROKEN {
                eprintln!("note: {name}: that is enough, after {} rounds", done + 1);
                next.store(numbers.end, Ordering::Relaxed);
            }
            if std::io::stderr().is_terminal() {
                eprint!("\r{name} {} ", done + 1);
                std::io::stderr().flush().ok();
            }
        }
    });
    broken
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
