//! Archives by the thousand, put together by `archives/*.py`: what other programs read in them, and what
//! hostile ones do.

use std::ffi::OsStr;
use std::process::Command;

use crate::kit::sandbox::PROBE_ID;
use crate::kit::{Sandbox, needs};

/// Runs one of the scripts on this volseed, below a sandbox of its own.
#[track_caller]
fn holds(script: &str, arguments: &[&str]) {
    let sandbox = Sandbox::new();
    let scripts = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/archives");
    // Another user has to get at the program. A process of its own copies it: what this one starts meanwhile elsewhere
    // would keep a descriptor open for writing until it executes, and a program that is written to cannot be executed.
    let program = sandbox.path("volseed");
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_volseed")).arg(&program).status().unwrap();
    assert!(copied.success());
    let output = Command::new("python3")
        .arg(scripts.join(script))
        .args([program.as_os_str(), sandbox.directory("archives").as_os_str()])
        .args(arguments.iter().map(OsStr::new))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{}{}", said[0], said[1]);
}

#[test]
fn where_gnu_tar_and_python_agree_so_does_volseed() {
    if needs::root() && needs::tools(&["python3", "tar"]) {
        // `differential.py` with another seed makes others.
        holds("differential.py", &["4000", "1"]);
    }
}

#[test]
fn hostile_archives_touch_nothing_and_spoil_nothing() {
    if needs::root() && needs::tools(&["python3"]) {
        holds("hostile.py", &[&PROBE_ID.to_string()]);
    }
}
