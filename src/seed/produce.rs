//! The source goes to the writers: a directory is walked, an archive read, and every entry fed to the pipeline.

use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs;

use super::StageJob;
use super::engine::feed::Feed;
use super::engine::pipeline::{self, Budget, Producer};
use super::engine::workers::Parallelism;
use super::source::directory::{self, Walk};
use super::source::entry::Meta;
use super::source::exclude::Excluding;
use super::source::links::Links;
use super::source::members::Stream;
use super::source::{SourceContent, Stdin, archive, decompress, slab, stdin_is_silent};
use super::stage::case;
use super::stage::metadata::Fidelity;
use super::stage::overrides::Overrides;
use super::stage::space::Space;
use super::stage::tree::Tree;
use super::stage::writer::Shared;
use crate::error::{Context, Result, printable};
use crate::volume::records::TREE;
use crate::volume::short_stat;

/// What a source says besides its entries.
pub(super) struct Produced {
    pub(super) root: Option<Meta>,
    pub(super) skipped: u64,
    pub(super) excluded: u64,
}

impl StageJob<'_> {
    /// Runs the pipeline from the source to the tree: what was produced, what was done, and how many files of an
    /// earlier run were reused.
    ///
    /// # Errors
    /// The first error of any of its threads; that the source changed meanwhile.
    pub(super) fn run(
        &self,
        tree: &Tree,
        source: SourceContent,
        overrides: Overrides<'_>,
        fidelity: &Fidelity,
        crew: Parallelism,
        space: &Space,
    ) -> Result<(Produced, pipeline::WorkDone, u64)> {
        let config = self.config;
        let ignores_case =
            case::ignores_case(self.stage, TREE.as_bytes()).context("stat", self.tree_path().as_path())?;
        let shared = Shared {
            tree,
            source: match &source {
                SourceContent::Directory(root) => Some(root.as_fd()),
                SourceContent::File(file, _) => Some(file.as_fd()),
                SourceContent::Stdin => None,
            },
            source_path: config.from.clone(),
            fidelity,
            progress: self.progress,
            cancel: &self.cancel,
            reused: AtomicU64::new(0),
            direct: crew.direct,
            // Without it a name would open what has another spelling of it.
            exclusive: crew.exclusive || ignores_case,
            flush: crew.flush,
            times: config.times,
            stage: self.stage,
            ignores_case,
        };
        let mut excluding = Excluding::new(&config.exclude);
        let (work, produced) = self.produce(&source, overrides, &mut excluding, (&shared, crew, space))?;
        self.check_source(&source)?;
        for pattern in excluding.without_effect() {
            tracing::warn!(
                pattern = printable(pattern.as_bytes()),
                "an --exclude that matches nothing in the source"
            );
        }
        Ok((Produced { excluded: excluding.count, ..produced }, work, shared.reused.into_inner()))
    }

    /// Has the writers list a directory, or reads an archive for them.
    fn produce(
        &self,
        source: &SourceContent,
        overrides: Overrides<'_>,
        excluding: &mut Excluding,
        (shared, crew, space): (&Shared<'_>, Parallelism, &Space),
    ) -> Result<(pipeline::WorkDone, Produced)> {
        let config = self.config;
        match source {
            SourceContent::Directory(root) => {
                let volume = short_stat(self.volume.root()).context("stat", self.volume.path())?;
                let stage = short_stat(self.stage).context("stat", self.stage_path.as_path())?;
                let walk = Walk::new(root, &config.from, [volume, stage], overrides, excluding, self.only)?;
                let list = |listing, feed: &mut Feed<'_>| walk.list(listing, feed);
                let limits = Budget { crew, memory: config.memory, entries: config.max_entries };
                let work = pipeline::run(shared, limits, space, Producer::Directory(&list))?;
                Ok((
                    work,
                    Produced { root: Some(walk.root_meta.clone()), skipped: walk.skipped(), excluded: 0 },
                ))
            }
            SourceContent::File(..) | SourceContent::Stdin => {
                let (tar, idle) = self.open_archive(source)?;
                let budget = slab::MemoryShares::new(config.memory);
                let mut root = None;
                let read = |feed: &mut Feed<'_>| {
                    let links = Links::new(self.stage, self.stage_path.clone());
                    let pool = slab::Pool::new(budget);
                    let how = (overrides, excluding, self.only);
                    root = archive::produce(tar, &config.from, how, (&pool, budget), links, idle, feed)?;
                    Ok(())
                };
                let limits = Budget { crew, memory: budget.data, entries: config.max_entries };
                let work = pipeline::run(shared, limits, space, Producer::Stream(Box::new(read)))?;
                Ok((work, Produced { root, skipped: 0, excluded: 0 }))
            }
        }
    }

    /// What an archive holds, and whether its bytes keep the reader waiting.
    fn open_archive(&self, source: &SourceContent) -> Result<(Stream, &'static dyn Fn() -> bool)> {
        let flowing =
            |bytes: Box<dyn Read>| decompress::open(bytes, Arc::clone(self.progress)).map(Stream::Flowing);
        let from = &self.config.from;
        let (tar, idle): (_, &'static dyn Fn() -> bool) = match source {
            SourceContent::File(file, look) => {
                let copy = file.try_clone().context("open source", from.as_path())?;
                let tar = match look {
                    Some(look) => decompress::open_file(copy, look.size, Arc::clone(self.progress)),
                    None => flowing(Box::new(copy)),
                };
                (tar, &|| false)
            }
            _ => (flowing(Box::new(Stdin { cancel: Arc::clone(&self.cancel) })), &stdin_is_silent),
        };
        Ok((tar.map_err(|error| archive::unreadable(from, &error))?, idle))
    }

    /// Whether the source is still what was read.
    fn check_source(&self, source: &SourceContent) -> Result<()> {
        let path = &self.config.from;
        match source {
            SourceContent::File(file, Some(look)) => look.check(file, path),
            // Kubelet replaces the directory of a ConfigMap, and what was gone before it was listed is not missed.
            SourceContent::Directory(root)
                if fs::fstat(root).context("stat", path.as_path())?.st_nlink == 0 =>
            {
                Err(directory::removed(path))
            }
            _ => Ok(()),
        }
    }
}
