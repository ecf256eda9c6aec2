//! What is mounted, how, and what is on it already.

use rustix::fs::{self, StatVfsMountFlags};

use super::finding::Finding;
use super::needs::Needs;
use crate::claims::inspect;
use crate::cli::config::VolumeConfig;
use crate::cli::values::Existing;
use crate::error::{Context, Result, printable};
use crate::system::mounts::Mount;
use crate::system::nfs;
use crate::volume::{Storage, Volume, user};

/// The mount, and the volume's root.
///
/// # Errors
/// When the volume does not answer, or its record cannot be understood.
pub(super) fn findings(
    config: &VolumeConfig,
    volume: &Volume,
    needs: Option<&Needs>,
) -> Result<Vec<Finding>> {
    Ok(vec![mount(volume)?, root(volume)?, content(config, volume, needs)?])
}

fn mount(volume: &Volume) -> Result<Finding> {
    let root = volume.root();
    let kind = volume.kind()?;
    let told = nfs::file_system(root).unwrap_or_else(|| kind.name.to_owned());
    let options = nfs::mount_options(root).unwrap_or_default();
    let mount = Mount::of(volume.path()).filter(|mount| mount.kind == told);
    let source = mount.as_ref().map(|mount| format!(" from {}", mount.source)).unwrap_or_default();
    let place = match kind.place {
        Storage::Memory => "in memory",
        Storage::Local => "on this machine",
        Storage::Network => "on a server",
        Storage::Unknown => "in a place that is not known",
    };
    let what = format!("{told}{source}, {place}, mounted with {options}");
    let is_read_only =
        fs::fstatvfs(root).context("statfs", volume.path())?.f_flag.contains(StatVfsMountFlags::RDONLY);
    let finding = if is_read_only {
        Finding::fail("mount", what)
            .then("it is read-only: mount it read-write for the container that seeds it")
    } else if volume.is_container_layer() {
        Finding::warn("mount", what).then(
            "it is the container's own layer: the data is lost with the container, so mount a volume there",
        )
    } else if let Some(slow) = nfs::slow_mount(root) {
        Finding::warn("mount", what).then(slow)
    } else if mount.is_some_and(|mount| mount.gives_up()) {
        Finding::warn("mount", what)
            .then("a soft mount loses writes when the server is away for long: mount it with hard")
    } else if kind.place == Storage::Memory {
        Finding::warn("mount", what).then("the data is lost when it is unmounted")
    } else {
        Finding::ok("mount", what)
    };
    Ok(finding.fact("type", told).fact("options", options))
}

/// Whose the root is, and what it passes on.
fn root(volume: &Volume) -> Result<Finding> {
    let found = fs::fstat(volume.root()).context("stat", volume.path())?;
    let (owner, mode) = ((found.st_uid, found.st_gid), found.st_mode & 0o7777);
    let what = format!("of {}, mode {mode:04o}", user::spelled(owner));
    let finding = match volume.user() {
        Some(user) => Finding::warn("root", what)
            .then(format!(
                "root may not write there, so volseed works as {0}: everything will belong to {0}",
                user::spelled(user)
            ))
            .flag(format!("--chown {}", user::spelled(user))),
        None if mode & 0o2000 != 0 => Finding::ok("root", what)
            .then("its setgid bit gives entries its group, unless --chown is given or volseed is root"),
        None => Finding::ok("root", what),
    };
    Ok(finding
        .fact("uid", u64::from(owner.0))
        .fact("gid", u64::from(owner.1))
        .fact("mode", format!("{mode:04o}")))
}

/// What is on the volume.
fn content(config: &VolumeConfig, volume: &Volume, needs: Option<&Needs>) -> Result<Finding> {
    let names = volume.names()?;
    let first = volume.first_content(&names)?;
    let record = inspect::public(volume)?;
    let finding = match (&record, first) {
        (Some(record), _) if record.is_complete() => Finding::ok("content", "seeded already")
            .then("a start seeds nothing; volseed plan shows what it does"),
        (_, None) => Finding::ok("content", "empty"),
        (_, Some(first)) => {
            let what = format!("'{}' is there, and no record of a seed", printable(first));
            let has_sentinel =
                config.sentinel.as_ref().map(|path| volume.find(path)).transpose()?.flatten().is_some();
            match config.existing {
                _ if has_sentinel => Finding::ok("content", what).then("it has the sentinel: a start adopts it"),
                Existing::Fail if needs.is_some() => Finding::fail("content", what).then("--existing fail refuses it (78)"),
                Existing::Overwrite => Finding::warn("content", what).then("--existing overwrite replaces what the seed has"),
                _ => Finding::warn("content", what)
                    .then("a seed keeps what is there; --sentinel names the file by which a complete volume is known"),
            }
        }
    };
    Ok(finding.fact("entries", names.len() as u64))
}
