//! The conflicts: of each path that is not any more what the command saw, what somebody else made of it and what is proposed.

use vfsrun_layers::escape;
use vfsrun_layers::review::{
    Item, LineKind, Review, ReviewError, Side, ThreeWay, Verdict, host_path, is_as_seen, on_host,
};

use super::Paint;

pub fn write(review: &Review<'_>, context: usize, paint: &mut Paint) -> Result<(), ReviewError> {
    for item in review.told() {
        let Some(host) = host_path(review.base(), item.change.path()) else { continue };
        if !is_as_seen(item.change.was(), &host) {
            write_item(item, [&review.before(item), &on_host(&host), &review.after(item)?], context, paint)?;
        }
    }
    Ok(())
}

fn write_item(
    item: &Item<'_>,
    [before, yours, proposed]: [&Side; 3],
    context: usize,
    paint: &mut Paint,
) -> Result<(), ReviewError> {
    let path = escape::shown_path(item.change.path());
    let (Some(yours_text), Some(proposed_text)) = (file_text(yours), file_text(proposed)) else {
        let told = format!("seen {}, yours {}, proposed {}", words(before), words(yours), words(proposed));
        paint.line(LineKind::Header, format!("conflict {path}").as_bytes())?;
        return Ok(paint.line(LineKind::Note, told.as_bytes())?);
    };
    let three_way = ThreeWay::new(file_text(before), yours_text, proposed_text);
    let verdict = match three_way.verdict() {
        Verdict::Clean => "clean".to_owned(),
        Verdict::Overlap => "overlap".to_owned(),
        Verdict::Unknown => format!("seen {}", words(before)),
    };
    paint.line(LineKind::Header, format!("conflict {path}: {verdict}").as_bytes())?;
    Ok(three_way.write(context, &mut |kind, line| paint.line(kind, line))?)
}

fn file_text(side: &Side) -> Option<&[u8]> {
    if let Side::File(content) = side { content.text() } else { None }
}

fn words(side: &Side) -> String {
    match side {
        Side::Absent => "nothing".to_owned(),
        Side::Directory => "a directory".to_owned(),
        Side::File(content) => format!("a file of {} B", content.size()),
        Side::Symlink(target) => {
            let mut shown = String::new();
            escape::push(&mut shown, target);
            format!("a symlink to {shown}")
        }
        Side::Other(kind) => (*kind).to_owned(),
        Side::Unknown(unknown) => format!("not known ({unknown})"),
    }
}
