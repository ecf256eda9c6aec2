//! The guinea-pig app: says what volseed handed over to it.

/// Run as `sh -c APP name argument…`. Built-in commands only, so that what it shows is its own
/// process; the file names are looked at again because listing them opens one.
pub(crate) const APP: &str = r#"
printf 'ready (pid %s)\n' "$$"
printf 'name: %s\n' "$0"
for argument in "$@"; do printf 'argument: %s\n' "$argument"; done
printf 'directory: %s\n' "$(pwd)"
printf 'home: %s\n' "$HOME"
printf 'greeting: %s\n' "${GREETING-unset}"
for file in /proc/$$/fd/*; do [ -e "$file" ] && printf 'open: %s\n' "${file##*/}"; done
exit 0
"#;

/// An app that stays until its standard input ends.
pub(crate) const PATIENT: &str = r#"printf 'ready (pid %s)\n' "$$"; read -r line; exit 7"#;
