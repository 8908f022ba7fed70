//! What is told while the machine is changed.

use crate::plan::StepReport;
use crate::remedy::Fault;

/// What happens meanwhile.
#[derive(Debug)]
pub(crate) enum Progress<'a> {
    /// A step begins.
    Step(&'a StepReport),
    /// It has taken more than a second to wait for somebody, named in words.
    Waiting(&'a str),
    /// Something is not as it should be, and no reason not to go on.
    Warning(&'a Fault),
}

/// Receives what happens meanwhile.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Progress<'_>);
