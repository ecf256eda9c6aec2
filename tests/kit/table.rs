//! Many plants, one after the other in a few threads: what each does to the next starts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::forge::States;
use super::scene::{BOUND, Image, RootOf, Scene, judged};
use super::{Outcome, Sandbox, Volseed, needs, volseed};

/// Two processors, and much of a case is waiting.
const THREADS: usize = 4;
/// One case in so many is looked at by `status`, and another by `wait`: both take their time.
const LOOKED_AT: usize = 8;

/// Something on a volume, and what may come of it.
pub(crate) struct Case {
    pub name: String,
    pub root: RootOf,
    /// Exit codes of the next start.
    pub allowed: &'static [i32],
    pub follows: Follows,
    pub plant: Box<dyn Fn(&Scene) + Send + Sync>,
}

/// What has to be true after a start that ends with 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follows {
    /// The image's seed is there and nothing else, and nothing of what was there before was used.
    Seeded,
    /// The same, and what was there before may have been used: it is ours.
    SeededOrResumed,
    /// The record that was there is believed.
    Believed,
    /// One of the two: a record that was strange, or that spoke of what is not there any more.
    BelievedOrSeeded,
}

/// Plays the cases that are made from real states of one image, and fails with everything that was not
/// right. Passes, and says so, where the machine has not what it takes.
#[track_caller]
pub(crate) fn table(cases: impl FnOnce(&'static States) -> Vec<Case>) {
    if !needs::root() || !needs::tools(&["cp", "rm", "find", "chown", "chgrp", "chmod"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let image = Image::new(&sandbox);
    // Every case keeps them; what is leaked is two paths a test.
    let states = Box::leak(Box::new(States::of(&image, &sandbox)));
    play(&sandbox, &image, &cases(states));
}

#[track_caller]
fn play(sandbox: &Sandbox, image: &Image, cases: &[Case]) {
    let (next, wrong, began) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(number) else { return };
                    let below = sandbox.directory(&format!("case-{number}"));
                    let scene = Scene::new(&below, case.root);
                    // What a test cannot even look at is a failure of this case alone.
                    let played = catch_unwind(AssertUnwindSafe(|| {
                        (case.plant)(&scene);
                        case.play(number, image, &scene)
                    }));
                    if let Err(what) = played.unwrap_or_else(|_| Err("panicked".into())) {
                        let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                        wrong.push(format!("{} (root of {:?}): {what}", case.name, case.root));
                    }
                }
            });
        }
    });
    let (wrong, count) = (wrong.into_inner().unwrap(), cases.len());
    eprintln!("{count} cases in {:.1} s, {} wrong", began.elapsed().as_secs_f64(), wrong.len());
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
}

impl Case {
    fn play(&self, number: usize, image: &Image, scene: &Scene) -> Result<(), String> {
        self.looks(number, scene)?;
        let start = if number % 4 == 1 { image.run(&scene.volume) } else { image.seed(&scene.volume) };
        let first = self.judge("first start", scene, start, self.allowed)?;
        self.uses_nothing(&first)?;
        if first.status.success() {
            self.is_right(&first, image, scene)?;
            let second = self.judge("second start", scene, image.seed(&scene.volume), &[0])?;
            return self.is_right(&second, image, scene);
        }
        let second = self.judge("second start", scene, image.seed(&scene.volume), self.allowed)?;
        self.uses_nothing(&second)?;
        scene.remove_state();
        let third = image.seed(&scene.volume);
        self.judge("start without .volseed", scene, third, &[0])?;
        image.is_on(&scene.volume)
    }

    /// Those who only look.
    fn looks(&self, number: usize, scene: &Scene) -> Result<(), String> {
        if number.is_multiple_of(LOOKED_AT) {
            let mut status = volseed(["status", "--to"]).arguments([&scene.volume]);
            if number.is_multiple_of(2 * LOOKED_AT) {
                status = status.flag("--json");
            }
            self.judge("status", scene, status, &[0, 78])?;
        }
        if number % LOOKED_AT == LOOKED_AT / 2 {
            let wait = volseed(["wait", "--wait-timeout", "1s", "--to"]).arguments([&scene.volume]);
            self.judge("wait", scene, wait, &[0, 75, 78])?;
        }
        Ok(())
    }

    fn judge(&self, what: &str, scene: &Scene, run: Volseed, allowed: &[i32]) -> Result<Outcome, String> {
        let outcome = judged(run.start().ends_within(BOUND), allowed).and_then(|outcome| {
            scene.is_untouched()?;
            Ok(outcome)
        });
        outcome.map_err(|error| format!("{what}: {error}"))
    }

    fn uses_nothing(&self, outcome: &Outcome) -> Result<(), String> {
        let used = ["resumed=true", "publishing what an earlier run staged"]
            .into_iter()
            .find(|text| outcome.stderr.contains(text));
        match used.filter(|_| self.follows == Follows::Seeded) {
            Some(text) => Err(format!("what was there was used: {text}")),
            None => Ok(()),
        }
    }

    fn is_right(&self, outcome: &Outcome, image: &Image, scene: &Scene) -> Result<(), String> {
        let believed = outcome.stderr.contains("already seeded");
        match self.follows {
            Follows::Believed if !believed => Err("the record was not believed".into()),
            Follows::Believed => Ok(()),
            Follows::BelievedOrSeeded if believed => Ok(()),
            _ => {
                image.is_on(&scene.volume)?;
                is_private(scene)
            }
        }
    }
}

/// What is left of ours after a seed is root's, and nobody else may write it.
fn is_private(scene: &Scene) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let state = std::fs::symlink_metadata(scene.state()).map_err(|error| format!(".volseed: {error}"))?;
    if state.uid() == 0 && state.mode() & 0o022 == 0 && state.is_dir() {
        return Ok(());
    }
    Err(format!(".volseed is of {}, mode {:o}", state.uid(), state.mode()))
}
