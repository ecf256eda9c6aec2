//! The names of candidates: staged files that have a second name in the directory in which they replace something.
//!
//! Each says which claim made it: a later one removes those of earlier ones, and never the other way round.

use crate::seed::manifest::digest::DataDigest;

const PREFIX: &str = ".volseed-";

/// What the candidate for `name` is called while the holder of claim `epoch` replaces it.
pub(crate) fn candidate_name(epoch: u64, name: &[u8]) -> Box<[u8]> {
    // Of any length a name may have, this one has to be valid.
    let digest = DataDigest::of(name).to_string().replace('/', "_");
    format!("{PREFIX}{epoch}-{digest}").into_bytes().into()
}

/// The claim that made the candidate of this name; nothing where it is none.
pub(crate) fn claim_of(name: &[u8]) -> Option<u64> {
    let (epoch, digest) = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?.split_once('-')?;
    DataDigest::parse(digest.replace('_', "/").as_bytes())?;
    epoch.parse().ok().filter(|parsed: &u64| parsed.to_string() == epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_a_candidate_tells_of_a_claim() {
        for name in [b"index.php".as_slice(), b"", &[0xff; 255]] {
            assert_eq!(claim_of(&candidate_name(7, name)), Some(7));
        }
        let digest = DataDigest::of(b"a").to_string().replace('/', "_");
        let others = [
            ".volseed".to_owned(),
            ".volseed-7-".to_owned(),
            format!(".volseed-07-{digest}"),
            format!(".volseed-{digest}"),
            format!(".volseed-7-{digest}x"),
            format!("volseed-7-{digest}"),
        ];
        others.iter().for_each(|name| assert_eq!(claim_of(name.as_bytes()), None, "{name}"));
    }
}
