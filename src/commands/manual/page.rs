//! One manual page, in the language of man(7).

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// The day on which the pages were last gone through.
const DATE: &str = "2026-11-27";

/// A page in the making.
pub(super) struct Page {
    /// Its name.
    pub title: String,
    /// The section of the manual that it is in.
    pub section: &'static str,
    roff: Roff,
    /// What clap makes of a command, which comes first.
    command: Vec<u8>,
}

impl Page {
    /// A page with a name and what its subject is.
    pub(super) fn new(title: &str, section: &'static str, about: &str) -> Page {
        let mut page = Page {
            title: title.to_owned(),
            section,
            roff: Roff::new(),
            command: Vec::new(),
        };
        page.section("NAME");
        page.roff.text([roman(format!("{title} - {about}"))]);
        page
    }

    /// The page of a command: name, synopsis, description, options.
    pub(super) fn of_command(title: &str, definition: &Command) -> Page {
        let man = Man::new(definition.clone());
        let mut text = Vec::new();
        // Nothing is written to but memory.
        let _ = man.render_name_section(&mut text);
        let _ = man.render_synopsis_section(&mut text);
        let _ = man.render_description_section(&mut text);
        let _ = man.render_options_section(&mut text);
        Page {
            title: title.to_owned(),
            section: "1",
            roff: Roff::new(),
            command: text,
        }
    }

    /// Begins a section.
    pub(super) fn section(&mut self, title: &str) {
        self.roff.control("SH", [title]);
    }

    /// Begins a part of a section.
    pub(super) fn subsection(&mut self, title: &str) {
        self.roff.control("SS", [title]);
    }

    /// Adds a paragraph.
    pub(super) fn text_of(&mut self, text: &str) {
        self.roff.control("PP", []);
        self.roff.text([roman(text)]);
    }

    /// Adds a term and what it means, in paragraphs.
    pub(super) fn item(&mut self, term: &str, texts: &[&str]) {
        self.roff.control("TP", []);
        self.roff.text([bold(term)]);
        for (number, text) in texts.iter().enumerate() {
            if number > 0 {
                self.roff.control("IP", []);
            }
            self.roff.text([roman(*text)]);
        }
    }

    /// Adds lines that stay as they are.
    pub(super) fn lines(&mut self, text: &str) {
        self.roff.control("PP", []);
        self.roff.control("nf", []);
        for line in text.lines() {
            self.roff.text([roman(line)]);
        }
        self.roff.control("fi", []);
    }

    /// The whole page.
    pub(super) fn text(&self) -> String {
        let source = format!("overstore {}", env!("CARGO_PKG_VERSION"));
        let title = self.title.to_uppercase();
        let mut head = Roff::new();
        let arguments = [&*title, self.section, DATE, &source, "overstore"];
        head.control("TH", arguments);
        let mut text = head.render();
        for part in [
            String::from_utf8_lossy(&self.command).into_owned(),
            self.roff.render(),
        ] {
            // Each begins with what defines the apostrophe.
            let begin = part.find(".SH").unwrap_or(0);
            text += &part[begin..];
        }
        tidy(&text)
    }
}

/// Without the macros that clap's pages have twice, of which mandoc complains, nor empty paragraphs
/// at the beginning of a section.
fn tidy(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        let last = lines.last().copied().unwrap_or_default();
        match (last, line) {
            // clap's way to leave a line free.
            (".br", "") => {
                lines.pop();
                lines.push(".sp");
                continue;
            }
            (".sp", ".br") => continue,
            (last, ".PP") if last.starts_with(".SH") || last.starts_with(".SS") => continue,
            _ => {}
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}
