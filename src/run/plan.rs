//! `volseed plan`: what a start with this image would do with a volume, path by path. Changes nothing on it.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::sync::Arc;

use serde::Serialize;

use super::adoption::Look;
use super::gate::Verdict;
use super::upgrade::{self, Prepared};
use super::verify::shown;
use super::{adoption, emptied};
use crate::claims::inspect;
use crate::cli::config::VolumeConfig;
use crate::cli::values::Adopt;
use crate::error::{Error, Result, printable};
use crate::exit::Exit;
use crate::seed::upgrade::check::Step;
use crate::seed::{Source, StageJob};
use crate::text::{json_of, one_line};
use crate::volume::records::{Name, Public};
use crate::volume::scratch::Scratch;
use crate::volume::{Volume, user};

/// What a start would do.
pub(crate) struct Planned {
    volume: String,
    from: Option<String>,
    to: Option<String>,
    does: Does,
    refused: Option<String>,
    steps: Vec<(Box<[u8]>, Step)>,
    /// Entries of the image that the volume was adopted without.
    missing: u64,
    /// What was found on a volume that was seeded before volseed.
    found: Option<String>,
    /// What the hook is called for.
    hooks: &'static [&'static str],
    bytes: u64,
}

/// All of it in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Does {
    Seed,
    Adopt,
    Complete,
    Start,
    StartOnNewer,
    StartOnOlder,
    StartOnSelfUpdated,
    Hook,
    WaitForHook,
    Upgrade,
    Rollback,
    Refuse,
}

impl Does {
    fn text(self) -> &'static str {
        match self {
            Does::Seed => "would be seeded",
            Does::Adopt => "would be adopted as it is: it was seeded before volseed",
            Does::Complete => "would be adopted, and what is missing added: it was seeded before volseed",
            Does::Start => "nothing to do: it is at this version",
            Does::StartOnNewer => "nothing to do: it is at a newer version, and is left as it is",
            Does::StartOnOlder => "nothing to do: it is at another version, and --upgrade is not given",
            Does::StartOnSelfUpdated => "nothing to do: the app has updated itself, and is left as it is",
            Does::Hook => "its hook would be run: it has not succeeded yet",
            Does::WaitForHook => {
                "would be waited for: a hook of the image that made it complete has not succeeded yet"
            }
            Does::Upgrade => "would be upgraded",
            Does::Rollback => "would be taken back",
            Does::Refuse => "would be refused",
        }
    }
}

/// A step, for machines.
#[derive(Serialize)]
struct OneStep<'a> {
    volume: &'a str,
    path: Name,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
}

/// All of a volume, for machines.
#[derive(Serialize)]
struct Summary<'a> {
    volume: &'a str,
    does: Does,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'a str>,
    add: u64,
    replace: u64,
    save: u64,
    remove: u64,
    keep: u64,
    left_out: u64,
    #[serde(skip_serializing_if = "is_zero")]
    missing: u64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    hooks: &'a [&'static str],
    bytes: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Looks at a volume and at the image. Blocks for as long as the file system does.
///
/// # Errors
/// When something cannot be read.
pub(crate) fn plan(config: &VolumeConfig) -> Result<Planned> {
    let volume = Volume::open(&config.to, config.state_dir.as_deref())?;
    let planned = user::work_as(volume.user(), || on(config, &volume))?;
    let hooks: &[&str] = match planned.does {
        _ if config.hook.is_none() => &[],
        Does::Seed => &["post-seed"],
        Does::Upgrade | Does::Rollback => &["pre-upgrade", "post-upgrade"],
        _ => &[],
    };
    Ok(Planned { hooks, ..planned })
}

fn on(config: &VolumeConfig, volume: &Volume) -> Result<Planned> {
    let mut planned = Planned {
        volume: config.to.display().to_string(),
        from: None,
        to: config.seed_version.clone(),
        does: Does::Start,
        refused: None,
        steps: Vec::new(),
        missing: 0,
        found: None,
        hooks: &[],
        bytes: 0,
    };
    let public = match inspect::public(volume)? {
        Some(public) if !emptied::is_emptied(volume, &public)? => public,
        _ => {
            let sentinel = config.sentinel.as_ref().map(|path| volume.find(path)).transpose()?.flatten();
            planned.does = if sentinel.is_some() { Does::Adopt } else { Does::Seed };
            if sentinel.is_some() && adoption::can_look(config)? {
                look_at_adopted(config, volume, &mut planned)?;
            }
            return Ok(planned);
        }
    };
    let version = config.seed_version.as_deref();
    if !public.is_complete() && public.is_at(version) {
        planned.does = if config.hook.is_some() { Does::Hook } else { Does::WaitForHook };
        return Ok(planned);
    }
    if public.is_complete() && version.is_none_or(|version| public.has_version(version)) {
        return Ok(planned);
    }
    look_closer(config, volume, &public, planned)
}

/// It was seeded before volseed.
fn look_at_adopted(config: &VolumeConfig, volume: &Volume, planned: &mut Planned) -> Result<()> {
    let looked = in_scratch(config, volume, Look::of);
    let look = match looked {
        // As a start does.
        Err(_) if config.adopt == Adopt::AsIs => return Ok(()),
        looked => looked?,
    };
    planned.from = config.seed_version.clone().filter(|_| look.is_of_image);
    planned.missing = look.missing;
    planned.found = Some(found(&look));
    match look.check(config) {
        Err(error) => {
            planned.does = Does::Refuse;
            planned.refused = Some(error.to_string());
        }
        Ok(()) if look.missing > 0 && config.adopt == Adopt::Complete => {
            planned.does = Does::Complete;
            planned.steps = look.steps();
        }
        Ok(()) => {}
    }
    Ok(())
}

/// What the volume has of the image.
fn found(look: &Look) -> String {
    let mut text = match (look.missing, look.is_of_image) {
        (0, true) => "it has the image's sentinel, and lacks nothing".to_owned(),
        (0, false) => "its sentinel is not the image's, and it lacks nothing".to_owned(),
        _ => look.lacks(),
    };
    match look.plan.left.len() {
        0 => {}
        1 => text += "; 1 entry differs in size or type",
        differ => text += &format!("; {differ} entries differ in size or type"),
    }
    if !look.is_of_image {
        text += "; its version is not known";
    }
    text
}

/// Does `work` as in the stage of a claim, in a directory that is not on the volume.
fn in_scratch<T>(
    config: &VolumeConfig,
    volume: &Volume,
    work: impl FnOnce(&StageJob<'_>) -> Result<T>,
) -> Result<T> {
    let (scratch, progress) = (Scratch::create()?, Arc::default());
    work(&StageJob::in_scratch(config, volume, &scratch, &progress, Arc::default()))
}

/// It is at another version, or at none that is known.
fn look_closer(
    config: &VolumeConfig,
    volume: &Volume,
    public: &Public,
    mut planned: Planned,
) -> Result<Planned> {
    let Some(record) = inspect::private(volume, public) else {
        return Err(Error::new(Exit::Permission, "plan", "its private record cannot be read")
            .on(volume.path())
            .help("run volseed as the owner of .volseed (often root)"));
    };
    planned.from = record.version.as_ref().map(ToString::to_string);
    let state = volume.open_state()?;
    planned.does = match upgrade::verdict(config, volume, state.as_fd(), (public, &record))? {
        Verdict::Same => Does::Start,
        Verdict::Hook => Does::Hook,
        Verdict::WaitForHook => Does::WaitForHook,
        Verdict::Newer => Does::StartOnNewer,
        Verdict::NotAsked => Does::StartOnOlder,
        Verdict::SelfUpdated => Does::StartOnSelfUpdated,
        Verdict::NotFrom => Does::Refuse,
        Verdict::Upgrade => Does::Upgrade,
        Verdict::Rollback => Does::Rollback,
    };
    if planned.does == Does::Refuse {
        planned.refused = Some(upgrade::not_from(config, &record).to_string());
    }
    if !matches!(planned.does, Does::Upgrade | Does::Rollback) {
        return Ok(planned);
    }
    let source = Source::open(config, volume)?;
    let prepared =
        in_scratch(config, volume, |site| upgrade::prepare(config, site, source, state.as_fd(), &record))?;
    if let Err(error) = prepared.check(config) {
        planned.does = Does::Refuse;
        planned.refused = Some(error.to_string());
    }
    let Prepared { plan, .. } = prepared;
    (planned.steps, planned.bytes) = (plan.steps.into_iter().collect(), plan.bytes);
    Ok(planned)
}

impl Planned {
    /// 0 where a start would change nothing, 1 where it would change something, 78 where it would be refused.
    pub(crate) fn exit(&self) -> Exit {
        match self.does {
            Does::Refuse => Exit::Refused,
            Does::Seed | Does::Adopt | Does::Complete | Does::Hook | Does::Upgrade | Does::Rollback => {
                Exit::Differs
            }
            Does::Start
            | Does::StartOnNewer
            | Does::StartOnOlder
            | Does::StartOnSelfUpdated
            | Does::WaitForHook => Exit::Success,
        }
    }

    /// For people: a line for each path, and one for all.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (path, step) in &self.steps {
            let (action, why) = words(*step);
            let why = why.map(|why| format!("   ({why})")).unwrap_or_default();
            let _ = writeln!(text, "{action:<13} {}{why}", printable(shown(path)));
        }
        let versions = match (&self.from, &self.to) {
            (Some(from), Some(to)) if from != to => format!(" from {from} to {to}"),
            _ => String::new(),
        };
        let volume = one_line(&self.volume);
        let _ = write!(text, "{volume}: {}", self.does.text());
        if matches!(self.does, Does::Upgrade | Does::Rollback | Does::Refuse) && self.refused.is_none() {
            let [add, replace, save, remove, keep, left_out] = self.counts();
            let _ = write!(
                text,
                "{versions}: {add} added, {replace} replaced, {save} of these saved, {remove} removed, {keep} kept, {left_out} left out"
            );
        }
        if let (Does::Adopt | Does::Complete, Some(found)) = (self.does, &self.found) {
            let _ = write!(text, ": {found}");
        }
        if !self.hooks.is_empty() {
            let _ = write!(text, "; its hook would be called: {}", self.hooks.join(", "));
        }
        if let Some(refused) = &self.refused {
            let _ = write!(text, ": {}", one_line(refused));
        }
        text.push('\n');
        text
    }

    /// The same for machines: a JSON object on each line.
    pub(crate) fn json(&self) -> String {
        let mut text = String::new();
        let volume = self.volume.as_str();
        for (path, step) in &self.steps {
            let (action, why) = words(*step);
            let line = OneStep { volume, path: Name::from(shown(path)), action, why };
            let _ = writeln!(text, "{}", json_of(&line));
        }
        let [add, replace, save, remove, keep, left_out] = self.counts();
        let (from, to, refused) = (self.from.as_deref(), self.to.as_deref(), self.refused.as_deref());
        let Planned { does, missing, hooks, bytes, .. } = *self;
        #[rustfmt::skip]
        let summary = Summary {
            volume, does, from, to, refused, add, replace, save, remove, keep, left_out, missing, hooks,
            bytes,
        };
        let _ = writeln!(text, "{}", json_of(&summary));
        text
    }

    /// Added, replaced, saved of these, removed, kept and left out.
    fn counts(&self) -> [u64; 6] {
        let count = |is: fn(&Step) -> bool| self.steps.iter().filter(|(_, step)| is(step)).count() as u64;
        [
            count(|step| matches!(step, Step::Add | Step::AddTree)),
            count(|step| matches!(step, Step::Replace | Step::ReplaceAndSave)),
            count(|step| matches!(step, Step::ReplaceAndSave)),
            count(|step| matches!(step, Step::Remove | Step::RemoveDirectory)),
            count(|step| matches!(step, Step::Stay(..))),
            count(|step| matches!(step, Step::LeftOut(_))),
        ]
    }
}

/// A step as it is printed, and why.
fn words(step: Step) -> (&'static str, Option<&'static str>) {
    match step {
        Step::Add => ("add", None),
        Step::AddTree => ("add", Some("a whole directory")),
        Step::Replace => ("replace", None),
        Step::ReplaceAndSave => ("replace+save", Some("changed by the user and by the image")),
        Step::Remove => ("remove", None),
        Step::RemoveDirectory => ("remove", Some("if nothing is left in it")),
        Step::SetAttrs => ("set-mode", None),
        Step::Stay(why, _) => ("keep", Some(why.text())),
        Step::LeftOut(why) => ("left-out", Some(why.text())),
    }
}
