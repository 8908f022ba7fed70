//! How cost grows, as a picture: `docs/benchmarks.svg`.

use std::path::Path;

use plotters::prelude::*;

use crate::generator::Result;
use crate::metadata::Growth;

/// The lines, in the order of [`Growth::seconds`].
const LINES: [(&str, RGBColor); 3] = [
    ("warm --all", RGBColor(0, 114, 178)),
    ("check", RGBColor(213, 94, 0)),
    ("status", RGBColor(0, 158, 115)),
];

pub fn write(growth: &[Growth]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.svg");
    let (Some(first), Some(last)) = (growth.first(), growth.last()) else {
        return Ok(());
    };
    let all = || growth.iter().flat_map(|growth| growth.seconds);
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max));
    let picture = SVGBackend::new(&path, (720, 420)).into_drawing_area();
    picture.fill(&WHITE)?;
    let paths = (f64::from(first.paths)..f64::from(last.paths)).log_scale();
    let mut chart = ChartBuilder::on(&picture)
        .margin(24)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(paths, (least / 2.0..most * 2.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("store paths")
        .x_label_formatter(&|paths| format!("{paths:.0}"))
        .y_desc("seconds")
        .label_style(("sans-serif", 14))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (line, (name, colour)) in LINES.into_iter().enumerate() {
        let points = growth
            .iter()
            .map(|growth| (f64::from(growth.paths), growth.seconds[line]));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .label_font(("sans-serif", 14))
        .background_style(WHITE)
        .border_style(TRANSPARENT)
        .position(SeriesLabelPosition::UpperLeft)
        .draw()?;
    picture.present()?;
    Ok(())
}
