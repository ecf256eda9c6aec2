//! What the app's user may have put in the place of `.volseed`: a claim that says that its holder has gone, and
//! a stage in it of which all but the bytes is right.

use super::replica::{TIME, image};
use super::world::{Ino, ROOT, World};
use crate::claims::beat::{Beat, Holder};
use crate::claims::store::{CLAIMS, HEARTBEAT, HOLDER};
use crate::volume::records::{DIRECTORY, FORMAT, Name, Sealed, Settings, Staged, TREE, Totals, to_bytes};

/// The app's user.
pub(crate) const APP: u32 = 33;

/// Plants it; `part` is the name of the stage.
pub(crate) fn plant(world: &mut World, part: &str, boot: &str) {
    let state = directory(world, ROOT, DIRECTORY);
    let claims = directory(world, state, CLAIMS);
    let claim = directory(world, claims, "1");
    let holder = Holder {
        format: FORMAT,
        epoch: 1,
        nonce: "forged".into(),
        host: String::new().into(),
        container: None,
        pid: 1,
        since: 0,
        boot: Some(boot.into()),
        device: 0,
        locked: true,
    };
    file(world, claim, HOLDER, &to_bytes(&holder));
    file(world, claim, HEARTBEAT, &Beat { released: true, ..Beat::default() }.bytes());
    let stage = directory(world, claim, part);
    let mut staged = Staged::new(1, "image 1".into(), true, Some(1));
    staged.boot = Some(boot.into());
    staged.sealed = (part != crate::claims::store::STAGE).then(|| Sealed {
        generation: 1,
        version: Some("1".to_owned()),
        totals: Totals::default(),
        settings: Settings::default(),
        source: None,
        manifest: None,
        repairs: false,
        hook: false,
        upgrade: None,
        top: image(1)
            .keys()
            .map(|path| Name::from(path.split('/').next().unwrap_or("").as_bytes()))
            .collect(),
        root: None,
    });
    file(world, stage, Staged::FILE, &to_bytes(&staged));
    let tree = directory(world, stage, TREE);
    for (path, data) in image(1) {
        let mut at = tree;
        let mut parts = path.split('/').peekable();
        while let Some(name) = parts.next() {
            match parts.peek() {
                Some(_) => at = directory(world, at, name),
                None => file(world, at, name, &vec![b'!'; data.len()]),
            }
        }
    }
    world.sync();
}

fn directory(world: &mut World, at: Ino, name: &str) -> Ino {
    match world.look_up(0, at, name.as_bytes(), false) {
        Ok(there) => there,
        Err(_) => world.make(at, name.as_bytes(), APP).expect("it is not there"),
    }
}

fn file(world: &mut World, at: Ino, name: &str, bytes: &[u8]) {
    let file = world.create(at, name.as_bytes()).expect("it is a directory");
    world.fill(file, bytes, TIME);
}
