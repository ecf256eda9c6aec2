//! What `volseed doctor` says of a volume: each finding is compared with what the test finds there by itself, and the
//! verdict with what a seed then does.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use nix::mount::MsFlags;
use nix::sys::signal::Signal;
use rustix::fs::XattrFlags;
use serde_json::Value;
use slowfs::{Change, Errno, Fault, Locks, Op, Options, Quirks, Squash, Xattrs};

use crate::kit::slowfs::{quirky, slow, told_as_nfs};
use crate::kit::{Outcome, Sandbox, Tree, Volseed, eventually, mount, needs, seed, volseed};

/// What was found, by topic.
struct Told(Vec<Value>);

impl Told {
    #[track_caller]
    fn of(outcome: &Outcome) -> Told {
        let lines = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
        let told = Told(lines.collect());
        assert!(told.0.len() > 1, "{}{}", outcome.stdout, outcome.stderr);
        told
    }

    #[track_caller]
    fn finding(&self, topic: &str) -> &Value {
        let found = self.0.iter().find(|finding| finding["topic"] == topic);
        found.unwrap_or_else(|| panic!("nothing of {topic} in {:#?}", self.0))
    }

    #[track_caller]
    fn level(&self, topic: &str) -> &str {
        self.finding(topic)["level"].as_str().unwrap()
    }

    #[track_caller]
    fn fact(&self, topic: &str, name: &str) -> &Value {
        &self.finding(topic)["facts"][name]
    }

    fn summary(&self) -> &Value {
        self.0.last().unwrap()
    }

    fn flags(&self) -> Vec<&str> {
        self.summary()["flags"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap()).collect()
    }
}

fn doctor(volume: &Path) -> Volseed {
    volseed(["doctor", "--json"]).option("--to", volume)
}

/// Looks at a volume of which nothing is left.
#[track_caller]
fn told(volume: &Path, code: i32) -> Told {
    let told = Told::of(&doctor(volume).ends().exits(code));
    assert_unchanged(volume);
    told
}

#[track_caller]
fn assert_unchanged(volume: &Path) {
    let names: Vec<_> = fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let left: Vec<_> = names.iter().filter(|name| name.as_bytes().starts_with(b".volseed")).collect();
    assert!(left.is_empty(), "left on the volume: {left:?}");
}

/// What the volume keeps, found by other calls than volseed's, by the topic that says it.
fn independently(volume: &Path) -> Vec<(&'static str, bool)> {
    let at = volume.join("independent");
    fs::create_dir(&at).unwrap();
    let file = at.join("file");
    fs::write(&file, "x").unwrap();
    let found = |path: &Path| fs::symlink_metadata(path).ok();
    let time = UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    let set = File::options().write(true).open(&file).unwrap();
    let times = [time, UNIX_EPOCH].map(|time| {
        set.set_times(FileTimes::new().set_modified(time)).is_ok()
            && fs::metadata(&file).unwrap().modified().unwrap() == time
    });
    let mode = |mode: u32| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).is_ok()
            && fs::metadata(&file).unwrap().mode() & 0o7777 == mode
    };
    let modes = mode(0o4711) && mode(0o640);
    let xattrs = ["user.a", "security.capability"].map(|name| {
        let value: &[u8] = if name == "user.a" {
            b"v"
        } else {
            &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        };
        rustix::fs::setxattr(&file, name, value, XattrFlags::empty()).is_ok()
    });
    let links = fs::hard_link(&file, at.join("link")).is_ok() && fs::metadata(&file).unwrap().nlink() == 2;
    let symlinks = symlink("to", at.join("symlink")).is_ok();
    let fifo = at.join("fifo");
    let fifos = nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).is_ok()
        && found(&fifo).is_some_and(|found| found.file_type().is_fifo());
    let makes = |name: &[u8]| {
        fs::write(at.join(OsStr::from_bytes(name)), "").is_ok()
            && fs::read_dir(&at).unwrap().any(|entry| entry.unwrap().file_name().as_bytes() == name)
    };
    let long = makes(&[b'l'; 255]);
    let names = [&b"n\xff"[..], b"n:", b"n\\", b"n?", b"n.", b"n ", b"n\n"].map(makes);
    makes(b"Case");
    let case = !at.join("cASE").exists();
    let sparse = File::create(at.join("sparse")).and_then(|file| file.set_len(1 << 20)).is_ok()
        && fs::metadata(at.join("sparse")).unwrap().blocks() < 1 << 10;
    let owners = chown(&file, Some(777), Some(778)).is_ok()
        && found(&file).is_some_and(|found| (found.uid(), found.gid()) == (777, 778));
    fs::remove_dir_all(&at).unwrap();
    vec![
        ("times", times == [true; 2]),
        ("modes", modes),
        ("xattrs", xattrs == [true; 2]),
        ("hard links", links),
        ("symlinks", symlinks),
        ("fifos", fifos),
        ("long names", long),
        ("names", names == [true; 7]),
        ("case", case),
        ("sparse files", sparse),
        ("owners", owners),
    ]
}

/// Everything that is found otherwise is told, and nothing else. With `--nocapture` it is a row of the table in
/// docs/doctor.md.
#[track_caller]
fn is_true(name: &str, volume: &Path) -> Told {
    let told = told(volume, 0);
    let mut lost = Vec::new();
    for (topic, is_kept) in independently(volume) {
        assert_eq!(told.level(topic) == "ok", is_kept, "{}", told.finding(topic));
        if !is_kept {
            lost.push(topic);
        }
    }
    let lost = if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") };
    let safe = |mode| if told.fact("sqlite", mode) == true { "safe" } else { "not safe" };
    let [locks, private] = ["locks", "private"].map(|topic| told.level(topic));
    eprintln!("| {name} | {lost} | {locks} | {private} | {}, {} |", safe("rollback"), safe("wal"));
    told
}

#[test]
fn a_tmpfs_keeps_everything_and_is_as_it_was() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let _mount = mount::tmpfs(&volume, "size=64m");
    fs::write(volume.join("app's"), "own").unwrap();
    let before = fs::metadata(&volume).unwrap().mode();
    let told = is_true("tmpfs", &volume);
    assert_eq!((told.level("mount"), told.level("content")), ("warn", "warn"));
    for topic in
        ["locks", "rename over", "exclusive", "data", "mmap", "fsync", "private", "sqlite", "space", "inodes"]
    {
        assert_eq!(told.level(topic), "ok", "{}", told.finding(topic));
    }
    assert_eq!(told.fact("space", "free"), (64 << 20) - 4096);
    assert_eq!((told.fact("sqlite", "rollback"), told.fact("sqlite", "wal")), (&true.into(), &true.into()));
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 1);
    assert_eq!(fs::metadata(&volume).unwrap().mode(), before);
}

#[test]
fn ext4_keeps_everything() {
    if !needs::file_system("ext4") {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let volume = sandbox.volume();
    let _mount = mount::loop_device("ext4", &sandbox.directory("images"), &volume);
    let told = is_true("ext4", &volume);
    let unfit: Vec<&Value> = told.0.iter().filter(|finding| finding["level"] == "warn").collect();
    assert!(unfit.is_empty(), "{unfit:#?}");
    let table = rustix::fs::statvfs(&volume).unwrap();
    assert_eq!(told.fact("inodes", "free").as_u64(), Some(table.f_ffree));
}

#[test]
fn each_quirk_of_a_file_system_is_told() {
    let all = [
        ("FUSE that keeps xattrs", Quirks { xattrs: Xattrs::Kept, ..Quirks::default() }),
        ("no hard links", Quirks { hard_links: Some(Errno::EPERM), ..Quirks::default() }),
        ("no symbolic links", Quirks { symlinks: Some(Errno::EPERM), ..Quirks::default() }),
        ("no FIFOs", Quirks { special_files: Some(Errno::ENOSYS), ..Quirks::default() }),
        ("modes ignored", Quirks { modes: Change::Ignored, ..Quirks::default() }),
        ("modes refused", Quirks { modes: Change::Refused(Errno::EPERM), ..Quirks::default() }),
        ("owners ignored", Quirks { owners: Change::Ignored, ..Quirks::default() }),
        ("owners refused", Quirks { owners: Change::Refused(Errno::EPERM), ..Quirks::default() }),
        ("times ignored", Quirks { times: Change::Ignored, ..Quirks::default() }),
        ("times refused", Quirks { times: Change::Refused(Errno::EINVAL), ..Quirks::default() }),
        (
            "no times before 1980",
            Quirks { oldest_time: Some(UNIX_EPOCH + Duration::from_secs(315_532_800)), ..Quirks::default() },
        ),
        ("names of 143 bytes at most", Quirks { max_name: Some(143), ..Quirks::default() }),
        ("names in UTF-8 only", Quirks { not_utf8: Some(Errno::EINVAL), ..Quirks::default() }),
        ("no `:`, `?`, `\\` in names", Quirks { forbidden: ":?\\".into(), ..Quirks::default() }),
        ("case ignored", Quirks { ignores_case: true, ..Quirks::default() }),
        ("no dot at the end of a name", Quirks { drops_at_end: ".".into(), ..Quirks::default() }),
    ];
    for (name, quirks) in all {
        let sandbox = Sandbox::new();
        let Some(volume) = slow(&sandbox, quirky(quirks.clone())) else { return };
        let told = is_true(name, volume.path());
        if quirks.max_name.is_some() {
            assert_eq!(told.fact("long names", "longest"), 143);
        }
    }
}

/// A seed of `tree` succeeds where the doctor says that it is fit, and is refused where it says that it is not, with
/// this code; `topic` is why.
#[track_caller]
fn is_right(options: Options, tree: &Tree, topic: &str, code: i32) {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, options) else { return };
    let source = tree.write_to(&sandbox.directory("source"));
    let looked = doctor(volume.path()).option("--from", &source).ends().exits(i32::from(code != 0));
    let told = Told::of(&looked);
    assert_eq!(told.level(topic) == "fail", code != 0, "{}", told.finding(topic));
    assert_eq!(told.summary()["fit"], code == 0);
    assert_unchanged(volume.path());
    seed(&source, volume.path()).ends().exits(code);
}

#[test]
fn the_verdict_is_what_a_seed_then_does() {
    let alike = || Tree::new().file("d/README", "x").file("d/readme", "y");
    let with = |quirks: Quirks| quirky(quirks);
    let ignores_case = || Quirks { ignores_case: true, ..Quirks::default() };
    is_right(with(ignores_case()), &alike(), "case", 78);
    is_right(with(ignores_case()), &Tree::new().file("README", "x"), "case", 0);
    is_right(with(Quirks::default()), &alike(), "case", 0);
    let no_symlinks = || Quirks { symlinks: Some(Errno::EPERM), ..Quirks::default() };
    is_right(with(no_symlinks()), &Tree::new().file("a", "x").symlink("l", "a"), "symlinks", 78);
    is_right(with(no_symlinks()), &Tree::new().file("a", "x").hard_link("b", "a"), "symlinks", 0);
    let short = || Quirks { max_name: Some(60), ..Quirks::default() };
    is_right(with(short()), &Tree::new().file("n".repeat(61), "x"), "long names", 78);
    let forbidding = || Quirks { forbidden: ":".into(), ..Quirks::default() };
    is_right(with(forbidding()), &Tree::new().file("a:b", "x"), "names", 78);
    is_right(with(forbidding()), &Tree::new().file("a-b", "x"), "names", 0);
}

#[test]
fn a_seed_that_does_not_fit_is_told() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let source = Tree::many_of("d", 400, 100_000).write_to(&sandbox.directory("source"));
    let cases = [
        ("size=64m", "space", 0),
        ("size=32m", "space", 73),
        ("size=64m,nr_inodes=300", "inodes", 73),
        ("size=64m,nr_inodes=20", "volume", 73),
    ];
    for (options, topic, code) in cases {
        let _mount = mount::tmpfs(&volume, options);
        let told = Told::of(&doctor(&volume).option("--from", &source).ends().exits(i32::from(code != 0)));
        let is_told = told.0.iter().any(|finding| finding["topic"] == topic && finding["level"] == "fail");
        assert_eq!(is_told, code != 0, "{options}: {:#?}", told.0);
        assert_eq!(told.fact("inodes", "needed"), 401);
        assert_unchanged(&volume);
        seed(&source, &volume).ends().exits(code);
    }
}

#[test]
fn servers_that_decide_about_users_are_told_and_the_flags_spare_the_warning() {
    for (squash, owner) in [(Squash::All(1000, 1001), (1000, 1001)), (Squash::Root, (33, 34))] {
        let sandbox = Sandbox::new();
        let Some(volume) = slow(&sandbox, Options { squash, owner, ..Options::default() }) else { return };
        let told = told(volume.path(), 0);
        let flag = format!("--chown {}:{}", owner.0, owner.1);
        assert!(told.flags().contains(&flag.as_str()), "{:?}", told.flags());
        assert_eq!((told.level("owners"), told.level("private")), ("warn", "warn"));
        // Another user may enter where everybody is one, and only there.
        assert_eq!(told.fact("private", "entered") == "entered", squash != Squash::Root);
        let source = Tree::new().file("a", "x").write_to(&sandbox.directory("source"));
        let seeding = seed(&source, volume.path()).arguments(flag.split(' '));
        seeding.ends().exits(0).says_nothing_of("WARN");
    }
}

#[test]
fn the_pace_is_that_of_the_volume_and_the_cost_what_a_seed_asks_for() {
    let sandbox = Sandbox::new();
    let options = Options { rtt: Duration::from_millis(10), slots: 8, ..Options::default() };
    let Some(volume) = slow(&sandbox, options) else { return };
    let source = Tree::many_of("d", 200, 1000).write_to(&sandbox.directory("source"));
    let looked = doctor(volume.path()).option("--from", &source).ends().exits(0);
    let told = Told::of(&looked);
    let round_trip = told.fact("pace", "round_trip_us").as_u64().unwrap();
    assert!((10_000..20_000).contains(&round_trip), "{}", told.finding("pace"));
    let in_flight = told.fact("pace", "in_flight").as_u64().unwrap();
    assert!((5..=11).contains(&in_flight), "{}", told.finding("pace"));
    let (began, before) = (Instant::now(), volume.counts().rpcs());
    seed(&source, volume.path()).ends().exits(0);
    let (took, requests) = (began.elapsed().as_secs_f64(), (volume.counts().rpcs() - before) as f64);
    let expected = told.fact("cost", "requests").as_f64().unwrap();
    assert!((requests / expected - 1.0).abs() < 0.15, "{requests} of {expected}");
    let floor = told.fact("cost", "floor_ms").as_f64().unwrap() / 1e3;
    assert!(floor < took * 1.2, "took {took} s: {}", told.finding("cost"));
}

/// The findings of locks on a volume that is told to be NFS.
#[track_caller]
fn locks(options: &str, locks: Locks) -> Option<Told> {
    let sandbox = Sandbox::new();
    let volume = slow(&sandbox, Options { rtt: Duration::from_millis(5), locks, ..Options::default() })?;
    let wrapper = told_as_nfs(&sandbox, volume.path(), options);
    Some(Told::of(&doctor(volume.path()).under(wrapper).ends().exits(0)))
}

#[test]
fn locks_are_worth_what_the_server_does_with_them() {
    let cases = [
        ("rw,vers=4.1,local_lock=none", Locks::Shared, "ok", true, None),
        ("rw,vers=4.1,local_lock=none", Locks::Local, "warn", false, Some("--lock lease")),
        ("rw,vers=4.1,local_lock=none", Locks::Refused(Errno::ENOLCK), "warn", false, Some("--lock lease")),
        ("rw,vers=4.1,local_lock=all", Locks::Local, "warn", false, None),
        ("rw,vers=3,local_lock=none", Locks::Shared, "warn", true, None),
        ("rw,vers=3,nolock,local_lock=all", Locks::Local, "warn", false, None),
    ];
    for (options, kept, level, is_safe, flag) in cases {
        let Some(told) = locks(options, kept) else { return };
        let what = format!("{options} {kept:?}: {:#?}", told.finding("locks"));
        assert_eq!(told.level("locks"), level, "{what}");
        assert_eq!(told.fact("sqlite", "rollback"), is_safe, "{what}");
        assert_eq!(told.fact("sqlite", "wal"), &Value::Null, "{what}");
        assert_eq!(told.flags().into_iter().find(|flag| flag.starts_with("--lock")), flag, "{what}");
    }
}

/// Two doctors at the same time.
#[track_caller]
fn two(one: &Path, other: &Path) -> [Told; 2] {
    let [one, other] = [one, other].map(|volume| doctor(volume).flag("--peer").start());
    [one, other].map(|running| Told::of(&running.ends().exits(0)))
}

#[test]
fn two_doctors_on_one_volume_see_each_other() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    for told in two(&volume, &volume) {
        assert_eq!(told.fact("peer", "same_machine"), true);
        for topic in ["peer", "peer create", "peer locks", "peer mmap"] {
            assert_eq!(told.level(topic), "ok", "{}", told.finding(topic));
        }
    }
    assert_unchanged(&volume);
}

#[test]
fn two_doctors_see_that_locks_are_not_shared() {
    if !needs::fuse() || !needs::tools(&["bindfs"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let (one, other) = (sandbox.directory("one"), sandbox.directory("other"));
    let _mounts = (mount::bindfs(&[], &volume, &one), mount::bindfs(&[], &volume, &other));
    for told in two(&one, &other) {
        assert_eq!((told.level("peer locks"), told.level("peer create")), ("warn", "ok"));
    }
    assert_unchanged(&volume);
}

#[test]
fn a_doctor_that_meets_nobody_says_so() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let alone = doctor(&volume).flag("--peer").option("--wait-timeout", "300ms").ends().exits(1);
    assert_eq!(Told::of(&alone).level("peer"), "fail");
    assert_unchanged(&volume);
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    for flags in [&[][..], &["--peer"]] {
        let sandbox = Sandbox::new();
        let Some(volume) = slow(&sandbox, Options { rtt: Duration::from_millis(20), ..Options::default() })
        else {
            return;
        };
        let running = doctor(volume.path()).arguments(flags).start();
        eventually("something on the volume", || {
            fs::read_dir(volume.path()).unwrap().any(|entry| {
                let path = entry.unwrap().path();
                fs::read_dir(path).is_ok_and(|inside| inside.count() > 0)
            })
        });
        let (outcome, took) = running.stopped_by(Signal::SIGTERM);
        outcome.exits(143);
        assert!(took < Duration::from_secs(7), "{took:?}");
        assert_unchanged(volume.path());
    }
}

#[test]
fn an_error_ends_it_and_nothing_is_left() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, Options::default()) else { return };
    volume.faults().fail(Fault::new(Op::Read, Errno::EIO));
    let told = Told::of(&doctor(volume.path()).ends().exits(1));
    assert!(
        told.finding("volume")["what"].as_str().unwrap().contains("while data is looked at"),
        "{:#?}",
        told.0
    );
    assert_unchanged(volume.path());
}

#[test]
fn a_volume_that_may_not_be_written_is_not_fit() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let mounted = mount::tmpfs(&volume, "size=8m");
    mounted.remount(MsFlags::MS_RDONLY, "size=8m");
    let told = told(&volume, 1);
    assert_eq!((told.level("mount"), told.level("root")), ("fail", "ok"));
    let closed = sandbox.directory("closed");
    let looked = doctor(&closed).started_by(4242, 4242).ends().exits(1);
    assert!(looked.stdout.contains("cannot be created"), "{}", looked.stdout);
}

#[test]
fn bad_input_is_refused_as_everywhere() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    volseed(["doctor"]).ends().fails(64, "--to");
    volseed(["doctor", "--pear"]).option("--to", &volume).ends().fails(64, "--pear");
    doctor(&sandbox.path("missing")).ends().fails(73, "missing");
    doctor(&sandbox.file("file", "")).ends().fails(73, "file");
    doctor(&volume).option("--from", sandbox.path("nothing")).ends().fails(66, "nothing");
    doctor(&volume).option("--from", sandbox.file("no.tar", "nonsense")).ends().fails(65, "no.tar");
    assert_unchanged(&volume);
}

#[test]
fn people_get_a_line_for_each_finding_and_one_for_all() {
    let sandbox = Sandbox::new();
    let volume = sandbox.volume();
    let text = volseed(["doctor"]).option("--to", &volume).ends().exits(0).stdout;
    for line in text.lines() {
        let is_finding = ["ok    ", "warn  ", "fail  "].iter().any(|level| line.starts_with(level));
        assert!(is_finding || line.starts_with(volume.to_str().unwrap()), "{line}");
    }
    assert!(text.lines().last().unwrap().contains("fit for a seed"), "{text}");
}
