//! What `--to` may not be, and what it should not be.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::mount::{Mount, bind, private, tmpfs};
use crate::kit::{Outcome, Sandbox, Tree, Volseed, needs, run, seed, volseed};

const LAYER: &str = "the container's own layer";

#[test]
fn the_root_of_the_system_is_no_volume_by_any_path() {
    let sandbox = Sandbox::new();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let link = sandbox.path("link");
    symlink("/", &link).unwrap();
    for root in ["/", "//", "/.", "/tmp/..", "/proc/self/root", link.to_str().unwrap()] {
        seed(&source, root).ends().fails(64, "the root of the container's file system");
        run(&source, root, ["true"]).ends().fails(64, "--to");
        for command in ["wait", "status"] {
            volseed([command, "--to", root]).ends().fails(64, "--to");
        }
    }
    seed(&source, ".").in_directory(Path::new("/")).ends().fails(64, "--to");
    assert!(!Path::new("/.volseed").exists() && !Path::new("/index.php").exists());
}

/// A container whose own layer is an overlay over this system; what is at `/volume` in it is on that layer.
struct Container {
    root: PathBuf,
    _mounts: Vec<Mount>,
}

impl Container {
    fn new(sandbox: &Sandbox) -> Container {
        private();
        let layer = tmpfs(&sandbox.directory("layer"), "mode=0755");
        for directory in ["layer/upper", "layer/work", "root"] {
            sandbox.directory(directory);
        }
        let root = sandbox.path("root");
        let (upper, work) = (sandbox.path("layer/upper"), sandbox.path("layer/work"));
        let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(&root).status();
        assert!(mounted.unwrap().success());
        let overlay = Mount::over(&root);
        fs::create_dir(root.join("volume")).unwrap();
        fs::write(root.join("volseed"), "").unwrap();
        Tree::sample().write_to(&root.join("seed"));
        let binary = bind(Path::new(env!("CARGO_BIN_EXE_volseed")), &root.join("volseed"));
        Container { root, _mounts: vec![binary, overlay, layer] }
    }

    fn seeds(&self) -> Outcome {
        let volseed = Volseed::program("/volseed").arguments(["seed", "--from", "/seed", "--to", "/volume"]);
        volseed.under([Path::new("chroot"), &self.root]).ends().exits(0)
    }
}

#[test]
fn a_directory_of_the_containers_own_layer_is_warned_about_at_every_start() {
    if !(needs::root() && needs::tools(&["chroot", "mount"])) {
        return;
    }
    let sandbox = Sandbox::new();
    let container = Container::new(&sandbox);
    container.seeds().says("seeded").says(LAYER);
    container.seeds().says("already seeded").says(LAYER);
}

#[test]
fn a_volume_is_not_warned_about_whatever_it_is_mounted_from() {
    if !(needs::root() && needs::tools(&["chroot", "mount"])) {
        return;
    }
    let sandbox = Sandbox::new();
    let container = Container::new(&sandbox);
    let volume = container.root.join("volume");
    for mounted in [tmpfs(&volume, "mode=0755"), bind(&sandbox.directory("elsewhere"), &volume)] {
        container.seeds().says_nothing_of(LAYER);
        drop(mounted);
    }
    fs::create_dir(container.root.join("of-the-image")).unwrap();
    let _bound = bind(&container.root.join("of-the-image"), &volume);
    container.seeds().says_nothing_of(LAYER);
}
