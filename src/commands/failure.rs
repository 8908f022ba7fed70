//! Why a command stopped, what it exits with for that, and what fixes it.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use crate::config::Errors;
use crate::remedy::{Fault, HasRemedy, Remedy};
use crate::report::{ErrorReport, Outcome};
use crate::systemd::journal::Journal;

/// Why a command stopped. Its text is the error's; the error keeps its sources.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    outcome: Outcome,
    #[source]
    error: Box<dyn Error + Send + Sync>,
    remedy: Remedy,
}

/// An error and what was being done.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
struct Doing {
    what: String,
    source: Box<dyn Error + Send + Sync>,
}

/// The result could not be printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the result: {0}")]
struct NotPrinted(#[source] io::Error);

/// What a command can stop for. Each kind of error has to say what fixes it, or that it does not know.
pub(super) trait Cause: HasRemedy + Into<Box<dyn Error + Send + Sync>> {}

impl<T: HasRemedy + Into<Box<dyn Error + Send + Sync>>> Cause for T {}

impl HasRemedy for Doing {}

impl HasRemedy for NotPrinted {
    fn remedy(&self) -> Remedy {
        Remedy::say("see where its standard output goes, and make room there")
    }
}

impl Failure {
    fn new(outcome: Outcome, error: impl Cause) -> Failure {
        let remedy = error.remedy();
        Failure {
            outcome,
            error: error.into(),
            remedy,
        }
    }

    /// The store is not as described.
    pub(super) fn not_as_described(error: impl Cause) -> Failure {
        Failure::new(Outcome::NotAsDescribed, error)
    }

    /// The command line or the configuration is wrong.
    pub(super) fn refused(error: impl Cause) -> Failure {
        Failure::new(Outcome::Refused, error)
    }

    /// The machine would not do it.
    pub(super) fn machine(error: impl Cause) -> Failure {
        Failure::new(Outcome::Failed, error)
    }

    /// The machine would not do it: what, as in "cannot ...", and why.
    pub(super) fn doing(what: impl Into<String>, error: impl Cause) -> Failure {
        let remedy = error.remedy();
        Failure::machine(Doing {
            what: what.into(),
            source: error.into(),
        })
        .remedy(remedy)
    }

    /// It is the command line that is wrong: it names what the machine would not do.
    pub(super) fn refusing(self) -> Failure {
        Failure {
            outcome: Outcome::Refused,
            ..self
        }
    }

    /// The machine could not be observed.
    pub(super) fn observing(error: impl Cause) -> Failure {
        Failure::doing("cannot look at this machine", error)
    }

    /// The machine would not do it, as that is told.
    pub(super) fn of(fault: Fault) -> Failure {
        Failure::machine(fault.what).remedy(fault.remedy)
    }

    /// Says what fixes it.
    pub(super) fn remedy(self, remedy: impl Into<Remedy>) -> Failure {
        let remedy = remedy.into();
        Failure { remedy, ..self }
    }

    /// What is wrong with the configuration file, if that is why.
    pub(super) fn configuration(&self) -> Option<&Errors> {
        self.error.downcast_ref()
    }

    /// What it tells people.
    pub(super) fn fault(&self) -> Fault {
        Fault::new(self.error.to_string()).remedy(self.remedy.clone())
    }

    fn not_printed(&self) -> Option<&NotPrinted> {
        self.error.downcast_ref()
    }

    /// Prints the failure to standard output as JSON, in place of a result; nothing where that
    /// cannot be printed to.
    pub(super) fn print_json(&self) {
        if self.not_printed().is_some() {
            return;
        }
        let report = ErrorReport {
            version: 1,
            outcome: self.outcome,
            failure: match self.configuration() {
                Some(_) => "the configuration file is wrong".to_owned(),
                None => self.to_string(),
            },
            remedy: self.remedy.clone().some(),
            mistakes: self
                .configuration()
                .map(Errors::mistakes)
                .unwrap_or_default(),
        };
        // The exit code and standard error tell the same.
        let _ = report.print();
    }

    /// Prints the failure to standard error, for people, and gives the exit code that says so. A
    /// reader of standard output that went away is no reason to complain.
    pub fn report(self) -> ExitCode {
        if let Some(NotPrinted(error)) = self.not_printed()
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        match self.configuration() {
            // The journal takes no colours.
            Some(errors) if Journal::behind(io::stderr()).is_none() => {
                use std::io::Write;
                // Nothing is left to tell it to if standard error cannot be written to.
                let _ = writeln!(anstream::stderr(), "{}", errors.styled());
            }
            _ => super::print_error(None, &self.fault()),
        }
        ExitCode::from(self.outcome.exit_code())
    }
}

impl From<Errors> for Failure {
    fn from(errors: Errors) -> Failure {
        Failure::refused(errors)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::machine(NotPrinted(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_its_exit_code_and_keeps_its_source() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let failure = Failure::observing(denied());
        assert_eq!(
            failure.to_string(),
            "cannot look at this machine: permission denied"
        );
        let doing = failure.source().unwrap();
        assert!(
            doing
                .source()
                .unwrap()
                .downcast_ref::<io::Error>()
                .is_some()
        );
        for (failure, exit_code) in [
            (Failure::not_as_described("a"), 1),
            (Failure::refused("a"), 2),
            (Failure::doing("a", denied()).refusing(), 2),
            (failure, 3),
            (Failure::from(denied()), 3),
        ] {
            assert_eq!(failure.outcome.exit_code(), exit_code, "{failure}");
        }
    }
}
