//! Volumes that were restored from a backup: taken at any moment, restored by root or another user.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::forge::chown_all;
use crate::kit::moments::{killed_publishing, killed_staging, much_to_publish, standing};
use crate::kit::scene::{APP, BOUND, judged};
use crate::kit::{Sandbox, Snapshot, Tree, needs, seed};
use crate::order::names;

const OTHER: u32 = 1000;

/// When the backup was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Complete,
    /// After a kill in the middle of staging.
    Staging,
    /// From under a seed that stands still.
    Alive,
    /// After a kill in the middle of publishing.
    Publishing,
}

/// How it was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restored {
    /// With all owners.
    Copied,
    /// The same, from an archive.
    Unpacked,
    /// Everything is another user's, and so is the new volume.
    CopiedForAnother,
    UnpackedByAnother,
}

const ALL: [Restored; 4] =
    [Restored::Copied, Restored::Unpacked, Restored::CopiedForAnother, Restored::UnpackedByAnother];

struct Volume {
    tree: Tree,
    path: PathBuf,
    /// A seed that is still at it.
    _running: Option<crate::kit::Running>,
}

impl Volume {
    #[track_caller]
    fn taken(when: Taken, sandbox: &Sandbox) -> Volume {
        let sample = Tree::sample().file("uploads/key", "x").owner(APP, APP);
        let path = sandbox.directory("first");
        let begin = || seed("-", &path);
        match when {
            Taken::Complete => drop(begin().input(sample.archive()).ends().exits(0)),
            Taken::Staging => killed_staging(begin(), &sample, &path),
            Taken::Alive => {
                let running = Some(standing(begin(), &sample, &path));
                return Volume { tree: sample, path, _running: running };
            }
            Taken::Publishing => return Volume::half_published(sandbox),
        }
        Volume { tree: sample, path, _running: None }
    }

    fn half_published(sandbox: &Sandbox) -> Volume {
        let tree = much_to_publish();
        for attempt in 0..20 {
            let path = sandbox.directory(&format!("half-{attempt}"));
            if killed_publishing(seed("-", &path).input(tree.archive()), &path) {
                return Volume { tree, path, _running: None };
            }
        }
        panic!("every kill came too late");
    }
}

impl Restored {
    fn for_another(self) -> bool {
        matches!(self, Restored::CopiedForAnother | Restored::UnpackedByAnother)
    }

    fn restore(self, from: &Path, to: &Path) {
        if self.for_another() {
            chown(to, Some(OTHER), Some(OTHER)).unwrap();
        }
        match self {
            Restored::Copied => copy_entries(from, to),
            Restored::CopiedForAnother => {
                copy_entries(from, to);
                chown_all(to, OTHER);
            }
            Restored::Unpacked => unpack(Command::new("tar").arg("-xp"), from, to),
            Restored::UnpackedByAnother => {
                unpack(Command::new("tar").arg("-xp").uid(OTHER).gid(OTHER), from, to);
            }
        }
    }
}

fn copy_entries(from: &Path, to: &Path) {
    for name in names(from).into_iter().chain([".volseed".to_owned()]) {
        crate::kit::forge::copy(&from.join(&name), &to.join(name));
    }
}

#[track_caller]
fn unpack(tar: &mut Command, from: &Path, to: &Path) {
    let packed =
        Command::new("tar").arg("-C").arg(from).args(["--format=posix", "-c", "."]).output().unwrap();
    // 1: a heartbeat changed meanwhile.
    assert!(packed.status.code() <= Some(1), "{packed:?}");
    let archive = to.with_extension("tar");
    fs::write(&archive, packed.stdout).unwrap();
    let output =
        tar.arg("--exclude=./lost+found").arg("-f").arg(&archive).arg("-C").arg(to).output().unwrap();
    // The owner of the root is not what another user may change.
    assert!(output.status.success() || output.stderr.starts_with(b"tar: ."), "{output:?}");
}

#[track_caller]
fn starts_after(when: Taken) {
    if !needs::root() || !needs::tools(&["cp", "tar"]) {
        return;
    }
    for how in ALL {
        let sandbox = Sandbox::new();
        let volume = Volume::taken(when, &sandbox);
        let restored = sandbox.directory("restored");
        how.restore(&volume.path, &restored);
        assert!(restored.join(".volseed").exists());
        let start = || seed("-", &restored).input(volume.tree.archive());
        let outcome = judged(start().start().ends_within(BOUND), &[0])
            .unwrap_or_else(|error| panic!("{when:?}, {how:?}: {error}"));
        eprintln!("{when:?}, {how:?}");
        if when == Taken::Complete {
            outcome.says("already seeded");
        } else if how.for_another() {
            outcome.says_nothing_of("resumed=true").says_nothing_of("publishing what an earlier run staged");
        }
        start().ends().exits(0).says("already seeded");

        let reference = volume.tree.write_to(&sandbox.directory("reference"));
        let (mut expected, mut found) = (Snapshot::of(&reference), Snapshot::of(&restored));
        let published_before = matches!(when, Taken::Complete | Taken::Publishing);
        if how.for_another() && published_before {
            (expected, found) = (expected.without_owners(), found.without_owners());
        }
        expected.without_root().assert_same(&found.without_root());
    }
}

#[test]
fn a_backup_of_a_complete_volume_starts() {
    starts_after(Taken::Complete);
}

#[test]
fn a_backup_of_a_volume_in_mid_seed_is_seeded() {
    starts_after(Taken::Staging);
}

#[test]
fn a_backup_that_was_taken_under_a_living_seed_is_seeded() {
    starts_after(Taken::Alive);
}

#[test]
fn a_backup_of_a_half_published_volume_becomes_whole() {
    starts_after(Taken::Publishing);
}
