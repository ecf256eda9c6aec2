//! Thousands of schedules of the protocol on a simulated file system, in virtual time.
//!
//! Every call of every replica takes a random while, and at each one the replica may be killed, frozen
//! or cut off; answers are lost and asked for again; names that an NFS client has cached are believed
//! for a while; the power fails; a sync or a close says that data was lost; what is in `.volseed` is forged, or
//! given to another user. A schedule follows from its seed alone. After every step two things
//! are looked at: an app starts only on a volume that is complete for a seed that it accepts, and nothing
//! that a fenced holder does changes the published tree.
//!
//! `VOLSEED_SCHEDULES` says how many are run, `VOLSEED_FIRST_SCHEDULE` with which seed to begin.

pub(crate) mod calls;
pub(crate) mod forgery;
pub(crate) mod promises;
pub(crate) mod replica;
pub(crate) mod schedule;
pub(crate) mod sim;
pub(crate) mod upgrade;
pub(crate) mod world;

use schedule::Schedule;

/// Of every kind of volume together, in a run of all tests.
const SCHEDULES: u64 = 20_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn no_schedule_breaks_a_promise() {
    let (first, schedules) = (number("VOLSEED_FIRST_SCHEDULE", 1), number("VOLSEED_SCHEDULES", SCHEDULES));
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let totals: Vec<sim::Totals> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut totals = sim::Totals::default();
                    for seed in (first..first + schedules).filter(|seed| seed % threads == thread) {
                        match Schedule::new(seed).run() {
                            Ok(of) => totals += of,
                            Err(broken) => panic!("schedule {seed}: {broken}"),
                        }
                    }
                    totals
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let totals = totals.into_iter().fold(sim::Totals::default(), |mut all, of| {
        all += of;
        all
    });
    println!("{schedules} schedules from {first}: {totals}");
    assert!(totals.takeovers > 0 && totals.apps > 0 && totals.lost > 0, "{totals}");
}
