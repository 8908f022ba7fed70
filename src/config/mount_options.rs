//! `mount.options`.

use super::problem::{Problem, Span};
use super::raw::RawMount;
use super::read::At;
use super::unknown::nearest;
use crate::overlayfs::options::{self, MountOption, Takes};

/// Reads the options.
pub(super) fn read(raw: Option<&At<RawMount>>, problems: &mut Vec<Problem>) -> Vec<MountOption> {
    let Some(options) = raw.and_then(|raw| raw.value.options.as_ref()) else {
        return Vec::new();
    };
    let mut read: Vec<(MountOption, &Span)> = Vec::new();
    for given in &options.value {
        let (name, value) = match given.value.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (given.value.as_str(), None),
        };
        // As mount(8) takes a security context; for us the string is delimited already.
        let value = value.map(|value| match options::is_context(name) {
            true => value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'))
                .unwrap_or(value),
            false => value,
        });
        let option = MountOption {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        if let Some(problem) = wrong(&option, given) {
            problems.push(problem);
        } else if let Some((_, span)) = read.iter().find(|(option, _)| option.name == name) {
            problems.push(
                Problem::new(format!("the mount option `{name}` is given twice"))
                    .at(&given.span, "given again here")
                    .at(span, "first given here")
                    .help("keep one of the two"),
            );
        } else {
            read.push((option, &given.span));
        }
    }
    let span = |option: &MountOption| read.iter().find(|(read, _)| read == option);
    let options: Vec<MountOption> = read.iter().map(|(option, _)| option.clone()).collect();
    for [first, second] in options::conflicts(&options) {
        if let (Some((_, first_at)), Some((_, second_at))) = (span(first), span(second)) {
            problems.push(
                Problem::new(format!(
                    "OverlayFS does not take `{first}` together with `{second}`"
                ))
                .at(first_at, "this one")
                .at(second_at, "and this one")
                .help("remove one of the two"),
            );
        }
    }
    options
}

/// What is wrong with one option by itself.
fn wrong(option: &MountOption, given: &At<String>) -> Option<Problem> {
    let (name, span) = (option.name.as_str(), &given.span);
    let several = split(&given.value);
    if several.len() > 1 {
        return Some(
            Problem::new("a comma in a mount option")
                .at(span, "expected one option, `name` or `name=value`")
                .help(format!(
                    "write each option as a string of its own: {}",
                    several
                        .iter()
                        .map(|one| format!("{one:?}"))
                        .collect::<Vec<_>>()
                        .join(", ")
                )),
        );
    }
    let well_formed = |c: char| c.is_ascii_graphic() && c != '\\' && c != '"';
    if name.is_empty() || !option.to_string().chars().all(well_formed) {
        return Some(
            Problem::new("this is no mount option")
                .at(span, "expected `name` or `name=value`, without spaces"),
        );
    }
    let Some(kind) = options::kind(name) else {
        let help = match nearest(name, options::known_options()) {
            Some(known) => format!("write `{known}`, if that is meant"),
            None => format!(
                "the options are {}",
                options::known_options().collect::<Vec<_>>().join(", ")
            ),
        };
        return Some(
            Problem::new(format!("`{name}` is no mount option of OverlayFS"))
                .at(span, "no kernel up to Linux 7 has one of that name")
                .help(help),
        );
    };
    match kind.takes {
        Takes::SetByOverstore(why) => Some(
            Problem::new(format!(
                "the mount option `{name}` is set by overstore itself"
            ))
            .at(span, why)
            .help("leave it out"),
        ),
        Takes::Flag => {
            let (label, help) = match name {
                "ro" | "rw" => (
                    "the overlay is always writable: Nix adds store objects to it",
                    "leave it out",
                ),
                _ => (
                    "it is a flag of a mount, which overstore does not set",
                    "leave it out, or bind the merged store directory elsewhere with that flag",
                ),
            };
            Some(
                Problem::new(format!("`{name}` is no mount option of OverlayFS"))
                    .at(span, label)
                    .help(help),
            )
        }
        Takes::Nothing | Takes::OneOf(_) | Takes::Text => {
            let expected = kind.expected_instead_of(option.value.as_deref())?;
            Some(
                Problem::new(format!("`{option}` is not what OverlayFS takes"))
                    .at(span, format!("expected {expected}")),
            )
        }
    }
}

/// The options that a text consists of: parted by commas, but for those of a security context, which
/// end where another option begins.
fn split(text: &str) -> Vec<&str> {
    let mut options = Vec::new();
    let mut begin = 0;
    for (comma, _) in text.match_indices(',') {
        let first = &text[begin..comma];
        let next = &text[comma + 1..];
        let name = |option: &str| {
            option
                .split(['=', ','])
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let in_context = options::is_context(&name(first)) && options::kind(&name(next)).is_none();
        if !in_context {
            options.push(first);
            begin = comma + 1;
        }
    }
    options.push(&text[begin..]);
    options
}
