//! The page that a browser sees while the volume is seeded: complete in itself, and gone once the app
//! answers.

use std::path::Path;

use crate::error::{Context, Result};
use crate::exit::Exit;
use crate::progress::Snapshot;
use crate::system::files::read_text;

/// Ours: no other file, light and dark, for phones too.
const OURS: &str = include_str!("page.html");
/// The largest page that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A page with places for figures, `{{percent}}` and the like.
#[derive(Debug)]
pub(crate) struct Page(String);

impl Page {
    /// The page in `path`, or ours.
    ///
    /// # Errors
    /// Exit 66 when it cannot be read, is larger than 1 MiB or no UTF-8.
    pub(crate) fn read(path: Option<&Path>) -> Result<Page> {
        let Some(path) = path else { return Ok(Page(OURS.to_owned())) };
        let text = read_text(path, MAX_BYTES).context("read page", path);
        text.map(Page).map_err(|error| error.exit(Exit::Source))
    }

    /// The page with the figures of this moment.
    pub(crate) fn fill(&self, snapshot: &Snapshot) -> String {
        let known = |figure: Option<u64>| figure.map_or_else(|| "?".to_owned(), |figure| figure.to_string());
        let figures = [
            ("{{percent}}", snapshot.counts.percent.unwrap_or(0).to_string()),
            ("{{phase}}", snapshot.phase.name().to_owned()),
            ("{{files}}", snapshot.counts.files.to_string()),
            ("{{files_total}}", known(snapshot.counts.files_total)),
            ("{{bytes}}", snapshot.counts.bytes.to_string()),
            ("{{bytes_total}}", known(snapshot.counts.bytes_total)),
            ("{{seconds_left}}", known(snapshot.seconds_left)),
        ];
        figures.iter().fold(self.0.clone(), |page, (place, figure)| page.replace(place, figure))
    }
}
