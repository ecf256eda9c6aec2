//! A mount below the volume is root's, and takes nothing but the image's own seed.

use std::fs;
use std::path::Path;

use crate::kit::forge::{Hands, States, chown_all, copy, falsify, rename_stage};
use crate::kit::mount::{Mount, bind, tmpfs};
use crate::kit::scene::{APP, BOUND, Image, RootOf, Scene, judged};
use crate::kit::{Sandbox, Snapshot, assert_same_tree, needs};
use crate::order::names;

type Mounted = fn(&Scene, &Path) -> Mount;

fn in_memory(_: &Scene, at: &Path) -> Mount {
    tmpfs(at, "mode=0755")
}

/// The same file system in another place: only the kernel knows that it is a mount.
fn bound(scene: &Scene, at: &Path) -> Mount {
    let from = scene.volume.parent().unwrap().join("elsewhere");
    fs::create_dir(&from).unwrap();
    fs::create_dir_all(at).unwrap();
    bind(&from, at)
}

/// In the app's `.volseed` is a stage that holds more than the image for the mount `conf`.
#[track_caller]
fn forged_for_the_mount(part: &'static str, mounted: Mounted) {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let image = Image::new(&sandbox);
    let states = States::of(&image, &sandbox);
    for (number, root) in RootOf::ALL.into_iter().enumerate() {
        for hands in [Hands::App, Hands::Opened] {
            let scene = Scene::new(&sandbox.directory(&format!("{number}-{hands:?}")), root);
            let mount = scene.volume.join("conf");
            let _mounted = mounted(&scene, &mount);
            copy(&states.staged, &scene.state());
            let claim = scene.place("claims/1");
            if part != "stage" {
                rename_stage(&claim, part);
            }
            falsify(&claim.join(part).join("tree"));
            let forged = claim.join(part).join("tree/conf/forged");
            fs::write(&forged, "not of the image").unwrap();
            hands.take(&scene.state());
            chown_all(&forged, APP);

            for start in ["first", "second"] {
                let what = format!("{start} start, root of {root:?}, in the hands of {hands:?}");
                judged(image.seed(&scene.volume).start().ends_within(BOUND), &[0])
                    .and_then(|_| scene.is_untouched())
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(names(&mount), ["app.ini"], "{what}");
                assert_same_tree(&image.directory.join("conf"), &mount);
                assert!(!mount.join(".volseed").exists(), "{what}");
            }
        }
    }
}

#[test]
fn a_forged_stage_does_not_reach_a_mount_in_memory() {
    forged_for_the_mount("stage", in_memory);
}

#[test]
fn a_forged_stage_does_not_reach_a_bound_mount() {
    forged_for_the_mount("stage", bound);
}

#[test]
fn what_is_sealed_by_somebody_else_does_not_reach_a_mount_in_memory() {
    forged_for_the_mount("sealed", in_memory);
}

#[test]
fn what_is_sealed_by_somebody_else_does_not_reach_a_bound_mount() {
    forged_for_the_mount("sealed", bound);
}

#[test]
fn what_somebody_else_was_publishing_does_not_reach_a_mount_in_memory() {
    forged_for_the_mount("publishing", in_memory);
}

#[test]
fn what_somebody_else_was_publishing_does_not_reach_a_bound_mount() {
    forged_for_the_mount("publishing", bound);
}

/// The mount has a `.volseed` of its own, left there before: nothing in it is published.
#[test]
fn a_forged_state_on_the_mount_itself_is_not_used() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let image = Image::new(&sandbox);
    for user in [APP, 0] {
        let scene = Scene::new(&sandbox.directory(&format!("{user}")), RootOf::App);
        let mount = scene.volume.join("conf");
        let _mounted = in_memory(&scene, &mount);
        let nested = mount.join(".volseed/nested/tree");
        fs::create_dir_all(&nested).unwrap();
        fs::write(nested.join("forged"), "not of the image").unwrap();
        std::os::unix::fs::symlink(scene.outside.join("closed"), mount.join(".volseed/nested/link")).unwrap();
        chown_all(&mount.join(".volseed"), user);
        let outcome = image.seed(&scene.volume).start().ends_within(BOUND);
        let ended = judged(outcome, &[0, 78]).and_then(|outcome| {
            scene.is_untouched()?;
            Ok(outcome)
        });
        let ended = ended.unwrap_or_else(|error| panic!("of {user}: {error}"));
        assert!(!mount.join("forged").exists(), "of {user}");
        if ended.status.success() {
            Snapshot::of(&image.directory.join("conf")).assert_same(&Snapshot::of(&mount));
        }
    }
}
