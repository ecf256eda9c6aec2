//! Names of signals as people write them: `TERM`, `SIGTERM`, `15`, `RTMIN+3`. Pure.

use nix::sys::signal::Signal;

use super::kernel::LAST;

/// What `kill -l` calls RTMIN: the first real-time signal that glibc leaves to programs. systemd's
/// `SIGRTMIN+3` is 37.
const RTMIN: u8 = 34;

/// The number of a signal.
///
/// # Errors
/// Says what is expected.
pub(crate) fn number(text: &str) -> Result<u8, String> {
    let expected = || format!("'{text}' is no signal: expected a name such as TERM or a number from 1 to 64");
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: u8, offset: &str, sign: i16| match offset {
        "" => Some(base),
        offset => offset[1..]
            .parse()
            .ok()
            .and_then(|offset: u8| u8::try_from(i16::from(base) + sign * i16::from(offset)).ok()),
    };
    let number = match name {
        _ if name.bytes().all(|byte| byte.is_ascii_digit()) => name.parse().ok(),
        "RTMIN" | "RTMAX" => Some(if name == "RTMIN" { RTMIN } else { LAST }),
        _ if name.starts_with("RTMIN+") => real_time(RTMIN, &name["RTMIN".len()..], 1),
        _ if name.starts_with("RTMAX-") => real_time(LAST, &name["RTMAX".len()..], -1),
        _ => format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as u8),
    };
    number.filter(|number| (1..=LAST).contains(number)).ok_or_else(expected)
}

/// The name of a signal: `SIGTERM`, `SIGRTMIN+3`, or its number where the C library has it to itself.
pub(crate) fn name(signal: u8) -> String {
    match Signal::try_from(i32::from(signal)) {
        Ok(known) => known.as_str().to_owned(),
        Err(_) if signal == RTMIN => "SIGRTMIN".to_owned(),
        Err(_) if signal > RTMIN => format!("SIGRTMIN+{}", signal - RTMIN),
        Err(_) => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_as_kill_names_them() {
        for (text, expected) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigquit", 3),
            ("15", 15),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(number(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "65", "SIG", "TERMINATE", "RTMIN+31", "RTMIN+", "RTMAX-99", "-1", "RTMIN+x"] {
            assert!(number(text).is_err(), "{text}");
        }
        assert_eq!([15, 34, 37, 33].map(name), ["SIGTERM", "SIGRTMIN", "SIGRTMIN+3", "signal 33"]);
    }
}
