//! `make compare`: writes what the scenario `compare` has measured into `docs/comparison.md`, as tables,
//! and draws `docs/comparison.svg`.
//!
//!     comparison LOG DOCS
//!
//! LOG is what the runner of scenarios printed; DOCS is the directory with the page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

/// The ways, as the scenario and as people call them, with the colour of their lines.
const WAYS: [(&str, &str, &str); 4] = [
    ("nothing", "share nothing", "#0072b2"),
    ("everything", "share everything", "#d55e00"),
    ("overlay", "overlay everything", "#cc79a7"),
    ("overstore", "local-overlay, by overstore", "#009e73"),
];

/// What is measured, as the scenario and as people call it, and its unit.
const MEASURES: [(&str, &str, Unit); 5] = [
    ("space", "disk space of all consumers", Unit::Bytes),
    ("written", "bytes written to set them up", Unit::Bytes),
    ("build", "from nothing to a first build", Unit::Seconds),
    ("new", "until all can use a new object", Unit::Seconds),
    ("additions", "20 additions each, at once", Unit::Seconds),
];

const BEGIN: &str = "<!-- begin: written by make compare -->\n";
const END: &str = "<!-- end: written by make compare -->";

#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Bytes,
    Seconds,
}

/// What was measured: by way, measure and number of consumers; `None` where it could not be, since the
/// store did not survive it.
type Figures = BTreeMap<(String, String, u32), Option<f64>>;

/// What stands for such a figure, in the log and on the page.
const MALFORMED: &str = "malformed";

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [log, docs] = &arguments[..] else {
        bail!("usage: comparison LOG DOCS");
    };
    let log = fs::read_to_string(log).with_context(|| format!("reading {log}"))?;
    let figures = read(&log)?;
    let docs = Path::new(docs);
    let page = docs.join("comparison.md");
    let text = fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
    fs::write(&page, put(&text, &tables(&figures, guest(&log)))?)?;
    fs::write(docs.join("comparison.svg"), picture(&figures))?;
    Ok(())
}

/// The lines `...: figure WAY MEASURE CONSUMERS VALUE`.
fn read(log: &str) -> Result<Figures> {
    let mut figures = Figures::new();
    for line in log.lines() {
        let Some((_, figure)) = line.split_once(": figure ") else {
            continue;
        };
        let words: Vec<&str> = figure.split_whitespace().collect();
        let [way, measure, consumers, value] = words[..] else {
            bail!("not a figure: {line}");
        };
        let key = (way.to_owned(), measure.to_owned(), consumers.parse()?);
        let value = match value {
            MALFORMED => None,
            value => Some(value.parse().with_context(|| line.to_owned())?),
        };
        figures.insert(key, value);
    }
    ensure!(!figures.is_empty(), "there is no figure in the log");
    Ok(figures)
}

/// What the runner says of the guest: kernel, Nix, how it is run.
fn guest(log: &str) -> &str {
    let line = log.lines().find(|line| line.starts_with("trixie: "));
    let line = line.unwrap_or_default().trim_start_matches("trixie: ");
    line.split_once("; image").map_or(line, |(guest, _)| guest)
}

/// A page with another text between the marks.
fn put(page: &str, text: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).context("the page has no begin")?;
    let (_, after) = rest.split_once(END).context("the page has no end")?;
    Ok(format!("{before}{BEGIN}{text}{END}{after}"))
}

/// The numbers of consumers that something was measured with.
fn counts(figures: &Figures, measure: &str) -> Vec<u32> {
    let of_measure = figures.keys().filter(|(_, it, _)| it == measure);
    let mut counts: Vec<u32> = of_measure.map(|(.., count)| *count).collect();
    counts.sort_unstable();
    counts.dedup();
    counts
}

fn tables(figures: &Figures, guest: &str) -> String {
    let store = |what: &str| figures.get(&("store".to_owned(), what.to_owned(), 1));
    let mut text = format!("\n- Guest: {guest}\n");
    if let (Some(Some(objects)), Some(Some(bytes))) = (store("objects"), store("bytes")) {
        let _ = writeln!(text, "- Store: {objects} objects, {}", mebibytes(*bytes));
    }
    for (measure, name, unit) in MEASURES {
        let counts = counts(figures, measure);
        if counts.is_empty() {
            continue;
        }
        let heads: String = counts.iter().map(|count| format!(" {count} |")).collect();
        let unit_name = match unit {
            Unit::Bytes => "MiB",
            Unit::Seconds => "seconds",
        };
        let _ = writeln!(text, "\n| {name}, {unit_name}, for consumers: |{heads}");
        let _ = writeln!(text, "| --- |{}", " ---: |".repeat(counts.len()));
        for (way, name, _) in WAYS {
            let cell = |count: &u32| {
                let figure = figures.get(&(way.to_owned(), measure.to_owned(), *count));
                match (figure, unit) {
                    (None, _) => " – |".to_owned(),
                    (Some(None), _) => format!(" {MALFORMED} |"),
                    (Some(Some(value)), Unit::Bytes) => format!(" {:.1} |", value / 1_048_576.0),
                    (Some(Some(value)), Unit::Seconds) => format!(" {value:.1} |"),
                }
            };
            let cells: String = counts.iter().map(cell).collect();
            let _ = writeln!(text, "| {name} |{cells}");
        }
    }
    text + "\n"
}

fn mebibytes(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / 1_048_576.0)
}

/// Width and height of one plot, with its margins.
const PLOT: (f64, f64) = (260.0, 210.0);
/// Room left of a plot's area, above it, right of it and below it.
const MARGIN: (f64, f64, f64, f64) = (58.0, 30.0, 14.0, 26.0);

/// A plot a measure, both axes logarithmic, and a legend.
fn picture(figures: &Figures) -> String {
    let (width, height) = (PLOT.0 * 3.0, PLOT.1 * 2.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\" role=\"img\">\n<title>Four ways to share a store, measured</title>\n\
         <style>text {{ fill: #333 }} .axis {{ stroke: #999; fill: none }} \
         @media (prefers-color-scheme: dark) {{ text {{ fill: #ddd }} .axis {{ stroke: #777 }} }}</style>\n"
    );
    for (number, (measure, name, unit)) in MEASURES.into_iter().enumerate() {
        if counts(figures, measure).is_empty() {
            continue;
        }
        let at = ((number % 3) as f64 * PLOT.0, (number / 3) as f64 * PLOT.1);
        svg += &plot(figures, measure, name, unit, at);
    }
    for (number, (_, name, colour)) in WAYS.into_iter().enumerate() {
        let (x, y) = (PLOT.0 * 2.0 + 40.0, PLOT.1 + 70.0 + number as f64 * 22.0);
        let _ = writeln!(
            svg,
            "<path d=\"M{x} {y}h24\" stroke=\"{colour}\" stroke-width=\"2\"/><circle cx=\"{}\" cy=\"{y}\" r=\"3\" \
             fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{name}</text>",
            x + 12.0,
            x + 32.0,
            y + 4.0
        );
    }
    svg + "</svg>\n"
}

/// One plot, with its corner at `at`.
fn plot(figures: &Figures, measure: &str, name: &str, unit: Unit, at: (f64, f64)) -> String {
    let scale = match unit {
        Unit::Bytes => 1_048_576.0,
        Unit::Seconds => 1.0,
    };
    let values: Vec<(&str, u32, f64)> = figures
        .iter()
        .filter(|((_, it, _), _)| it == measure)
        // What takes nothing has no place on a logarithmic scale: at its lower end.
        .filter_map(|((way, _, count), value)| {
            Some((way.as_str(), *count, ((*value)? / scale).max(0.01)))
        })
        .collect();
    let most = values.iter().map(|it| it.2).fold(1.0, f64::max);
    let least = values.iter().map(|it| it.2).fold(most, f64::min);
    let decades = (least.log10().floor(), most.log10().ceil());
    let last = values.iter().map(|it| it.1).max().unwrap_or(1).max(2);
    let (left, top) = (at.0 + MARGIN.0, at.1 + MARGIN.1);
    let (right, bottom) = (at.0 + PLOT.0 - MARGIN.2, at.1 + PLOT.1 - MARGIN.3);
    let x = |count: u32| left + (right - left) * f64::from(count).ln() / f64::from(last).ln();
    let y = |value: f64| {
        let part = (value.log10() - decades.0) / (decades.1 - decades.0).max(1.0);
        bottom - (bottom - top) * part
    };
    let unit_name = match unit {
        Unit::Bytes => "MiB",
        Unit::Seconds => "s",
    };
    let mut svg = format!(
        "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\">{name}</text>\
         <path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/>\n",
        top - 12.0
    );
    for decade in decades.0 as i32..=decades.1 as i32 {
        let value = 10f64.powi(decade);
        let _ = writeln!(
            svg,
            "<path class=\"axis\" d=\"M{left} {0:.1}h-4\"/><text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">\
             {value} {unit_name}</text>",
            y(value),
            left - 7.0,
            y(value) + 4.0
        );
    }
    for count in counts(figures, measure) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{count}</text>",
            x(count),
            bottom + 16.0
        );
    }
    for (way, _, colour) in WAYS {
        let points: Vec<(f64, f64)> = values
            .iter()
            .filter(|it| it.0 == way)
            .map(|it| (x(it.1), y(it.2)))
            .collect();
        let line: String = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1} "))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            line.trim_end()
        );
        for (x, y) in points {
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
            );
        }
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "trixie: Debian 13, Linux 6.12: Linux 6.12.1, Nix 2.26.3, systemd 257, tcg; image 0.1 s, ready\n\
                       trixie/compare: figure store objects 1 200\n\
                       trixie/compare: figure store bytes 1 2097152\n\
                       trixie/compare: figure nothing space 1 1048576\n\
                       trixie/compare: figure nothing space 10 10485760\n\
                       trixie/compare: figure overlay space 1 0\n\
                       trixie/compare: figure everything build 4 malformed\n\
                       trixie/compare: figure overstore build 4 1.25\n";

    #[test]
    fn figures_become_tables_between_the_marks_and_a_picture() {
        let figures = read(LOG).unwrap();
        assert_eq!(figures.len(), 7);
        let page = format!("# Head\n\n{BEGIN}old\n{END}\n\nTail\n");
        let page = put(&page, &tables(&figures, guest(LOG))).unwrap();
        assert!(page.starts_with("# Head\n") && page.ends_with("Tail\n"));
        for part in [
            "- Guest: Debian 13, Linux 6.12: Linux 6.12.1, Nix 2.26.3, systemd 257, tcg\n",
            "- Store: 200 objects, 2 MiB\n",
            "| share nothing | 1.0 | 10.0 |\n",
            "| overlay everything | 0.0 | – |\n",
            "| share everything | malformed |\n",
            "| local-overlay, by overstore | 1.2 |\n",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("old"));
        let svg = picture(&figures);
        assert!(svg.contains("disk space of all consumers") && !svg.contains("NaN"));
    }

    #[test]
    fn what_is_no_figure_is_refused() {
        assert!(read("a: figure nothing space 1\n").is_err());
        assert!(read("a: figure nothing space 1 many\n").is_err());
        assert!(read("nothing\n").is_err());
        assert!(put("no marks", "").is_err());
    }
}
