//! What the machine and the container are, asked of the kernel: nothing here knows of volumes or seeds.

pub(crate) mod commands;
pub(crate) mod files;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod nfs;
pub(crate) mod parallel;
pub(crate) mod processes;
pub(crate) mod processor;
pub(crate) mod program;
pub(crate) mod signals;
pub(crate) mod users;
