//! What must hold when an app starts, and when the power has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::replica::{image, manifest};
use super::sim::{Sim, Totals};
use super::world::{ROOT, USERS};
use crate::run::steps::Outcome;
use crate::volume::records::{Complete, DIRECTORY, ManifestRef, Public};

/// What a user writes.
pub(super) const USERS_TEXT: &[u8] = b"a user's";

/// Whether the record that a replica saw last was retired after that.
pub(super) fn is_retired_since<P>(sim: &Sim, outcome: &Outcome<P>) -> bool {
    let seen = match outcome {
        Outcome::Found(record) | Outcome::Settled(record) => record.generation,
        Outcome::Completed(record, _) => record.generation,
        Outcome::Unrecorded(_) | Outcome::Adopted(..) | Outcome::Repaired(_) => return false,
    };
    sim.world.borrow().retired.is_some_and(|retired| retired >= seen)
}

pub(super) fn start_app(sim: &Sim, users: bool, replica: usize, image: u32) {
    sim.totals.borrow_mut().apps += 1;
    if let Some(there) = recorded_image(sim).filter(|there| *there < image) {
        sim.breaks(format!("an app of image {image} starts on image {there}"));
    }
    sim.lives.borrow_mut()[replica].done = true;
    sim.unlock(replica);
    if recorded(sim).is_some_and(|it| it.hook.is_some() && !sim.hooks_done.borrow().contains(&it.generation))
    {
        sim.breaks("an app starts, and the hook that is owed has not succeeded".to_owned());
    }
    check_tree(sim, users, Moment::Start);
}

/// The image that the volume's record names.
pub(super) fn recorded_image(sim: &Sim) -> Option<u32> {
    recorded(sim)?.version?.raw().parse().ok()
}

/// The volume's private record.
fn recorded(sim: &Sim) -> Option<Complete> {
    let mut world = sim.world.borrow_mut();
    let state = world.look_up(0, ROOT, DIRECTORY.as_bytes(), false).ok()?;
    let record = world.look_up(0, state, Complete::FILE.as_bytes(), false).ok()?;
    Complete::parse(world.data(record).ok()?, Path::new(Complete::FILE)).ok()
}

/// A replica says that it has put back all that was missing.
pub(super) fn check_repaired(sim: &Sim) {
    let mut found = BTreeMap::new();
    sim.world.borrow().files(ROOT, "", &mut found);
    if sim.world.borrow().retired.is_some() {
        // An upgrade may have begun since.
        return;
    }
    let image = image(recorded_image(sim).unwrap_or(0));
    if image.is_empty() || image.into_keys().any(|path| !found.contains_key(&format!("/{path}"))) {
        sim.breaks("repaired, and a file is missing".to_owned());
    }
}

/// When the tree has to be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// An app starts.
    Start,
    /// The power failed after an app had started. A record that the app's replica saw may be gone again:
    /// then the next one records what is whole anyway.
    PowerCut,
}

/// Who completed the volume has left no candidate. A holder that was fenced may have one, until it hears of that.
fn check_candidates(sim: &Sim, recorded: u64) {
    let mut claims = BTreeSet::new();
    sim.world.borrow().candidates(ROOT, &mut claims);
    let Totals { freezes, cuts, .. } = *sim.totals.borrow();
    if claims.contains(&recorded) || !claims.is_empty() && freezes + cuts == 0 {
        sim.breaks(format!("claim {recorded} completed the volume, and there are candidates of {claims:?}"));
    }
}

/// The volume has to be whole, and of one image: the one that its record names.
pub(super) fn check_tree(sim: &Sim, users: bool, when: Moment) {
    let (mut found, record, listed) = {
        let mut world = sim.world.borrow_mut();
        let mut found = BTreeMap::new();
        world.files(ROOT, "", &mut found);
        let state = world.look_up(0, ROOT, DIRECTORY.as_bytes(), false);
        let mut read = |name: &str| {
            let record = world.look_up(0, state.ok()?, name.as_bytes(), false).ok()?;
            world.data(record).map(<[u8]>::to_vec).ok()
        };
        let record = read(Public::FILE).and(read(Complete::FILE));
        let record = record.and_then(|bytes| Complete::parse(&bytes, Path::new(Complete::FILE)).ok());
        let listed = record.as_ref().and_then(|record| read(&ManifestRef::name(record.generation)));
        (found, record, listed)
    };
    if let Some(record) = &record {
        check_candidates(sim, record.epoch);
    }
    let kept = found.remove(&format!("/{USERS}"));
    if users && kept.is_none() {
        return sim.breaks(format!("a user's file is gone: {when:?}"));
    }
    let version = match &record {
        Some(record) => record.version.as_ref().and_then(|version| version.raw().parse().ok()).unwrap_or(0),
        // Then an upgrade has yet to be finished.
        None if when == Moment::PowerCut && sim.world.borrow().retired.is_some() => return,
        None if when == Moment::PowerCut => {
            if found.contains_key("/b") {
                1
            } else {
                2
            }
        }
        None => return sim.breaks(format!("no record: {when:?}")),
    };
    if record.is_some() && listed != Some(manifest(version)) {
        sim.breaks(format!("not the manifest of image {version}: {when:?}"));
    }
    let mut wanted: BTreeMap<String, Vec<u8>> =
        image(version).into_iter().map(|(path, data)| (format!("/{path}"), data)).collect();
    if let Some(deleted) = &*sim.deleted.borrow()
        && !found.contains_key(deleted)
    {
        wanted.remove(deleted);
    }
    if let Some(edited) = &*sim.edited.borrow() {
        if !sim.world.borrow().has_content(ROOT, USERS_TEXT) {
            sim.breaks(format!("what a user has written is gone: {when:?}"));
        }
        if found.get(edited).is_some_and(|found| found == USERS_TEXT) {
            match wanted.get(edited).cloned() {
                Some(wanted) => drop(found.insert(edited.clone(), wanted)),
                None => drop(found.remove(edited)),
            }
        }
    }
    if found != wanted {
        let shown: Vec<String> =
            found.iter().map(|(path, data)| format!("{path}={}", String::from_utf8_lossy(data))).collect();
        sim.breaks(format!("not the whole of image {version}: {when:?}: {}", shown.join(" ")));
    }
}
