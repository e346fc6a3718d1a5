//! A three-way text: what somebody has made of a file, and what a command proposes, both from what the command saw.

use std::io;
use std::ops::Range;

use similar::{MergeResolution, TextMerge, TextMergeConfig};

use super::patch::{write_hunk, write_line};
use super::text::{Sign, TextDiff, place};
use super::{LineKind, Out};

pub struct ThreeWay<'a> {
    yours: &'a [u8],
    proposed: &'a [u8],
    /// `None`: what the command saw is not known.
    merge: Option<TextMerge<'a, 'a, 'a, [u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No edit of one is where the other has edited.
    Clean,
    Overlap,
    /// What both were made from is not known.
    Unknown,
}

impl<'a> ThreeWay<'a> {
    /// Of texts: the caller sees to it that none of them is binary or large.
    pub fn new(before: Option<&'a [u8]>, yours: &'a [u8], proposed: &'a [u8]) -> ThreeWay<'a> {
        let merge = before.map(|before| TextMergeConfig::new().merge_lines(before, yours, proposed));
        ThreeWay { yours, proposed, merge }
    }

    pub fn verdict(&self) -> Verdict {
        match &self.merge {
            None => Verdict::Unknown,
            Some(merge) if merge.is_conflicted() => Verdict::Overlap,
            Some(_) => Verdict::Clean,
        }
    }

    /// Both edits in one text, if they do not overlap.
    pub fn merged(&self) -> Option<Vec<u8>> {
        let merge = self.merge.as_ref().filter(|merge| !merge.is_conflicted())?;
        let mut text = Vec::new();
        merge.to_writer(&mut text).expect("a vector takes what is written");
        Some(text)
    }

    /// What differs, with `context` lines around it: a diff of what one side alone has edited, and all three versions of what both
    /// have. Without a common origin the difference between the two.
    pub fn write(&self, context: usize, out: &mut Out<'_>) -> io::Result<()> {
        let Some(merge) = &self.merge else {
            out(LineKind::Note, b"What the command saw is not known; - is yours, + is proposed")?;
            let diff = TextDiff::new(self.yours, self.proposed);
            return diff.hunks(context).iter().try_for_each(|hunk| write_hunk(&diff, hunk, None, out));
        };
        let mut same = 0..0;
        let mut regions = merge.regions().iter().peekable();
        while let Some(region) = regions.next() {
            let base = region.base_range();
            if region.resolution() == MergeResolution::Unchanged {
                // What is between two hunks stands in one of them.
                same = base.start.max(same.end)..base.end;
                continue;
            }
            let head = same.end.saturating_sub(context).max(same.start)..same.end;
            let next = regions.peek().filter(|next| next.resolution() == MergeResolution::Unchanged);
            let tail = next.map_or(base.end..base.end, |next| {
                let range = next.base_range();
                range.start..range.end.min(range.start + context)
            });
            same = tail.end..tail.end;
            self.write_region(merge, region, (head, tail), out)?;
        }
        Ok(())
    }

    fn write_region(
        &self,
        merge: &TextMerge<'a, 'a, 'a, [u8]>,
        region: &similar::MergeRegion,
        (head, tail): (Range<usize>, Range<usize>),
        out: &mut Out<'_>,
    ) -> io::Result<()> {
        let seen = |range: Range<usize>| range.filter_map(|line| merge.base_line(line)).collect::<Vec<_>>();
        let before = seen(region.base_range());
        let yours: Vec<&[u8]> = region.ours_range().filter_map(|line| merge.ours_line(line)).collect();
        let proposed: Vec<&[u8]> = region.theirs_range().filter_map(|line| merge.theirs_line(line)).collect();
        let verdict = match region.resolution() {
            MergeResolution::Ours => "yours alone",
            MergeResolution::Theirs => "proposed alone",
            MergeResolution::Both => "the same in both",
            _ => "overlap",
        };
        let ranges =
            [region.base_range(), region.ours_range(), region.theirs_range()].map(|range| place(&range));
        let header = format!("@@ seen {} yours {} proposed {} @@ {verdict}", ranges[0], ranges[1], ranges[2]);
        out(LineKind::Hunk, header.as_bytes())?;
        put(Sign::Same, &seen(head), out)?;
        match region.resolution() {
            MergeResolution::Ours | MergeResolution::Both => {
                put(Sign::Removed, &before, out)?;
                put(Sign::Added, &yours, out)?;
            }
            MergeResolution::Theirs => {
                put(Sign::Removed, &before, out)?;
                put(Sign::Added, &proposed, out)?;
            }
            _ => {
                let versions = [
                    ("<<<<<<< yours", yours),
                    ("||||||| seen by the command", before),
                    ("=======", proposed),
                ];
                for (marker, lines) in versions {
                    out(LineKind::Note, marker.as_bytes())?;
                    put(Sign::Same, &lines, out)?;
                }
                out(LineKind::Note, b">>>>>>> proposed")?;
            }
        }
        put(Sign::Same, &seen(tail), out)
    }
}

fn put(sign: Sign, lines: &[&[u8]], out: &mut Out<'_>) -> io::Result<()> {
    lines.iter().try_for_each(|line| match line.last() {
        // A carriage return ends a line of a merge too.
        Some(b'\r') => write_line(sign, &[line, &b"\n"[..]].concat(), out),
        _ => write_line(sign, line, out),
    })
}
