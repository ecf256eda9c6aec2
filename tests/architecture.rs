//! ARCHITECTURE.md against the code: its map names every file, its arrows are the imports, they never run up, and
//! what only some modules may use nobody else uses.
//!
//! Reads the page and the text of `src`; knows nothing of what the modules do. Tests are left out, the
//! simulation among them: they may look at anything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What every module may know, in this order from the bottom.
const EVERYWHERE: [&str; 3] = ["exit", "text", "error"];

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    std::fs::read_to_string(path).expect("the page can be read")
}

/// The part of the page below a heading, up to the next of the same kind.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) =
        page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading}"));
    rest.split("\n## ").next().unwrap_or(rest)
}

/// The cells of each row of the first table in `text`, without its head.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().skip_while(|line| !line.starts_with('|'));
    let table = lines.take_while(|line| line.starts_with('|')).skip(2);
    table.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What is between backticks.
fn names(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The source files as `seed/engine/queue`, and their code: no comments, no strings, no tests.
fn code() -> BTreeMap<String, String> {
    fn read(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).expect("src can be listed") {
            let path = entry.expect("src can be listed").path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("names in src are UTF-8");
            let name = format!("{prefix}{stem}");
            if path.is_dir() {
                read(&path, &format!("{name}/"), files);
            } else if path.extension().is_some_and(|extension| extension == "rs") && stem != "tests" {
                files.insert(name, stripped(&std::fs::read_to_string(&path).expect("a source can be read")));
            }
        }
    }
    let mut files = BTreeMap::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut files);
    files.retain(|name, _| !name.ends_with("fuzzing") && !name.starts_with("run/simulation"));
    files
}

fn stripped(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or(source).replace("'\"'", "' '");
    let mut code = String::new();
    let mut chars = source.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match (in_string, c) {
            (true, '\\') => drop(chars.next()),
            (_, '"') => in_string = !in_string,
            (true, _) => {}
            (false, '/') if chars.peek() == Some(&'/') => while chars.next_if(|c| *c != '\n').is_some() {},
            (false, c) => code.push(c),
        }
    }
    code
}

/// Whether `word` stands in `code` and is no part of a longer one.
fn uses(code: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        let ends_inside =
            is_part(word.chars().next_back()) && is_part(code[at + word.len()..].chars().next());
        !is_part(code[..at].chars().next_back()) && !ends_inside
    })
}

/// The modules that each top module's files import.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, code) in code() {
        let own = file.split('/').next().unwrap_or(&file).to_owned();
        let named = code.split("crate::").skip(1).map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()
        });
        let known = imports.entry(own.clone()).or_default();
        known.extend(named.filter(|name| *name != own && !name.is_empty()));
    }
    imports
}

#[test]
fn the_page_says_which_module_imports_which_and_no_arrow_runs_up() {
    let (page, imports) = (page(), imports());
    let mut below: BTreeSet<&str> = EVERYWHERE.into();
    let mut wrong = Vec::new();
    // From the bottom: what a row knows is in a row below it.
    for row in rows(section(&page, "## Map")).iter().rev() {
        let allowed = names(row[2]);
        for module in names(row[0]) {
            let imported = imports.get(module).cloned().unwrap_or_default();
            let imported: BTreeSet<&str> = imported.iter().map(String::as_str).collect();
            if row[2] != "all" {
                let expected: BTreeSet<&str> = allowed.iter().copied().chain(EVERYWHERE).collect();
                wrong.extend(imported.difference(&expected).map(|name| format!("{module} imports {name}")));
                let vain = allowed.iter().filter(|name| !imported.contains(*name));
                wrong
                    .extend(vain.map(|name| format!("{module} does not import {name}, which the page says")));
            }
            let up = imported.iter().filter(|name| !below.contains(*name));
            wrong.extend(up.map(|name| format!("{module} imports {name}, which is above it")));
        }
        below.extend(names(row[0]));
    }
    let missing = imports.keys().filter(|module| !below.contains(module.as_str()));
    wrong.extend(missing.map(|module| format!("{module} is not in the map")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_names_every_file_and_no_other() {
    let (page, files) = (page(), code());
    let map = section(&page, "## Map");
    let (top, inside) = map.split_once("\nInside `").expect("the map looks into folders");
    let mut named: BTreeSet<String> = BTreeSet::new();
    let mut wrong = Vec::new();
    for row in rows(top) {
        for module in names(row[0]) {
            named.insert(module.to_owned());
            named.extend(names(row[1]).iter().map(|name| format!("{module}/{name}")));
            if !files.contains_key(module) {
                wrong.push(format!("src/{module} is in the map and not there"));
            }
        }
    }
    for block in inside.split("\nInside `") {
        let (folder, text) = block.split_once('`').expect("a folder's name ends");
        let folder = folder.trim_end_matches('/');
        for row in rows(text) {
            // A name without a folder is in that of the one before it.
            let mut directory = "";
            for name in names(row[0]) {
                let paths = [format!("{folder}/{name}"), format!("{folder}/{directory}{name}")];
                directory = name.rsplit_once('/').map_or(directory, |(before, _)| &name[..=before.len()]);
                if !paths.iter().any(|path| files.contains_key(path)) {
                    wrong.push(format!("{} is in the map and not there", paths[0]));
                }
                named.extend(paths);
            }
            named.extend(names(row[1]).iter().map(|name| format!("{folder}/{directory}{name}")));
        }
        named.extend(names(text).iter().map(|name| format!("{folder}/{name}")));
    }
    let has_named_parts = |file: &str| named.iter().any(|name| name.starts_with(&format!("{file}/")));
    let missing = files.keys().filter(|file| !named.contains(*file) && !has_named_parts(file));
    wrong.extend(missing.map(|file| format!("src/{file} is not in the map")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_only_some_may_use_nobody_else_uses() {
    let (page, files) = (page(), code());
    let mut wrong = Vec::new();
    for row in rows(section(&page, "## What only some may use")) {
        let allowed = names(row[1]);
        let is_allowed = |file: &str| {
            allowed.iter().any(|name| {
                file == *name || file.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
            })
        };
        for word in names(row[0]) {
            let users: Vec<&String> =
                files.iter().filter(|(_, code)| uses(code, word)).map(|(file, _)| file).collect();
            wrong.extend(
                users.iter().filter(|file| !is_allowed(file)).map(|file| format!("src/{file} uses {word}")),
            );
            if users.is_empty() && !allowed.is_empty() {
                wrong.push(format!("nothing uses {word}, which the page lets {}", row[1]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
