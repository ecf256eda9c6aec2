//! The commands in docs/ are run, and print what the pages say.
//!
//! A block that is fenced as `sh run` is run, with all others of its page in one shell, in an empty directory with
//! `volseed` in PATH. Words behind `run` are programs that the block needs. The lines of a `text` block behind it
//! are in its output, in this order; `…` in them stands for anything.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The longest that the commands of a page may take, in seconds.
const LONGEST: &str = "300";

/// A block of commands, and what it prints.
struct Block {
    commands: String,
    needs: Vec<String>,
    output: Vec<String>,
}

/// The blocks of a page that are run.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines();
    let mut is_before_output = false;
    while let Some(line) = lines.next() {
        let Some(fence) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
        match fence.split(' ').collect::<Vec<_>>()[..] {
            ["sh", "run", ref needs @ ..] => blocks.push(Block {
                commands: body.join("\n"),
                needs: needs.iter().map(ToString::to_string).collect(),
                output: Vec::new(),
            }),
            ["text"] if is_before_output => {
                let block = blocks.last_mut().expect("a block is before its output");
                block.output = body.iter().map(ToString::to_string).collect();
            }
            _ => {}
        }
        is_before_output = fence.starts_with("sh run");
    }
    blocks
}

pub(crate) fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// The commands as one script; each block's output goes to a file of its own in `outputs`.
fn script(blocks: &[Block], outputs: &Path) -> String {
    let run = |(number, block): (usize, &Block)| {
        format!("{{\n{}\n}} >'{}' 2>&1\n", block.commands, outputs.join(number.to_string()).display())
    };
    format!("set -eu\n{}", blocks.iter().enumerate().map(run).collect::<String>())
}

/// Whether the parts of `expected` between `…` follow each other in `line`.
fn is_in(line: &str, expected: &str) -> bool {
    let mut rest = line;
    expected.split('…').all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// The shell that runs `script` as a reader of the page would: nothing set, `volseed` in PATH.
fn shell(script: &str, place: &Path) -> Command {
    let own = Path::new(env!("CARGO_BIN_EXE_volseed")).parent().expect("the binary is in a directory");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(own.to_owned()).chain(std::env::split_paths(&path));
    let mut shell = Command::new("timeout");
    shell.args([LONGEST, "sh", "-c", script]).current_dir(place);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VOLSEED_")) {
        shell.env_remove(name);
    }
    shell.env("PATH", std::env::join_paths(paths).expect("a path"));
    shell
}

/// Runs a page's commands; what is wrong with the first block that does not do what the page says.
fn run(blocks: &[Block]) -> Result<(), String> {
    let (place, outputs) = (tempfile::tempdir().expect("a place"), tempfile::tempdir().expect("a place"));
    let status = shell(&script(blocks, outputs.path()), place.path()).status().expect("a shell");
    let output = |number: usize| std::fs::read(outputs.path().join(number.to_string()));
    for (number, block) in blocks.iter().enumerate() {
        let printed = output(number).unwrap_or_default();
        let printed = String::from_utf8_lossy(&printed);
        let wrong = |what: String| Err(format!("{what}:\n\n{}\n\n{printed}", block.commands));
        let is_last = output(number + 1).is_err();
        if is_last && !status.success() {
            return wrong(format!("a command failed ({status})"));
        }
        let mut lines = printed.lines();
        if let Some(line) = block.output.iter().find(|line| !lines.any(|printed| is_in(printed, line))) {
            return wrong(format!("this does not print {line:?}"));
        }
    }
    Ok(())
}

/// Runs the commands of a page, but for those that need a program which is not there.
fn check(page: &Path) -> Result<(), String> {
    let blocks = blocks(&std::fs::read_to_string(page).expect("the page can be read"));
    let is_possible = |block: &Block| block.needs.iter().all(|program| is_there(program));
    let (blocks, others): (Vec<Block>, Vec<Block>) = blocks.into_iter().partition(is_possible);
    for block in others {
        eprintln!("{}: not run, for want of {}: {}", page.display(), block.needs.join(", "), block.commands);
    }
    let began = Instant::now();
    run(&blocks).map_err(|what| format!("{}: {what}", page.display()))?;
    if let (false, Some(name)) = (blocks.is_empty(), page.file_name()) {
        // docker/test shows it.
        eprintln!("page {}: {} blocks, {:.1} s", name.display(), blocks.len(), began.elapsed().as_secs_f64());
    }
    Ok(())
}

#[test]
fn the_commands_on_the_pages_do_what_the_pages_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let pages = std::fs::read_dir(folder).expect("docs can be listed");
    let pages: Vec<_> = pages.map(|page| page.expect("docs can be listed").path()).collect();
    let pages = pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md"));
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = pages.map(|page| scope.spawn(|| check(page))).collect();
        runs.into_iter().filter_map(|run| run.join().expect("no page ends the test").err()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_block_that_fails_or_prints_something_else_is_found() {
    let page = |text: &str| blocks(&format!("```sh run\necho one; echo two\n```\n\n```text\n{text}\n```\n"));
    assert!(run(&page("o…e\ntwo")).is_ok());
    assert!(run(&page("two\none")).is_err());
    assert!(run(&page("three")).is_err());
    assert!(run(&blocks("```sh run\nfalse\n```\n```sh run\necho\n```\n")).is_err());
    assert!(run(&blocks("```sh\nfalse\n```\n")).is_ok());
}
