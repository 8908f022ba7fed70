//! `/proc/self/mountinfo`.

/// One line of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo;
