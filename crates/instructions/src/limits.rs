//! The limits, and what the program says of a figure beyond its limit.

use std::collections::BTreeMap;
use std::fmt;

use crate::Result;
use crate::rounds::CaseRounds;

/// Where the limits stand, from the workspace's root.
pub const PATH: &str = "crates/instructions/limits.txt";

/// What a case takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The case.
    pub case: &'static str,
    /// Instructions per task.
    pub per_task: f64,
}

impl Figure {
    /// What rounds of so many tasks took.
    pub(crate) fn new(case: &'static str, rounds: &CaseRounds, tasks: usize) -> Result<Self> {
        let instructions = rounds.settled().ok_or("these rounds have no result")?;
        Ok(Self {
            case,
            per_task: instructions as f64 / tasks as f64,
        })
    }
}

/// The most instructions per task, by case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(BTreeMap<String, u32>);

impl Limits {
    /// The limits of this build, from [`PATH`].
    ///
    /// # Errors
    /// As [`Limits::parse`].
    pub fn current() -> Result<Self> {
        Self::parse(include_str!("../limits.txt"))
    }

    /// Reads lines of the form `case = number`. What follows a `#` is a comment.
    ///
    /// # Errors
    /// A line of another form, or a case that stands there twice.
    pub fn parse(text: &str) -> Result<Self> {
        let mut limits = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.split('#').next().unwrap_or_default().trim();
            if content.is_empty() {
                continue;
            }
            let entry = content
                .split_once('=')
                .and_then(|(case, limit)| Some((case.trim(), limit.trim().parse().ok()?)));
            let place = format!("{PATH}, line {}", index + 1);
            let (case, limit) =
                entry.ok_or_else(|| format!("{place}: \"{line}\" is not `case = number`"))?;
            if limits.insert(case.to_owned(), limit).is_some() {
                return Err(format!("{place}: {case} stands there twice").into());
            }
        }
        Ok(Self(limits))
    }

    /// The limit of a case.
    #[must_use]
    pub fn of(&self, case: &str) -> Option<u32> {
        self.0.get(case).copied()
    }

    /// What is wrong with these figures: those beyond their limit, those without one, and limits
    /// without a figure.
    #[must_use]
    pub fn complaints(&self, figures: &[Figure]) -> Vec<Complaint> {
        let beyond = figures.iter().filter_map(|&figure| {
            let limit = match self.of(figure.case) {
                Some(limit) if figure.per_task <= f64::from(limit) => return None,
                limit => limit,
            };
            Some(Complaint::Figure { figure, limit })
        });
        let is_counted = |case: &str| figures.iter().any(|figure| figure.case == case);
        let unknown = self.0.keys().filter(|case| !is_counted(case));
        beyond
            .chain(unknown.map(|case| Complaint::Unknown(case.clone())))
            .collect()
    }
}

/// A figure or a limit that is not as it has to be. Its text says what to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Complaint {
    /// A figure beyond its limit, or without one.
    Figure {
        /// What was counted.
        figure: Figure,
        /// The limit, if there is one.
        limit: Option<u32>,
    },
    /// A limit for a case that there is not.
    Unknown(String),
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Figure {
                figure,
                limit: Some(limit),
            } => write!(
                f,
                "{} takes {:.1} instructions per task, its limit is {limit} ({PATH}): make it \
                 cheaper, or raise the limit and say in the commit why it is worth that",
                figure.case, figure.per_task
            ),
            Self::Figure {
                figure,
                limit: None,
            } => write!(
                f,
                "{} takes {:.1} instructions per task and has no limit: give it one in {PATH}",
                figure.case, figure.per_task
            ),
            Self::Unknown(case) => write!(
                f,
                "{PATH} has a limit for {case}, which is not counted: remove it, or count it"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(case: &'static str, per_task: f64) -> Figure {
        Figure { case, per_task }
    }

    #[test]
    fn a_figure_beyond_its_limit_is_complained_about() {
        let limits = Limits::parse("# comment\n\none = 100\ntwo = 7 # why\n").expect("reads");
        let within = [figure("one", 100.0), figure("two", 6.5)];
        assert_eq!(limits.complaints(&within), []);
        let complaints = limits.complaints(&[figure("one", 100.1), figure("two", 6.5)]);
        let [complaint] = &complaints[..] else {
            panic!("{complaints:?}");
        };
        let text = complaint.to_string();
        for part in ["one", "100.1", "limit is 100", PATH, "cheaper", "raise"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn every_case_has_a_limit_and_every_limit_a_case() {
        let limits = Limits::parse("one = 1").expect("reads");
        let texts: Vec<_> = limits
            .complaints(&[figure("two", 1.0)])
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(texts.len(), 2);
        assert!(texts[0].contains("two") && texts[0].contains("no limit"));
        assert!(texts[1].contains("one") && texts[1].contains("not counted"));
    }

    #[test]
    fn a_line_that_is_no_limit_is_an_error_with_its_place() {
        for text in ["one", "one = ", "one = -1", "one = 1\none = 2"] {
            let error = Limits::parse(text).expect_err("is refused").to_string();
            assert!(error.starts_with(PATH), "{error}");
        }
        Limits::current().expect("the project's own are limits");
    }
}
