//! `down`: what `up` mounted is unmounted, and nothing else.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::error::{Doing, Error, walked};
use super::holders::{self, Holder};
use super::lock::DirectoryLock;
use super::memory;
use super::mount::unmount;
use super::progress::{Progress, Tell};
use crate::config::Store;
use crate::escape::{show, show_path};
use crate::linux::root::System;
use crate::linux::safe_path::{self, Symlinks};
use crate::observe;
use crate::overlayfs::mountinfo::{MountInfo, stack_at};
use crate::overlayfs::options::SuperOptions;
use crate::plan::{StepKind, StepReport};
use crate::records::Memory;
use crate::records::mount_record::{MountIdentity, Record};
use crate::remedy::{Fault, Remedy, command};

/// Which store is to be unmounted, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TakeDown<'a> {
    /// The store as described.
    pub store: &'a Store,
    /// The machine.
    pub system: &'a System,
    /// Whether to detach a mount that is in use.
    pub lazy: bool,
    /// Whether to unmount an overlay without a record, if it is one of the directories described.
    pub unrecorded: bool,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum TakenDown {
    /// Nothing was mounted.
    NotMounted,
    /// What `up` mounted is unmounted.
    Unmounted(StepReport),
    /// It is in use, and still mounted.
    Busy {
        /// The mounts below it.
        below: Vec<PathBuf>,
        /// The processes that use it.
        holders: Vec<Holder>,
    },
    /// What is mounted there was not mounted by `up`, as far as is known: what it is, and what to do.
    NotOurs(Fault),
}

impl TakeDown<'_> {
    /// Unmounts the overlay, if `up` mounted it.
    ///
    /// # Errors
    /// When the machine could not do it.
    pub(crate) fn run(&self, tell: Tell<'_>) -> Result<TakenDown, Error> {
        // A set-up at work is waited for. Without a work directory there is none.
        let workdir = safe_path::directory(&self.store.workdir, Symlinks::Refuse).ok();
        let _lock = match &workdir {
            Some(workdir) => Some(DirectoryLock::wait(workdir, self.system, &mut |holder| {
                tell(Progress::Waiting(holder));
            })?),
            None => None,
        };
        let real = &self.store.real.value;
        let mounts = self.mounts()?;
        let stack = stack_at(&mounts, real);
        let Some(&top) = stack.first() else {
            // A run that was killed after unmounting left these.
            self.forget(tell);
            return Ok(TakenDown::NotMounted);
        };
        if let Some(fault) = self.why_not_ours(&stack, top)? {
            return Ok(TakenDown::NotOurs(fault));
        }
        let mut flags = UnmountFlags::NOFOLLOW;
        if self.lazy {
            flags |= UnmountFlags::DETACH;
        }
        match unmount(real, flags)? {
            Ok(()) => {}
            Err(Errno::BUSY) => {
                return Ok(TakenDown::Busy {
                    below: holders::mounts_below(&mounts, top),
                    holders: holders::find(self.system, top).doing("look for users of", real)?,
                });
            }
            Err(errno) => return Err(errno).doing("unmount", real),
        }
        self.forget(tell);
        Ok(TakenDown::Unmounted(self.step()))
    }

    fn mounts(&self) -> Result<Vec<MountInfo>, Error> {
        let path = Path::new("/proc/self/mountinfo");
        let content = self
            .system
            .read_proc("self/mountinfo")
            .doing("read", path)?;
        MountInfo::parse_all(&content)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
            .doing("read", path)
    }

    /// Why the topmost mount is not the one that `up` made, if it is not.
    fn why_not_ours(&self, stack: &[&MountInfo], top: &MountInfo) -> Result<Option<Fault>, Error> {
        let real = &self.store.real.value;
        let shown = show_path(real);
        let unmount = Remedy::say("unmount it if nobody needs it").run(command!["umount", real]);
        let (fs, source) = (kind(top), show(top.source.as_encoded_bytes()));
        if top.fs_type != "overlay" {
            let fault =
                format!("{fs} ({source}) is mounted at {shown}, which `overstore up` did not do");
            return Ok(Some(Fault::new(fault).remedy(unmount)));
        }
        let mut below = stack.iter().skip(1);
        if below.any(|other| other.is_of_same_file_system(top)) {
            let fault = format!(
                "a bind mount of the overlay lies on top of it at {shown}, which `overstore up` did \
                 not make"
            );
            let again = self.store.command(["down"]);
            return Ok(Some(Fault::new(fault).remedy(unmount.run(again))));
        }
        let (record, unread) = match Record::read(self.system, real) {
            Ok(record) => (record, None),
            Err(error) => (None, Some(error)),
        };
        // Dropped before unmounting: a descriptor keeps the mount busy.
        let merged = walked(real, safe_path::directory(real, Symlinks::Refuse))?;
        let identity = MountIdentity::of(&merged).doing("look at", real)?;
        let options = SuperOptions::parse(&top.super_options);
        if record.is_some_and(|record| record.is_of(&identity, &options)) {
            return Ok(None);
        }
        let fault = match unread {
            None => format!(
                "the overlay at {shown} was not mounted by `overstore up`, or its record in \
                 /run/overstore is gone"
            ),
            Some(error) => format!(
                "whether `overstore up` mounted the overlay at {shown} is not known, since its record \
                 in /run/overstore cannot be read: {error}"
            ),
        };
        if !self.unrecorded {
            let remedy =
                Remedy::say("unmount it if it is one of exactly the directories described")
                    .run(self.store.command(["down", "--unrecorded"]))
                    .or(unmount);
            return Ok(Some(Fault::new(fault).remedy(remedy)));
        }
        let differs = observe::differs(self.system, self.store).map_err(Error::Observe)?;
        Ok(differs.map(|how| {
            Fault::new(format!(
                "{fault}, and it is not one of exactly the directories described: {how}"
            ))
            .remedy(unmount)
        }))
    }

    /// Removes the record of the mount, and forgets it in what is remembered over reboots.
    fn forget(&self, tell: Tell<'_>) {
        let real = &self.store.real.value;
        if let Err(error) = Record::remove(self.system, real) {
            // Whatever is mounted there later is another mount, and known to be.
            tell(Progress::Warning(&Fault::new(format!(
                "the record of the mount at {} stays in /run/overstore: {error}",
                show_path(real)
            ))));
        }
        let mut remembered = Memory::read(self.store);
        if remembered.mounted.take().is_some() {
            memory::write(&remembered, self.store, tell);
        }
    }

    fn step(&self) -> StepReport {
        let shown = show_path(&self.store.real.value).into_owned();
        let how = if self.lazy { "detach" } else { "unmount" };
        StepReport {
            step: StepKind::Unmount,
            text: format!("{how} the overlay at {shown}"),
            subject: shown,
        }
    }
}

fn kind(mount: &MountInfo) -> String {
    show(mount.fs_type.as_encoded_bytes()).into_owned()
}
