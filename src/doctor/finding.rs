//! What was found, for people and for machines.

use std::borrow::Cow;
use std::fmt::Write;

use serde::{Serialize, Serializer};

use crate::cli::config::VolumeConfig;
use crate::exit::Exit;
use crate::text::{json_of, one_line};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// A seed succeeds, but something is to be known.
    Warn,
    /// A seed is refused, or is not safe.
    Fail,
}

/// A value, for machines.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Fact {
    /// Whether something is so; nothing where that is not known.
    Bool(Option<bool>),
    /// A number; nothing where that is not known.
    Number(Option<u64>),
    /// A word.
    Text(String),
    /// Several.
    List(Vec<&'static str>),
}

/// One thing that was looked at. It is handed on often, and is a pointer.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Finding(Box<Found>);

#[derive(Debug, Serialize)]
struct Found {
    topic: &'static str,
    level: Level,
    what: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    then: Option<Cow<'static, str>>,
    #[serde(serialize_with = "as_object", skip_serializing_if = "Vec::is_empty")]
    facts: Vec<(&'static str, Fact)>,
    #[serde(skip)]
    flags: Vec<String>,
}

/// All that was found on a volume.
pub(crate) struct Report {
    volume: String,
    findings: Vec<Finding>,
}

/// A finding of a volume, for machines.
#[derive(Serialize)]
struct OneFinding<'a> {
    volume: &'a str,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// All of a volume, for machines.
#[derive(Serialize)]
struct Summary<'a> {
    volume: &'a str,
    fit: bool,
    ok: usize,
    warn: usize,
    fail: usize,
    flags: Vec<&'a str>,
}

impl Finding {
    pub(super) fn ok(topic: &'static str, what: impl Into<Cow<'static, str>>) -> Finding {
        Finding::new(Level::Ok, topic, what)
    }

    pub(super) fn warn(topic: &'static str, what: impl Into<Cow<'static, str>>) -> Finding {
        Finding::new(Level::Warn, topic, what)
    }

    pub(super) fn fail(topic: &'static str, what: impl Into<Cow<'static, str>>) -> Finding {
        Finding::new(Level::Fail, topic, what)
    }

    pub(super) fn new(level: Level, topic: &'static str, what: impl Into<Cow<'static, str>>) -> Finding {
        Finding::of(level, topic, what.into())
    }

    #[inline(never)]
    fn of(level: Level, topic: &'static str, what: Cow<'static, str>) -> Finding {
        Finding(Box::new(Found { topic, level, what, then: None, facts: Vec::new(), flags: Vec::new() }))
    }

    /// What follows from it.
    pub(super) fn then(self, then: impl Into<Cow<'static, str>>) -> Finding {
        self.followed_by(then.into())
    }

    #[inline(never)]
    fn followed_by(mut self, then: Cow<'static, str>) -> Finding {
        self.0.then = Some(then);
        self
    }

    /// A value of it, for machines.
    pub(super) fn fact(self, name: &'static str, value: impl Into<Fact>) -> Finding {
        self.with(name, value.into())
    }

    #[inline(never)]
    fn with(mut self, name: &'static str, value: Fact) -> Finding {
        self.0.facts.push((name, value));
        self
    }

    /// An option that a seed should have for it.
    #[inline(never)]
    pub(super) fn flag(mut self, flag: String) -> Finding {
        self.0.flags.push(flag);
        self
    }
}

impl From<bool> for Fact {
    fn from(value: bool) -> Fact {
        Fact::Bool(Some(value))
    }
}

impl From<u64> for Fact {
    fn from(value: u64) -> Fact {
        Fact::Number(Some(value))
    }
}

impl From<String> for Fact {
    fn from(value: String) -> Fact {
        Fact::Text(value)
    }
}

fn as_object<S: Serializer>(
    facts: &[(&'static str, Fact)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(facts.iter().map(|(name, value)| (name, value)))
}

impl Report {
    pub(super) fn new(config: &VolumeConfig, findings: Vec<Finding>) -> Report {
        Report { volume: config.to.display().to_string(), findings }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    pub(super) fn extend(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
    }

    /// 1 where a seed would be refused or is not safe, otherwise 0.
    pub(crate) fn exit(&self) -> Exit {
        if self.is_fit() { Exit::Success } else { Exit::Differs }
    }

    fn is_fit(&self) -> bool {
        self.count(Level::Fail) == 0
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.0.level == level).count()
    }

    /// The options that a seed should have, each once.
    fn flags(&self) -> Vec<&str> {
        let mut flags: Vec<&str> = Vec::new();
        for flag in self.findings.iter().flat_map(|finding| &finding.0.flags) {
            if !flags.contains(&flag.as_str()) {
                flags.push(flag);
            }
        }
        flags
    }

    /// For people: a line for each finding, and one for all.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for Found { topic, level, what, then, .. } in self.findings.iter().map(|finding| &*finding.0) {
            let level = match level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "fail",
            };
            let then = then.as_ref().map(|then| format!(": {then}")).unwrap_or_default();
            let _ = writeln!(text, "{level:<4}  {topic:<13} {}", one_line(&format!("{what}{then}")));
        }
        let verdict = match (self.count(Level::Fail), self.count(Level::Warn)) {
            (0, 0) => "fit for a seed".to_owned(),
            (0, warnings) => format!("fit for a seed, {warnings} to be known"),
            (1, _) => "not fit for this seed: 1 finding".to_owned(),
            (failures, _) => format!("not fit for this seed: {failures} findings"),
        };
        let flags = self.flags().join(" ");
        let flags = if flags.is_empty() { flags } else { format!("; suggested: {flags}") };
        let _ = writeln!(text, "{}: {verdict}{}", one_line(&self.volume), one_line(&flags));
        text
    }

    /// The same for machines: a JSON object on each line.
    pub(crate) fn json(&self) -> String {
        let mut text = String::new();
        let volume = self.volume.as_str();
        for finding in &self.findings {
            let _ = writeln!(text, "{}", json_of(&OneFinding { volume, finding }));
        }
        let [ok, warn, fail] = [Level::Ok, Level::Warn, Level::Fail].map(|level| self.count(level));
        let summary = Summary { volume, fit: self.is_fit(), ok, warn, fail, flags: self.flags() };
        let _ = writeln!(text, "{}", json_of(&summary));
        text
    }
}

/// How bad it is that a volume does not keep something, of which the seed has so many where that is known. What is
/// only lost is a warning; what a seed is refused for is a failure where the seed has it.
pub(super) fn unkept(needed: Option<u64>, is_refused: bool) -> Level {
    match needed {
        Some(0) => Level::Ok,
        Some(_) if is_refused => Level::Fail,
        _ => Level::Warn,
    }
}
