//! The curves: time for one execution by number of rules, both axes logarithmic.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::engines::SLS;
use crate::report::{Mix, Report, grouped};

const SIZE: (u32, u32) = (1080, 520);
const FONT: &str = "sans-serif";

/// The least distance of two names at the ends of curves, in pixels.
const LINE_HEIGHT: i32 = 15;

/// Of a brightness that can be read on white and on black.
const TEXT: RGBColor = RGBColor(125, 125, 125);
const SLS_COLOUR: RGBColor = RGBColor(230, 80, 60);
const COLOURS: [RGBColor; 8] = [
    RGBColor(125, 125, 125),
    RGBColor(200, 120, 150),
    RGBColor(60, 130, 240),
    RGBColor(40, 160, 90),
    RGBColor(165, 110, 240),
    RGBColor(200, 130, 20),
    RGBColor(30, 150, 165),
    RGBColor(215, 90, 160),
];

/// Draws the report into an SVG file.
pub(crate) fn draw(report: &Report, path: &Path) -> anyhow::Result<()> {
    let failed = |error: &dyn std::fmt::Display| anyhow!("{}: {error}", path.display());
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    for (panel, mix) in area.split_evenly((1, 2)).iter().zip(Mix::ALL) {
        panel_of(report, mix, panel).map_err(|error| failed(&error))?;
    }
    area.present().map_err(|error| failed(&error))
}

fn panel_of(
    report: &Report,
    mix: Mix,
    panel: &DrawingArea<SVGBackend<'_>, Shift>,
) -> Result<(), Box<dyn std::error::Error>> {
    let times = || report.results.iter().map(|result| result.nanoseconds);
    let slowest = times().fold(1e3, f64::max) * 2.0;
    let fastest = times().fold(3.0, f64::min) / 1.5;
    let most = report.sizes().last().copied().unwrap_or(1).max(10) as f64;
    let mut chart = ChartBuilder::on(panel)
        .margin(8)
        .margin_right(120)
        .caption(mix.title(), (FONT, 15).into_font().color(&TEXT))
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d((1.0..most).log_scale(), (fastest..slowest).log_scale())?;
    chart
        .configure_mesh()
        .axis_style(TEXT)
        .bold_line_style(TEXT.mix(0.3))
        .light_line_style(TRANSPARENT)
        .label_style((FONT, 13).into_font().color(&TEXT))
        .x_desc("rules")
        .y_desc("time for one execution")
        .x_label_formatter(&|rules| grouped(*rules))
        .y_label_formatter(&|nanoseconds| duration(*nanoseconds))
        .draw()?;

    let mut names = Vec::new();
    let mut engines: Vec<_> = report.engines().into_iter().enumerate().collect();
    // Above the others.
    engines.sort_by_key(|(_, engine)| *engine == SLS);
    for (index, engine) in engines {
        let points: Vec<_> = report
            .sizes()
            .into_iter()
            .filter_map(|rules| Some((rules as f64, report.result(mix, rules, engine)?.nanoseconds)))
            .collect();
        let Some(last) = points.last().copied() else { continue };
        let (colour, width) = if engine == SLS { (SLS_COLOUR, 4) } else { (COLOURS[index % COLOURS.len()], 2) };
        let style = colour.stroke_width(width);
        chart.draw_series(LineSeries::new(points.iter().copied(), style).point_size(width + 1))?;
        names.push((chart.backend_coord(&last), engine, colour));
    }
    // From the top, each below the one before.
    names.sort_by_key(|((_, y), ..)| *y);
    let (left, top) = panel.get_base_pixel();
    let mut free = i32::MIN;
    for ((x, y), engine, colour) in names {
        let y = y.max(free);
        free = y + LINE_HEIGHT;
        let style = (FONT, if engine == SLS { 16 } else { 13 }).into_font().color(&colour);
        let style = style.pos(Pos::new(HPos::Left, VPos::Center));
        panel.draw(&Text::new(engine.to_owned(), (x - left + 10, y - top), style))?;
    }
    Ok(())
}

fn duration(nanoseconds: f64) -> String {
    match nanoseconds {
        1e6.. => format!("{} ms", nanoseconds / 1e6),
        1e3.. => format!("{} µs", nanoseconds / 1e3),
        _ => format!("{nanoseconds} ns"),
    }
}
