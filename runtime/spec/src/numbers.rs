//! A list of CPUs or memory nodes, such as `0-3,7`.

/// As many as any kernel has.
const END: u32 = 1024;

/// The numbers of the list, sorted. An empty list has none.
///
/// # Errors
/// What is no list, as a cause.
pub fn numbers(list: &str) -> Result<Vec<u32>, String> {
    let no_list = || format!("{list:?} is no list of numbers below {END}, expected such as \"0-3,7\"");
    let number =
        |text: &str| text.trim().parse().ok().filter(|number: &u32| *number < END).ok_or_else(no_list);
    let mut numbers = Vec::new();
    for part in list.split(',').filter(|_| !list.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("{list:?} has a range whose end is before its start"));
        }
        numbers.extend(first..=last);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_numbers_are_one_list() {
        assert_eq!(numbers("0-3,7"), Ok(vec![0, 1, 2, 3, 7]));
        assert_eq!(numbers("7, 1,1-2"), Ok(vec![1, 2, 7]));
        assert_eq!(numbers(""), Ok(vec![]));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for list in [",", "1,", "a", "-1", "1-", "3-1", "1024", "0-99999999999", "1--2"] {
            numbers(list).expect_err(list);
        }
    }
}
