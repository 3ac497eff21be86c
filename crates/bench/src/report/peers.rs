//! The peers' charts: for each kind of work the figures of all that did it, Chimaera among them.

use std::fmt::Write;

use super::bars::{self, Bar};
use super::svg::escape;
use crate::case::{BESIDE, Unit};
use crate::result::{CaseResult, Results};
use crate::timing::median;

/// How this project's own bar is called.
const OURS: &str = "Chimaera";

/// Cases of the same work and unit.
struct PeerWork<'a> {
    name: &'a str,
    unit: Unit,
    cases: Vec<&'a CaseResult>,
}

/// Charts of all work for which there are figures of peers, latencies first; empty if there is
/// none.
pub(super) fn charts(results: &Results) -> String {
    let works = works(results);
    let mut html = String::new();
    for (heading, is_latency) in [("Latency", true), ("Operations per second", false)] {
        let charts: String = works
            .iter()
            .filter(|work| (work.unit == Unit::Nanoseconds) == is_latency)
            .map(chart)
            .collect();
        if !charts.is_empty() {
            let _ = write!(
                html,
                "<h3>{heading}</h3><div class=\"peers\">{charts}</div>"
            );
        }
    }
    html
}

fn works(results: &Results) -> Vec<PeerWork<'_>> {
    let mut works: Vec<PeerWork<'_>> = Vec::new();
    for case in results.cases.iter().filter(|case| !case.peers.is_empty()) {
        let name = case.title.split(BESIDE).next().unwrap_or_default();
        let same = |work: &&mut PeerWork<'_>| work.name == name && work.unit == case.unit;
        match works.iter_mut().find(same) {
            Some(work) => work.cases.push(case),
            None => works.push(PeerWork {
                name,
                unit: case.unit,
                cases: vec![case],
            }),
        }
    }
    works
}

fn chart(work: &PeerWork<'_>) -> String {
    let mut ours: Vec<f64> = work.cases.iter().filter_map(|case| case.value).collect();
    let ours = median(&mut ours).map(|value| (OURS, value));
    let peers = work
        .cases
        .iter()
        .flat_map(|case| case.peers.iter().copied());
    let bars: Vec<Bar> = ours
        .into_iter()
        .chain(peers)
        .map(|(name, value)| Bar {
            name: name.to_owned(),
            value: Some(value),
            colour: if name == OURS { "c0" } else { "c5" },
            note: work.unit.show(value),
        })
        .collect();
    let better = match work.unit.less_is_better() {
        true => "less is better",
        false => "more is better",
    };
    let (name, bars) = (escape(work.name), bars::from_zero(&bars));
    format!("<div><p>{name} ({better})</p>{bars}</div>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::sample;

    #[test]
    fn everybody_who_did_the_same_work_is_in_one_chart() {
        let mut results = sample();
        let [one, two, three] = &mut results.cases[..] else {
            panic!("the sample has three cases")
        };
        one.title = "Reads".to_owned();
        (two.title, two.peers) = ("Reads, beside qemu".to_owned(), vec![("qemu", 700.0)]);
        (one.value, two.value) = (Some(100.0), Some(200.0));
        (three.title, three.unit) = ("Reads".to_owned(), Unit::PerSecond);
        let html = charts(&results);
        assert_eq!(html.matches("class=\"bars\"").count(), 2);
        assert_eq!(
            html.matches(">Chimaera<").count(),
            1,
            "the third has no figure"
        );
        for text in [">150 ns<", ">qemu<", ">700 ns<", ">fio libaio<"] {
            assert!(html.contains(text), "{text}");
        }
        let latency = html.find("<h3>Latency").expect("there is one");
        assert!(latency < html.find("<h3>Operations").expect("there is one"));
    }

    #[test]
    fn without_peers_there_is_no_chart() {
        let mut results = sample();
        for case in &mut results.cases {
            case.peers.clear();
        }
        assert_eq!(charts(&results), "");
    }
}
