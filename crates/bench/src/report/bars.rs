//! Horizontal bars, as text and boxes of the page itself: they suit any width, and wrap where it is small.

use std::fmt::Write;

use super::svg::escape;

/// A bar: its name, its length, its colour, and the note beside it.
pub(super) struct Bar {
    pub(super) name: String,
    /// None draws an empty place.
    pub(super) value: Option<f64>,
    pub(super) colour: &'static str,
    pub(super) note: String,
}

/// Bars from 0 to the greatest value.
pub(super) fn from_zero(bars: &[Bar]) -> String {
    let most = bars.iter().filter_map(|bar| bar.value).fold(0.0, f64::max);
    let mut html = "<div class=\"bars\">".to_owned();
    for bar in bars {
        let width = match bar.value {
            Some(value) if most > 0.0 => 100.0 * value / most,
            _ => 0.0,
        };
        row(&mut html, bar, bar.value.map(|_| (0.0, width)));
    }
    html.push_str("</div>");
    html
}

/// How many decades a bar around 1 reaches to either side.
const REACH: f64 = 1.4;

/// Bars from a line in the middle, on a logarithmic axis: to the right what is above 1.
pub(super) fn around_one(bars: &[Bar]) -> String {
    let mut html = "<div class=\"bars around\"><div class=\"axis\"><span></span><span>".to_owned();
    for (factor, label) in [(0.1, "10 × short"), (1.0, "target"), (10.0, "10 × better")] {
        let _ = write!(
            html,
            "<em style=\"left:{:.1}%\">{label}</em>",
            position(factor)
        );
    }
    html.push_str("</span><span></span></div>");
    for bar in bars {
        let end = bar.value.filter(|value| *value > 0.0).map(position);
        row(
            &mut html,
            bar,
            end.map(|end| (end.min(50.0), (end - 50.0).abs())),
        );
    }
    html.push_str("</div>");
    html
}

/// Where a factor stands, in percent of the width.
fn position(factor: f64) -> f64 {
    50.0 + 50.0 * (factor.log10() / REACH).clamp(-1.0, 1.0)
}

/// A row with a bar from here and so wide, in percent.
fn row(html: &mut String, bar: &Bar, place: Option<(f64, f64)>) {
    let _ = write!(
        html,
        "<div><span class=\"name\">{}</span><span class=\"track\">",
        escape(&bar.name)
    );
    if let Some((left, width)) = place {
        let _ = write!(
            html,
            "<i style=\"left:{left:.1}%;width:{width:.1}%;background:var(--{})\"></i>",
            bar.colour
        );
    }
    let _ = write!(
        html,
        "</span><span class=\"note\">{}</span></div>",
        escape(&bar.note)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(value: Option<f64>) -> Bar {
        Bar {
            name: "<b>".to_owned(),
            value,
            colour: "good",
            note: "\"n\"".to_owned(),
        }
    }

    #[test]
    fn a_bar_is_as_long_as_its_value_and_the_longest_fills_the_track() {
        let html = from_zero(&[bar(Some(1.0)), bar(Some(4.0)), bar(None)]);
        assert!(html.contains("width:25.0%") && html.contains("width:100.0%"));
        assert_eq!(html.matches("<i ").count(), 2);
        assert!(!html.contains("<b>"), "a name cannot break out");
        assert!(!from_zero(&[bar(Some(0.0))]).contains("NaN"));
    }

    #[test]
    fn what_is_better_goes_to_the_right_and_what_falls_short_to_the_left() {
        let html = around_one(&[bar(Some(0.1)), bar(Some(10.0)), bar(Some(1e9))]);
        assert!(html.contains("left:14.3%;width:35.7%"), "{html}");
        assert!(html.contains("left:50.0%;width:35.7%"), "{html}");
        assert!(html.contains("left:50.0%;width:50.0%"), "{html}");
    }
}
