//! The way to the server: how long an answer takes, and how many are under way at a time.
//!
//! An answer is computed before it gets here; this only says when it is sent. Each charged operation
//! takes the slot that is free first, for one round trip from then on. Slots are given back at the
//! moment that they were due, not when the thread got round to it, so that a busy machine does not
//! make the wire slower than it is.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::counts::Op;

/// How often it is looked whether the callers of hung operations are being killed.
const WATCH: Duration = Duration::from_millis(10);

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The server answered.
    Answered,
    /// Its caller was killed while it hung.
    Killed,
}

/// An operation on its way.
pub(crate) struct Call {
    pub op: Op,
    /// The calling thread's number; 0 where it is the kernel.
    pub thread: u32,
    /// Writes that have to be through before it is sent; they go at once.
    pub writes: u64,
    /// Whether it takes a round trip itself.
    pub charged: bool,
    pub answer: Answer,
}

impl Call {
    fn is(&self, op: Op) -> bool {
        self.op == op || (op == Op::Write && self.writes > 0)
    }
}

pub(crate) type Answer = Box<dyn FnOnce(Fate) + Send>;

#[derive(Debug)]
pub(crate) struct Wire {
    state: Mutex<State>,
    woken: Condvar,
}

struct State {
    rtt: Duration,
    /// When each slot is free again.
    slots: BinaryHeap<Reverse<Instant>>,
    due: BinaryHeap<Reverse<Due>>,
    sent: u64,
    in_flight: u64,
    most_in_flight: u64,
    in_sequence: u64,
    /// When the last of those in sequence was over.
    sequence_end: Option<Instant>,
    parked: Vec<Parked>,
    hang: Hang,
    delays: HashMap<Op, Duration>,
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hang {
    Nothing,
    Everything,
    Only(Op),
}

struct Parked {
    call: Call,
    /// When it goes on; never by itself where there is none.
    until: Option<Instant>,
}

struct Due {
    began: Instant,
    at: Instant,
    number: u64,
    then: Then,
}

enum Then {
    Nothing,
    Send(Call),
    Answer(Answer),
}

impl Wire {
    /// A wire on which nothing is under way; [`Wire::run`] sends what is due.
    pub(crate) fn new(rtt: Duration, slots: usize) -> Wire {
        let now = Instant::now();
        let state = State {
            rtt,
            slots: (0..slots.max(1)).map(|_| Reverse(now)).collect(),
            due: BinaryHeap::new(),
            sent: 0,
            in_flight: 0,
            most_in_flight: 0,
            in_sequence: 0,
            sequence_end: None,
            parked: Vec::new(),
            hang: Hang::Nothing,
            delays: HashMap::new(),
            closed: false,
        };
        Wire { state: Mutex::new(state), woken: Condvar::new() }
    }

    /// Sends it on its way; returns at once.
    pub(crate) fn send(&self, call: Call) {
        let mut state = self.lock();
        let now = Instant::now();
        if let Some(until) = state.pause(&call, now) {
            state.parked.push(Parked { call, until });
            self.woken.notify_one();
            return;
        }
        let first = state.due.peek().map(|Reverse(due)| due.at);
        let answer = state.start(now, call);
        if state.due.peek().is_some_and(|Reverse(due)| first.is_none_or(|first| due.at < first)) {
            self.woken.notify_one();
        }
        drop(state);
        if let Some(answer) = answer {
            answer(Fate::Answered);
        }
    }

    pub(crate) fn set_rtt(&self, rtt: Duration) {
        self.lock().rtt = rtt;
    }

    pub(crate) fn most_in_flight(&self) -> u64 {
        self.lock().most_in_flight
    }

    pub(crate) fn in_sequence(&self) -> u64 {
        self.lock().in_sequence
    }

    pub(crate) fn hang(&self, op: Option<Op>) {
        self.lock().hang = op.map_or(Hang::Everything, Hang::Only);
    }

    pub(crate) fn release(&self) {
        self.lock().hang = Hang::Nothing;
        self.woken.notify_one();
    }

    /// Operations that hang or are delayed.
    pub(crate) fn parked(&self) -> usize {
        self.lock().parked.len()
    }

    pub(crate) fn delay(&self, op: Op, by: Duration) {
        self.lock().delays.insert(op, by);
    }

    pub(crate) fn undelay(&self) {
        self.lock().delays.clear();
    }

    /// Ends [`Wire::run`]. What was not answered is dropped, which answers it with an error.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.woken.notify_one();
    }

    /// Sends every answer when it is due, until [`Wire::close`].
    pub(crate) fn run(&self) {
        let mut state = self.lock();
        loop {
            if state.closed {
                let left = (std::mem::take(&mut state.due), std::mem::take(&mut state.parked));
                drop(state);
                drop(left);
                return;
            }
            let now = Instant::now();
            let mut answers = Vec::new();
            state.unpark(now, &mut answers);
            state.finish(now, &mut answers);
            if answers.is_empty() {
                state = self.wait(state, now);
                continue;
            }
            drop(state);
            for (answer, fate) in answers {
                answer(fate);
            }
            state = self.lock();
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, now: Instant) -> MutexGuard<'a, State> {
        let next = state.due.peek().map(|Reverse(due)| due.at.saturating_duration_since(now));
        let watch = (!state.parked.is_empty()).then_some(WATCH);
        match next.into_iter().chain(watch).min() {
            Some(wait) => self.woken.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
            None => self.woken.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Until when it has to stay, where it has to: the inner `None` is for ever.
    fn pause(&self, call: &Call, now: Instant) -> Option<Option<Instant>> {
        let hangs = match self.hang {
            Hang::Nothing => false,
            // What a client does by itself goes on when the server is gone.
            Hang::Everything => call.op != Op::Release,
            Hang::Only(op) => call.is(op),
        };
        if hangs {
            return Some(None);
        }
        self.delays.iter().filter(|(op, _)| call.is(**op)).map(|(_, by)| Some(now + *by)).max()
    }

    /// Takes a slot for it, or as many as it has writes. Hands back an answer that takes no time.
    fn start(&mut self, at: Instant, mut call: Call) -> Option<Answer> {
        let writes = std::mem::take(&mut call.writes);
        if self.rtt.is_zero() || (writes == 0 && !call.charged) {
            return Some(call.answer);
        }
        if writes == 0 {
            let finish = self.reserve(at);
            self.push(finish, Then::Answer(call.answer));
            return None;
        }
        for _ in 1..writes {
            let finish = self.reserve(at);
            self.push(finish, Then::Nothing);
        }
        // The slot that is free first comes last among equals: this one is the last to finish.
        let finish = self.reserve(at);
        self.push(finish, Then::Send(call));
        None
    }

    /// The moment at which a round trip that is wanted from `at` on is over.
    fn reserve(&mut self, at: Instant) -> Instant {
        let Reverse(free) = self.slots.pop().expect("there is at least one slot, and each is put back");
        let finish = free.max(at) + self.rtt;
        self.slots.push(Reverse(finish));
        self.in_flight += 1;
        self.most_in_flight = self.most_in_flight.max(self.in_flight.min(self.slots.len() as u64));
        finish
    }

    fn push(&mut self, at: Instant, then: Then) {
        self.sent += 1;
        self.due.push(Reverse(Due { began: at - self.rtt, at, number: self.sent, then }));
    }

    fn finish(&mut self, now: Instant, answers: &mut Vec<(Answer, Fate)>) {
        while self.due.peek().is_some_and(|Reverse(due)| due.at <= now) {
            let Some(Reverse(due)) = self.due.pop() else { return };
            self.in_flight -= 1;
            // The longest chain goes on with whichever ends first of those that began after its end.
            if self.sequence_end.is_none_or(|end| due.began >= end) {
                self.in_sequence += 1;
                self.sequence_end = Some(due.at);
            }
            match due.then {
                Then::Nothing => {}
                Then::Send(call) => {
                    answers.extend(self.start(due.at, call).map(|it| (it, Fate::Answered)));
                }
                Then::Answer(answer) => answers.push((answer, Fate::Answered)),
            }
        }
    }

    fn unpark(&mut self, now: Instant, answers: &mut Vec<(Answer, Fate)>) {
        for Parked { call, until } in std::mem::take(&mut self.parked) {
            let over = match until {
                Some(until) => until <= now,
                None => self.pause(&call, now) != Some(None),
            };
            if over {
                answers.extend(self.start(now, call).map(|it| (it, Fate::Answered)));
            } else if is_being_killed(call.thread) {
                answers.push((call.answer, Fate::Killed));
            } else {
                self.parked.push(Parked { call, until });
            }
        }
    }
}

/// Whether a thread is about to end. An NFS client's wait ends with its caller; FUSE waits for ever
/// for what it has handed out, unless the file system answers, and fuser passes on no interrupts.
fn is_being_killed(thread: u32) -> bool {
    if thread == 0 {
        return false;
    }
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{thread}/{name}"));
    let (Ok(status), Ok(stat)) = (read("status"), read("stat")) else { return true };
    let pending = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    const KILL: u64 = 1 << (9 - 1);
    // It closes its files when the signal is gone already; proc(5) numbers the flags 9 of all fields.
    const EXITING: u64 = 4;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let flags = after_name.split_whitespace().nth(9 - 3).and_then(|flags| flags.parse().ok()).unwrap_or(0u64);
    (pending("SigPnd:") | pending("ShdPnd:")) & KILL != 0 || flags & EXITING != 0
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("in_flight", &self.in_flight)
            .field("hang", &self.hang)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.number == other.number
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    fn state(slots: usize, now: Instant) -> State {
        State {
            rtt: RTT,
            slots: (0..slots).map(|_| Reverse(now)).collect(),
            due: BinaryHeap::new(),
            sent: 0,
            in_flight: 0,
            most_in_flight: 0,
            in_sequence: 0,
            sequence_end: None,
            parked: Vec::new(),
            hang: Hang::Nothing,
            delays: HashMap::new(),
            closed: false,
        }
    }

    fn call(op: Op, writes: u64) -> Call {
        Call { op, thread: 0, writes, charged: op.is_charged(), answer: Box::new(|_| ()) }
    }

    /// When each answer comes, in round trips, of calls that all arrive at once.
    #[track_caller]
    fn check(slots: usize, calls: impl IntoIterator<Item = (Op, u64)>, expected: &[u32]) {
        let now = Instant::now();
        let mut state = state(slots, now);
        let mut found = Vec::new();
        for (op, writes) in calls {
            found.extend(state.start(now, call(op, writes)).map(|_| 0));
        }
        for step in 1..20 {
            let mut answers = Vec::new();
            state.finish(now + step * RTT, &mut answers);
            found.extend(answers.iter().map(|_| step));
        }
        assert_eq!(found, expected);
        assert_eq!(state.in_flight, 0);
    }

    #[test]
    fn slots_bound_what_is_under_way() {
        check(2, [(Op::Create, 0); 5], &[1, 1, 2, 2, 3]);
        check(1, [(Op::Create, 0); 3], &[1, 2, 3]);
        check(64, [(Op::Create, 0); 3], &[1, 1, 1]);
    }

    #[test]
    fn free_operations_take_no_slot() {
        check(1, [(Op::Release, 0), (Op::Opendir, 0), (Op::Create, 0)], &[0, 0, 1]);
    }

    #[test]
    fn a_close_waits_for_its_writes_which_go_at_once() {
        check(8, [(Op::Close, 1)], &[2]);
        check(8, [(Op::Close, 5)], &[2]);
        check(2, [(Op::Close, 5)], &[4]);
        check(8, [(Op::Fsync, 5)], &[1]);
    }

    #[test]
    fn a_slot_is_given_back_when_it_was_due_however_late_that_is_noticed() {
        let now = Instant::now();
        let mut state = state(1, now);
        state.start(now, call(Op::Close, 1));
        let mut answers = Vec::new();
        state.finish(now + 5 * RTT, &mut answers);
        assert_eq!(answers.len(), 1, "the second round trip began with the end of the first");
    }

    #[test]
    fn round_trips_in_sequence_are_the_longest_chain() {
        let now = Instant::now();
        let mut state = state(3, now);
        let half = RTT / 2;
        // Two chains side by side, of two and of three.
        for at in [now, now + half, now + RTT, now + RTT + half, now + 2 * RTT + half] {
            state.finish(at, &mut Vec::new());
            state.start(at, call(Op::Create, 0));
        }
        state.finish(now + 9 * RTT, &mut Vec::new());
        assert_eq!(state.in_sequence, 3);
    }

    #[test]
    fn the_most_in_flight_is_counted_and_never_above_the_slots() {
        let now = Instant::now();
        let mut state = state(3, now);
        for _ in 0..10 {
            state.start(now, call(Op::Create, 0));
        }
        assert_eq!(state.most_in_flight, 3);
    }
}
