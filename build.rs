//! What the binary says it is built from, and what is left out of it: the tables for unwinding, and relocations that are
//! not packed.
//!
//! `VOLSEED_VERSION` is the version, and in a release build the commit, from the checkout or, where there is none, from
//! the variable `VOLSEED_COMMIT`. It is looked up again only if the checkout has moved or what the binary is made of has
//! changed. Other builds have no commit, so that committing does not make the tests compile again.
//!
//! A panic ends the process in its hook, without unwinding, but the compiler writes the tables all the same;
//! `-C force-unwind-tables=no` removes none. musl relocates a position-independent program itself and knows the packed
//! form, which takes 1 KiB instead of 100. `cc` and `rust-lld` take the same options.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The start files refer to their own tables, which are empty.
const WITHOUT_TABLES: &str = "SECTIONS {
    /DISCARD/ : { *(EXCLUDE_FILE(*crt*.o) .eh_frame .gcc_except_table .gcc_except_table.*) }
} INSERT AFTER .text;
";

/// What the binary is made of: a change anywhere else does not make it another one.
const INGREDIENTS: [&str; 6] =
    [".cargo", "Cargo.lock", "Cargo.toml", "build.rs", "rust-toolchain.toml", "src"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|found| found == value);
    let is_release = is("PROFILE", "release");
    let commit = is_release.then(commit).flatten().map(|commit| format!(" ({commit})"));
    let version = env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    println!("cargo::rustc-env=VOLSEED_VERSION={version}{}", commit.unwrap_or_default());
    if is("CARGO_CFG_TARGET_ENV", "musl") && is_release {
        let script = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("without-tables.ld");
        fs::write(&script, WITHOUT_TABLES).expect("cargo made the directory");
        println!("cargo::rustc-link-arg-bins=-zpack-relative-relocs");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}

/// The commit, and whether the tree differs from it; nothing where neither the variable nor a checkout says so.
fn commit() -> Option<String> {
    println!("cargo::rerun-if-env-changed=VOLSEED_COMMIT");
    if let Some(commit) = env::var("VOLSEED_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        return Some(commit);
    }
    // Not that of a repository which only has this folder somewhere in it.
    if !Path::new(".git").exists() {
        return None;
    }
    let moves = ["HEAD", "logs/HEAD"].into_iter().filter_map(|name| git(&["rev-parse", "--git-path", name]));
    // Cargo takes a path that is missing for one that has changed.
    for path in moves.chain(INGREDIENTS.map(str::to_owned)).filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(&[&["status", "--porcelain", "--"], &INGREDIENTS[..]].concat())?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// What git prints. It takes no lock, so that it writes nothing.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).env("GIT_OPTIONAL_LOCKS", "0").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
