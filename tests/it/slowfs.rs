//! The slow volume itself, as far as the tests of volseed believe it: what one program sees there is
//! what another one wrote, and what is counted is what was asked for. Its own tests say more.

use std::fs;
use std::process::Command;

use slowfs::{Errno, Op, Options, Quirks};

use crate::kit::slowfs::{quirky, slow};
use crate::kit::{Sandbox, Tree, assert_same_tree, needs};

#[test]
fn a_tree_that_cp_brings_is_the_same_and_costs_more_than_four_round_trips_a_file() {
    let sandbox = Sandbox::new();
    let Some(volume) = slow(&sandbox, Options::default()) else { return };
    // As cp creates files with `O_EXCL` and asks for their attributes: the count is its own.
    let tree = Tree::many("d", 50).symlink("s", "d").fifo("p").hard_link("l", "d/00000");
    let source = tree.write_to(&sandbox.directory("source"));
    let from = source.join(".");
    assert!(Command::new("cp").arg("-a").arg(from).arg(volume.path()).status().unwrap().success());
    let counts = volume.counts();
    assert_eq!([counts[Op::Create], counts[Op::Write], counts[Op::Close]], [50; 3], "{counts}");
    assert_eq!([counts[Op::Mkdir], counts[Op::Symlink], counts[Op::Mknod], counts[Op::Link]], [1; 4]);
    assert!(counts.rpcs() > 4 * 50, "{counts}");
    assert_same_tree(&source, volume.path());
}

#[test]
fn a_tree_that_tar_brings_is_the_same() {
    let sandbox = Sandbox::new();
    if !needs::tools(&["tar"]) {
        return;
    }
    let Some(volume) = slow(&sandbox, Options::default()) else { return };
    let tree =
        Tree::sample().directory("closed").mode(0o500).file("closed/su", "x").mode(0o4755).owner(33, 34);
    let source = tree.write_to(&sandbox.directory("source"));
    let archive = sandbox.file("seed.tar", tree.archive());
    let mut tar = Command::new("tar");
    tar.args(["-x", "-p", "--same-owner", "-f"]).arg(archive).arg("-C").arg(volume.path());
    assert!(tar.status().unwrap().success());
    assert_same_tree(&source, volume.path());
    fs::remove_dir_all(volume.path().join("closed")).unwrap();
}

#[test]
fn a_quirk_is_what_programs_see() {
    let sandbox = Sandbox::new();
    let quirks = Quirks { ignores_case: true, symlinks: Some(Errno::EPERM), ..Quirks::default() };
    let Some(volume) = slow(&sandbox, quirky(quirks)) else { return };
    fs::create_dir(volume.path().join("Lib")).unwrap();
    assert!(volume.path().join("LIB").is_dir());
    let source = Tree::new().symlink("s", "d").write_to(&sandbox.directory("source"));
    let copied = Command::new("cp").arg("-a").arg(source.join(".")).arg(volume.path()).output().unwrap();
    assert!(!copied.status.success());
}
