//! Mounts inside the volume, of which a run was killed before it had published all of the seed there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::kit::moments::killed_publishing_to;
use crate::kit::mount::{Mount, tmpfs};
use crate::kit::{Sandbox, Tree, Volseed, assert_same_tree, needs, seed};
use crate::order::{names, sandbox};

/// A volume with the mount `m`, to which not all of a seed was published.
struct HalfPublished {
    source: PathBuf,
    volume: PathBuf,
    _mount: Mount,
    _sandbox: Sandbox,
}

impl HalfPublished {
    fn new(existing: &str) -> Self {
        let tree = Tree::new().file("index", "i").directory("m").mode(0o2751).owner(33, 34);
        let tree = (0..700).fold(tree, |tree, number| {
            tree.file(format!("m/{number}/file"), "x").file(format!("m/f{number}"), "y")
        });
        // A kill may come too late.
        loop {
            let (_sandbox, source, volume) = sandbox(&tree);
            let _mount = tmpfs(&volume.join("m"), "size=8m,mode=755");
            let half = Self { source, volume, _mount, _sandbox };
            if killed_publishing_to(&half.volume.join("m"), half.seed(existing), &half.volume) {
                return half;
            }
        }
    }

    fn seed(&self, existing: &str) -> Volseed {
        seed(&self.source, &self.volume).option("--existing", existing)
    }
}

#[test]
fn a_mount_is_as_after_one_run_where_a_second_one_finishes_it() {
    if !needs::root() {
        return;
    }
    for existing in ["keep", "overwrite"] {
        let half = HalfPublished::new(existing);
        half.seed(existing).ends().exits(0).says("published");
        assert_same_tree(&half.source.join("m"), &half.volume.join("m"));
    }
}

#[test]
fn a_mount_on_which_a_user_has_put_something_meanwhile_keeps_its_owner() {
    if !needs::root() {
        return;
    }
    let half = HalfPublished::new("keep");
    let (source, mount) = (half.source.join("m"), half.volume.join("m"));
    fs::write(mount.join("mine"), "a user's").unwrap();
    half.seed("keep").ends().exits(0);
    assert_eq!(fs::metadata(&mount).unwrap().uid(), 0);
    fs::remove_file(mount.join("mine")).unwrap();
    assert_eq!(names(&mount), names(&source));
}
