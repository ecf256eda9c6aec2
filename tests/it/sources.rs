//! Where a seed comes from: a directory, an archive in any packing, standard input.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::compress::pipe;
use crate::kit::nested::{DEEP, Nested, with_64_files};
use crate::kit::sandbox::PROBE_ID;
use crate::kit::{
    Compression, Sandbox, Snapshot, Tarball, Tree, assert_nothing_published, assert_same_tree, mount, needs,
    seed,
};

/// A sandbox with the sample tree as a directory and an empty volume.
fn sandbox() -> (Sandbox, PathBuf, PathBuf) {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    (sandbox, source, volume)
}

#[test]
fn a_directory_is_seeded_whole() {
    let (_sandbox, source, volume) = sandbox();
    seed(&source, &volume).ends().exits(0);
    assert_same_tree(&source, &volume);
}

#[test]
fn a_deep_directory_is_seeded_whole_and_one_whose_paths_are_too_long_is_refused() {
    for (levels, code) in [(1900, 0), (DEEP, 65)] {
        let sandbox = Sandbox::new();
        let (source, volume) = (sandbox.directory("source"), sandbox.volume());
        let _nested = Nested::make(&source, levels);
        let _seeded = Nested::of(&volume);
        let outcome = with_64_files(seed(&source, &volume)).ends().exits(code);
        if code == 0 {
            assert!(volume.join("a/".repeat(levels)).is_dir());
        } else {
            outcome.fails(code, "source/a': ");
            assert_nothing_published(&volume);
        }
    }
}

#[test]
fn a_mount_without_attributes_in_the_source_takes_none_from_its_neighbours() {
    if !needs::fuse() {
        return;
    }
    let sandbox = Sandbox::new();
    let directories = (0..30)
        .fold(Tree::new(), |tree, number| tree.file(format!("d{number}/a"), "x").attribute("user.a", "1"));
    let source = directories.write_to(&sandbox.directory("source"));
    mount::private();
    let _slow = slowfs::Mount::new(slowfs::Options::default(), &source.join("d15")).unwrap();
    fs::write(source.join("d15/b"), "without attributes").unwrap();
    seed(&source, sandbox.volume()).flag("--strict").ends().exits(0);
    assert_same_tree(&source, &sandbox.volume());
}

#[test]
fn an_archive_is_known_by_its_magic_whatever_it_is_called() {
    for packing in Compression::ALL {
        let Some(archive) = packing.pack(&Tree::sample().archive()) else {
            continue;
        };
        for name in ["seed", "seed.txt", "seed.tar.gz"] {
            let (sandbox, source, volume) = sandbox();
            seed(sandbox.file(name, &archive), &volume).ends().exits(0);
            assert_same_tree(&source, &volume);
        }
    }
}

#[test]
fn every_packing_comes_through_standard_input() {
    for packing in Compression::ALL {
        let Some(archive) = packing.pack(&Tree::sample().archive()) else {
            continue;
        };
        let (_sandbox, source, volume) = sandbox();
        seed("-", &volume).input(archive).ends().exits(0);
        assert_same_tree(&source, &volume);
    }
}

#[test]
fn packed_streams_one_after_another_are_one_archive() {
    for packing in Compression::COMPRESSED {
        let archive = Tree::sample().archive();
        let (front, back) = archive.split_at(archive.len() / 2);
        let (Some(mut packed), Some(rest)) = (packing.pack(front), packing.pack(back)) else {
            continue;
        };
        packed.extend(rest);
        let (_sandbox, source, volume) = sandbox();
        seed("-", &volume).input(packed).ends().exits(0);
        assert_same_tree(&source, &volume);
    }
}

#[test]
fn archives_of_the_system_s_own_tar_are_read_in_either_format() {
    if !needs::tools(&["tar"]) {
        return;
    }
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(130));
    let sandbox = Sandbox::new();
    let tree = Tree::sample().file(long.as_str(), "far away").symlink("far", &long);
    let source = tree.write_to(&sandbox.directory("source"));
    for format in ["gnu", "posix"] {
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "-c", "--format", format, "-C"]).arg(&source).arg(".");
        let volume = sandbox.directory(format);
        seed("-", &volume).input(pipe(&mut tar, b"")).ends().exits(0);
        // The old format has whole seconds.
        let (expected, found) = (Snapshot::of(&source), Snapshot::of(&volume));
        match format {
            "gnu" => expected.without_times().assert_same(&found.without_times()),
            _ => expected.assert_same(&found),
        }
    }
}

#[test]
fn records_for_the_whole_archive_are_passed_over() {
    let (_sandbox, _, volume) = sandbox();
    let archive = Tarball::new().pax_global(&[("comment", b"4b825dc642cb6eb9a060e54bf8d69288fbee4904")]);
    seed("-", &volume).input(archive.file("a", "a").build()).ends().exits(0);
    assert_eq!(fs::read(volume.join("a")).unwrap(), b"a");
}

#[test]
fn names_written_with_dots_and_double_slashes_are_the_plain_ones() {
    let (_sandbox, _, volume) = sandbox();
    let archive = Tarball::new().file("./a", "1").directory("./b//").file(".//b/./c", "2").build();
    seed("-", &volume).input(archive).ends().exits(0);
    assert_eq!(fs::read(volume.join("a")).unwrap(), b"1");
    assert_eq!(fs::read(volume.join("b/c")).unwrap(), b"2");
}

#[test]
fn parents_that_an_archive_does_not_name_are_made() {
    let (_sandbox, _, volume) = sandbox();
    seed("-", &volume).input(Tarball::new().file("a/b/c", "deep").build()).ends().exits(0);
    assert_eq!(fs::read(volume.join("a/b/c")).unwrap(), b"deep");
}

#[test]
fn a_file_that_comes_again_later_in_the_archive_wins() {
    let (_sandbox, _, volume) = sandbox();
    let first = "first ".repeat(40_000);
    let archive = Tarball::new().file("a", first).file("b", "b").file("a", "last").build();
    seed("-", &volume).input(archive).ends().exits(0);
    assert_eq!(fs::read(volume.join("a")).unwrap(), b"last");
}

#[test]
fn a_second_name_keeps_its_bytes_when_the_first_one_comes_again() {
    let (_sandbox, _, volume) = sandbox();
    let archive = Tarball::new().file("a", "first").hard_link("b", "a").file("a", "last");
    let archive = archive.hard_link("c", "b").hard_link("d", "a").build();
    seed("-", &volume).input(archive).ends().exits(0);
    for (name, bytes) in [("a", "last"), ("b", "first"), ("c", "first"), ("d", "last")] {
        assert_eq!(fs::read_to_string(volume.join(name)).unwrap(), bytes, "{name}");
    }
}

#[test]
fn an_empty_archive_or_directory_is_a_seed_too() {
    let (sandbox, _, volume) = sandbox();
    seed("-", &volume).input(Tarball::new().build()).ends().exits(0);
    let other = sandbox.directory("other");
    seed(sandbox.directory("nothing"), &other).ends().exits(0).says("seeded");
}

#[test]
fn a_link_to_the_source_is_followed() {
    let (sandbox, source, volume) = sandbox();
    let link = sandbox.path("link");
    symlink(&source, &link).unwrap();
    seed(link, &volume).ends().exits(0);
    assert_same_tree(&source, &volume);
}

#[test]
fn a_missing_source_exits_66_and_leaves_the_volume_alone() {
    let (sandbox, _, volume) = sandbox();
    let outcome = seed(sandbox.path("missing.tar"), &volume).ends();
    outcome.fails(66, "missing.tar").says("no such file or directory");
    assert_nothing_published(&volume);
}

#[test]
fn a_dangling_source_is_missing_too() {
    let (_sandbox, _, volume) = sandbox();
    let link = volume.parent().unwrap().join("link.tar");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    seed(&link, &volume).ends().fails(66, "link.tar");
}

#[test]
fn a_device_is_no_source() {
    let (_sandbox, _, volume) = sandbox();
    seed("/dev/zero", &volume).ends().fails(66, "it is a device");
}

#[test]
fn a_plain_archive_that_is_changed_while_it_is_read_is_noticed() {
    let (sandbox, _, volume) = sandbox();
    let archive = sandbox.path("seed.tar");
    fs::write(&archive, Tree::many("d", 20_000).archive()).unwrap();
    let running = seed(&archive, &volume).start();
    running.says("seeding");
    // As from somebody who adds to it.
    fs::File::options().append(true).open(&archive).unwrap().write_all(&[0; 512]).unwrap();
    running.ends().fails(74, "changed while it was read");
    assert_nothing_published(&volume);
}

#[test]
fn a_missing_source_does_not_matter_to_a_seeded_volume() {
    let (sandbox, source, volume) = sandbox();
    seed(source, &volume).ends().exits(0);
    seed(sandbox.path("missing.tar"), &volume).ends().exits(0).says("already seeded");
}

#[test]
fn what_is_no_archive_is_refused_by_name() {
    for bytes in [&b""[..], b"hello", &[b'x'; 4096], b"PK\x03\x04 and so on", &[0x1f, 0x8b]] {
        let (sandbox, _, volume) = sandbox();
        seed(sandbox.file("seed.tar", bytes), &volume).ends().fails(65, "seed.tar");
        assert_nothing_published(&volume);
    }
}

#[test]
fn an_unreadable_source_exits_77_and_is_named() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let archive = sandbox.file("seed.tar", Tree::sample().archive());
    fs::set_permissions(&archive, Permissions::from_mode(0o600)).unwrap();
    let outcome = seed(archive, sandbox.volume_of(PROBE_ID)).started_by(PROBE_ID, PROBE_ID).ends();
    outcome.fails(77, "seed.tar").says("permission denied");
}

#[test]
fn an_unreadable_file_in_a_directory_exits_77_and_nothing_is_published() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let tree = Tree::new().file("releases/secret", "x").mode(0o600);
    let source = tree.write_to(&sandbox.directory("source"));
    let volume = sandbox.volume_of(PROBE_ID);
    seed(source, &volume).started_by(PROBE_ID, PROBE_ID).ends().fails(77, "releases/secret");
    assert_nothing_published(&volume);
}

#[test]
fn an_archive_is_read_out_of_a_named_pipe() {
    let (sandbox, source, volume) = sandbox();
    let pipe = sandbox.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = std::thread::spawn({
        let (pipe, archive) = (pipe.clone(), Tree::sample().archive());
        move || fs::write(pipe, archive)
    });
    seed(&pipe, &volume).ends().exits(0);
    writer.join().unwrap().unwrap();
    assert_same_tree(&source, &volume);
}

/// A ConfigMap as kubelet mounts it: the files are links into a directory that an update replaces.
fn config_map(at: &Path) -> PathBuf {
    let files = Tree::new().file("app.ini", "a=1").file("conf.d/x.conf", "x");
    files.write_to(&at.join("..2026_01_02_03_04_05.678901234"));
    symlink("..2026_01_02_03_04_05.678901234", at.join("..data")).unwrap();
    for name in ["app.ini", "conf.d"] {
        symlink(format!("..data/{name}"), at.join(name)).unwrap();
    }
    at.to_owned()
}

#[test]
fn a_config_map_is_seeded_from_the_directory_that_holds_its_files() {
    let sandbox = Sandbox::new();
    let mounted = config_map(&sandbox.directory("config"));
    let volume = sandbox.volume();
    seed(mounted.join("..data"), &volume).ends().exits(0).says_nothing_of("kubelet");
    assert_same_tree(&mounted.join("..data/."), &volume);
    assert!(fs::symlink_metadata(volume.join("app.ini")).unwrap().is_file());
}

#[test]
fn a_config_map_that_is_named_by_its_mount_point_is_a_warning() {
    let sandbox = Sandbox::new();
    let mounted = config_map(&sandbox.directory("config"));
    let volume = sandbox.volume();
    seed(&mounted, &volume).ends().exits(0).says("kubelet").says("config/..data");
    assert_same_tree(&mounted, &volume);
}

#[test]
fn a_directory_that_is_removed_while_it_is_read_is_no_seed() {
    let sandbox = Sandbox::new();
    let source = Tree::many("d", 20_000).write_to(&sandbox.directory("source"));
    let volume = sandbox.volume();
    let running = seed(&source, &volume).start();
    running.says("seeding");
    fs::remove_dir_all(&source).unwrap();
    let outcome = running.ends();
    match outcome.status.code() {
        // It was quicker.
        Some(0) => assert_eq!(fs::read_dir(volume.join("d")).unwrap().count(), 20_000),
        _ => {
            outcome.exits(74);
            assert_nothing_published(&volume);
        }
    }
}
