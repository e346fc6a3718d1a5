//! Stacking: two layers, one made over the other, as one that does at once what they do one after the other.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::base::{Place, Seen};
use crate::manifest::{Entry, Kind, Manifest, ManifestError};
use crate::order;

/// What `upper` leaves of what `lower` left. What lower does not have lies below both.
///
/// `was_there`: whether something lies at a path below both. Errors: none, if both are manifests.
pub fn layers(
    lower: &Manifest,
    upper: &Manifest,
    was_there: impl Fn(&Path) -> bool,
) -> Result<Manifest, ManifestError> {
    let pairs = order::join(&lower.entries, |entry| &entry.path, &upper.entries, |entry| &entry.path);
    let mut cover = Cover::default();
    let mut entries: Vec<Entry> = Vec::new();
    let mut survivors = Vec::new();
    for (old, new) in pairs {
        if let Some(new) = new {
            cover.note(new);
            let is_needed = new.kind != Kind::Whiteout || was_there(&new.path);
            entries.extend(is_needed.then(|| over(new, old)));
        } else if let Some(old) = old.filter(|old| !cover.hides(&old.path)) {
            survivors.push(entries.len());
            entries.push(old.clone());
        }
    }
    relink(lower, &mut entries, &survivors);
    Manifest::from_entries(entries)
}

/// What lies below both at the paths of either: `lower` knows it of its own, and `upper` of those alone that the lower layer has not.
pub fn seen(lower: &[Seen], upper: &[Seen]) -> Vec<Seen> {
    let pairs = order::join(lower, |seen| &seen.path, upper, |seen| &seen.path);
    let is_below = |seen: &&Seen| !matches!(seen.place, Place::Fixed { .. });
    pairs.filter_map(|(old, new)| old.or(new.filter(is_below)).cloned()).collect()
}

/// Of what was seen what `layer` changes, and the directories around that.
pub fn seen_by(layer: &Manifest, seen: &[Seen]) -> Vec<Seen> {
    let mut cover = Cover::default();
    let pairs = order::join(&layer.entries, |entry| &entry.path, seen, |seen| &seen.path);
    let kept = pairs.filter_map(|(entry, seen)| {
        entry.inspect(|entry| cover.note(entry));
        seen.filter(|seen| entry.is_some() || cover.hides(&seen.path))
    });
    kept.cloned().collect()
}

/// The directory or other entry of the upper layer under which nothing of the lower one is to be seen.
#[derive(Default)]
struct Cover(Option<PathBuf>);

impl Cover {
    fn note(&mut self, entry: &Entry) {
        let covers = !matches!(entry.kind, Kind::Directory { opaque: false });
        if covers && !self.hides(&entry.path) {
            self.0 = Some(entry.path.clone());
        }
    }

    fn hides(&self, path: &Path) -> bool {
        self.0.as_ref().is_some_and(|cover| order::is_below(path, cover))
    }
}

/// A directory where the lower layer has none shows nothing of what lies below both.
fn over(new: &Entry, old: Option<&Entry>) -> Entry {
    let mut entry = new.clone();
    if let Kind::Directory { opaque } = &mut entry.kind {
        *opaque |= old.is_some_and(|old| old.kind != Kind::Directory { opaque: false });
    }
    entry
}

/// Of the names of one file the first that is left is the file.
fn relink(lower: &Manifest, entries: &mut [Entry], survivors: &[usize]) {
    let is_left: BTreeMap<PathBuf, usize> =
        survivors.iter().map(|index| (entries[*index].path.clone(), *index)).collect();
    let mut heirs: HashMap<PathBuf, PathBuf> = HashMap::new();
    for index in survivors {
        let Kind::HardLink { to } = &entries[*index].kind else { continue };
        if is_left.contains_key(to) {
            continue;
        }
        let path = entries[*index].path.clone();
        let heir = heirs.entry(to.clone()).or_insert_with(|| path.clone()).clone();
        entries[*index].kind = if heir == path {
            lower
                .file(&Entry { kind: Kind::HardLink { to: to.clone() }, ..entries[*index].clone() })
                .kind
                .clone()
        } else {
            Kind::HardLink { to: heir }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::base::{Access, SeenKind};
    use crate::digest::Digest;
    use crate::manifest::Meta;

    fn entry(path: &str, kind: Kind) -> Entry {
        let mode = if kind == Kind::Whiteout { 0 } else { 0o755 };
        Entry { path: path.into(), kind, meta: Meta { mode, ..Meta::default() } }
    }

    fn file(path: &str, content: &str) -> Entry {
        entry(path, Kind::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 })
    }

    fn dir(path: &str, opaque: bool) -> Entry {
        entry(path, Kind::Directory { opaque })
    }

    fn whiteout(path: &str) -> Entry {
        entry(path, Kind::Whiteout)
    }

    fn link(path: &str, to: &str) -> Entry {
        entry(path, Kind::HardLink { to: to.into() })
    }

    fn stacked(lower: Vec<Entry>, upper: Vec<Entry>, there: &[&str]) -> Vec<Entry> {
        let [lower, upper] = [lower, upper].map(|entries| Manifest::from_entries(entries).unwrap());
        let was_there = |path: &Path| there.iter().any(|there| Path::new(there) == path);
        layers(&lower, &upper, was_there).unwrap().entries
    }

    #[test]
    fn the_upper_one_decides() {
        let lower =
            vec![dir("d", false), file("d/a", "1"), file("d/b", "1"), whiteout("d/c"), file("e", "1")];
        let upper = vec![dir("d", false), file("d/a", "2"), whiteout("d/b"), file("d/c", "2"), whiteout("e")];
        let wanted = vec![dir("d", false), file("d/a", "2"), file("d/c", "2"), whiteout("e")];
        assert_eq!(stacked(lower, upper, &["d", "d/c", "e"]), wanted);
    }

    #[test]
    fn what_it_hides_is_gone() {
        let lower = || vec![dir("d", false), dir("d/e", false), file("d/e/f", "1"), file("d-x", "1")];
        assert_eq!(stacked(lower(), vec![whiteout("d")], &["d"]), [whiteout("d"), file("d-x", "1")]);
        assert_eq!(stacked(lower(), vec![whiteout("d")], &[]), [file("d-x", "1")]);
        assert_eq!(stacked(lower(), vec![dir("d", true)], &["d"]), [dir("d", true), file("d-x", "1")]);
        assert_eq!(stacked(lower(), vec![file("d", "2")], &["d"]), [file("d", "2"), file("d-x", "1")]);
    }

    #[test]
    fn a_directory_in_place_of_what_was_removed_is_opaque() {
        let upper = || vec![dir("d", false), file("d/new", "2")];
        let wanted = [dir("d", true), file("d/new", "2")];
        assert_eq!(stacked(vec![whiteout("d")], upper(), &["d"]), wanted);
        assert_eq!(stacked(vec![file("d", "1")], upper(), &["d"]), wanted);
        assert_eq!(stacked(vec![dir("d", true)], upper(), &["d"]), wanted);
    }

    #[test]
    fn a_link_outlives_the_first_name_of_its_file() {
        let lower = vec![file("a", "1"), link("b", "a"), link("c", "a")];
        let wanted = [file("a", "2"), file("b", "1"), link("c", "b")];
        assert_eq!(stacked(lower, vec![file("a", "2")], &[]), wanted);
    }

    #[test]
    fn what_was_seen_is_what_lies_below_both() {
        let access = Access::default();
        let host = |path: &str, ino| {
            let was = crate::base::Identity { ino, ..Default::default() };
            let place = Place::Host { path: Path::new("/").join(path), was, changed: false };
            Seen { path: path.into(), kind: SeenKind::File, access, place }
        };
        let layers = |path: &str| {
            let place = Place::Fixed { name: "layer".into(), content: None };
            Seen { path: path.into(), kind: SeenKind::File, access, place }
        };
        let lower = [host("a", 1)];
        let upper = [layers("a"), layers("b"), host("c", 3)];
        assert_eq!(seen(&lower, &upper), [host("a", 1), host("c", 3)]);
    }

    #[test]
    fn what_a_layer_leaves_alone_it_has_not_seen() {
        let seen = |path: &str| {
            let access = Access::default();
            Seen { path: path.into(), kind: SeenKind::Other, access, place: Place::Lost {} }
        };
        let layer = vec![dir("d", false), file("d/a", "1"), whiteout("d/gone"), dir("d/new", true)];
        let layer = Manifest::from_entries(layer).unwrap();
        let all = ["a", "d", "d/a", "d/b", "d/gone", "d/gone/x", "d/new", "d/new/x", "d-x"].map(seen);
        let kept = ["d", "d/a", "d/gone", "d/gone/x", "d/new", "d/new/x"].map(seen);
        assert_eq!(seen_by(&layer, &all), kept);
    }

    /// What is there: files by their content, directories with none.
    type Shown = BTreeMap<PathBuf, Option<Digest>>;

    fn apply(below: &Shown, layer: &Manifest) -> Shown {
        let mut shown = below.clone();
        for entry in &layer.entries {
            if !matches!(entry.kind, Kind::Directory { opaque: false }) {
                shown.retain(|path, _| path != &entry.path && !order::is_below(path, &entry.path));
            }
            let is = match &layer.file(entry).kind {
                Kind::Directory { .. } => None,
                Kind::File { digest, .. } => Some(*digest),
                _ => continue,
            };
            if is.is_some() || shown.get(&entry.path) != Some(&None) {
                shown.retain(|path, _| !order::is_below(path, &entry.path));
            }
            shown.insert(entry.path.clone(), is);
        }
        shown
    }

    /// An upper as a command leaves it over `below`: it has no whiteout of what is not there, and a directory is opaque if and
    /// only if something else was there, or by chance.
    fn upper(below: &Shown, choices: &[u8]) -> Manifest {
        let (mut entries, mut next) = (Vec::new(), choices.iter().copied().cycle());
        let mut made = HashMap::new();
        for path in ["a", "b", "a/x", "a/y", "b/x", "b/x/z"].map(PathBuf::from) {
            let parent = path.parent().unwrap().to_path_buf();
            let is_in_made = parent.as_os_str().is_empty() || made.contains_key(&parent);
            let choice = next.next().unwrap();
            if !is_in_made {
                continue;
            }
            let covered = path.ancestors().skip(1).any(|dir| made.get(dir) == Some(&true));
            let was = below.get(&path).filter(|_| !covered);
            let text = path.to_str().unwrap();
            match choice % 5 {
                0 if was.is_some() => entries.push(whiteout(text)),
                1 => entries.push(file(text, &choice.to_string())),
                2 | 3 => {
                    let opaque = was.is_some_and(|was| was.is_some() || choice > 128);
                    entries.push(dir(text, opaque));
                    made.insert(path, opaque || was.is_none());
                }
                4 if !entries.is_empty() => {
                    let to = entries.iter().find(|entry| matches!(entry.kind, Kind::File { .. }));
                    let to = to.map(|entry| entry.path.to_str().unwrap().to_owned());
                    entries.extend(to.map(|to| link(text, &to)));
                }
                _ => {}
            }
        }
        // A link comes after its file.
        entries.sort_by(|a, b| order::compare(&a.path, &b.path));
        entries.retain(
            |entry| !matches!(&entry.kind, Kind::HardLink { to } if order::compare(to, &entry.path).is_ge()),
        );
        Manifest::from_entries(entries).unwrap()
    }

    proptest! {
        #[test]
        fn both_at_once_leave_what_they_leave_one_after_the_other(
            choices in proptest::collection::vec(any::<u8>(), 18),
        ) {
            let bottom = apply(&Shown::new(), &upper(&Shown::new(), &choices[..6]));
            let lower = upper(&bottom, &choices[6..12]);
            let between = apply(&bottom, &lower);
            let upper = upper(&between, &choices[12..]);
            let both = layers(&lower, &upper, |path| bottom.contains_key(path)).unwrap();
            prop_assert_eq!(apply(&bottom, &both), apply(&between, &upper));
        }
    }
}
