//! A table, and what is plotted of it.

use std::fmt::Write;

/// Why the curves bend, by their names. By hand, so that a new run keeps it.
const BENDS: &str = include_str!("../bends.md");

/// One measurement as a table and a plot.
pub(crate) struct Report {
    pub(crate) title: &'static str,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    /// What the horizontal axis of all panels is.
    pub(crate) across: &'static str,
    pub(crate) panels: Vec<Panel>,
}

/// One part of a plot.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// One line of a plot.
pub(crate) struct Line {
    pub(crate) name: String,
    /// Lines of one series have one colour in all panels.
    pub(crate) series: usize,
    pub(crate) is_dashed: bool,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Report {
    pub(crate) fn markdown(&self, name: &str) -> String {
        let mut text = format!("### {}\n\n| {} |\n", self.title, self.columns.join(" | "));
        text.push('|');
        text.push_str(&"---|".repeat(self.columns.len()));
        text.push('\n');
        for row in &self.rows {
            // Writing to a String cannot fail.
            writeln!(text, "| {} |", row.join(" | ")).ok();
        }
        text.push('\n');
        if !self.panels.is_empty() {
            writeln!(text, "![{}](results/{name}.svg)\n", self.title).ok();
        }
        if let Some(bends) = bends(name) {
            writeln!(text, "{bends}\n").ok();
        }
        text
    }
}

fn bends(name: &str) -> Option<&'static str> {
    let section = BENDS
        .split("\n## ")
        .skip(1)
        .find_map(|section| section.strip_prefix(name)?.strip_prefix('\n'));
    section.map(str::trim).filter(|text| !text.is_empty())
}

/// A number with as many digits as say something, and commas.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (position, digit) in whole.chars().enumerate() {
        let left = whole.len() - position;
        if position > 0 && left % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() {
        grouped
    } else {
        format!("{grouped}.{fraction}")
    }
}

/// The median, and the extremes when there are several.
pub(crate) fn median(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let (Some(first), Some(middle), Some(last)) =
        (values.first(), values.get(values.len() / 2), values.last())
    else {
        return "—".to_owned();
    };
    if values.len() == 1 {
        number(*middle)
    } else {
        format!("{} ({}–{})", number(*middle), number(*first), number(*last))
    }
}
