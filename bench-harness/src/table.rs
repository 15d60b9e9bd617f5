//! Tables, paragraphs and numbers for people.

use catena_cli::units::thousands;
use std::fmt::Write as _;

/// Rows under headers: the first column to the left, the others to the right.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headers[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headers.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(line, "{cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let mut text = line(&mut headers.iter().copied());
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    text.push_str(&line(&mut rules.iter().map(String::as_str)));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// A paragraph in lines of readable length.
pub fn wrapped(paragraph: &str) -> String {
    const COLUMNS_MAX: usize = 96;
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        if column > 0 {
            let is_full = column + 1 + length > COLUMNS_MAX;
            text.push(if is_full { '\n' } else { ' ' });
            column = if is_full { 0 } else { column + 1 };
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
    text
}

/// Microseconds with as many digits as mean something.
pub fn micros(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.2}"),
        us if us < 1_000.0 => format!("{us:.1}"),
        us => count(us),
    }
}

/// So many of these: `1 connection`, `2,000 connections`.
pub fn plural(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(number as f64))
}

/// A figure, or what stands for one that there is not.
pub fn or_dash(figure: Option<f64>, text: impl Fn(f64) -> String) -> String {
    figure.map_or_else(|| "-".to_owned(), text)
}

/// A count with its thousands set apart.
pub fn count(number: f64) -> String {
    if number.fract() != 0.0 && number < 100.0 {
        return format!("{number:.2}");
    }
    thousands(format_args!("{number:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_numbers_readable() {
        let rows =
            vec![vec!["a".to_owned(), "1".to_owned()], vec!["bb".to_owned(), "22".to_owned()]];
        assert_eq!(table(&["who", "n"], &rows), "who   n\n---  --\na     1\nbb   22\n");
        for (number, text) in [(0.0, "0"), (0.25, "0.25"), (999.0, "999"), (1e6, "1,000,000")] {
            assert_eq!(count(number), text);
        }
        assert_eq!([0, 1, 2_000].map(|n| plural(n, "core")), ["0 cores", "1 core", "2,000 cores"]);
        assert_eq!([None, Some(2.0)].map(|us| or_dash(us, micros)), ["-", "2.00"]);
        assert_eq!([5.123, 71.26, 12_345.6].map(micros), ["5.12", "71.3", "12,346"]);
        assert!(wrapped(&"word ".repeat(99)).lines().all(|line| line.len() <= 96));
    }
}
