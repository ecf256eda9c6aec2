//! Text for people and logs, out of values that anybody may have written.
//!
//! Two things together keep a record, a name or an archive from speaking in our place. What a record says
//! is [`Untrusted`]: it is escaped and cut where it is displayed. And whatever ends up in a line goes
//! through [`one_line`] where it is written: log, error, `status`. Knows nothing of where values come
//! from. Nothing here fails or panics, whatever the value.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The last second that RFC 3339 has a form for: the last of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;
/// The most characters that are shown of what a record says: more than a host's name (64), a container's
/// id (64) or a version (128) may have, and as many as a file's name.
const MAX_SHOWN: usize = 256;

/// Text that a record says, which anybody may have written who may write to the volume. It is kept as it
/// is, and displayed on one line, at most 256 characters of it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Untrusted(String);

impl Untrusted {
    /// The text as it is: to be compared, never to be shown.
    pub(crate) fn raw(&self) -> &str {
        &self.0
    }
}

impl From<String> for Untrusted {
    fn from(text: String) -> Untrusted {
        Untrusted(text)
    }
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(self.0.as_bytes()))
    }
}

impl fmt::Debug for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// [`printable`], cut with an ellipsis where it is longer than 256 characters.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text = printable(bytes);
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A name without quotes, printable on one line and told from every other one: bytes that are not UTF-8
/// as `\xNN`, backslashes and what [`one_line`] escapes escaped.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_unsafe(c) || c == '\\' {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The text with every character escaped that ends a line, steers a terminal, reorders what stands beside
/// it, or is not seen: `\n`, `\u{1b}`. What is escaped already stays as it is.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |c, line| line.extend(c.escape_default()))
}

/// JSON with the same characters escaped as JSON does: its values stay what they are.
pub(crate) fn json_line(json: &str) -> Cow<'_, str> {
    escaped(json, |c, line| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string does not fail.
            let _ = write!(line, "\\u{unit:04x}");
        }
    })
}

/// A value as one line of JSON.
pub(crate) fn json_of(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("it has string keys only");
    json_line(&json).into_owned()
}

fn escaped(text: &str, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) { escape(c, &mut line) } else { line.push(c) }
    }
    Cow::Owned(line)
}

/// Controls (general category Cc), line and paragraph separators, and what Unicode lists as
/// `Default_Ignorable_Code_Point`, bidirectional controls and characters of no width among it, with
/// those that annotate between lines. Not the variation selectors and the grapheme joiner, which only
/// follow a character that is seen.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e00ff}' | '\u{e01f0}'..='\u{e0fff}')
}

/// A number of bytes as people read it: `17 B`, `1.25 MiB`.
pub(crate) fn byte_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = bytes.checked_ilog2().unwrap_or(0) / 10;
    match power {
        0 => format!("{bytes} B"),
        // Two digits of a fraction do not show what a float cannot keep.
        _ => {
            format!("{:.2} {}", bytes as f64 / (1u64 << (10 * power)) as f64, UNITS[power as usize - 1])
        }
    }
}

/// A time in seconds since 1970, as RFC 3339. A later one than that knows is `@` and the number, as
/// date(1) takes it.
pub(crate) fn rfc3339(seconds: u64) -> String {
    match seconds {
        ..=LAST_SECOND => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
        }
        _ => format!("@{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printed_on_one_line_and_lose_nothing() {
        assert_eq!(printable(b"caf\xc3\xa9"), "café");
        assert_eq!(printable(b"a\nb\\c\xff"), "a\\nb\\\\c\\xff");
    }

    #[test]
    fn what_steers_or_hides_is_escaped_and_the_rest_is_not() {
        for (text, expected) in [
            (
                "plain: Größe, 日本語, e\u{301}, ❤\u{fe0f}, a\\b",
                "plain: Größe, 日本語, e\u{301}, ❤\u{fe0f}, a\\b",
            ),
            ("a\nb\r\tc\0", "a\\nb\\r\\tc\\u{0}"),
            ("\u{1b}[1m\u{7f}\u{9b}", "\\u{1b}[1m\\u{7f}\\u{9b}"),
            ("\u{202e}\u{2066}\u{200b}\u{feff}", "\\u{202e}\\u{2066}\\u{200b}\\u{feff}"),
            ("\u{e0041}", "\\u{e0041}"),
        ] {
            assert_eq!(one_line(text), expected);
            assert_eq!(one_line(expected), expected);
            let json = serde_json::to_string(text).unwrap();
            assert!(!json_line(&json).chars().any(is_unsafe), "{json:?}");
            assert_eq!(serde_json::from_str::<String>(&json_line(&json)).unwrap(), text);
        }
    }

    #[test]
    fn what_a_record_says_is_kept_and_cut_where_it_is_shown() {
        let text = "\n".repeat(1000);
        let untrusted = Untrusted::from(text.clone());
        assert_eq!(untrusted.to_string(), format!("{}…", "\\n".repeat(128)));
        assert_eq!(untrusted.raw(), text);
        assert_eq!(serde_json::to_value(&untrusted).unwrap(), serde_json::json!(text));
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1_310_720, "1.25 MiB"),
            (u64::MAX, "16.00 EiB"),
        ] {
            assert_eq!(byte_size(bytes), expected);
        }
    }

    #[test]
    fn every_time_has_a_form() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (LAST_SECOND, "9999-12-31T23:59:59Z"),
            (LAST_SECOND + 1, "@253402300800"),
            (u64::MAX, "@18446744073709551615"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }
}
