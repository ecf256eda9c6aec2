//! Text for people and logs, out of values that anybody may have written.
//!
//! Knows nothing of where they come from. Nothing here fails or panics, whatever the value.

use std::time::{Duration, UNIX_EPOCH};

/// The last second that RFC 3339 has a form for: the last of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// A time in seconds since 1970, as RFC 3339. A later one than that knows is `@` and the number, as
/// date(1) takes it.
pub fn rfc3339(seconds: u64) -> String {
    match seconds {
        ..=LAST_SECOND => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
        }
        _ => format!("@{seconds}"),
    }
}
