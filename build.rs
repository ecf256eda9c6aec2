//! Leaves out of the static binary what it never uses: the tables for unwinding, and relocations that are not packed.
//!
//! A panic ends the process in its hook, without unwinding, but the compiler writes the tables all the same;
//! `-C force-unwind-tables=no` removes none. musl relocates a position-independent program itself and knows the packed
//! form, which takes 1 KiB instead of 100. `cc` and `rust-lld` take the same options.

use std::path::PathBuf;
use std::{env, fs};

/// The start files refer to their own tables, which are empty.
const WITHOUT_TABLES: &str = "SECTIONS {
    /DISCARD/ : { *(EXCLUDE_FILE(*crt*.o) .eh_frame .gcc_except_table .gcc_except_table.*) }
} INSERT AFTER .text;
";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        let script = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("without-tables.ld");
        fs::write(&script, WITHOUT_TABLES).expect("cargo made the directory");
        println!("cargo::rustc-link-arg-bins=-zpack-relative-relocs");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}
