//! Times and sizes, as Docker and systemd write them: `1m30s`, `1.5h`, `5min 20s`, `90`; `64m`, `64MiB`, `1.5G`.

use std::time::Duration;

/// A time: numbers with their units, one after the other; a number alone counts seconds (systemd.time(7)).
///
/// # Errors
/// Says what is expected.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let expected = || "expected a time such as 90s, 1m30s or 2min".to_string();
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(Duration::from_secs).map_err(|_| expected());
    }
    if !text.contains('.') {
        return humantime::parse_duration(text).map_err(|_| expected());
    }
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = number(rest).ok_or_else(expected)?;
        let after = after.trim_start();
        let length = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let unit = humantime::parse_duration(&format!("1{}", &after[..length])).map_err(|_| expected())?;
        let part = Duration::try_from_secs_f64(number * unit.as_secs_f64()).map_err(|_| expected())?;
        sum = sum.checked_add(part).ok_or_else(expected)?;
        rest = after[length..].trim_start();
    }
    Ok(sum)
}

/// A number of bytes: units are powers of 1024, whatever their case, with or without `B` or `iB`.
///
/// # Errors
/// Says what is expected.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let expected = || "expected a size such as 64MiB".to_string();
    let (number, unit) = number(text).ok_or_else(expected)?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(expected()),
    };
    let whole: Option<u64> = text[..text.len() - unit.len()].parse().ok();
    match whole {
        Some(whole) => whole.checked_mul(1 << shift).ok_or_else(|| "too large".into()),
        None if shift == 0 => Err(expected()),
        // Exact where it matters: a fraction of a unit below 2^53.
        None => {
            let bytes = number * (1u64 << shift) as f64;
            if bytes < (1u64 << 53) as f64 { Ok(bytes as u64) } else { Err("too large".into()) }
        }
    }
}

/// The number that `text` begins with, `12` or `1.5`, and what follows it.
fn number(text: &str) -> Option<(f64, &str)> {
    let length = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(length);
    let is_plain = number.starts_with(|c: char| c.is_ascii_digit()) && !number.ends_with('.');
    Some((number.parse().ok().filter(|_| is_plain)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_docker_and_systemd_write_them() {
        for (text, milliseconds) in [
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1min 30s", 90_000),
            ("1h 30m", 5_400_000),
            ("500ms", 500),
            ("90", 90_000),
            ("0", 0),
            ("1.5h", 5_400_000),
            ("1m0.5s", 60_500),
            ("0.25 s", 250),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "1.s", ".5s", "1..5s", "1.5", "1.5x", "soon", "1e3s"] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_docker_and_systemd_write_them() {
        for (text, bytes) in [
            ("1", 1),
            ("512b", 512),
            ("4k", 4096),
            ("64m", 64 << 20),
            ("64MiB", 64 << 20),
            ("1 GiB", 1 << 30),
            ("1.5G", 3 << 29),
            ("2t", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5", "1.G", "1TB2", "99999999999999G", "1e3"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
