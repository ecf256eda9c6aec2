//! What looks like an attack and is none: whole volumes that change hands, are opened to a group,
//! move between users, or where everybody is one user. All of them start, none loses anything.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use slowfs::{Options, Squash};

use crate::kit::forge::{chown_all, open_to_group};
use crate::kit::moments::{killed_publishing, killed_staging, much_to_publish, standing};
use crate::kit::mount::bindfs;
use crate::kit::scene::{APP, BOUND, judged};
use crate::kit::slowfs::slow;
use crate::kit::{Outcome, Sandbox, Snapshot, Tree, Volseed, needs, run, seed};

/// Another user of the app, as an arbitrary one that a platform chooses.
const OTHER: u32 = 1000;

fn image() -> Tree {
    Tree::sample().file("uploads/key", "of the image")
}

/// A volume, and a seed of `tree` for this user.
struct Twin {
    tree: Tree,
    volume: PathBuf,
    owner: String,
    user: u32,
    reference: PathBuf,
}

impl Twin {
    fn new(sandbox: &Sandbox, tree: Tree, user: u32) -> Twin {
        let reference = tree.write_to(&sandbox.directory("reference"));
        Twin { tree, volume: sandbox.volume(), owner: format!("{user}:{user}"), user, reference }
    }

    fn begin(&self) -> Volseed {
        seed("-", &self.volume).option("--chown", &self.owner)
    }

    /// The next start, with all of its input.
    fn start(&self) -> Volseed {
        self.begin().input(self.tree.archive())
    }

    /// The next start ends with 0 and one that follows finds the volume seeded.
    #[track_caller]
    fn starts(&self) -> Outcome {
        let outcome = judged(self.start().start().ends_within(BOUND), &[0]).unwrap();
        self.start().ends().exits(0).says("already seeded");
        outcome
    }

    /// The volume holds what the image ships, for the user that it is seeded for.
    #[track_caller]
    fn is_whole(&self) {
        let expected = Snapshot::of(&self.reference).owned_by(self.user, self.user).without_root();
        expected.assert_same(&Snapshot::of(&self.volume).without_root());
    }

    /// The same, but for modes, which somebody has changed since.
    #[track_caller]
    fn is_whole_but_for_modes(&self) {
        let bare = |tree: Snapshot| tree.owned_by(0, 0).without_modes().without_root().without_times();
        bare(Snapshot::of(&self.reference)).assert_same(&bare(Snapshot::of(&self.volume)));
    }
}

/// Kills a seed while it publishes, on one fresh volume after the other until it was not too late.
#[track_caller]
fn half_published(sandbox: &Sandbox, user: u32) -> Twin {
    let mut twin = Twin::new(sandbox, much_to_publish(), user);
    for attempt in 0..20 {
        twin.volume = sandbox.directory(&format!("half-{attempt}"));
        if killed_publishing(twin.start(), &twin.volume) {
            return twin;
        }
    }
    panic!("every kill came too late");
}

fn private_state(volume: &Path) {
    let state = fs::metadata(volume.join(".volseed")).unwrap();
    assert_eq!((state.uid(), state.mode() & 0o022), (0, 0), "mode {:o}", state.mode());
}

#[test]
fn a_complete_volume_that_was_given_to_the_app_starts() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = Twin::new(&sandbox, image(), APP);
    twin.start().ends().exits(0);
    // As often as the container starts.
    for _ in 0..2 {
        chown_all(&twin.volume, APP);
        let app = run("-", &twin.volume, ["echo", "started"]).input("");
        app.ends().exits(0).says("already seeded").prints("started");
    }
    twin.is_whole();
}

#[test]
fn a_stage_that_was_given_to_the_app_is_seeded_from_the_image() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = Twin::new(&sandbox, image(), APP);
    killed_staging(twin.begin(), &twin.tree, &twin.volume);
    chown_all(&twin.volume, APP);
    twin.starts().says_nothing_of("resumed=true");
    twin.is_whole();
    private_state(&twin.volume);
}

#[test]
fn a_half_published_volume_that_was_given_to_the_app_is_seeded_by_the_same_image() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = half_published(&sandbox, APP);
    chown_all(&twin.volume, APP);
    twin.starts().says_nothing_of("publishing what an earlier run staged");
    twin.is_whole();
    private_state(&twin.volume);
}

#[test]
fn a_half_published_volume_that_was_given_to_the_app_is_refused_by_another_image() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = half_published(&sandbox, APP);
    chown_all(&twin.volume, APP);
    let other = || twin.start().option("--seed-version", "2");
    for _ in 0..2 {
        let refused = judged(other().start().ends_within(BOUND), &[78]).unwrap();
        refused.says("another image").says("half published");
    }
    // What the first image had published is the user's from here on.
    crate::kit::scene::remove(&twin.volume.join(".volseed"));
    other().ends().exits(0);
}

#[test]
fn a_complete_volume_that_was_opened_to_a_group_starts() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = Twin::new(&sandbox, image(), APP);
    twin.start().ends().exits(0);
    for _ in 0..2 {
        open_to_group(&twin.volume, APP);
        twin.start().ends().exits(0).says("already seeded");
    }
    twin.is_whole_but_for_modes();
}

#[test]
fn a_stage_that_was_opened_to_a_group_is_closed_and_seeded_from_the_image() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = Twin::new(&sandbox, image(), APP);
    killed_staging(twin.begin(), &twin.tree, &twin.volume);
    open_to_group(&twin.volume, APP);
    twin.starts().says_nothing_of("resumed=true");
    twin.is_whole();
    private_state(&twin.volume);
}

#[test]
fn a_half_published_volume_that_was_opened_to_a_group_becomes_whole() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = half_published(&sandbox, APP);
    open_to_group(&twin.volume, APP);
    twin.starts();
    twin.is_whole_but_for_modes();
    private_state(&twin.volume);
}

/// One wrapper of the claim alone, as a tool that looks for directories of one name may do it.
#[test]
fn every_single_wrapper_that_was_opened_is_closed_and_its_stage_not_resumed() {
    if !needs::root() {
        return;
    }
    for place in ["", "claims/1", "claims/1/stage"] {
        // The first may be listed and entered by others.
        let entered: &[u32] = if place.is_empty() { &[] } else { &[0o701] };
        for mode in [&[0o770, 0o2770, 0o707, 0o720], entered].concat() {
            let sandbox = Sandbox::new();
            let twin = Twin::new(&sandbox, image(), APP);
            killed_staging(twin.begin(), &twin.tree, &twin.volume);
            let opened = twin.volume.join(".volseed").join(place);
            fs::set_permissions(&opened, fs::Permissions::from_mode(mode)).unwrap();
            eprintln!("'{place}' {mode:o}");
            twin.starts().says_nothing_of("resumed=true");
            twin.is_whole();
            private_state(&twin.volume);
        }
    }
}

/// An ACL opens a directory as well as its mode does; the mode then shows the mask.
#[test]
fn a_wrapper_that_an_acl_opens_is_closed_and_its_stage_not_resumed() {
    if !needs::root() || !needs::tools(&["setfacl"]) {
        return;
    }
    for place in ["", "claims/1", "claims/1/stage"] {
        let sandbox = Sandbox::on_disk();
        let twin = Twin::new(&sandbox, image(), APP);
        killed_staging(twin.begin(), &twin.tree, &twin.volume);
        let opened = twin.volume.join(".volseed").join(place);
        let set =
            Command::new("setfacl").args(["-m", &format!("u:{APP}:rwx")]).arg(&opened).output().unwrap();
        assert!(set.status.success(), "{set:?}");
        twin.starts().says_nothing_of("resumed=true");
        twin.is_whole();
        private_state(&twin.volume);
    }
}

/// All of a volume is changed while a seed stands still on it; then that seed ends, and with it a second
/// replica that came meanwhile.
#[track_caller]
fn while_a_holder_lives(change: impl Fn(&Path)) {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = Twin::new(&sandbox, image(), APP);
    let mut holder = standing(twin.begin(), &twin.tree, &twin.volume);
    change(&twin.volume);
    let second = twin.start().start();
    second.says("waiting for another replica");
    holder.feed([0; 1024]);
    holder.end_input();
    // What others could change is staged again, and standard input can be read once.
    judged(holder.ends_within(BOUND), &[0, 75]).unwrap();
    judged(second.ends_within(BOUND), &[0]).unwrap();
    twin.start().ends().exits(0).says("already seeded");
    twin.is_whole_but_for_modes();
}

#[test]
fn a_volume_may_be_opened_to_a_group_while_a_holder_lives() {
    while_a_holder_lives(|volume| open_to_group(volume, APP));
}

/// The second replica may take over what is not root's any more: both then end well all the same.
#[test]
fn a_volume_may_be_given_to_the_app_while_a_holder_lives() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = Twin::new(&sandbox, image(), APP);
    let mut holder = standing(twin.begin(), &twin.tree, &twin.volume);
    chown_all(&twin.volume, APP);
    let second = twin.start().start();
    holder.feed([0; 1024]);
    holder.end_input();
    // Its standard input is read once: a holder that lost the volume and finds it unseeded says so.
    judged(holder.ends_within(BOUND), &[0, 75]).unwrap();
    judged(second.ends_within(BOUND), &[0]).unwrap();
    twin.start().ends().exits(0).says("already seeded");
    twin.is_whole();
}

#[test]
fn a_deployment_may_move_from_root_to_another_user_and_back() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = Twin::new(&sandbox, image(), OTHER);
    let as_other = || twin.start().started_by(OTHER, OTHER);
    twin.start().ends().exits(0);
    for _ in 0..2 {
        chown_all(&twin.volume, OTHER);
        as_other().ends().exits(0).says("already seeded");
        chown_all(&twin.volume, 0);
        twin.start().ends().exits(0).says("already seeded");
    }
    chown_all(&twin.volume, OTHER);
    twin.is_whole();
}

#[test]
fn a_deployment_may_move_from_root_to_another_user_in_mid_seed() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = Twin::new(&sandbox, image(), OTHER);
    killed_staging(twin.begin(), &twin.tree, &twin.volume);
    chown_all(&twin.volume, OTHER);
    judged(twin.start().started_by(OTHER, OTHER).start().ends_within(BOUND), &[0]).unwrap();
    twin.is_whole();
    chown_all(&twin.volume, 0);
    twin.start().ends().exits(0).says("already seeded");
}

/// Back to root in the middle of a seed, with and without a `chown -R`.
#[test]
fn a_deployment_may_move_back_to_root_in_mid_seed() {
    if !needs::root() {
        return;
    }
    for given in [false, true] {
        let sandbox = Sandbox::new();
        let twin = Twin::new(&sandbox, image(), OTHER);
        chown(&twin.volume, Some(OTHER), Some(OTHER)).unwrap();
        killed_staging(twin.begin().started_by(OTHER, OTHER), &twin.tree, &twin.volume);
        if given {
            chown_all(&twin.volume, 0);
        }
        let outcome = twin.starts();
        if !given {
            outcome.says_nothing_of("resumed=true");
            private_state(&twin.volume);
        }
        twin.is_whole();
    }
}

/// A user who may not remove root's state waits for the record.
#[test]
fn another_user_leaves_the_state_of_root_alone() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let twin = Twin::new(&sandbox, image(), OTHER);
    killed_staging(twin.begin(), &twin.tree, &twin.volume);
    fs::set_permissions(&twin.volume, fs::Permissions::from_mode(0o1777)).unwrap();
    let other = twin.start().option("--wait-timeout", "1s").started_by(OTHER, OTHER);
    let outcome = judged(other.start().ends_within(BOUND), &[75, 77, 78]).unwrap();
    assert!(!outcome.stderr.contains("seeding"), "{}", outcome.stderr);
    twin.starts();
    twin.is_whole();
}

/// Where everything is one user's nothing is private, and all of it works.
#[track_caller]
fn where_everybody_is_one_user(volume: &Path, user: u32, sandbox: &Sandbox) {
    let tree = image();
    let reference = tree.write_to(&sandbox.directory("reference"));
    let start = || seed("-", volume).input(tree.archive());
    let running = standing(seed("-", volume), &tree, volume);
    running.stopped_by(Signal::SIGTERM).0.exits(143);
    judged(start().start().ends_within(BOUND), &[0]).unwrap();
    start().ends().exits(0).says("already seeded");
    let expected = Snapshot::of(&reference).owned_by(user, user).without_root();
    expected.assert_same(&Snapshot::of(volume).without_root());
}

#[test]
fn where_the_server_takes_everybody_for_one_user_a_seed_is_resumed() {
    for (squash, user) in [(Squash::All(APP, APP), APP), (Squash::Root, 65534), (Squash::All(0, 0), 0)] {
        let sandbox = Sandbox::new();
        let options = Options { squash, owner: (user, user), ..Options::default() };
        let Some(volume) = slow(&sandbox, options) else { return };
        where_everybody_is_one_user(volume.path(), user, &sandbox);
    }
}

/// bindfs shows everything as one user's and lets everything be done.
#[test]
fn where_bindfs_shows_everything_as_one_users_a_seed_is_resumed() {
    if !needs::fuse() || !needs::tools(&["bindfs"]) {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let (behind, volume) = (sandbox.directory("behind"), sandbox.volume());
    let user = format!("--force-user={APP}");
    let _mounted = bindfs(&[&user, &format!("--force-group={APP}"), "--chown-ignore"], &behind, &volume);
    where_everybody_is_one_user(&volume, APP, &sandbox);
}
