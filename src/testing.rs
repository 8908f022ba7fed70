//! What tests, benchmarks and fuzz targets use of the inside. Everything else is private, so that
//! the compiler sees dead code.

/// See the module of this name.
pub mod apply {
    pub use crate::apply::mount_failure::{Cause, MountFailure};
}

/// See the module of this name.
pub mod check {
    pub use crate::check::{Code, Severity, check, compare, description};
}

/// See the module of this name.
pub mod compare {
    pub use crate::compare::{Identity, across, contents};
}

/// See the module of this name.
pub mod config {
    pub use crate::config::{
        Auto, Environment, Errors, KEYS, MetadataSource, PUBLICATION_KEYS, Publication, Store,
        parse, parse_publication, schema,
    };
}

/// See the module of this name.
pub mod counts {
    pub use crate::counts::Counts;
}

/// See the module of this name.
pub mod escape {
    pub use crate::escape::show;
}

/// See the module of this name.
pub mod linux {
    pub use crate::linux::kernel_log::KernelLog;
    pub use crate::linux::root::System;
}

/// See the module of this name.
pub mod lower {
    pub use crate::lower::daemon::DaemonSource;
    pub use crate::lower::publication::{Publication, PublicationError};
    pub use crate::lower::sqlite::SqliteSource;
    pub use crate::lower::{LowerError, OverlaySource, Source};
    pub use crate::sqlite::snapshot::SnapshotError;
}

/// See the module of this name.
pub mod nix {
    pub use crate::nix::path_info::PathInfo;
    pub use crate::nix::path_set::PathSet;
    pub use crate::nix::store_directory::StoreDirectory;
    pub use crate::nix::store_path::StorePath;
    pub use crate::nix::version::NixVersion;
    pub use crate::nix::worker_protocol::probe;
    pub use crate::nix::{layout, mount_check, schema, url};
}

/// See the module of this name.
pub mod observe {
    pub use crate::observe::{Depth, observe};
}

/// See the module of this name.
pub mod remedy {
    pub use crate::remedy::HasRemedy;
}

/// See the module of this name.
pub mod overlayfs {
    pub use crate::overlayfs::mountinfo::{MountInfo, stack_at};
    pub use crate::overlayfs::options::{MountOption, MountOptions, SuperOptions};
}

/// See the module of this name.
pub mod plan {
    pub use crate::plan::Overlay;
}

/// See the module of this name.
pub mod systemd {
    pub use crate::systemd::generator::generate;
    pub use crate::systemd::text::{argument, environment_value, prose, unit_name, word};
}

/// See the module of this name.
pub mod warm {
    pub use crate::warm::{Wanted, Warm, WarmError, Warmed};
}
