//! A suggestion: the known word that an unknown one was probably meant to be.

/// The nearest of `known`, if it is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A distance is no less than the difference in length, so no long text is ever compared.
    let near = |candidate: &str| {
        let length = candidate.chars().count();
        let allowed = (length / 3).clamp(1, 3);
        let differs_by = word.chars().take(2 * length + 2).count().abs_diff(length);
        (differs_by <= allowed).then(|| distance(word, candidate)).filter(|found| *found <= allowed)
    };
    known
        .into_iter()
        .filter_map(|candidate| near(candidate).map(|distance| (distance, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to add, drop, change or swap with a neighbour to make `left` of `right`; case does not count.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.to_lowercase().chars().collect();
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for (i, from) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in right.iter().enumerate() {
            let change = rows[i][j] + usize::from(from != to);
            let mut best = change.min(row[j] + 1).min(rows[i][j + 1] + 1);
            if i > 0 && j > 0 && left[i - 1] == *to && *from == right[j - 1] {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slip_is_recognised() {
        let known = ["branches", "rules", "upper", "capture"];
        for word in ["brnches", "branch", "Branches", "barnches", "branchess"] {
            assert_eq!(nearest(word, known), Some("branches"), "{word}");
        }
        assert_eq!(nearest("rule", known), Some("rules"));
    }

    #[test]
    fn a_different_word_gets_no_suggestion() {
        assert_eq!(nearest("overlay", ["branches", "rules", "upper", "capture"]), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), ["vfs"]), None);
    }

    #[test]
    fn swapped_letters_are_one_slip() {
        assert_eq!(distance("vsf", "vfs"), 1);
        assert_eq!(distance("", "vfs"), 3);
    }
}
