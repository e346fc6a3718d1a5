//! The count of lines that each change adds and removes, as git prints it.

use vfsrun_layers::escape;
use vfsrun_layers::review::{Item, LineKind, Review, ReviewError, Stat, stat};

use super::Paint;

/// Columns where there is no terminal.
const WIDTH: usize = 80;
/// Columns of the signs at most.
const MOST_SIGNS: usize = 40;

pub fn write(review: &Review<'_>, paint: &mut Paint) -> Result<(), ReviewError> {
    let mut rows = Vec::new();
    for item in review.told() {
        rows.push((name(item), stat(&review.before(item), &review.after(item)?)));
    }
    let most = rows.iter().map(|(_, stat)| lines(stat)).max().unwrap_or(0);
    let digits = most.to_string().len().max(3);
    let longest = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let room = width() - digits - 4;
    let name_width = longest.min(room - 12);
    let signs = (room - name_width).min(MOST_SIGNS);
    for (name, stat) in &rows {
        let row = format!(" {} | {}", fitted(name, name_width), told(stat, digits, most, signs));
        paint.line(LineKind::Same, row.trim_end().as_bytes())?;
    }
    Ok(paint.line(LineKind::Same, total(&rows).as_bytes())?)
}

/// Columns of the terminal, if it is one.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    // 0: one that does not know.
    let columns = size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0);
    columns.unwrap_or(WIDTH).clamp(40, 400)
}

fn name(item: &Item<'_>) -> String {
    let name = escape::shown_path(item.change.path());
    item.from.map_or(name.clone(), |from| format!("{} => {name}", escape::shown_path(&from.was.path)))
}

/// What is too long loses its beginning.
fn fitted(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return format!("{name:width$}");
    }
    let end: String = name.chars().skip(length - (width - 3)).collect();
    format!("...{end}")
}

fn lines(stat: &Stat) -> usize {
    if let Stat::Lines { added, removed } = stat { added + removed } else { 0 }
}

fn told(stat: &Stat, digits: usize, most: usize, width: usize) -> String {
    match stat {
        Stat::Lines { added, removed } => {
            // Of each there is at least one if there is any.
            let scaled = |count: &usize| match most <= width {
                true => *count,
                false if *count == 0 => 0,
                false => (count * (width - 1) / most).max(1),
            };
            format!(
                "{:>digits$} {}{}",
                added + removed,
                "+".repeat(scaled(added)),
                "-".repeat(scaled(removed))
            )
        }
        Stat::Binary(before, after) => format!("Bin {before} -> {after} bytes"),
        Stat::Unknown(after) => format!("? -> {after} bytes"),
    }
}

fn total(rows: &[(String, Stat)]) -> String {
    let counts = rows.iter().fold((0, 0), |(all_added, all_removed), (_, stat)| match stat {
        Stat::Lines { added, removed } => (all_added + added, all_removed + removed),
        _ => (all_added, all_removed),
    });
    let of =
        |count: usize, word: &str| if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") };
    let mut parts = vec![format!("{} changed", of(rows.len(), "file"))];
    if counts.0 > 0 || counts.1 == 0 {
        parts.push(format!("{}(+)", of(counts.0, "insertion")));
    }
    if counts.1 > 0 || counts.0 == 0 {
        parts.push(format!("{}(-)", of(counts.1, "deletion")));
    }
    format!(" {}", parts.join(", "))
}
