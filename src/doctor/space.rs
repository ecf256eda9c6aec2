//! Free space and inodes, and whether the seed fits.

use super::finding::{Fact, Finding};
use super::needs::Needs;
use crate::error::Result;
use crate::seed::stage::space::Space;
use crate::text::byte_size;
use crate::volume::Volume;

/// The two of them, as a seed would count them.
///
/// # Errors
/// When the volume does not answer.
pub(super) fn findings(volume: &Volume, needs: Option<&Needs>) -> Result<Vec<Finding>> {
    let (kind, found) = volume.look()?;
    let space = Space::new(volume.path().to_owned(), kind, &found);
    if let Some(needs) = needs {
        // Those without data of their own count as entries.
        let empty = std::iter::repeat_n(0, (needs.entries() - needs.files) as usize);
        // Each says it only once it is exceeded.
        for size in needs.sizes.iter().copied().chain(empty) {
            let _ = space.take(size);
        }
    }
    let [bytes, inodes] = space.accounts();
    let told = |topic,
                (needed, free, is_exceeded): (u64, Option<u64>, bool),
                shown: &dyn Fn(u64) -> String| {
        let free_text = free.map_or("not told".to_owned(), |free| format!("{} free", shown(free)));
        let needed_text = needs.map(|_| format!(", {} needed", shown(needed))).unwrap_or_default();
        let what = format!("{free_text}{needed_text}");
        let finding = if is_exceeded {
            Finding::fail(topic, what)
                .then("the seed is refused (73): enlarge the volume, or leave something out with --exclude")
        } else if free.is_none() {
            Finding::ok(topic, what).then("the file system has no limit, or does not know it")
        } else {
            Finding::ok(topic, what)
        };
        let finding = if needs.is_some() { finding.fact("needed", needed) } else { finding };
        finding.fact("free", Fact::Number(free))
    };
    Ok(vec![told("space", bytes, &byte_size), told("inodes", inodes, &|number| number.to_string())])
}
