//! Plots as SVG: panels side by side, both axes logarithmic.

use std::fmt::Write;

use crate::report::{Panel, Report, number};

const PANEL_WIDTH: f64 = 420.0;
const PANEL_HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
/// Room for the names of the lines below each panel.
const NAME_HEIGHT: f64 = 15.0;
const COLOURS: [&str; 3] = ["#1f5fbf", "#c04020", "#2f8f4f"];
/// What is 0 is drawn at the foot.
const LEAST: f64 = 1e-3;

/// A logarithmic axis from one power of ten to another.
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let logs = values.filter(|value| *value >= LEAST).map(f64::log10);
        let low = logs.clone().fold(f64::INFINITY, f64::min);
        let high = logs.fold(f64::NEG_INFINITY, f64::max);
        if low > high {
            return Self { low: 0, high: 1 };
        }
        let (low, high) = (power(low.floor()), power(high.ceil()));
        Self {
            low,
            high: high.max(low + 1),
        }
    }

    /// Where a value is, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let low = f64::from(self.low);
        ((value.max(LEAST).log10() - low) / (f64::from(self.high) - low)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.low..=self.high).map(|power| 10_f64.powi(power))
    }
}

/// A whole number between the least and the largest power of ten that is plotted.
#[expect(clippy::cast_possible_truncation, reason = "it is whole and small")]
fn power(whole: f64) -> i32 {
    whole.clamp(-9.0, 18.0) as i32
}

/// The whole plot, or `None` when the report has none.
pub(crate) fn draw(report: &Report) -> Option<String> {
    let most_lines = report.panels.iter().map(|panel| panel.lines.len()).max()?;
    let row_height = PANEL_HEIGHT + count(most_lines) * NAME_HEIGHT + 10.0;
    let rows = count(report.panels.len().div_ceil(2));
    let (width, height) = (2.0 * PANEL_WIDTH, rows * row_height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        report.title
    );
    for (position, panel) in report.panels.iter().enumerate() {
        let (x, y) = (
            count(position % 2) * PANEL_WIDTH,
            count(position / 2) * row_height,
        );
        // Writing to a String cannot fail, here and below.
        writeln!(svg, "<g transform=\"translate({x},{y})\">").ok();
        draw_panel(&mut svg, panel, report.across);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

#[expect(clippy::cast_precision_loss, reason = "a plot has few lines")]
fn count(number: usize) -> f64 {
    number as f64
}

fn draw_panel(svg: &mut String, panel: &Panel, across: &str) {
    let points = || panel.lines.iter().flat_map(|line| line.points.iter());
    let horizontal = Axis::of(points().map(|(value, _)| *value));
    let vertical = Axis::of(points().map(|(_, value)| *value));
    let x = |value: f64| LEFT + horizontal.place(value) * (PANEL_WIDTH - LEFT - RIGHT);
    let y = |value: f64| PANEL_HEIGHT - BOTTOM - vertical.place(value) * (PANEL_HEIGHT - TOP - BOTTOM);
    let (foot, right) = (PANEL_HEIGHT - BOTTOM, PANEL_WIDTH - RIGHT);
    writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"20\" font-weight=\"bold\">{}</text>",
        panel.title
    )
    .ok();
    for tick in horizontal.ticks() {
        let (at, below) = (x(tick), foot + 15.0);
        writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{foot}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{below}\" \
             text-anchor=\"middle\">{}</text>",
            number(tick)
        )
        .ok();
    }
    for tick in vertical.ticks() {
        let at = y(tick);
        writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            at + 4.0,
            number(tick)
        )
        .ok();
    }
    let middle = f64::midpoint(LEFT, right);
    writeln!(
        svg,
        "<path d=\"M{LEFT} {TOP}V{foot}H{right}\" stroke=\"#444\" fill=\"none\"/><text x=\"{middle}\" y=\"{}\" \
         text-anchor=\"middle\">{across}</text>",
        foot + 30.0
    )
    .ok();
    for (position, line) in panel.lines.iter().enumerate() {
        let colour = COLOURS.iter().cycle().nth(line.series).unwrap_or(&"black");
        let dashes = if line.is_dashed {
            " stroke-dasharray=\"5 4\""
        } else {
            ""
        };
        let path: Vec<_> = line
            .points
            .iter()
            .map(|(across, up)| format!("{:.1},{:.1}", x(*across), y(*up)))
            .collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>",
            path.join(" ")
        )
        .ok();
        for (across, up) in &line.points {
            let (x, y) = (x(*across), y(*up));
            writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>"
            )
            .ok();
        }
        let below = PANEL_HEIGHT + count(position) * NAME_HEIGHT;
        writeln!(
            svg,
            "<path d=\"M{LEFT} {}h20\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/><text x=\"{}\" y=\"{below}\">{}</text>",
            below - 4.0,
            LEFT + 26.0,
            line.name
        )
        .ok();
    }
}
