//! The lines that wait to be written: a bounded queue.

use std::collections::VecDeque;

use super::Level;
use super::line::{Line, MAX_TEXT_BYTES, Source};

/// The most lines that wait.
const MAX_LINES: usize = 4096;

/// The most bytes that they take.
const MAX_BYTES: usize = 1024 * 1024;

const _: () = assert!(MAX_TEXT_BYTES + 1024 < MAX_BYTES / 16);

/// Every level, the most severe first.
const LEVELS: [Level; 4] = [Level::Error, Level::Warning, Level::Info, Level::Debug];

/// Lines in the order in which they came. When the queue is full, the least severe lines are dropped, the latest of
/// them first, since the earliest explain most. A new line is dropped itself if no waiting line is less severe.
#[derive(Debug)]
pub(super) struct LineQueue {
    /// By level; each line with its number in the order of all.
    lines: [VecDeque<(u64, Line)>; LEVELS.len()],
    next_number: u64,
    count: usize,
    bytes: usize,
    /// By level: lines that were lost since the log last said so.
    lost: [u64; LEVELS.len()],
    lost_in_all: u64,
}

impl LineQueue {
    pub(super) const fn new() -> Self {
        Self {
            lines: [const { VecDeque::new() }; LEVELS.len()],
            next_number: 0,
            count: 0,
            bytes: 0,
            lost: [0; LEVELS.len()],
            lost_in_all: 0,
        }
    }

    pub(super) fn push(&mut self, line: Line) {
        let level = index_of(line.level);
        while self.count == MAX_LINES || self.bytes + line.size() > MAX_BYTES {
            let less_severe = (level + 1..LEVELS.len()).rev();
            let Some(victim) = less_severe.into_iter().find(|&other| self.drop_last(other)) else {
                self.count_lost(level);
                return;
            };
            self.count_lost(victim);
        }
        self.count += 1;
        self.bytes += line.size();
        self.lines[level].push_back((self.next_number, line));
        self.next_number += 1;
    }

    /// The next line to be written. If lines were lost, it is one that says so.
    pub(super) fn pop(&mut self) -> Option<Line> {
        if let Some(notice) = self.notice_of_loss() {
            return Some(notice);
        }
        let first = self
            .lines
            .iter_mut()
            .filter(|lines| !lines.is_empty())
            .min_by_key(|lines| lines.front().map(|(number, _)| *number))?;
        let (_, line) = first.pop_front()?;
        self.count -= 1;
        self.bytes -= line.size();
        Some(line)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0 && self.lost == [0; LEVELS.len()]
    }

    /// How many lines were lost since the process started.
    pub(super) fn lost_in_all(&self) -> u64 {
        self.lost_in_all
    }

    /// Drops the last line of a level. Returns whether there was one.
    fn drop_last(&mut self, level: usize) -> bool {
        let Some((_, line)) = self.lines[level].pop_back() else {
            return false;
        };
        self.count -= 1;
        self.bytes -= line.size();
        true
    }

    fn count_lost(&mut self, level: usize) {
        self.lost[level] += 1;
        self.lost_in_all += 1;
    }

    fn notice_of_loss(&mut self) -> Option<Line> {
        let lost = std::mem::take(&mut self.lost);
        let all: u64 = lost.iter().sum();
        if all == 0 {
            return None;
        }
        let [errors, warnings, infos, debugs] = lost;
        let text = format!(
            "the log could not be written as fast as lines came, and {all} were lost: {errors} errors, \
             {warnings} warnings, {infos} infos, {debugs} for developers"
        );
        Some(Line::new(Level::Warning, Source::Host, &text))
    }
}

fn index_of(level: Level) -> usize {
    level as usize - LEVELS[0] as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &mut LineQueue, level: Level, text: &str) {
        queue.push(Line::new(level, Source::Host, &text));
    }

    fn drain(queue: &mut LineQueue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop())
            .map(|line| line.text)
            .collect()
    }

    #[test]
    fn lines_come_out_in_the_order_in_which_they_came_whatever_their_levels() {
        let mut queue = LineQueue::new();
        for (number, level) in LEVELS.iter().cycle().take(40).enumerate() {
            push(&mut queue, *level, &number.to_string());
        }
        let expected: Vec<_> = (0..40).map(|number| number.to_string()).collect();
        assert_eq!(drain(&mut queue), expected);
        assert!(queue.is_empty());
        assert_eq!((queue.count, queue.bytes), (0, 0));
    }

    #[test]
    fn a_full_queue_gives_up_its_least_severe_lines_first_and_says_how_many() {
        let mut queue = LineQueue::new();
        push(&mut queue, Level::Info, "first");
        for number in 1..MAX_LINES {
            let level = if number % 2 == 0 {
                Level::Debug
            } else {
                Level::Info
            };
            push(&mut queue, level, &number.to_string());
        }
        push(&mut queue, Level::Debug, "not severe enough");
        push(&mut queue, Level::Error, "the fault");
        push(&mut queue, Level::Warning, "the warning");
        let out = drain(&mut queue);
        assert!(
            out[0].contains("3 were lost: 0 errors, 0 warnings, 0 infos, 3 for developers"),
            "{}",
            out[0]
        );
        assert_eq!(out[1], "first");
        assert_eq!(out.len(), MAX_LINES + 1);
        assert_eq!(out[MAX_LINES - 1..], ["the fault", "the warning"]);
        assert_eq!(queue.lost_in_all(), 3);
    }

    #[test]
    fn errors_displace_everything_but_errors() {
        let mut queue = LineQueue::new();
        let levels = [Level::Debug, Level::Info, Level::Warning, Level::Error];
        for level in levels {
            for _ in 0..MAX_LINES {
                push(&mut queue, level, "x");
            }
        }
        push(&mut queue, Level::Error, "one too many");
        assert_eq!(
            queue.lost,
            [1, MAX_LINES as u64, MAX_LINES as u64, MAX_LINES as u64]
        );
        let out = drain(&mut queue);
        assert_eq!(out.len(), MAX_LINES + 1);
        assert!(!out.contains(&"one too many".to_owned()));
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let mut queue = LineQueue::new();
        let long = "x".repeat(2 * MAX_TEXT_BYTES);
        for _ in 0..MAX_LINES {
            push(&mut queue, Level::Warning, &long);
            assert!(queue.bytes <= MAX_BYTES);
        }
        push(&mut queue, Level::Error, &long);
        assert!(queue.bytes <= MAX_BYTES && queue.count < MAX_LINES);
        let last = drain(&mut queue).pop().expect("there are lines");
        assert!(last.len() <= MAX_TEXT_BYTES);
    }
}
