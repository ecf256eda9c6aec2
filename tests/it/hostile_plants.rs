//! Something planted in the place of everything of ours: no byte outside is touched, nothing hangs, and
//! the image's own seed comes.

use std::fs;
use std::path::Path;

use crate::kit::forge::{Hands, Kind, States, copy, falsify, make_parents, nest, rename_stage};
use crate::kit::scene::{APP, BOUND, Image, RootOf, STRANGER, Scene, judged};
use crate::kit::table::{Case, Follows, table};
use crate::kit::{Sandbox, needs, seed};

/// Every file and directory that volseed makes below `.volseed`, with `.volseed` itself.
const PLACES: [&str; 22] = [
    "",
    "state.json",
    "record.json",
    "lock",
    "tmp",
    "tmp/half",
    "claims",
    "claims/1",
    "claims/1/claim.json",
    "claims/1/heartbeat",
    "claims/1/state.json",
    "claims/1/record.json",
    "claims/1/stage",
    "claims/1/stage/stage.json",
    "claims/1/stage/tree",
    "claims/1/stage/tree/index.php",
    "claims/1/stage/tree/uploads",
    "claims/1/stage/tree/uploads/key",
    "claims/1/sealed/stage.json",
    "claims/1/sealed/tree/uploads/key",
    "claims/1/publishing/tree",
    "claims/1/remains/tree/bin",
];

/// The states of a real seed that was stopped, as the place needs it, in these hands.
fn state_with(scene: &Scene, states: &States, place: &str, hands: Hands) {
    copy(&states.staged, &scene.state());
    let part = place.split('/').nth(2).unwrap_or_default();
    if ["sealed", "publishing", "remains"].contains(&part) {
        rename_stage(&scene.state().join("claims/1"), part);
    }
    hands.take(&scene.state());
}

/// The owner of the root and the hands change from place to place and kind to kind: all of them meet.
fn planted(states: &'static States, number: usize, place: &'static str, kind: Kind) -> Case {
    let (place_number, kind_number) = (number / Kind::ALL.len(), number % Kind::ALL.len());
    let root = RootOf::ALL[(place_number + kind_number) % 3];
    let hands = [Hands::App, Hands::Opened, Hands::Stranger][(place_number / 3 + kind_number) % 3];
    let plant = move |scene: &Scene| {
        state_with(scene, states, place, hands);
        kind.plant(scene, &scene.place(place), hands.user());
    };
    let name = format!("{kind:?} at '.volseed/{place}' in the hands of {hands:?}");
    let is_silent = ["claims/1", "claims/1/claim.json", "claims/1/heartbeat"].contains(&place);
    let allowed = if is_silent { hands.silent_claim() } else { &[0, 78] };
    Case { name, root, allowed, follows: Follows::Seeded, plant: Box::new(plant) }
}

#[test]
fn anything_in_the_place_of_anything_of_ours_is_removed_or_refused() {
    table(|states| {
        let places = PLACES.iter().flat_map(|place| Kind::ALL.map(|kind| (*place, kind)));
        places.enumerate().map(|(number, (place, kind))| planted(states, number, place, kind)).collect()
    });
}

#[test]
fn a_foreign_state_without_a_record_is_taken_over_and_nothing_of_it_is_used() {
    table(|states| {
        let parts = ["stage", "sealed", "publishing", "remains"];
        let whose = [Hands::App, Hands::Stranger, Hands::Opened];
        let all = parts.into_iter().flat_map(|part| whose.map(|hands| (part, hands)));
        let all = all.flat_map(|(part, hands)| RootOf::ALL.map(|root| (part, hands, root)));
        all.map(|(part, hands, root)| Case {
            name: format!("a forged {part} in the hands of {hands:?}"),
            root,
            allowed: &[0],
            follows: Follows::Seeded,
            plant: Box::new(move |scene: &Scene| {
                let place = format!("claims/1/{part}/tree");
                state_with(scene, states, &place, hands);
                falsify(&scene.place(&place));
            }),
        })
        .collect()
    });
}

/// A directory that its owner may not remove is not removed for it.
#[test]
fn a_foreign_state_is_removed_with_no_more_rights_than_its_owner_has() {
    table(|states| {
        // No claim is in `tmp`: what is there is only out of the way.
        let places = [
            ("claims/1/stage/tree/theirs", [75, 78].as_slice()),
            ("claims/1/theirs", &[75, 78]),
            ("theirs", &[75, 78]),
            ("tmp/theirs", &[0]),
        ];
        let all = places.into_iter().flat_map(|place| RootOf::ALL.map(|root| (place, root)));
        all.map(|((place, allowed), root)| Case {
            name: format!("a stranger's directory at '{place}' in the app's .volseed"),
            root,
            allowed,
            follows: Follows::Seeded,
            plant: Box::new(move |scene: &Scene| {
                state_with(scene, states, place, Hands::App);
                Kind::Directory.plant(scene, &scene.place(place), STRANGER);
            }),
        })
        .collect()
    });
}

#[test]
fn thirty_thousand_directories_in_one_another_are_removed_or_refused() {
    table(|states| {
        let places = [
            ("", Hands::App),
            ("tmp", Hands::Opened),
            ("claims/1", Hands::Ours),
            ("claims/1/stage/tree", Hands::Ours),
            ("claims/1/stage/tree", Hands::App),
            ("claims/1/stage/tree", Hands::Opened),
            ("claims/1/sealed/tree", Hands::App),
            ("claims/1/publishing/tree", Hands::Stranger),
        ];
        let all = places.into_iter().enumerate().map(|(number, (place, hands))| Case {
            name: format!("30,000 directories below '.volseed/{place}' in the hands of {hands:?}"),
            root: RootOf::ALL[number % 3],
            allowed: &[0, 78],
            follows: if hands == Hands::Ours { Follows::SeededOrResumed } else { Follows::Seeded },
            plant: Box::new(move |scene: &Scene| {
                state_with(scene, states, place, hands);
                let below = scene.place(place);
                make_parents(&below.join("d"), &scene.volume, hands.user());
                nest(&below, 30_000, hands.user());
            }),
        });
        all.collect()
    });
}

/// A link in the place of `.volseed` to one that is whole, and belongs to root.
#[test]
fn a_link_to_another_state_is_never_followed() {
    table(|states| {
        let all = RootOf::ALL.map(|root| Case {
            name: "a link to a complete .volseed of root's".into(),
            root,
            allowed: &[0, 78],
            follows: Follows::Seeded,
            plant: Box::new(move |scene: &Scene| {
                let other = scene.volume.parent().unwrap().join("other");
                copy(&states.complete.join(".volseed"), &other);
                std::os::unix::fs::symlink(&other, scene.state()).unwrap();
                std::os::unix::fs::lchown(scene.state(), Some(APP), Some(APP)).unwrap();
                assert!(Path::new(&other).join("state.json").exists());
            }),
        });
        all.into()
    });
}

/// The same from a directory, whose stage is whole: it was refused because of what the volume had then.
#[test]
fn a_forged_stage_of_a_directory_is_not_published() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let image = Image::new(&sandbox);
    let begun = sandbox.directory("begun");
    fs::write(begun.join("bin"), "a file in the way of a directory").unwrap();
    seed(&image.directory, &begun).option("--existing", "overwrite").ends().fails(78, "bin");
    for hands in [Hands::App, Hands::Stranger, Hands::Opened] {
        for root in RootOf::ALL {
            let scene = Scene::new(&sandbox.directory(&format!("{hands:?}-{root:?}")), root);
            copy(&begun.join(".volseed"), &scene.state());
            falsify(&scene.place("claims/1/stage/tree"));
            hands.take(&scene.state());
            let start = || seed(&image.directory, &scene.volume).start().ends_within(BOUND);
            for outcome in [start(), start()] {
                let right = judged(outcome, &[0]).and_then(|_| {
                    scene.is_untouched()?;
                    image.is_on(&scene.volume)
                });
                right.unwrap_or_else(|what| panic!("in the hands of {hands:?}, root of {root:?}: {what}"));
            }
        }
    }
}
