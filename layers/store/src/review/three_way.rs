//! A three-way text: what somebody has made of a file, and what a command proposes, both from what the command saw.

use std::io;
use std::ops::Range;

use super::patch::{write_hunk, write_line};
use super::text::{Part, Sign, TextDiff, place};
use super::{LineKind, Out};

pub struct ThreeWay<'a> {
    yours: &'a [u8],
    proposed: &'a [u8],
    /// `None`: what the command saw is not known.
    merge: Option<Merge<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No edit of one is where the other has edited.
    Clean,
    Overlap,
    /// What both were made from is not known.
    Unknown,
}

/// From what was seen to yours, and to what is proposed.
struct Merge<'a> {
    yours: TextDiff<'a>,
    proposed: TextDiff<'a>,
    /// Where either differs from what was seen.
    regions: Vec<Region>,
}

struct Region {
    edits: Edits,
    /// Lines.
    seen: Range<usize>,
    yours: Range<usize>,
    proposed: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Edits {
    Yours,
    Proposed,
    /// Both have made the same of it.
    Same,
    Overlap,
}

impl<'a> ThreeWay<'a> {
    /// Of texts: the caller sees to it that none of them is binary or large.
    pub fn new(before: Option<&'a [u8]>, yours: &'a [u8], proposed: &'a [u8]) -> ThreeWay<'a> {
        let merge =
            before.map(|before| Merge::new(TextDiff::new(before, yours), TextDiff::new(before, proposed)));
        ThreeWay { yours, proposed, merge }
    }

    pub fn verdict(&self) -> Verdict {
        match &self.merge {
            None => Verdict::Unknown,
            Some(merge) if merge.overlaps() => Verdict::Overlap,
            Some(_) => Verdict::Clean,
        }
    }

    /// Both edits in one text, if they do not overlap.
    pub fn merged(&self) -> Option<Vec<u8>> {
        self.merge.as_ref().filter(|merge| !merge.overlaps()).map(Merge::text)
    }

    /// What differs, with `context` lines around it: a diff of what one side alone has edited, and all three versions of what both
    /// have. Without a common origin the difference between the two.
    pub fn write(&self, context: usize, out: &mut Out<'_>) -> io::Result<()> {
        let Some(merge) = &self.merge else {
            out(LineKind::Note, b"What the command saw is not known; - is yours, + is proposed")?;
            let diff = TextDiff::new(self.yours, self.proposed);
            return diff.hunks(context).iter().try_for_each(|hunk| write_hunk(&diff, hunk, None, out));
        };
        // Lines between two regions stand with one of them.
        let mut shown = 0;
        for (index, region) in merge.regions.iter().enumerate() {
            let Range { start, end } = region.seen;
            let next = merge.regions.get(index + 1).map_or(merge.seen().len(), |next| next.seen.start);
            let head = start.saturating_sub(context).max(shown)..start;
            let tail = end..end.saturating_add(context).min(next);
            shown = tail.end;
            merge.write(region, (head, tail), out)?;
        }
        Ok(())
    }
}

impl<'a> Merge<'a> {
    fn new(yours: TextDiff<'a>, proposed: TextDiff<'a>) -> Merge<'a> {
        let regions = regions(&yours, &proposed);
        Merge { yours, proposed, regions }
    }

    fn overlaps(&self) -> bool {
        self.regions.iter().any(|region| region.edits == Edits::Overlap)
    }

    fn seen(&self) -> &[&'a [u8]] {
        &self.yours.old
    }

    /// With what either has edited; where both have, yours.
    fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut taken = 0;
        for region in &self.regions {
            text.extend(self.seen()[taken..region.seen.start].concat());
            text.extend(match region.edits {
                Edits::Proposed => self.proposed.new[region.proposed.clone()].concat(),
                _ => self.yours.new[region.yours.clone()].concat(),
            });
            taken = region.seen.end;
        }
        text.extend(self.seen()[taken..].concat());
        text
    }

    fn write(
        &self,
        region: &Region,
        (head, tail): (Range<usize>, Range<usize>),
        out: &mut Out<'_>,
    ) -> io::Result<()> {
        let seen = &self.seen()[region.seen.clone()];
        let yours = &self.yours.new[region.yours.clone()];
        let proposed = &self.proposed.new[region.proposed.clone()];
        let words = match region.edits {
            Edits::Yours => "yours alone",
            Edits::Proposed => "proposed alone",
            Edits::Same => "the same in both",
            Edits::Overlap => "overlap",
        };
        let [at_seen, at_yours, at_proposed] = [&region.seen, &region.yours, &region.proposed].map(place);
        let header = format!("@@ seen {at_seen} yours {at_yours} proposed {at_proposed} @@ {words}");
        out(LineKind::Hunk, header.as_bytes())?;
        put(Sign::Same, &self.seen()[head], out)?;
        if region.edits == Edits::Overlap {
            let versions =
                [("<<<<<<< yours", yours), ("||||||| seen by the command", seen), ("=======", proposed)];
            for (marker, lines) in versions {
                out(LineKind::Note, marker.as_bytes())?;
                put(Sign::Same, lines, out)?;
            }
            out(LineKind::Note, b">>>>>>> proposed")?;
        } else {
            put(Sign::Removed, seen, out)?;
            put(Sign::Added, if region.edits == Edits::Proposed { proposed } else { yours }, out)?;
        }
        put(Sign::Same, &self.seen()[tail], out)
    }
}

/// Edits without a line between them that both leave are one region, as whoever made one has not seen the other.
fn regions(yours: &TextDiff<'_>, proposed: &TextDiff<'_>) -> Vec<Region> {
    let mut sides = [yours, proposed].map(|diff| diff.parts().filter(|part| !part.is_same).peekable());
    let mut regions = Vec::new();
    // How far each is behind what was seen, in lines, which wraps below 0.
    let mut shifts = [0usize; 2];
    while let Some(start) = sides.iter_mut().filter_map(|side| side.peek()).map(|part| part.old.start).min() {
        let (mut end, mut has_edits, before) = (start, [false; 2], shifts);
        while let Some((index, part)) = next_until(&mut sides, end) {
            end = end.max(part.old.end);
            has_edits[index] = true;
            shifts[index] = shifts[index].wrapping_add(part.new.len()).wrapping_sub(part.old.len());
        }
        let [yours_lines, proposed_lines] =
            [0, 1].map(|index| start.wrapping_add(before[index])..end.wrapping_add(shifts[index]));
        let edits = match has_edits {
            [true, false] => Edits::Yours,
            [false, _] => Edits::Proposed,
            _ if yours.new[yours_lines.clone()] == proposed.new[proposed_lines.clone()] => Edits::Same,
            _ => Edits::Overlap,
        };
        regions.push(Region { edits, seen: start..end, yours: yours_lines, proposed: proposed_lines });
    }
    regions
}

/// The next edit of either side that begins at `end` or before.
fn next_until<I: Iterator<Item = Part>>(
    sides: &mut [std::iter::Peekable<I>; 2],
    end: usize,
) -> Option<(usize, Part)> {
    sides
        .iter_mut()
        .enumerate()
        .find_map(|(index, side)| side.next_if(|part| part.old.start <= end).map(|part| (index, part)))
}

fn put(sign: Sign, lines: &[&[u8]], out: &mut Out<'_>) -> io::Result<()> {
    lines.iter().try_for_each(|line| write_line(sign, line, out))
}
