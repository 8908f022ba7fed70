//! Lines that fit a terminal.

use std::os::fd::AsFd;

use rustix::termios::tcgetwinsize;

/// Wider lines are hard to read, however wide the terminal is.
const WIDEST: usize = 100;

/// Narrower ones are, too: the terminal breaks them itself.
const NARROWEST: usize = 40;

/// How many columns there are to write in; none where it is not a terminal.
pub(super) fn columns(stream: impl AsFd) -> Option<usize> {
    let columns = usize::from(tcgetwinsize(stream).ok()?.ws_col);
    (columns >= NARROWEST).then_some(columns.min(WIDEST))
}

/// Breaks what is to stand after `indent` columns, between its words. A word that is too long stays
/// whole: the terminal breaks it, and it can still be copied.
pub(super) fn wrap<'a>(
    words: impl IntoIterator<Item = &'a str>,
    indent: usize,
    columns: Option<usize>,
) -> String {
    let mut text = String::new();
    let mut used = 0;
    for (number, word) in words.into_iter().enumerate() {
        let width = word.chars().count();
        if number > 0 {
            match columns {
                Some(columns) if indent + used + 1 + width > columns => {
                    text.push('\n');
                    used = 0;
                }
                _ => {
                    text.push(' ');
                    used += 1;
                }
            }
        }
        text += word;
        used += width;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_nowhere_else() {
        let words = || "one two threeandahalf four".split(' ');
        assert_eq!(wrap(words(), 4, None), "one two threeandahalf four");
        assert_eq!(wrap(words(), 4, Some(12)), "one two\nthreeandahalf\nfour");
        assert_eq!(wrap(words(), 4, Some(30)), "one two threeandahalf four");
        assert_eq!(wrap(words(), 4, Some(29)), "one two threeandahalf\nfour");
        assert_eq!(wrap("a  b".split(' '), 0, None), "a  b");
    }
}
