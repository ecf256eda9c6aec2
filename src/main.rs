//! The binary: signal handlers first, then volseed, then the only `exit`. Or, where volseed executed
//! itself as a supervisor, that and nothing else.

use std::ffi::OsString;
use std::process::exit;

use volseed::exit::Exit;
use volseed::handover::supervise::{Plan, watch};
use volseed::system::signals::Signals;
use volseed::{cli::environment, log};

/// musl's own allocator maps and unmaps memory for every other request: 340 calls and 1.3 ms of a
/// start that finds its volume seeded (`bench/start`).
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() {
    std::panic::set_hook(Box::new(|panic| {
        log::print_panic(panic);
        exit(Exit::Bug.code().into());
    }));
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(plan) = Plan::parse(&arguments) {
        exit(watch(&plan).code().into());
    }
    let signals = Signals::install();
    let environment = environment::capture();
    let ended = match &signals {
        Ok(signals) => volseed::run(arguments, environment, signals),
        Err(error) => {
            log::print_error(error, log::early_format(&arguments));
            error.exit_code()
        }
    };
    exit(ended.code().into());
}
