//! Volumes that refuse what a seed has: what a sensible copy survives is counted in one warning and named, the rest
//! is refused before anything is published.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use slowfs::{Change, Errno, Fault, Mount, Op, Options, Quirks, Xattrs};

use crate::kit::slowfs::{quirky, slow};
use crate::kit::{Outcome, Sandbox, Tree, assert_nothing_published, assert_same_tree, mount, needs, seed};

/// Seeds `tree` to a volume with these quirks, from a directory and from an archive, and hands what came of it to
/// `check`.
#[track_caller]
fn on(quirks: &Quirks, tree: &Tree, flags: &[&str], check: impl Fn(Outcome, &Mount)) {
    for from_archive in [false, true] {
        let sandbox = Sandbox::new();
        let Some(volume) = slow(&sandbox, quirky(quirks.clone())) else { return };
        let source = tree.write_to(&sandbox.directory("source"));
        let start = match from_archive {
            true => seed("-", volume.path()).input(tree.archive()),
            false => seed(&source, volume.path()),
        };
        let start = flags.iter().fold(start.json(), |start, flag| start.flag(flag));
        check(start.ends(), &volume);
    }
}

fn text(volume: &Mount, name: &str) -> String {
    fs::read_to_string(volume.path().join(name)).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn second_names_become_copies_where_hard_links_are_refused() {
    let tree = Tree::new().file("a", "bytes").mode(0o640).modified(1_234_567_890, 5).file("d/x", "");
    let tree = tree.hard_link("b", "a").hard_link("d/c", "a").hard_link("e", "d/x");
    for errno in [Errno::EPERM, Errno::ENOTSUP, Errno::ENOSYS, Errno::EINVAL, Errno::EXDEV, Errno::EACCES] {
        let quirks = Quirks { hard_links: Some(errno), ..Quirks::default() };
        on(&quirks, &tree, &[], |outcome, volume| {
            outcome.exits(0).says("hard links, made copies: 3 entries").warns_once(3);
            assert_eq!((text(volume, "d/c"), text(volume, "e")), ("bytes".into(), String::new()));
            let copy = fs::metadata(volume.path().join("b")).unwrap();
            assert_eq!((copy.mode() & 0o7777, copy.mtime(), copy.nlink()), (0o640, 1_234_567_890, 1));
        });
        on(&quirks, &tree, &["--strict"], |outcome, volume| {
            outcome.exits(77).says("create hard link '").says("(fuse)");
            assert_nothing_published(volume.path());
        });
    }
}

#[test]
fn hard_links_are_not_asked_for_again_where_the_file_system_has_none() {
    let first = Tree::new().file("d/a", "x");
    let tree = (0..400).fold(first, |tree, at| tree.hard_link(format!("d/l{at}"), "d/a"));
    on(&Quirks { hard_links: Some(Errno::ENOTSUP), ..Quirks::default() }, &tree, &[], |outcome, volume| {
        outcome.exits(0).warns_once(400);
        // Once by each writer at the most, and by what is no entry of the seed.
        assert!(volume.counts()[Op::Link] < 100, "{}", volume.counts());
    });
}

#[test]
fn too_many_names_of_a_file_become_copies_of_it() {
    let tree = (0..10).fold(Tree::new().file("a", "x"), |tree, at| tree.hard_link(format!("l{at}"), "a"));
    on(&Quirks { max_links: Some(4), ..Quirks::default() }, &tree, &[], |outcome, volume| {
        outcome.exits(0).warns_once(7);
        // Which of them is the first is the source's order.
        let entries = fs::read_dir(volume.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        let inodes: HashSet<u64> = entries.filter(|it| it.is_file()).map(|it| it.ino()).collect();
        assert_eq!(inodes.len(), 8);
        assert_eq!(text(volume, "l9"), "x");
    });
}

#[test]
fn a_second_name_of_a_symbolic_link_or_fifo_becomes_another_one() {
    let tree = Tree::new().symlink("l", "a").file("a", "x").hard_link("m", "l").fifo("p").hard_link("q", "p");
    let quirks = [
        Quirks { links_to_symlinks: Some(Errno::EIO), ..Quirks::default() },
        Quirks { hard_links: Some(Errno::EPERM), ..Quirks::default() },
    ];
    for quirks in quirks {
        on(&quirks, &tree, &[], |outcome, volume| {
            outcome.exits(0).says("hard links, made copies: ");
            assert_eq!(fs::read_link(volume.path().join("m")).unwrap(), Path::new("a"));
            assert!(fs::symlink_metadata(volume.path().join("q")).unwrap().file_type().is_fifo());
        });
    }
}

#[test]
fn fifos_that_are_refused_are_left_out_with_their_second_names() {
    let tree = Tree::new().fifo("p").fifo("d/p").hard_link("q", "p").file("a", "x");
    for errno in [Errno::EPERM, Errno::ENOTSUP, Errno::ENOSYS, Errno::EINVAL, Errno::EIO] {
        let quirks = Quirks { special_files: Some(errno), ..Quirks::default() };
        on(&quirks, &tree, &[], |outcome, volume| {
            outcome.exits(0).says("left out: 3 FIFOs").warns_once(3);
            assert!(!volume.path().join("p").exists() && volume.path().join("d").exists());
        });
        on(&quirks, &tree, &["--strict"], |outcome, volume| {
            outcome.exits(77).says("create FIFO ");
            assert_nothing_published(volume.path());
        });
    }
}

#[test]
fn a_fifo_that_was_made_although_the_call_failed_is_kept() {
    let tree = Tree::new().fifo("p").mode(0o620).fifo("d/p").owner(33, 34).hard_link("q", "p").file("a", "x");
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, Options::default()) else { return };
    volume.faults().fail(Fault::new(Op::Mknod, Errno::EIO).after_it_took_effect());
    let source = tree.write_to(&sandbox.directory("source"));
    seed(&source, volume.path()).flag("--strict").ends().exits(0);
    assert_same_tree(&source, volume.path());
}

#[test]
fn times_that_are_refused_or_ignored_are_left() {
    let tree = Tree::new().file("a", "x").modified(1, 0).directory("d").modified(2, 0).file("d/b", "y");
    let tree = tree.modified(3, 0).symlink("l", "a").modified(4, 0);
    let refused =
        [Errno::EPERM, Errno::EACCES, Errno::ENOSYS, Errno::EINVAL, Errno::ENOTSUP, Errno::EOVERFLOW];
    for times in refused.map(Change::Refused).into_iter().chain([Change::Ignored]) {
        let quirks = Quirks { times, ..Quirks::default() };
        on(&quirks, &tree, &[], |outcome, volume| {
            outcome.exits(0).says("the time of 4 entries").warns_once(4);
            assert_eq!((text(volume, "a"), text(volume, "d/b")), ("x".into(), "y".into()));
            seed("/nowhere", volume.path()).ends().exits(0).says("already seeded");
        });
        on(&quirks, &tree, &["--strict"], |outcome, volume| {
            outcome.exits(77).says("set time of '").says("--no-times");
            assert_nothing_published(volume.path());
        });
        on(&quirks, &tree, &["--strict", "--no-times"], |outcome, _| drop(outcome.exits(0)));
    }
}

/// As on FAT and exFAT, which begin with 1980.
#[test]
fn a_time_that_the_volume_cannot_hold_costs_no_other_its_own() {
    let (old, new) = (1, 1_700_000_000);
    for [first, second] in [[old, new], [new, old]] {
        let quirks =
            Quirks { oldest_time: Some(UNIX_EPOCH + Duration::from_secs(315_532_800)), ..Quirks::default() };
        let tree = Tree::new().file("a", "x").modified(first, 0).file("b", "y").modified(second, 0);
        on(&quirks, &tree, &["--workers", "1"], |outcome, volume| {
            let [lost, kept] = if first == old { ["a", "b"] } else { ["b", "a"] };
            outcome.exits(0).says(&format!("the time of 1 entry ('{lost}')"));
            let modified = fs::metadata(volume.path().join(kept)).unwrap().modified().unwrap();
            assert_eq!(modified, UNIX_EPOCH + Duration::from_secs(new as u64));
        });
    }
}

#[test]
fn a_failure_to_set_times_is_no_refusal() {
    let quirks = Quirks { times: Change::Refused(Errno::EIO), ..Quirks::default() };
    on(&quirks, &Tree::new().file("a", "x").modified(1, 0), &[], |outcome, volume| {
        outcome.exits(74).says("set time of 'a' on volume");
        assert_nothing_published(volume.path());
    });
}

#[test]
fn modes_that_are_refused_are_a_loss_only_where_they_are_not_right_anyway() {
    let plain =
        Tree::new().file("a", "x").mode(0o444).directory("d").mode(0o755).file("d/b", "y").mode(0o750);
    for errno in [Errno::EPERM, Errno::EACCES, Errno::EINVAL, Errno::ENOSYS] {
        let quirks = Quirks { modes: Change::Refused(errno), ..Quirks::default() };
        on(&quirks, &plain, &["--strict"], |outcome, volume| {
            outcome.exits(0).says_nothing_of("WARN");
            assert_eq!(mode(&volume.path().join("a")), 0o444);
        });
        let tree =
            Tree::new().file("su", "x").mode(0o4755).directory("t").mode(0o1777).file("u", "x").mode(0o4755);
        on(&quirks, &tree, &[], |outcome, _| outcome.exits(0).says("the mode of 3 entries").warns_once(3));
        on(&quirks, &tree, &["--strict"], |outcome, _| drop(outcome.exits(77).says("change mode of '")));
    }
}

#[test]
fn owners_that_are_refused_or_ignored_are_left_and_set_user_id_with_them() {
    if !needs::root() {
        return;
    }
    let tree = Tree::new().file("a", "x").owner(33, 33).mode(0o4755).directory("d").owner(5, 6);
    let refused = [Errno::EPERM, Errno::EINVAL, Errno::EOVERFLOW].map(Change::Refused);
    for owners in refused.into_iter().chain([Change::Ignored]) {
        let quirks = Quirks { owners, ..Quirks::default() };
        on(&quirks, &tree, &[], |outcome, volume| {
            let found = fs::metadata(volume.path().join("a")).unwrap();
            if found.uid() == 33 {
                // Created as its owner.
                return;
            }
            outcome.exits(0).says("the owner of 2 entries").says("the mode of 1 entry ('a')");
            assert_eq!(found.mode() & 0o6000, 0);
        });
    }
}

#[test]
fn attributes_that_are_refused_are_counted_and_a_program_that_lost_its_capabilities_is_named() {
    if !needs::root() {
        return;
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tree = Tree::new().file("f", "x").attribute("user.a", "1").file("bin/server", "x").mode(0o755);
    let tree = tree.attribute("security.capability", capability);
    for errno in [Errno::ENOTSUP, Errno::EPERM, Errno::E2BIG, Errno::ENODATA] {
        let quirks = Quirks { xattrs: Xattrs::Refused(errno), ..Quirks::default() };
        on(&quirks, &tree, &[], |outcome, _| {
            outcome.exits(0).says("of 1 program ('bin/server')").says("1 attribute ('f')").warns_once(2);
        });
        on(&quirks, &tree, &["--strict"], |outcome, _| drop(outcome.exits(77)));
    }
}

#[test]
fn symbolic_links_that_are_refused_end_the_seed_before_anything_is_published() {
    let tree = Tree::new().file("index.php", "x").file("lib/x.so.1", "x").symlink("lib/x.so", "x.so.1");
    for errno in [Errno::ENOTSUP, Errno::EACCES, Errno::EPERM, Errno::ENOSYS, Errno::EINVAL] {
        let quirks = Quirks { symlinks: Some(errno), ..Quirks::default() };
        on(&quirks, &tree, &[], |outcome, volume| {
            let outcome = outcome.exits(78).says("create symbolic link 'lib/x.so' on volume");
            outcome.says("takes no symbolic links").says("mfsymlinks").says_nothing_of("stage/tree");
            assert_nothing_published(volume.path());
        });
    }
}

#[test]
fn names_that_are_too_long_are_refused_with_their_length_and_the_limit() {
    let long = "n".repeat(150);
    let trees = [
        Tree::new().file(&long, "x"),
        Tree::new().directory(format!("d/{long}")),
        Tree::new().symlink(&long, "x"),
        Tree::new().fifo(&long),
        Tree::new().file("a", "x").hard_link(&long, "a"),
    ];
    for tree in trees {
        let room = slowfs::Room { max_name: Some(143), ..slowfs::Room::default() };
        let quirks = Quirks { max_name: Some(143), room, ..Quirks::default() };
        on(&quirks, &tree, &[], |outcome, volume| {
            outcome.exits(78).says("150 bytes, and the volume takes 143");
            assert_nothing_published(volume.path());
        });
        let unsaid = Quirks { max_name: Some(143), ..Quirks::default() };
        on(&unsaid, &tree, &[], |outcome, _| drop(outcome.exits(78).says("150 bytes is longer than")));
    }
}

#[test]
fn names_with_forbidden_characters_are_refused_with_the_character() {
    let trees = [
        Tree::new().file("x", "x").file("d/a:b", "x"),
        Tree::new().directory("d/a:b/c"),
        Tree::new().symlink("d/a:b", "x"),
        Tree::new().fifo("d/a:b"),
        Tree::new().file("x", "x").hard_link("d/a:b", "x"),
    ];
    for tree in trees {
        let quirks = Quirks { forbidden: ":?".into(), ..Quirks::default() };
        on(&quirks, &tree, &[], |outcome, volume| {
            outcome.exits(78).says("'d/a:b' on volume").says("the character ':'").says("mapposix");
            assert_nothing_published(volume.path());
        });
    }
}

#[test]
fn names_that_are_not_utf_8_are_refused_where_the_volume_takes_none() {
    // ntfs-3g, the kernel's exFAT, CIFS.
    for errno in [Errno::EILSEQ, Errno::from_i32(75), Errno::ENOENT] {
        let quirks = Quirks { not_utf8: Some(errno), ..Quirks::default() };
        on(&quirks, &Tree::new().file(b"caf\xe9", "x"), &[], |outcome, _| {
            outcome.exits(78).says("bytes that are not UTF-8");
        });
    }
}

#[test]
fn a_quota_that_is_used_up_is_said() {
    let quirks = Quirks { quota: Some(100_000), ..Quirks::default() };
    on(&quirks, &Tree::many_of("d", 4, 50_000), &[], |outcome, volume| {
        outcome.exits(73).says("quota");
        assert_nothing_published(volume.path());
    });
}

#[test]
fn owners_outside_of_a_user_namespace_are_left() {
    if !needs::root() || !needs::tools(&["unshare"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::new().file("a", "x").owner(33, 33).write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let wrapper = ["unshare", "--user", "--map-root-user"];
    // Seen in there the source belongs to nobody, and that user has no number there.
    let outcome = seed(&source, &volume).under(wrapper).json().ends().exits(0);
    outcome.says("the owner of 1 entry ('a')").warns_once(1);
}

#[test]
fn without_a_capability_root_is_told_which_one_is_missing() {
    if !needs::root() || !needs::tools(&["setpriv"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let source = Tree::new().file("a", "x").owner(33, 33).write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let wrapper = ["setpriv", "--bounding-set=-chown,-setuid,-setgid"];
    let strict = seed(&source, &volume).under(wrapper).flag("--strict").ends();
    strict.fails(77, "change owner of 'a' on volume").says("CAP_CHOWN").says_nothing_of("as root");
    assert_nothing_published(&volume);
    seed(&source, &volume).under(wrapper).json().ends().exits(0).warns_once(1);
}

#[test]
fn a_file_system_s_own_limit_of_links_is_no_end() {
    if !needs::file_system("ext4") {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let volume = sandbox.volume();
    let _mount = mount::loop_device("ext4", &sandbox.directory("images"), &volume);
    // ext4 counts 65,000 names of a file (ext4.h, EXT4_LINK_MAX).
    let first = Tree::new().file("a", "x");
    let tree = (0..65_005).fold(first, |tree, at| tree.hard_link(format!("d/{at}"), "a"));
    let outcome = seed("-", &volume).input(tree.archive()).json().ends().exits(0);
    outcome.says("hard links, made copies: 6 entries").warns_once(6);
}
