//! What is wrong with a configuration file, and where.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use schemars::JsonSchema;
use serde::Serialize;

use crate::remedy::HasRemedy;

/// How many problems are told of one file; how many more there are is told, too.
pub(super) const MOST_TOLD: usize = 50;

/// A range of bytes of the file.
pub(super) type Span = Range<usize>;

/// Something wrong, and the places of the file it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    /// What is wrong.
    title: String,
    /// The place it is about, and what to say there. `None` where the file has no such place: a
    /// key that is missing, a default.
    place: Option<(Span, String)>,
    /// Other places that matter.
    context: Vec<(Span, String)>,
    /// What else there is to know.
    notes: Vec<String>,
    /// What to write instead.
    help: Option<String>,
    /// The key that seems to be meant, for an unknown key or a value that cannot be read: it is not
    /// missing as well.
    pub(super) meant: Option<String>,
    /// Whether it is about an unknown key.
    pub(super) unknown_key: bool,
}

impl Problem {
    /// A problem with the file as a whole.
    pub(super) fn new(title: impl Into<String>) -> Problem {
        Problem {
            title: title.into(),
            place: None,
            context: Vec::new(),
            notes: Vec::new(),
            help: None,
            meant: None,
            unknown_key: false,
        }
    }

    /// Points at the value or key that is wrong. The first place is the main one.
    pub(super) fn at(mut self, span: &Span, label: impl Into<String>) -> Problem {
        match self.place {
            None => self.place = Some((span.clone(), label.into())),
            Some(_) => self.context.push((span.clone(), label.into())),
        }
        self
    }

    /// Says something that the file does not.
    pub(super) fn note(mut self, note: impl Into<String>) -> Problem {
        self.notes.push(note.into());
        self
    }

    /// Says what to write instead.
    pub(super) fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    /// Where it is; the end of the file for what is not in it.
    pub(super) fn start(&self) -> usize {
        self.place
            .as_ref()
            .map_or(usize::MAX, |(span, _)| span.start)
    }

    fn group<'a>(&'a self, file: &'a Errors) -> Group<'a> {
        let title = Level::ERROR.primary_title(&self.title);
        let mut group = match &self.place {
            Some((span, label)) => {
                let primary = AnnotationKind::Primary.span(span.clone()).label(label);
                let context = self
                    .context
                    .iter()
                    .map(|(span, label)| AnnotationKind::Context.span(span.clone()).label(label));
                title.element(
                    Snippet::source(&file.text)
                        .path(&file.label)
                        .annotation(primary)
                        .annotations(context),
                )
            }
            None => title.element(annotate_snippets::Origin::path(&file.label)),
        };
        group = group.elements(self.notes.iter().map(|note| Level::NOTE.message(note)));
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        group
    }
}

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Mistake {
    /// The file.
    pub file: String,
    /// The line, from 1; absent for what is not in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column, from 1, in characters; absent for what is not in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What is said of that place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What else there is to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Everything that is wrong with a configuration file, in the order of the file.
///
/// Displayed with the lines it is about, without colours; [`Errors::styled`] has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    label: String,
    text: String,
    problems: Vec<Problem>,
}

impl Errors {
    pub(super) fn new(label: &str, text: &str, mut problems: Vec<Problem>) -> Errors {
        problems.sort_by_key(Problem::start);
        if problems.len() > MOST_TOLD {
            let more = problems.split_off(MOST_TOLD).len();
            problems.push(
                Problem::new(format!("{more} more are wrong"))
                    .help("is it another file? `overstore new` prints one to start from"),
            );
        }
        Errors {
            label: label.to_owned(),
            text: text.to_owned(),
            problems,
        }
    }

    /// How many there are: at least one.
    pub fn count(&self) -> usize {
        self.problems.len()
    }

    /// The errors as values, in the order of the file.
    pub fn mistakes(&self) -> Vec<Mistake> {
        let mistake = |problem: &Problem| {
            let place = problem.place.as_ref();
            let position = place.map(|(span, _)| self.position(span.start));
            Mistake {
                file: self.label.clone(),
                line: position.map(|(line, _)| line),
                column: position.map(|(_, column)| column),
                message: problem.title.clone(),
                label: place.map(|(_, label)| label.clone()),
                notes: problem.notes.clone(),
                help: problem.help.clone(),
            }
        };
        self.problems.iter().map(mistake).collect()
    }

    /// The line and the column, from 1 and in characters, of a place in the text.
    fn position(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    /// The errors as they are shown on a terminal, with ANSI styles.
    pub fn styled(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let groups: Vec<_> = self
            .problems
            .iter()
            .map(|problem| renderer.render(&[problem.group(self)]))
            .collect();
        groups.join("\n\n")
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl std::error::Error for Errors {}

/// Each problem says itself what to write instead.
impl HasRemedy for Errors {}
