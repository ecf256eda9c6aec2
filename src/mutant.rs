//! Places where the tests break the protocol, to see that they would notice. Nothing of it is in the
//! binary: there every answer is a constant.

/// One way in which the protocol could be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Takes over without destroying the old claim.
    SkipFence,
    /// Takes over without moving what a late holder may still hold open.
    SkipFirming,
    /// Believes a server that gave the lock back that the holder is dead.
    TrustLock,
    /// Believes that a silent holder is dead.
    TrustSilence,
    /// Does not look whether a higher claim was made meanwhile.
    SkipVerify,
    /// Counts claims from those that are there only.
    ReuseEpochs,
    /// Does not look at the record again once the volume is claimed.
    SkipSecondLook,
    /// Believes a record that was read before the volume was looked at.
    SkipStill,
    /// Writes the record by its path instead of out of the claim.
    RecordByPath,
    /// Records the volume as complete before it is published.
    RecordFirst,
    /// Tells everybody that the volume is complete before its private record is there.
    PublicBeforePrivate,
    /// Removes the private record while the public one still vouches for it.
    RetirePrivateFirst,
    /// Takes a private record for enough.
    BelievePrivateAlone,
    /// Seals before the data is durable.
    SyncAfterSeal,
    /// Does not sync at all.
    SkipSync,
    /// Trusts what was staged before a power cut.
    TrustAfterPowerCut,
    /// Publishes what is not sealed.
    PublishUnsealed,
    /// Leaves the old record in place while an emptied volume is seeded anew.
    KeepOldRecord,
    /// Seeds its own image over what an earlier holder had begun to publish.
    GiveUpPublishing,
    /// Publishes without saying so first: what is half published then looks as if it were only sealed.
    PublishUnmarked,
    /// Makes only those directories durable that it moved something into itself.
    #[cfg(test)]
    SkipSyncOnResume,
    /// Trusts a stage whose sync failed.
    TrustAfterFailedSync,
    /// Sets a file's time, which says that it is whole, before its data is known to be kept.
    #[cfg(test)]
    TimeBeforeClose,
    /// Continues with what is in another user's state directory.
    InheritForeign,
    /// Moves another user's state directory aside instead of taking over the claims in it.
    AsideInsteadOfFence,
}

/// Whether the protocol is broken in this way.
#[cfg(not(test))]
pub const fn on(_: Mutant) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static ON: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether the protocol is broken in this way.
#[cfg(test)]
pub fn on(mutant: Mutant) -> bool {
    ON.get() == Some(mutant)
}

/// Breaks the protocol on this thread, or mends it.
#[cfg(test)]
pub fn set(mutant: Option<Mutant>) {
    ON.set(mutant);
}
