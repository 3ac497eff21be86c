//! The report: one page with everything in it, for people.

mod bars;
mod peers;
mod svg;

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::case::Unit;
use crate::result::{CaseResult, Chart, Dropped, Results};
use bars::Bar;
use svg::{ChartLine, escape};

/// Writes the page. It needs nothing else: no script, no font, no picture.
#[must_use]
pub fn to_html(results: &Results) -> String {
    let style = include_str!("style.css");
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>Chimaera benchmarks</title>\n<style>\n{style}</style></head>\n<body><main>\n"
    );
    page.push_str(&heading(results));
    page.push_str(&section(
        "Against the targets",
        "Each target is a ratio to something measured in the same rounds. Bars to the right are \
         better than asked, bars to the left fall short; grey ones had no steady round, so nothing \
         is claimed.",
        &targets(results),
    ));
    page.push_str("<div class=\"pair\">");
    page.push_str(&section(
        "Latency",
        "Single calls at depth 1, by percentile, on a logarithmic axis.",
        &latencies(results),
    ));
    page.push_str(&section(
        "Operations per second over queue depth",
        "4 KiB at random places; empty tasks and a bare ring show what the way costs.",
        &curves(results, Chart::RateOverDepth),
    ));
    page.push_str("</div><div class=\"pair\">");
    page.push_str(&section(
        "Bandwidth over block size",
        "Four transfers in flight, beside a plain memcpy of the same addresses.",
        &curves(results, Chart::BandwidthOverSize),
    ));
    page.push_str(&section(
        "How far to trust this",
        "The floor is the round trip of a bare cache line between the two processors. A round in \
         which it moved, others used the machine or something failed is dropped. Curves are the best of \
         three looks.",
        &trust(results),
    ));
    page.push_str("</div>");
    page.push_str(&section(
        "Peers side by side",
        "The same work: files were made in the same way, and every process was on the same \
         processors. Ours is the median over all cases of the work; the ratios in the table below \
         are of the same rounds.",
        &peers::charts(results),
    ));
    page.push_str(&section("All figures", "", &table(results)));
    page.push_str("</main></body></html>\n");
    page
}

/// A card. One without contents is left out.
fn section(title: &str, text: &str, contents: &str) -> String {
    if contents.is_empty() {
        return String::new();
    }
    let text = match text {
        "" => String::new(),
        text => format!("<p>{text}</p>"),
    };
    format!("<section><h2>{title}</h2>{text}{contents}</section>\n")
}

fn heading(results: &Results) -> String {
    let conditions = &results.conditions;
    let kind = if conditions.quick { "quick" } else { "full" };
    let interrupted = match conditions.interrupted_before {
        0 => String::new(),
        cases => format!(", interrupted with {cases} cases still to be run"),
    };
    let count = |met| results.cases.iter().filter(|case| case.met == met).count();
    let (met, missed, unknown) = (count(Some(true)), count(Some(false)), count(None));
    let mut html = format!(
        "<h1>Chimaera beside the machine's limits</h1><p>{}; client on processor {}, worker on {}; \
         a {kind} run of {:.0} s{interrupted}.</p><div class=\"tiles\">",
        escape(&conditions.machine),
        conditions.client_processor,
        conditions.worker_processor,
        conditions.seconds,
    );
    let class = if missed == 0 { "good" } else { "bad" };
    let _ = write!(
        html,
        "<div class=\"tile\"><b><span class=\"good\">{met}</span> \
         <span class=\"{class}\">{missed}</span> \
         <span class=\"soft\">{unknown}</span></b>\
         <span>targets met, not met, not known</span></div>"
    );
    for (name, label) in [
        ("empty-task-depth-1", "an empty task, there and back"),
        ("empty-task-depth-32", "empty tasks on one lane"),
        ("ram-read-4KiB-depth-32", "random reads of 4 KiB, RAM pool"),
        ("wake-up", "first task after silence"),
    ] {
        let case = results.cases.iter().find(|case| case.name == name);
        if let Some(case) = case
            && let Some(value) = case.value
        {
            let value = case.unit.show(value);
            let _ = write!(
                html,
                "<div class=\"tile\"><b>{value}</b><span>{label}</span></div>"
            );
        }
    }
    html.push_str("</div>");
    html
}

fn targets(results: &Results) -> String {
    let bars: Vec<Bar> = results
        .cases
        .iter()
        .map(|case| Bar {
            name: case.title.clone(),
            value: case.advantage,
            colour: match case.met {
                Some(true) => "good",
                Some(false) => "bad",
                None => "dim",
            },
            note: match (case.value, case.ratio) {
                (Some(value), Some(ratio)) => format!(
                    "{}, ratio {ratio:.2} (asked {})",
                    case.unit.show(value),
                    case.target
                ),
                (Some(value), None) => format!("{}, no yardstick", case.unit.show(value)),
                _ => "not measured".to_owned(),
            },
        })
        .collect();
    if bars.is_empty() {
        return String::new();
    }
    bars::around_one(&bars)
}

fn latencies(results: &Results) -> String {
    let labels = ["p50", "p90", "p99", "p99.9", "p99.99"].map(str::to_owned);
    let lines: Vec<ChartLine> = results
        .cases
        .iter()
        .filter(|case| case.name.ends_with("depth-1"))
        .filter_map(|case| {
            let all = case.percentiles?;
            let values = [all.p50, all.p90, all.p99, all.p99_9, all.p99_99];
            let values = values.into_iter().map(|nanos| nanos as f64);
            Some(ChartLine {
                name: case.name.trim_end_matches("-depth-1").to_owned(),
                points: values.enumerate().collect(),
            })
        })
        .collect();
    svg::lines(&labels, Unit::Nanoseconds, &lines)
}

fn curves(results: &Results, chart: Chart) -> String {
    let (unit, label): (Unit, fn(u64) -> String) = match chart {
        Chart::RateOverDepth => (Unit::PerSecond, |depth| depth.to_string()),
        Chart::BandwidthOverSize => (Unit::BytesPerSecond, |size| match size >> 10 {
            kib if kib < 1024 => format!("{kib} KiB"),
            kib => format!("{} MiB", kib >> 10),
        }),
    };
    let ours: Vec<_> = results
        .curves
        .iter()
        .filter(|curve| curve.chart == chart)
        .collect();
    let points = ours.iter().flat_map(|curve| &curve.points);
    let positions: BTreeSet<u64> = points.map(|point| point.0 as u64).collect();
    let labels: Vec<String> = positions.iter().copied().map(label).collect();
    let lines: Vec<ChartLine> = ours
        .iter()
        .map(|curve| ChartLine {
            name: curve.name.to_owned(),
            points: curve
                .points
                .iter()
                .map(|&(at, value)| (positions.range(..at as u64).count(), value))
                .collect(),
        })
        .collect();
    svg::lines(&labels, unit, &lines)
}

/// The rounds, the floor under them, and who is absent.
fn trust(results: &Results) -> String {
    let cases = &results.cases;
    let kept: usize = cases.iter().map(|case| case.rounds_kept).sum();
    let dropped = cases.iter().map(|case| case.dropped_because);
    let dropped = dropped.fold(Dropped::default(), std::ops::Add::add);
    let floors: Vec<f64> = cases.iter().filter_map(|case| case.floor_ns).collect();
    let mut bars = vec![Bar {
        name: "rounds kept".to_owned(),
        value: Some(kept as f64),
        colour: "good",
        note: kept.to_string(),
    }];
    for (name, count) in [
        ("floor changed", dropped.floor_changed),
        ("others at work", dropped.others_used_the_machine),
        ("failed", dropped.failed),
    ] {
        bars.push(Bar {
            name: name.to_owned(),
            value: Some(count as f64),
            colour: "dim",
            note: format!("{count} dropped"),
        });
    }
    let mut html = bars::from_zero(&bars);
    bars.clear();
    for (name, pick) in [
        ("lowest floor", f64::min as fn(f64, f64) -> f64),
        ("highest floor", f64::max),
    ] {
        bars.extend(floors.iter().copied().reduce(pick).map(|floor| Bar {
            name: name.to_owned(),
            value: Some(floor),
            colour: "c5",
            note: Unit::Nanoseconds.show(floor),
        }));
    }
    html.push_str(&bars::from_zero(&bars));
    for absent in &results.absent {
        let _ = write!(
            html,
            "<p><b>{}</b> is absent: {}.</p>",
            escape(&absent.name),
            escape(&absent.reason)
        );
    }
    html
}

fn table(results: &Results) -> String {
    let mut html = "<table><tr class=\"head\"><th>Case<th class=\"n\">Measured<th>Yardstick\
                    <th class=\"n\">is<th class=\"n\">Ratio<th class=\"n\">Target<th>Met\
                    <th class=\"n\">Rounds kept</tr>"
        .to_owned();
    for case in &results.cases {
        html.push_str(&row(case));
    }
    html.push_str("</table>");
    html
}

fn row(case: &CaseResult) -> String {
    let figure = |value: Option<f64>| value.map_or("–".to_owned(), |value| case.unit.show(value));
    let (class, met) = match case.met {
        Some(true) => ("good", "yes"),
        Some(false) => ("bad", "no"),
        None => ("soft", "not known"),
    };
    let failure = match &case.failure {
        Some(failure) => format!("<br><span class=\"bad\">{}</span>", escape(failure)),
        None => String::new(),
    };
    let dropped = match case.dropped_because {
        dropped if dropped.total() == 0 => String::new(),
        dropped => format!("<br><span class=\"soft\">{dropped}</span>"),
    };
    let explained = match case.explanation() {
        Some(text) => format!("<br><span class=\"soft\">{}</span>", escape(&text)),
        None => String::new(),
    };
    // The labels are for narrow screens, where each row is a card.
    format!(
        "<tr><td class=\"case\">{}{failure}{explained}<td class=\"n\" data-label=\"Measured\">{}\
         <td data-label=\"Yardstick\">{}<td class=\"n\" data-label=\"is\">{}\
         <td class=\"n\" data-label=\"Ratio\">{}<td class=\"n\" data-label=\"Target\">{}\
         <td class=\"{class}\" data-label=\"Met\">{met}\
         <td class=\"n\" data-label=\"Rounds kept\">{} of {}{dropped}</tr>\n",
        escape(&case.title),
        figure(case.value),
        escape(&case.yardstick),
        figure(case.yardstick_value),
        case.ratio
            .map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
        escape(&case.target),
        case.rounds_kept,
        case.rounds_kept + case.rounds_dropped,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::sample;

    #[test]
    fn the_page_shows_everything_and_needs_nothing_else() {
        let page = to_html(&sample());
        for text in [
            "The case &lt;one&gt;",
            "the &quot;disk&quot; is full",
            "fio libaio",
            "is absent: it is not installed",
            "155 ns",
            "empty task",
            "2 others, 1 floor",
            "6 dropped",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(
            page.contains("class=\"bad\" data-label=\"Met\">no"),
            "what falls short is shown"
        );
        for text in ["http://", "https://", "<script", "<link", "<img", "NaN"] {
            assert!(!page.contains(text), "{text}");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn a_page_without_cases_is_a_page() {
        let mut results = sample();
        results.cases.clear();
        results.curves.clear();
        results.absent.clear();
        assert!(to_html(&results).contains("</html>"));
    }
}
