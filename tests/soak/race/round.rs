//! One race: starts the replicas, hears what they say, strikes them as drawn, and lets the judge speak.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::corpus::{SENTINEL, drawn};
use crate::kit::mount::{self, Mount};
use crate::rounds::Counts;

use super::judge::{Takeover, Wait};
use super::replica::{Event, Replica, Said};
use super::seeds::{Seed, furnish};
use super::strikes::{self, Strike, Until};
use super::{Ground, READY};

/// One seed in so many takes longer than a few heartbeats; one volume in so many holds a user's files beforehand.
const SLOW: u64 = 8;
const SLOW_SECONDS: f64 = 2.5;
const FURNISHED: u64 = 4;

/// Every survivor has to be the app after so long, and so much longer for each that was to be struck.
const DEADLINE: Duration = Duration::from_secs(60);
const DEADLINE_OF_A_STRIKE: Duration = Duration::from_secs(25);

/// A holder that is stopped for less may not be taken over: volseed waits for 15 s of silence.
const BRIEF_SECONDS: f64 = 10.0;
const AIMED_WITHIN_SECONDS: f64 = 0.004;

/// Lines of the log, and what they say of who writes them.
const CLAIMING: [&str; 3] = ["taking over", "claimed", "seeding"];
const AT_WORK: [&str; 2] = ["seeding", "publishing what an earlier run staged"];

enum Act {
    Start,
    Strike(Strike, Option<usize>),
    Continue(usize),
    StopAnHeir,
}

pub(super) struct Played {
    pub counts: Counts,
    pub takeovers: Vec<Takeover>,
}

pub(super) struct Round<'a> {
    pub ground: &'a Ground<'a>,
    pub seed: &'a Seed,
    name: String,
    pub root: PathBuf,
    draw: fastrand::Rng,
    is_slow: bool,
    options: Vec<String>,
    beginners: u64,
    strikes: VecDeque<Strike>,
    armed: Option<Strike>,
    timers: Vec<(Instant, Act)>,
    events: (Sender<Event>, Receiver<Event>),
    pub replicas: Vec<Replica>,
    pub holder: Option<usize>,
    /// Who claimed an epoch, and who seeded under it.
    pub owners: BTreeMap<u64, usize>,
    pub seeders: BTreeMap<u64, usize>,
    pub wait: Option<Wait>,
    /// Who took over from whom, and when: settled once all have said when they were done.
    pub suspicions: Vec<(usize, usize, String)>,
    is_complete: bool,
    pub counts: Counts,
    pub takeovers: Vec<Takeover>,
    pub wrong: Vec<String>,
    transcript: Vec<String>,
    began: Instant,
    deadline: Instant,
}

impl<'a> Round<'a> {
    pub(super) fn new(ground: &'a Ground<'a>, number: u64) -> Self {
        let mut draw = ground.arguments.numbers.draw(ground.kind, number);
        let is_furnished = number % FURNISHED == 1;
        let seeds: Vec<&Seed> =
            ground.seeds.iter().filter(|seed| seed.is_furnished == is_furnished).collect();
        let seed = *drawn(&mut draw, &seeds);
        let is_slow = number % SLOW == 2 && seed.source == seed.tree;
        let mut options = vec!["--workers".to_owned(), draw.u8(1..=8).to_string()];
        if draw.bool() {
            options.extend(["--sentinel".to_owned(), SENTINEL.to_owned()]);
        }
        // Rather few than many: each costs the machine the same, and most races are between two.
        let more = ground.arguments.replicas.saturating_sub(1) as f64 * draw.f64().powi(2);
        let strikes = strikes::draw_all(&mut draw);
        let name = format!("round-{number}");
        let began = Instant::now();
        Self {
            root: ground.root.join(&name),
            deadline: began + DEADLINE + DEADLINE_OF_A_STRIKE * strikes.len() as u32,
            ground,
            seed,
            name,
            draw,
            is_slow,
            options,
            beginners: 2 + more as u64,
            strikes,
            armed: None,
            timers: Vec::new(),
            events: channel(),
            replicas: Vec::new(),
            holder: None,
            owners: BTreeMap::new(),
            seeders: BTreeMap::new(),
            wait: None,
            suspicions: Vec::new(),
            is_complete: false,
            counts: Counts::default(),
            takeovers: Vec::new(),
            wrong: Vec::new(),
            transcript: Vec::new(),
            began,
        }
    }

    /// Panics with what was broken and all that happened before.
    pub(super) fn play(mut self) -> Played {
        self.prepare();
        let (source, _slow) = self.source();
        self.race(&source);
        // Somebody has to become the app in the end: one more, where nobody lived to see it.
        if self.wrong.is_empty() && !self.replicas.iter().any(|replica| replica.is_ready) {
            (self.armed, self.deadline) = (None, Instant::now() + DEADLINE);
            self.start(&source, None);
            self.listen(&source);
        }
        if self.wrong.is_empty() {
            self.judge();
        }
        self.replicas.clear();
        fs::remove_dir_all(&self.root).ok();
        assert!(self.wrong.is_empty(), "{}\n    {}", self.wrong.join("; "), self.transcript.join("\n    "));
        self.counts.add("rounds", 1);
        Played { counts: self.counts, takeovers: self.takeovers }
    }

    fn prepare(&mut self) {
        fs::create_dir(&self.root).unwrap();
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o755)).unwrap();
        if self.seed.is_furnished {
            furnish(&self.root, &self.seed.tree);
        }
        self.note(format!(
            "{}{}{}, {}",
            self.seed.name,
            if self.seed.is_furnished { ", furnished" } else { "" },
            if self.is_slow { ", slow" } else { "" },
            self.options.join(" ")
        ));
        for strike in self.strikes.clone() {
            self.note(format!("{strike:?}"));
        }
    }

    fn source(&self) -> (PathBuf, Option<Mount>) {
        if !self.is_slow {
            return (self.seed.source.clone(), None);
        }
        let rate = format!("--read-rate={}", (self.seed.bytes as f64 / SLOW_SECONDS).max(1.0) as u64);
        let at = self.ground.sandbox.directory(&format!("slow-{}-{}", self.ground.kind, self.name));
        let mounted = mount::bindfs(&[&rate], &self.seed.source, &at);
        (at, Some(mounted))
    }

    fn whole_seconds(&self) -> f64 {
        if self.is_slow { SLOW_SECONDS } else { self.ground.seconds_for(self.seed.entries) }
    }

    // What happens.

    fn race(&mut self, source: &PathBuf) {
        let late = (0..self.beginners).filter(|_| self.draw.u8(..10) < 3).count() as u64;
        let (gate, opener) = std::io::pipe().unwrap();
        for _ in late..self.beginners {
            self.start(source, Some(&gate));
        }
        for _ in 0..late {
            let delay = self.draw.f64() * 2.0 * self.whole_seconds();
            self.after(delay, Act::Start);
        }
        drop((gate, opener));
        self.note("go".to_owned());
        self.arm();
        self.listen(source);
        self.strikes.clear();
    }

    fn start(&mut self, source: &PathBuf, gate: Option<&std::io::PipeReader>) {
        let number = self.replicas.len();
        let volume = self.ground.views[number % self.ground.views.len()].join(&self.name);
        let text = |path: &PathBuf| path.to_str().expect("paths of ours are text").to_owned();
        let mut arguments =
            ["run", "--log", "json", "--log-level", "debug", "--from"].map(str::to_owned).to_vec();
        arguments.extend([text(source), "--to".into(), text(&volume)]);
        arguments.extend(self.options.iter().cloned());
        arguments.extend(["--".into(), text(&std::env::current_exe().unwrap()), "app".into()]);
        arguments.extend([text(&self.seed.model), text(&volume)]);
        arguments.extend(self.seed.is_furnished.then(|| "--furnished".to_owned()));
        let replica = Replica::start(number, &arguments, gate, &self.events.0);
        self.counts.add("replicas", 1);
        self.note_of(number, &format!("start, process {}", replica.pid()));
        self.replicas.push(replica);
    }

    /// Until all have ended, or one hangs.
    fn listen(&mut self, source: &PathBuf) {
        while !self.timers.is_empty() || self.replicas.iter().any(|replica| !replica.has_ended()) {
            let now = Instant::now();
            if now > self.deadline {
                let hang = self.replicas.iter().filter(|replica| replica.lives());
                let hang: Vec<String> = hang.map(|replica| format!("r{}", replica.number)).collect();
                self.wrong.push(format!(
                    "not the app {:?} after the start: {}",
                    now - self.began,
                    hang.join(" ")
                ));
                return;
            }
            // One, and then what was said meanwhile: to start a process takes time.
            let next = (0..self.timers.len()).min_by_key(|&timer| self.timers[timer].0);
            let due = next.filter(|&timer| self.timers[timer].0 <= now);
            if let Some(timer) = due {
                match self.timers.swap_remove(timer).1 {
                    Act::Start => self.start(source, None),
                    Act::Strike(strike, speaker) => self.strike(strike, speaker),
                    Act::Continue(replica) => self.resume(replica),
                    Act::StopAnHeir => self.stop_an_heir(),
                }
            }
            self.release_the_last();
            let next = self.timers.iter().map(|timer| timer.0).min().unwrap_or(self.deadline);
            let next = if due.is_some() { now } else { next.min(self.deadline) };
            match self.events.1.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok((replica, said)) => self.hear(replica, said),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("a sender is ours"),
            }
        }
    }

    fn hear(&mut self, number: usize, said: Said) {
        match said {
            Said::Log(line) => self.logged(number, &line),
            Said::App(line) => self.app_said(number, &line),
            Said::Closed => {
                let replica = &mut self.replicas[number];
                replica.open_pipes -= 1;
                if replica.open_pipes == 0 {
                    replica.reap();
                    let code = replica.code;
                    self.note_of(number, &format!("ended with {code:?}"));
                }
            }
        }
    }

    fn app_said(&mut self, number: usize, line: &str) {
        self.note_of(number, &format!("app: {line}"));
        let replica = &mut self.replicas[number];
        if line != READY {
            if !std::mem::replace(&mut replica.complained, true) {
                self.wrong.push(format!("the app of r{number} started on an incomplete tree: {line}"));
            }
            return;
        }
        replica.is_ready = true;
        let came_back = replica.lost.into();
        self.counts.add("apps", 1);
        self.counts.add("lost and came back", came_back);
        self.completed(number);
    }

    fn logged(&mut self, number: usize, line: &str) {
        let said: Value = serde_json::from_str(line).unwrap_or_else(|_| {
            self.wrong.push(format!("r{number} said: {line}"));
            Value::Null
        });
        let message = said["message"].as_str().unwrap_or_default();
        let (level, epoch) = (said["level"].as_str().unwrap_or_default(), said["epoch"].as_u64());
        self.note_of(
            number,
            &format!("{level} {message} {}", epoch.map_or(String::new(), |epoch| epoch.to_string())),
        );
        let timestamp = said["timestamp"].as_str().unwrap_or_default();
        let replica = &mut self.replicas[number];
        replica.failed |= level == "ERROR";
        match message {
            "seeding" => replica.seeding_since = Some(Instant::now()),
            "published" => {
                replica.published = Some(timestamp.to_owned());
                if let (Some(since), true, false) =
                    (replica.seeding_since, replica.struck.is_empty(), self.is_slow)
                {
                    self.ground.seeded_undisturbed(since.elapsed().as_secs_f64() / self.seed.entries as f64);
                }
            }
            "waiting for another replica" => replica.waits = true,
            "publishing what an earlier run staged" => self.counts.add("finished a sealed one", 1),
            "handing over" => replica.handed_over = true,
            "taking over" => self.counts.add("takeovers", 1),
            "seeded" => {
                self.counts.add("seeded", 1);
                if self.counts.of("seeded") > 1 {
                    self.wrong.push(format!("r{number} has seeded what was seeded"));
                }
            }
            _ => replica.lost |= message.starts_with("lost the volume to another replica"),
        }
        if CLAIMING.contains(&message)
            && let Some(epoch) = epoch
        {
            self.claimed(number, epoch, timestamp);
        }
        if AT_WORK.contains(&message) {
            self.at_work(number);
        }
        if ["seeded", "already seeded"].contains(&message) {
            self.completed(number);
        }
        if self.armed.is_some_and(|strike| strike.after == Some(message)) {
            self.fire(Some(number));
        }
    }

    fn claimed(&mut self, number: usize, epoch: u64, timestamp: &str) {
        // A number may be claimed again once the volume is complete; who does so finds the record.
        self.owners.insert(epoch, number);
        let last = self.replicas[number].epochs.last().copied().unwrap_or(0);
        if epoch < last {
            self.wrong.push(format!("r{number} went back from epoch {last} to {epoch}"));
        }
        if epoch > last {
            self.replicas[number].epochs.push(epoch);
            let before = epoch.checked_sub(1).and_then(|before| self.owners.get(&before)).copied();
            if let Some(before) = before.filter(|&before| before != number && !self.may_be_taken_over(before))
            {
                self.suspicions.push((number, before, timestamp.to_owned()));
            }
        }
        if self.owners.keys().next_back() == Some(&epoch) {
            self.holder = Some(number);
        }
        let wakes = |other: &&Replica| {
            other.is_stopped
                && other.until == Until::TakenOver
                && other.number != number
                && epoch > other.epochs.last().copied().unwrap_or(0)
        };
        for frozen in self.numbers(wakes) {
            let delay = self.draw.f64() * 1.2 * self.whole_seconds();
            self.wake(frozen, delay);
        }
    }

    fn completed(&mut self, by: usize) {
        self.is_complete = true;
        self.wait = None;
        let wakes = |other: &&Replica| {
            other.is_stopped
                && other.number != by
                && [Until::Complete, Until::TakenOver].contains(&other.until)
        };
        for frozen in self.numbers(wakes) {
            let delay = self.draw.f64() * 0.02;
            self.wake(frozen, delay);
        }
    }

    pub(super) fn numbers(&self, wanted: impl Fn(&&Replica) -> bool) -> Vec<usize> {
        self.replicas.iter().filter(wanted).map(|replica| replica.number).collect()
    }

    // What is done to them.

    /// Makes ready the next strike; one that never finds its moment ends with the round.
    fn arm(&mut self) {
        self.armed = self.strikes.pop_front();
        if self.armed.is_some_and(|strike| strike.after.is_none()) {
            self.fire(None);
        }
    }

    fn fire(&mut self, speaker: Option<usize>) {
        let Some(strike) = self.armed.take() else { return };
        let share = self.draw.f64();
        let delay = if strike.is_spread {
            share * 1.2 * self.whole_seconds()
        } else {
            AIMED_WITHIN_SECONDS * share.powi(3)
        };
        self.after(delay, Act::Strike(strike, speaker));
    }

    fn strike(&mut self, strike: Strike, speaker: Option<usize>) {
        let at_large = |&number: &usize| self.replicas[number].is_at_large();
        let holder = speaker.filter(at_large).or(self.holder);
        let others = self.numbers(|replica| replica.is_at_large() && Some(replica.number) != holder);
        match holder.filter(at_large) {
            Some(holder) if strike.at_holder => self.hit(holder, strike.signal, strike.until),
            _ if !others.is_empty() => {
                let other = *drawn(&mut self.draw, &others);
                self.hit(other, strike.signal, strike.until);
            }
            _ => {}
        }
        self.arm();
    }

    fn hit(&mut self, number: usize, signal: Signal, until: Until) {
        // A holder that has published has no heir but where its record was not written yet.
        let holds = self.holder == Some(number) && !self.is_complete;
        let now = Instant::now();
        self.replicas[number].signal(signal);
        self.replicas[number].struck.push(signal);
        self.note_of(number, &format!("{signal} {until:?}{}", if holds { " (holder)" } else { "" }));
        self.counts.add(&signal.as_str()[3..], 1);
        self.counts.add("at a holder", holds.into());
        if signal == Signal::SIGSTOP {
            let replica = &mut self.replicas[number];
            (replica.is_stopped, replica.until) = (true, until);
            replica.first_stop.get_or_insert(now);
            if until == Until::Brief {
                let delay = BRIEF_SECONDS / 500.0 * 500_f64.powf(self.draw.f64());
                self.wake(number, delay);
            } else {
                self.counts.add("of these long", 1);
            }
        } else if self.draw.bool() {
            // As what runs the container does.
            let delay = self.draw.f64() * self.whole_seconds();
            self.after(delay, Act::Start);
        }
        self.expect_takeover(number, signal, until, holds, now);
    }

    /// Whose takeover is waited for, and by whom.
    fn expect_takeover(&mut self, number: usize, signal: Signal, until: Until, holds: bool, now: Instant) {
        if let Some(wait) = &mut self.wait {
            wait.heirs.retain(|&heir| heir != number);
            if holds || wait.heirs.is_empty() {
                self.wait = None;
            }
        }
        let heirs = self.numbers(|replica| replica.waits && replica.is_at_large());
        if !holds || heirs.is_empty() {
            return;
        }
        let is_brief = signal == Signal::SIGSTOP && until == Until::Brief;
        if let (false, Some(&epoch)) = (is_brief, self.replicas[number].epochs.last()) {
            self.wait = Some(Wait { signal, holder: number, since: now, epoch, heirs });
        }
        if signal != Signal::SIGSTOP && self.draw.f64() < 0.35 {
            // One that is about to take over, with what it has seen until now.
            let silence = if self.ground.kind == "fuse" && signal == Signal::SIGKILL { 15.0 } else { 0.0 };
            let delay = silence + self.draw.f64() * 0.5;
            self.after(delay, Act::StopAnHeir);
        }
    }

    fn stop_an_heir(&mut self) {
        let heirs =
            self.numbers(|replica| replica.waits && replica.is_at_large() && replica.epochs.is_empty());
        if !heirs.is_empty() && !self.is_complete {
            let heir = *drawn(&mut self.draw, &heirs);
            let until = *drawn(&mut self.draw, &[Until::Brief, Until::Complete]);
            self.hit(heir, Signal::SIGSTOP, until);
        }
    }

    fn wake(&mut self, number: usize, delay: f64) {
        self.replicas[number].until = Until::Woken;
        self.after(delay, Act::Continue(number));
    }

    fn resume(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        if replica.is_stopped {
            (replica.is_stopped, replica.last_stop) = (false, Some(Instant::now()));
            replica.signal(Signal::SIGCONT);
            self.note_of(number, "CONT");
        }
    }

    /// Those that are stopped until another does something are released when there is no other.
    fn release_the_last(&mut self) {
        let frozen = self.numbers(|replica| replica.is_stopped);
        if self.timers.is_empty()
            && !self.replicas.iter().any(|replica| replica.lives() && !replica.is_stopped)
        {
            frozen.into_iter().for_each(|number| self.resume(number));
        }
    }

    fn after(&mut self, seconds: f64, act: Act) {
        self.timers.push((Instant::now() + Duration::from_secs_f64(seconds), act));
    }

    fn note(&mut self, what: String) {
        self.transcript.push(format!("{:8.4} {what}", self.began.elapsed().as_secs_f64()));
    }

    pub(super) fn note_of(&mut self, number: usize, what: &str) {
        self.note(format!("r{number} {what}"));
    }
}
