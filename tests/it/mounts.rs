//! Mounts inside the volume, and what only leads to them: they are the user's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use crate::kit::mount::{Mount, bind, tmpfs};
use crate::kit::sandbox::PROBE_ID;
use crate::kit::{Sandbox, Tree, needs, seed};
use crate::order::{names, read, sandbox};

const READ_ONLY: MsFlags = MsFlags::MS_RDONLY;

/// A directory of the user's, mounted read-only inside the volume.
fn read_only(sandbox: &Sandbox, at: &Path) -> Mount {
    fs::create_dir_all(at).unwrap();
    let mount = bind(&sandbox.directory("users-own"), at);
    mount.remount(READ_ONLY | MsFlags::MS_BIND, "");
    mount
}

fn themes() -> Tree {
    Tree::new()
        .file("index", "i")
        .file("wp/themes/own/style", "s")
        .file("wp/themes/own/x", "x")
        .file("wp/p", "p")
}

#[test]
fn what_belongs_to_a_read_only_mount_is_left_out_and_told_once() {
    if !needs::root() {
        return;
    }
    let (sandbox, source, volume) = sandbox(&themes());
    let _mount = read_only(&sandbox, &volume.join("wp/themes/own"));
    let outcome = seed(&source, &volume).option("--chown", "33:33").json().ends().exits(0);
    outcome.warns_once(3);
    let outcome = outcome.says("1 mount ('wp/themes/own')").says("2 entries ('wp/themes/own/");
    assert_eq!([read(volume.join("index")), read(volume.join("wp/p"))], ["i", "p"]);
    for parent in ["wp", "wp/themes"] {
        let found = fs::metadata(volume.join(parent)).unwrap();
        assert_eq!((found.uid(), found.gid()), (33, 33), "{parent}: {}", outcome.stderr);
    }
    seed(&source, &volume).ends().exits(0).says("already seeded");
}

#[test]
fn strict_refuses_a_read_only_mount_before_anything_is_published() {
    if !needs::root() {
        return;
    }
    let (sandbox, source, volume) = sandbox(&themes());
    let mount = read_only(&sandbox, &volume.join("wp/themes/own"));
    seed(&source, &volume).flag("--strict").ends().fails(77, "wp/themes/own/");
    assert!(!volume.join("index").exists());
    drop(mount);
    seed(&source, &volume).flag("--strict").ends().exits(0);
    assert_eq!(read(volume.join("wp/themes/own/style")), "s");
}

#[test]
fn a_read_only_mount_at_which_nothing_is_missing_is_no_concern() {
    if !needs::root() {
        return;
    }
    let (sandbox, source, volume) = sandbox(&themes());
    let users = sandbox.directory("users-own");
    fs::write(users.join("style"), "mine").unwrap();
    fs::write(users.join("x"), "mine").unwrap();
    let _mount = read_only(&sandbox, &volume.join("wp/themes/own"));
    let outcome = seed(&source, &volume).flag("--strict").json().ends().exits(0);
    assert!(!outcome.stderr.contains("WARN"), "{}", outcome.stderr);
    assert_eq!(names(&users), ["style", "x"]);
    assert_eq!(read(users.join("style")), "mine");
}

#[test]
fn only_what_is_missing_is_copied_to_a_mount() {
    if !needs::root() {
        return;
    }
    let large = "x".repeat(6 << 20);
    let tree = Tree::new().file("m/large", large.as_str()).file("m/d/new", "seed").file("m/d/old", "seed");
    let (_sandbox, source, volume) = sandbox(&tree);
    let mount = volume.join("m");
    let _mount = tmpfs(&mount, "size=8m,mode=0755");
    fs::create_dir(mount.join("d")).unwrap();
    fs::write(mount.join("large"), &large).unwrap();
    fs::write(mount.join("d/old"), "mine").unwrap();
    seed(&source, &volume).ends().exits(0);
    assert_eq!([read(mount.join("d/new")), read(mount.join("d/old"))], ["seed", "mine"]);
    assert_eq!(names(&mount), ["d", "large"]);
}

#[test]
fn a_mount_that_is_too_small_is_refused_before_the_seal() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox(&Tree::new().file("a", "x").file("m/b", "x".repeat(3 << 20)));
    let mount = tmpfs(&volume.join("m"), "size=1m,mode=0755");
    seed(&source, &volume).ends().exits(73);
    assert!(!volume.join("a").exists() && names(&volume.join("m")).is_empty());
    drop(mount);
    let smaller = Tree::new().file("other", "x").write_to(&volume.parent().unwrap().join("second"));
    seed(smaller, &volume).ends().exits(0);
    assert!(volume.join("other").exists());
}

#[test]
fn mounts_in_mounts_are_each_filled_or_left_out() {
    if !needs::root() {
        return;
    }
    let tree = Tree::new().file("a/1", "x").file("a/b/2", "x").file("a/b/c/3", "x").file("a/b/c/d/4", "x");
    let (sandbox, source, volume) = sandbox(&tree);
    let _a = tmpfs(&volume.join("a"), "size=8m,mode=0755");
    let _b = read_only(&sandbox, &volume.join("a/b"));
    let outcome = seed(&source, &volume).ends().exits(0);
    assert_eq!(read(volume.join("a/1")), "x");
    assert!(names(&volume.join("a/b")).is_empty());
    outcome.says("'a/b'");
}

#[test]
fn a_writable_mount_in_a_read_only_one_is_filled() {
    if !needs::root() {
        return;
    }
    let (sandbox, source, volume) = sandbox(&Tree::new().file("a/1", "x").file("a/b/2", "x"));
    fs::create_dir_all(sandbox.directory("users-own").join("b")).unwrap();
    let _a = read_only(&sandbox, &volume.join("a"));
    let _b = tmpfs(&volume.join("a/b"), "size=8m,mode=0755");
    seed(&source, &volume).ends().exits(0).says("'a/1'");
    assert_eq!(read(volume.join("a/b/2")), "x");
}

#[test]
fn a_mounted_file_stays_and_is_told_whatever_is_asked_for() {
    if !needs::root() {
        return;
    }
    for (rule, flags) in [("keep", READ_ONLY), ("overwrite", READ_ONLY), ("overwrite", MsFlags::empty())] {
        let (sandbox, source, volume) = sandbox(&Tree::new().file("conf/php.ini", "seed").file("z", "seed"));
        fs::create_dir(volume.join("conf")).unwrap();
        fs::write(volume.join("conf/php.ini"), "").unwrap();
        let mount = bind(&sandbox.file("mine", "mine"), &volume.join("conf/php.ini"));
        mount.remount(flags | MsFlags::MS_BIND, "");
        let outcome = seed(&source, &volume).option("--existing", rule).option("--chown", "33:33").ends();
        outcome.exits(0).says("conf/php.ini");
        assert_eq!([read(volume.join("conf/php.ini")), read(volume.join("z"))], ["mine", "seed"]);
        assert_eq!(fs::metadata(volume.join("conf")).unwrap().uid(), 33, "only leads to a mount");
        assert!(!volume.join(".volseed/claims/1").exists());
    }
}

#[test]
fn strict_refuses_to_overwrite_a_mounted_file_before_the_seal() {
    if !needs::root() {
        return;
    }
    let (sandbox, source, volume) = sandbox(&Tree::new().file("config", "seed").file("z", "seed"));
    fs::write(volume.join("config"), "").unwrap();
    let _mount = bind(&sandbox.file("mine", "mine"), &volume.join("config"));
    let strict = seed(&source, &volume).option("--existing", "overwrite").flag("--strict");
    strict.ends().fails(77, "config");
    assert!(!volume.join("z").exists());
}

#[test]
fn a_mount_of_another_type_than_the_seed_has_stays() {
    if !needs::root() {
        return;
    }
    for rule in ["keep", "overwrite"] {
        let (sandbox, source, volume) =
            sandbox(&Tree::new().symlink("data", "z").file("f/x", "seed").file("z", "z"));
        fs::write(volume.join("f"), "").unwrap();
        let _data = tmpfs(&volume.join("data"), "size=1m");
        let _file = bind(&sandbox.file("mine", "mine"), &volume.join("f"));
        let outcome = seed(&source, &volume).option("--existing", rule).ends().exits(0);
        outcome.says("'data'").says("'f'");
        assert_eq!([read(volume.join("f")), read(volume.join("z"))], ["mine", "z"]);
        let strict = seed(&source, sandbox.directory("other")).option("--existing", rule).flag("--strict");
        strict.ends().exits(0);
    }
}

#[test]
fn a_mount_of_another_users_is_left_out() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox(&Tree::new().file("a", "x").file("m/sub/b", "x"));
    chown(&volume, Some(PROBE_ID), Some(PROBE_ID)).unwrap();
    let _mount = tmpfs(&volume.join("m"), "size=1m,mode=0755");
    let outcome = seed(&source, &volume).started_by(PROBE_ID, PROBE_ID).ends().exits(0);
    outcome.says("'m/sub'");
    assert_eq!((read(volume.join("a")), names(&volume.join("m")).len()), ("x".into(), 0));
}

#[test]
fn a_directory_that_may_not_be_written_is_named_before_the_seal() {
    if !needs::root() {
        return;
    }
    let (_sandbox, source, volume) = sandbox(&Tree::new().file("a", "x").file("d/deep/b", "x"));
    chown(&volume, Some(PROBE_ID), Some(PROBE_ID)).unwrap();
    fs::create_dir_all(volume.join("d/deep")).unwrap();
    chown(volume.join("d"), Some(PROBE_ID), Some(PROBE_ID)).unwrap();
    seed(&source, &volume).started_by(PROBE_ID, PROBE_ID).ends().fails(77, "d/deep");
    assert!(!volume.join("a").exists());
    fs::set_permissions(volume.join("d/deep"), fs::Permissions::from_mode(0o777)).unwrap();
    seed(&source, &volume).started_by(PROBE_ID, PROBE_ID).ends().exits(0);
    assert_eq!(read(volume.join("d/deep/b")), "x");
}

#[test]
fn an_immutable_directory_is_named_before_the_seal() {
    let sandbox = Sandbox::on_disk();
    if !needs::root() || !needs::tools(&["chattr"]) {
        return;
    }
    let source = Tree::new().file("a", "x").file("d/b", "x").write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    fs::create_dir(volume.join("d")).unwrap();
    let change = |what: &str| {
        std::process::Command::new("chattr").arg(what).arg(volume.join("d")).status().unwrap().success()
    };
    if !change("+i") {
        eprintln!("skipped: no attributes here");
        return;
    }
    let outcome = seed(&source, &volume).ends();
    assert!(change("-i"));
    outcome.says("immutable").says_nothing_of("as root").fails(77, "/d'");
    assert!(!volume.join("a").exists());
}

#[test]
fn only_directories_of_roots_that_lead_to_a_mount_change_their_owner() {
    if !needs::root() {
        return;
    }
    let tree = ["lead", "held", "empty", "users"]
        .iter()
        .fold(Tree::new(), |tree, top| tree.file(format!("{top}/m/seeded"), "x"));
    let (_sandbox, source, volume) = sandbox(&tree);
    let at = |name: &str| volume.join(name);
    let _mounts: Vec<Mount> =
        ["lead/m", "held/m", "users/m"].iter().map(|name| tmpfs(&at(name), "size=1m,mode=0755")).collect();
    fs::create_dir_all(at("empty/m")).unwrap();
    fs::write(at("held/file"), "mine").unwrap();
    chown(at("users"), Some(7), Some(7)).unwrap();
    let outcome = seed(&source, &volume).option("--chown", "33:33").ends().exits(0);
    let owner = |name: &str| fs::metadata(at(name)).unwrap().uid();
    assert_eq!(["lead", "held", "empty", "users"].map(owner), [33, 0, 0, 7], "{}", outcome.stderr);
}

/// What counts as empty: the root then becomes the seed's, and `--existing fail` takes it.
#[track_caller]
fn counts_as_empty(expected: bool, make: impl Fn(&Path) -> Vec<Mount>) {
    let (_sandbox, source, volume) = sandbox(&Tree::new().file("a", "x"));
    fs::set_permissions(&source, fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o755)).unwrap();
    let _mounts = make(&volume);
    let fail = seed(&source, &volume).option("--existing", "fail").ends();
    fail.exits(if expected { 0 } else { 78 });
    if !expected {
        seed(&source, &volume).ends().exits(0);
    }
    let mode = fs::metadata(&volume).unwrap().mode() & 0o777;
    assert_eq!(mode, if expected { 0o711 } else { 0o755 });
}

#[test]
fn names_of_storage_systems_are_nothing_as_what_these_make_of_them() {
    for name in ["lost+found", ".snapshot", ".zfs", "@eaDir", ".Trash-1000", "System Volume Information"] {
        counts_as_empty(true, |volume| {
            fs::create_dir(volume.join(name)).unwrap();
            Vec::new()
        });
        counts_as_empty(false, |volume| {
            fs::write(volume.join(name), "a user's").unwrap();
            Vec::new()
        });
    }
    counts_as_empty(true, |volume| {
        fs::write(volume.join(".nfs00000000012345670000abcd"), "").unwrap();
        Vec::new()
    });
    counts_as_empty(false, |volume| {
        fs::create_dir(volume.join("empty")).unwrap();
        Vec::new()
    });
}

#[test]
fn mount_points_and_what_leads_to_them_are_nothing() {
    if !needs::root() {
        return;
    }
    let mounted = |volume: &Path, at: &str| vec![tmpfs(&volume.join(at), "size=1m")];
    for at in ["m", "1/m", "1/2/m", "1/2/3/m"] {
        counts_as_empty(true, |volume| mounted(volume, at));
    }
    counts_as_empty(false, |volume| mounted(volume, "1/2/3/4/m"));
    counts_as_empty(false, |volume| {
        let mounts = mounted(volume, "1/2/m");
        fs::write(volume.join("1/file"), "mine").unwrap();
        mounts
    });
}

#[test]
fn a_seed_may_hold_names_of_storage_systems() {
    let (_sandbox, source, volume) = sandbox(&Tree::new().file("lost+found/a", "x").file(".snapshot/b", "y"));
    fs::create_dir(volume.join("lost+found")).unwrap();
    seed(&source, &volume).ends().exits(0);
    assert_eq!([read(volume.join("lost+found/a")), read(volume.join(".snapshot/b"))], ["x", "y"]);
    seed(&source, &volume).ends().exits(0).says("already seeded");
}

#[test]
fn overwrite_reports_what_it_replaced_and_only_that() {
    let files = ["a", "b", "c", "d/e"];
    let tree = files.iter().fold(Tree::new().file("new", "seed"), |tree, name| tree.file(name, "seed"));
    let (_sandbox, source, volume) = sandbox(&tree);
    let start =
        |volume: &PathBuf| seed(&source, volume).option("--existing", "overwrite").json().ends().exits(0);
    files.iter().fold(Tree::new(), |tree, name| tree.file(name, "mine")).write_to(&volume);
    let outcome = start(&volume);
    assert!(outcome.stderr.contains(r#""replaced":4"#), "{}", outcome.stderr);
    outcome.says("replaced files of the volume: '").says(", …");
    let other = volume.parent().unwrap().join("other");
    fs::create_dir(&other).unwrap();
    start(&other).says_nothing_of("replaced");
}

#[test]
fn a_seed_works_where_newer_calls_are_refused() {
    if !needs::tools(&["strace"]) {
        return;
    }
    for error in ["EPERM", "ENOSYS"] {
        let tree = Tree::sample().file("d/x", "seed").file("d/y", "seed").file("unreadable", "u").mode(0o000);
        let (sandbox, source, _) = sandbox(&tree);
        let volume = sandbox.volume();
        fs::create_dir_all(volume.join("d")).unwrap();
        fs::write(volume.join("d/x"), "mine").unwrap();
        let calls = ["renameat2", "openat2", "statx", "faccessat2", "syncfs"];
        let inject = calls.map(|call| format!("--inject={call}:error={error}"));
        let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null"].map(str::to_owned).into_iter().chain(inject);
        let outcome = seed(&source, &volume).under(wrapper).ends();
        outcome.exits(0);
        assert_eq!([read(volume.join("d/x")), read(volume.join("d/y"))], ["mine", "seed"]);
    }
}

#[test]
fn where_syncfs_is_refused_every_file_is_synced_and_that_is_said() {
    if !needs::tools(&["strace"]) {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let kind = rustix::fs::statfs(sandbox.path("")).unwrap().f_type as u32;
    if kind == 0x0102_1994 {
        eprintln!("skipped: nothing is synced in memory");
        return;
    }
    let source = Tree::many("d", 50).write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let trace = sandbox.path("trace");
    let under = |inject: &str| {
        let arguments = ["-f", "-qq", "-e", "trace=fsync,syncfs", "-e", inject, "-o"];
        ["strace"]
            .into_iter()
            .chain(arguments)
            .map(str::to_owned)
            .chain([trace.display().to_string()])
            .collect::<Vec<_>>()
    };
    let outcome = seed(&source, &volume).under(under("inject=syncfs:error=EPERM")).ends().exits(0);
    outcome.says("synced file by file, since syncfs is refused");
    assert!(read(&trace).matches("fsync(").count() >= 50);
    let other = sandbox.directory("other");
    seed(&source, &other).under(under("inject=syncfs:error=EIO")).ends().exits(74);
    assert!(!other.join("d").exists());
}
