//! Whether anything on the volume is private: whether a directory that only we may enter keeps another user out.
//!
//! Asked by a process that is another user, since owner and mode tell nothing where the server decides by itself.

use super::attributes::OTHER;
use super::directory::TestDirectory;
use super::finding::Finding;
use super::helper::Question;
use crate::volume::{Ourselves, Privacy, Volume, Wall, user};
use rustix::io::Result;
use std::os::fd::AsFd;

/// It.
///
/// # Errors
/// When a directory cannot be made.
pub(super) fn finding(volume: &Volume, directory: &TestDirectory) -> Result<Finding> {
    if !rustix::process::geteuid().is_root() {
        let what = format!("volseed runs as {}", user::spelled(user::current()));
        return Ok(Finding::ok("private", what)
            .then("an app of the same user has the same rights, and nothing to gain"));
    }
    let own = directory.directory("private")?;
    let looks = Ourselves::new().privacy(own.as_fd(), Wall::Closed)?;
    let nothing = "only this is promised: nothing outside this mount is read or changed (docs/security.md)";
    let entered = Question::Enter.ask(own.as_fd(), Some(OTHER));
    let finding = match &*entered {
        "entered" => Finding::warn("private", "nothing: another user may change what only volseed may enter")
            .then(nothing),
        error if error.starts_with("error ") => match (looks, volume.user()) {
            (Privacy::Open, _) => {
                Finding::warn("private", "a directory cannot be closed: its mode is not kept").then(nothing)
            }
            (_, Some(owner)) => {
                Finding::warn("private", "from every user but the one that volseed works as here").then(
                    format!(
                        "an app that runs as {} can change a stage while it is filled",
                        user::spelled(owner)
                    ),
                )
            }
            _ => Finding::ok("private", "another user is kept out of volseed's directories"),
        },
        _ => Finding::warn("private", "another user could not be tried here"),
    };
    Ok(finding.fact("entered", entered))
}
