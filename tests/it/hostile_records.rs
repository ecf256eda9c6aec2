//! Complete records, true, absurd and damaged, of any owner: one that is whole is believed, since
//! who can forge it can also change what the app serves; any other is refused with one line.

use std::fs;
use std::os::unix::fs::lchown;
use std::path::Path;

use serde_json::{Value, json};

use crate::kit::forge::{Hands, States, copy, edit, with_checksum};
use crate::kit::needs;
use crate::kit::scene::{APP, Image, RootOf, Scene};
use crate::kit::table::{Case, Follows, table};
use crate::kit::{Sandbox, volseed};
use crate::order::names;

const HANDS: [Hands; 4] = [Hands::App, Hands::Stranger, Hands::Opened, Hands::Ours];

/// A volume that a seed has completed, with its record changed and in these hands.
fn complete(scene: &Scene, states: &States, hands: Hands, change: impl FnOnce(&Path)) {
    for name in names(&states.complete) {
        copy(&states.complete.join(&name), &scene.volume.join(name));
    }
    copy(&states.complete.join(".volseed"), &scene.state());
    change(&scene.place("state.json"));
    hands.take(&scene.state());
}

fn case(
    number: usize,
    name: &str,
    hands: Hands,
    (allowed, follows): (&'static [i32], Follows),
    plant: impl Fn(&Scene) + Send + Sync + 'static,
) -> Case {
    let name = format!("{name}, in the hands of {hands:?}");
    Case { name, root: RootOf::ALL[number % 3], allowed, follows, plant: Box::new(plant) }
}

#[test]
fn a_complete_record_counts_whoever_owns_it() {
    table(|states| {
        let all = HANDS.into_iter().flat_map(|hands| RootOf::ALL.map(|root| (hands, root)));
        let cases = all.map(|(hands, root)| Case {
            name: format!("a complete record in the hands of {hands:?}"),
            root,
            allowed: &[0],
            follows: Follows::Believed,
            plant: Box::new(move |scene: &Scene| complete(scene, states, hands, |_| {})),
        });
        cases.collect()
    });
}

/// Nothing but the record, in a `.volseed` that was never volseed's.
#[test]
fn a_complete_record_without_anything_else_is_believed() {
    table(|states| {
        let cases = HANDS.into_iter().enumerate().map(|(number, hands)| {
            case(number, "a record alone", hands, (&[0], Follows::Believed), move |scene| {
                fs::create_dir(scene.state()).unwrap();
                let record = states.complete.join(".volseed/state.json");
                fs::copy(record, scene.place("state.json")).unwrap();
                fs::write(scene.volume.join("index.php"), "the app's own").unwrap();
                lchown(scene.volume.join("index.php"), Some(APP), Some(APP)).unwrap();
                hands.take(&scene.state());
            })
        });
        cases.collect()
    });
}

/// Fields of a record that is whole, and what they say. One that cannot be is refused.
fn absurdities() -> Vec<(&'static str, Value)> {
    let evil = json!("evil\nerror: all is well\u{1b}[31m\u{7}\u{9b}31m");
    let many: Vec<String> = (0..20_000).map(|number| format!("{number:040}")).collect();
    vec![
        ("finished", json!(u64::MAX)),
        ("finished", json!(253_402_300_800_u64)),
        ("epoch", json!(u64::MAX)),
        ("epoch", json!(u64::MAX - 1)),
        ("epoch", json!(0)),
        ("generation", json!(u64::MAX)),
        ("generation", json!(0)),
        ("totals", json!({"files": u64::MAX, "directories": u64::MAX, "links": u64::MAX, "bytes": u64::MAX})),
        ("version", evil.clone()),
        ("source", evil.clone()),
        ("source", json!([27, 91, 51, 49, 109, 10, 255])),
        ("volseed", evil.clone()),
        ("top", json!([])),
        ("top", json!([".."])),
        ("top", json!(["../outside/closed/key"])),
        ("top", json!([".volseed"])),
        ("top", json!(["/", "", ".", "a/b", "index.php"])),
        ("top", json!([[0], [47], [255]])),
        ("top", json!(many)),
        ("top", json!([evil])),
    ]
}

#[test]
fn records_that_say_absurd_things_are_believed_or_refused() {
    table(|states| {
        let mut cases = Vec::new();
        for (field, value) in absurdities() {
            for hands in [Hands::App, Hands::Ours] {
                let shown: String = value.to_string().chars().take(60).collect();
                let (name, value) = (format!("{field} = {shown}"), value.clone());
                let may: (&[i32], _) = (&[0, 78], Follows::BelievedOrSeeded);
                cases.push(case(cases.len(), &name, hands, may, move |scene| {
                    complete(scene, states, hands, |path| edit(path, |record| record[field] = value.clone()));
                }));
            }
        }
        cases
    });
}

/// The numbers of the next claim and generation follow from a record of a volume that was emptied.
#[test]
fn records_of_an_emptied_volume_do_not_count_beyond_the_last_number() {
    table(|states| {
        let mut cases = Vec::new();
        for (field, value) in
            [("epoch", u64::MAX), ("generation", u64::MAX), ("epoch", u64::MAX - 1), ("epoch", 7)]
        {
            for hands in HANDS {
                let may: (&[i32], _) = (&[0, 78], Follows::Seeded);
                let name = format!("{field} = {value} on an emptied volume");
                cases.push(case(cases.len(), &name, hands, may, move |scene| {
                    copy(&states.complete.join(".volseed"), &scene.state());
                    edit(&scene.place("state.json"), |record| record[field] = value.into());
                    hands.take(&scene.state());
                }));
            }
        }
        cases
    });
}

/// What is no record, from one that is.
fn damages(whole: &str) -> Vec<(&'static str, Vec<u8>)> {
    let with = |field: &str, value: Value| {
        let mut record: Value = serde_json::from_str(whole).unwrap();
        record.as_object_mut().unwrap().remove("checksum");
        record[field] = value;
        with_checksum(record).into_bytes()
    };
    vec![
        ("empty", Vec::new()),
        ("zeros", vec![0; 512]),
        ("cut short", whole.as_bytes()[..whole.len() / 2].to_vec()),
        ("a wrong checksum", whole.replace("crc32:", "crc32:0").into_bytes()),
        ("a checksum of a changed record", whole.replace("\"seeded\"", "\"adopted\"").into_bytes()),
        ("no object", b"[1, 2, 3]\n".to_vec()),
        ("null", b"null\n".to_vec()),
        ("no JSON", b"\x1b[31m\nerror: all is well\n".to_vec()),
        ("no UTF-8", vec![0xff; 100]),
        ("a thousand brackets", vec![b'['; 100_000]),
        ("too large", vec![b' '; 2 << 20]),
        ("another layout", with("format", json!(3))),
        ("the layout before the first release", with("format", json!(1))),
        ("a layout beyond numbers", with("format", json!(u64::MAX))),
        ("a negative epoch", with("epoch", json!(-1))),
        ("a broken epoch", with("epoch", json!(1e300))),
        ("an epoch in words", with("epoch", json!("one\nerror: \u{1b}[31m"))),
        ("an unknown origin", with("origin", json!("evil\nerror: \u{1b}[31m"))),
        ("no names", with("top", json!("index.php"))),
    ]
}

#[test]
fn damaged_records_are_refused_with_one_clean_line() {
    table(|states| {
        let whole = fs::read_to_string(states.complete.join(".volseed/state.json")).unwrap();
        let mut cases = Vec::new();
        for (name, bytes) in damages(&whole) {
            for hands in [Hands::App, Hands::Ours] {
                let bytes = bytes.clone();
                let may: (&[i32], _) = (&[78], Follows::Seeded);
                cases.push(case(cases.len(), name, hands, may, move |scene| {
                    complete(scene, states, hands, |path| fs::write(path, &bytes).unwrap());
                }));
            }
        }
        cases
    });
}

/// A record that names another version than the image, and a terminal's escapes with it.
#[test]
fn versions_of_a_forged_record_are_escaped_where_they_are_printed() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let image = Image::new(&sandbox);
    let volume = sandbox.volume();
    image.seed(&volume).ends().exits(0);
    let evil = json!("1\nerror: all is well\u{1b}[31m\u{9b}31m");
    edit(&volume.join(".volseed/state.json"), |record| {
        record["version"] = evil.clone();
        record["source"] = evil.clone();
        record["volseed"] = evil.clone();
    });
    let clean = |text: &str| assert!(text.chars().all(|sign| sign == '\n' || !sign.is_control()), "{text:?}");
    let outcome = image.seed(&volume).option("--seed-version", "2").ends().exits(0);
    clean(&outcome.stderr);
    assert!(!outcome.stderr.lines().any(|line| line.starts_with("error:")), "{}", outcome.stderr);
    for flags in [&["status", "--to"][..], &["status", "--json", "--to"]] {
        let status = volseed(flags).arguments([&volume]).ends().exits(0);
        clean(&status.stdout);
        assert!(!status.stdout.lines().any(|line| line.starts_with("error:")), "{}", status.stdout);
    }
}
