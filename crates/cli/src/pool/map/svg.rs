//! The map as an image in one file: no script, and no font or style from elsewhere.
//!
//! Every cell is a square that is filled from below: metadata, then used megabytes, then split ones. The rest is free.
//! Colours follow the reader's preference for light or dark.

use std::fmt::Write;

use chimaera_bdev_client::MegabyteState;

use super::{LEGEND, MAX_CELLS, MEGABYTE, Map, Mixture};
use crate::size::show_size;

/// Cells of a row.
const COLUMNS: u64 = 64;

/// Distance from one cell's left edge to the next one's.
const PITCH: u64 = 12;

/// Width and height of a cell.
const CELL: u64 = 10;

/// Space left of the cells, for the offsets of the rows.
const LEFT: u64 = 96;

/// Space above the cells, for the title.
const TOP: u64 = 76;

const MARGIN: u64 = 24;

/// Height of the legend.
const LEGEND_HEIGHT: u64 = 40;

/// Rules without variables, which not every viewer knows. A viewer without media queries draws the light version.
const STYLE: &str = "
text{font-family:system-ui,sans-serif;font-size:12px;fill:#1f2328}
.title{font-size:18px;font-weight:600}
.faint{fill:#59636e}
.paper{fill:#ffffff}
.free{fill:#e4e8ec}
.split{fill:#e0a100}
.used{fill:#2f6fde}
.metadata{fill:#a3399e}
@media(prefers-color-scheme:dark){
text{fill:#e6edf3}
.faint{fill:#9aa5b1}
.paper{fill:#0f1318}
.free{fill:#262d36}
.split{fill:#e3b341}
.used{fill:#5b9bff}
.metadata{fill:#d675d0}
}
";

/// Draws the map.
pub(super) fn draw(map: &Map<'_>) -> String {
    let megabytes_per_cell = map.megabytes_per_cell(MAX_CELLS);
    let cells = map.cells(megabytes_per_cell);
    let rows = (cells.len() as u64).div_ceil(COLUMNS).max(1);
    let width = LEFT + COLUMNS * PITCH + MARGIN;
    let height = TOP + rows * PITCH + LEGEND_HEIGHT + 16 + MARGIN;
    let name = escape(map.name);
    let size = show_size(map.total_size);
    let per_cell = show_size(megabytes_per_cell * MEGABYTE);

    let mut image = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"title\">\n\
         <title id=\"title\">Map of pool {name}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"36\">{name}</text>\n\
         <text class=\"faint\" x=\"{MARGIN}\" y=\"58\">{size}, {per_cell} a square</text>\n"
    );
    let row_bytes = COLUMNS * megabytes_per_cell * MEGABYTE;
    for (row, cells) in (0..).zip(cells.chunks(COLUMNS as usize)) {
        let top = TOP + row * PITCH;
        // Only every fourth row has a label: labels are taller than rows.
        if row % 4 == 0 {
            let (right, base) = (LEFT - 10, top + CELL);
            let offset = show_size(row * row_bytes);
            let _ = writeln!(
                image,
                "<text class=\"faint\" text-anchor=\"end\" x=\"{right}\" y=\"{base}\">{offset}</text>"
            );
        }
        for (column, &cell) in (0..).zip(cells) {
            draw_cell(&mut image, LEFT + column * PITCH, top, cell);
        }
    }
    draw_legend(&mut image, map, TOP + rows * PITCH + LEGEND_HEIGHT);
    image.push_str("</svg>\n");
    image
}

/// Draws a cell's parts, each with its share of the height.
fn draw_cell(image: &mut String, left: u64, top: u64, cell: Mixture) {
    let total = cell.total().max(1) as f64;
    let share = |count: u64| count as f64 / total * CELL as f64;
    let mut bottom = (top + CELL) as f64;
    let parts = [
        ("metadata", cell.metadata),
        ("used", cell.used),
        ("split", cell.split),
        ("free", cell.free),
    ];
    for (class, count) in parts {
        if count == 0 {
            continue;
        }
        let height = share(count);
        bottom -= height;
        let _ = writeln!(
            image,
            "<rect class=\"{class}\" x=\"{left}\" y=\"{}\" width=\"{CELL}\" height=\"{}\"/>",
            number(bottom),
            number(height)
        );
    }
}

fn draw_legend(image: &mut String, map: &Map<'_>, base: u64) {
    let all = Mixture::of(map.states);
    let step = COLUMNS * PITCH / LEGEND.len() as u64;
    for (column, (state, name)) in (0..).zip(LEGEND) {
        let left = LEFT + column * step;
        let (top, text) = (base - CELL, left + CELL + 6);
        let (count, size) = (all.count(state), show_size(map.bytes(state)));
        let plural = if count == 1 { "" } else { "s" };
        let class = class(state);
        let _ = write!(
            image,
            "<rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"{CELL}\" height=\"{CELL}\"/>\n\
             <text x=\"{text}\" y=\"{base}\">{name}</text>\n\
             <text class=\"faint\" x=\"{text}\" y=\"{}\">{count} megabyte{plural}, {size}</text>\n",
            base + 16
        );
    }
}

const fn class(state: MegabyteState) -> &'static str {
    match state {
        MegabyteState::Free => "free",
        MegabyteState::Split => "split",
        MegabyteState::Used => "used",
        MegabyteState::Metadata => "metadata",
    }
}

/// A coordinate with two decimals at most.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text with the characters replaced that have a meaning in XML, or that XML cannot hold.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// The states of a made-up pool, for pictures to look at.
#[cfg(test)]
pub(super) fn sample(megabytes: usize) -> Vec<MegabyteState> {
    (0..megabytes)
        .map(|index| match index {
            0..2 => MegabyteState::Metadata,
            index if index < megabytes / 3 && index % 11 != 0 => MegabyteState::Used,
            index if index < megabytes / 2 && index % 3 == 0 => MegabyteState::Split,
            index if index > megabytes / 2 && index * index % 17 == 1 => MegabyteState::Used,
            _ => MegabyteState::Free,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::states;
    use super::*;

    fn image(name: &str, states: &[MegabyteState]) -> String {
        draw(&Map {
            name,
            total_size: states.len() as u64 * MEGABYTE,
            states,
        })
    }

    #[test]
    fn a_megabyte_is_a_square_and_a_mixture_is_stacked() {
        let one = image("p", &states("#"));
        assert!(
            one.contains("<rect class=\"used\" x=\"96\" y=\"76\" width=\"10\" height=\"10\"/>")
        );
        assert!(one.contains("1 megabyte, 1.0 MiB"), "{one}");
        let mut text = String::new();
        draw_cell(&mut text, 0, 0, Mixture::of(&states("m#-.")));
        let tops: Vec<_> = text
            .lines()
            .map(|line| line.contains("height=\"2.5\""))
            .collect();
        assert_eq!(tops, [true; 4]);
        assert!(text.starts_with("<rect class=\"metadata\" x=\"0\" y=\"7.5\""));
    }

    #[test]
    fn the_image_stays_small_however_large_the_pool() {
        let image = image("p", &sample(1 << 20));
        assert!(image.len() < 2 << 20, "{} bytes", image.len());
        assert!(image.contains("256.0 MiB a square"));
    }

    #[test]
    fn a_name_cannot_break_the_image() {
        let image = image("</text><script>\"&\u{7}", &states("."));
        assert!(image.contains(">&lt;/text&gt;&lt;script&gt;&quot;&amp;\u{fffd}</text>"));
        assert!(!image.contains("<script"));
        assert_eq!(
            image.matches("<text").count(),
            image.matches("</text>").count()
        );
    }

    /// Look at it: `SVG=/tmp cargo test -p chimaera-cli --bin chimaera -- --ignored look_at_the_image`
    #[test]
    #[ignore = "images to look at"]
    fn look_at_the_image() {
        let folder = std::env::var("SVG").expect("SVG names a folder");
        for megabytes in [300, 9000] {
            let path = format!("{folder}/map-{megabytes}.svg");
            let image = image("/var/tmp/pool", &sample(megabytes));
            std::fs::write(path, image).expect("writes");
        }
    }
}
