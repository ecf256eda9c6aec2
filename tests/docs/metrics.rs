//! docs/monitoring.md has every metric of the program, and no other.

use std::collections::BTreeSet;
use std::path::Path;

use crate::literals;

/// The names that the program gives to its metrics.
fn metrics() -> BTreeSet<String> {
    let is_name =
        |call: &(String, usize)| ["one", "encode_descriptor"].contains(&call.0.as_str()) && call.1 == 0;
    let literals = literals::all().into_iter().filter(|literal| literal.file == "health/metrics.rs");
    let named = literals.filter(|literal| literal.calls.last().is_some_and(is_name));
    named.map(|literal| format!("volseed_{}", literal.text)).collect()
}

/// The metrics that a text names, without what Prometheus puts behind the name of a counter or a histogram.
fn named(page: &str) -> BTreeSet<String> {
    let words = page.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    let names = words.filter(|word| word.starts_with("volseed_"));
    let suffixes = ["_total", "_bucket", "_sum", "_count"];
    let bare = |name: &str| suffixes.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned();
    names.map(bare).collect()
}

#[test]
fn the_page_on_monitoring_has_every_metric_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring.md");
    let page = std::fs::read_to_string(path).expect("the page can be read");
    assert_eq!(named(&page), metrics());
}
