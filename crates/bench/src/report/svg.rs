//! Line charts as SVG. Colours come from the page's style, so that they suit light and dark.

use std::fmt::Write;

use crate::case::Unit;

/// Colours of the style.
const COLOURS: usize = 6;

/// A line of a chart.
pub(super) struct ChartLine {
    pub(super) name: String,
    /// Position on the horizontal axis, as an index into its labels, and value.
    pub(super) points: Vec<(usize, f64)>,
}

/// Lines over labelled positions, the values on a logarithmic axis. The name of each stands at
/// its end.
pub(super) fn lines(labels: &[String], unit: Unit, lines: &[ChartLine]) -> String {
    const WIDTH: f64 = 500.0;
    const HEIGHT: f64 = 320.0;
    const LEFT: f64 = 62.0;
    const RIGHT: f64 = 128.0;
    let values = lines
        .iter()
        .flat_map(|line| &line.points)
        .map(|point| point.1);
    let Some((low, high)) = decades(values) else {
        return String::new();
    };
    let bottom = HEIGHT - 30.0;
    let x = |index: usize| {
        let steps = labels.len().saturating_sub(1).max(1) as f64;
        LEFT + (WIDTH - LEFT - RIGHT) * index as f64 / steps
    };
    let y = |value: f64| bottom - (bottom - 12.0) * (value.log10() - low) / (high - low);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">");
    for (value, has_label) in grid_values(low, high) {
        let at = y(value);
        let end = WIDTH - RIGHT;
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
        );
        if has_label {
            let label = short(unit, value);
            text(&mut svg, (LEFT - 8.0, at + 4.0), "end", "soft", &label);
        }
    }
    for (index, label) in labels.iter().enumerate() {
        text(&mut svg, (x(index), HEIGHT - 8.0), "middle", "soft", label);
    }
    let mut ends = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let colour = index % COLOURS;
        let mut path = String::new();
        for (step, &(position, value)) in line.points.iter().enumerate() {
            let (x, y) = (x(position), y(value));
            let verb = if step == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{x:.1} {y:.1}");
            let _ = write!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"var(--c{colour})\"><title>{}: \
                 {}</title></circle>",
                escape(&line.name),
                unit.show(value)
            );
        }
        let _ = write!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"var(--c{colour})\" stroke-width=\"2\"/>"
        );
        if let Some(&(position, value)) = line.points.last() {
            ends.push((y(value), x(position), colour, line.name.as_str()));
        }
    }
    name_ends(&mut svg, ends);
    svg.push_str("</svg>");
    svg
}

/// Writes the lines' names at their ends, one below the other where they are close.
fn name_ends(svg: &mut String, mut ends: Vec<(f64, f64, usize, &str)>) {
    const APART: f64 = 17.0;
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = f64::MIN;
    for (y, x, colour, name) in ends {
        let y = y.max(free);
        free = y + APART;
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" style=\"fill:var(--c{colour})\">{}</text>",
            x + 9.0,
            y + 4.0,
            escape(name)
        );
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) {
    let text = escape(text);
    let _ = write!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
    );
}

/// The powers of ten that values lie between.
fn decades(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut range: Option<(f64, f64)> = None;
    for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
        let (low, high) = range.unwrap_or((value, value));
        range = Some((low.min(value), high.max(value)));
    }
    let (low, high) = range?;
    // Half a decade is enough room; a whole one would leave the chart half empty.
    let low = (2.0 * low.log10()).floor() / 2.0;
    let high = (2.0 * high.log10()).ceil() / 2.0;
    Some((low, if high > low { high } else { low + 0.5 }))
}

/// Where the grid's lines are, and which carry a label: 1, 2 and 5 of each power of ten.
fn grid_values(low: f64, high: f64) -> Vec<(f64, bool)> {
    let is_wide = high - low > 2.0;
    let powers = low.floor() as i32..=high.ceil() as i32;
    powers
        .flat_map(|power| [1.0, 2.0, 5.0].map(|step| (step, step * 10f64.powi(power))))
        .filter(|(_, value)| (low - 0.001..=high + 0.001).contains(&value.log10()))
        .map(|(step, value)| (value, step == 1.0 || !is_wide))
        .collect()
}

/// A round figure, without trailing zeros.
fn short(unit: Unit, value: f64) -> String {
    let text = unit.show(value);
    match text.split_once(' ') {
        Some((number, name)) if number.contains('.') => {
            let number = number.trim_end_matches('0').trim_end_matches('.');
            format!("{number} {name}")
        }
        _ => text,
    }
}

/// Text as it may stand in a page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_all_values() {
        assert_eq!(decades([].into_iter()), None);
        assert_eq!(decades([0.0, f64::NAN].into_iter()), None);
        assert_eq!(decades([100.0].into_iter()), Some((2.0, 2.5)));
        assert_eq!(decades([155.0, 90_000.0].into_iter()), Some((2.0, 5.0)));
    }

    #[test]
    fn labels_are_round() {
        assert_eq!(short(Unit::PerSecond, 1e6), "1 M/s");
        assert_eq!(short(Unit::Nanoseconds, 200.0), "200 ns");
        assert_eq!(short(Unit::PerSecond, 20e6), "20 M/s");
    }

    #[test]
    fn a_name_cannot_break_out() {
        let line = ChartLine {
            name: "<script>".to_owned(),
            points: vec![(0, 1.0), (1, 10.0)],
        };
        let svg = lines(&["a".to_owned(), "b".to_owned()], Unit::PerSecond, &[line]);
        assert!(!svg.contains("<script>") && svg.contains("&lt;script&gt;"));
    }
}
