//! What changes the machine: the steps of a plan, each safe to repeat.

mod database;
mod directory;
mod durable;
mod error;
mod generation;
mod holders;
mod hook;
mod links;
mod lock;
mod marks;
mod memory;
mod mount;
pub(crate) mod mount_failure;
mod progress;
mod refresh;
mod remount;
mod separate;
mod set_up;
mod state;
mod unmount;
mod work;

pub(crate) use error::Error;
pub(crate) use generation::link as link_generation;
pub(crate) use holders::Holder;
pub(crate) use lock::{DirectoryLock, StoreLocks};
pub(crate) use memory::{
    remember_collected, remember_deleting, remember_lower, remember_rows, remember_warmed,
};
pub(crate) use progress::{Progress, Tell};
pub(crate) use refresh::{Refresh, RefreshError};
pub(crate) use remount::{RemountError, remount, remount_aside};
pub(crate) use set_up::{End, Ended};
pub(crate) use unmount::{TakeDown, TakenDown};
pub(crate) use work::SetUp;
