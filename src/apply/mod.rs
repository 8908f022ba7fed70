//! What changes the machine: the steps of a plan, each safe to repeat.

mod database;
mod directory;
mod durable;
mod error;
mod holders;
mod kernel_log;
mod links;
mod lock;
mod memory;
mod mount;
pub mod mount_failure;
mod plan;
mod remount;
mod set_up;
mod state;
mod unmount;
mod warmed_paths;

pub use error::Error;
pub use holders::Holder;
pub use kernel_log::KernelLog;
pub use lock::DirectoryLock;
pub use memory::{Checked, LowerMemory, Memory, Mounted, Warmed};
pub use mount::Overlay;
pub use plan::{Plan, Step, StepReport, plan};
pub use remount::{RemountError, remount};
pub use set_up::{End, Ended, Progress, SetUp, Tell};
pub use unmount::{TakeDown, TakenDown};
