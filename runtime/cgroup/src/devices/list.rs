//! The rules as the devices controller of version 1 has them: one answer for all devices, and exceptions to it. A rule
//! that takes a part out of an exception cannot be told to it: it would be ignored without a word.

use thiserror::Error;

use super::{ALL, Kind, MKNOD, READ, Rule, WRITE};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a rule takes a part out of what an earlier one names, which cgroup version 1 cannot express; name the devices one by one"
)]
pub struct Inexpressible;

/// A device or several; `None` is each number.
type Devices = (Kind, Option<u32>, Option<u32>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    allows_all: bool,
    /// In the order of the rules, in which the kernel tells them.
    exceptions: Vec<(Devices, u8)>,
}

impl List {
    pub fn new(rules: &[Rule]) -> Result<List, Inexpressible> {
        rules.iter().try_fold(List::default(), List::with)
    }

    fn with(mut self, rule: &Rule) -> Result<List, Inexpressible> {
        if rule.is_about_all() {
            return Ok(List { allows_all: rule.allow, exceptions: Vec::new() });
        }
        for kind in Kind::ALL.into_iter().filter(|kind| rule.kind.is_none_or(|one| one == *kind)) {
            let devices = (kind, rule.major, rule.minor);
            if rule.allow == self.allows_all {
                self.take_out(devices, rule.access)?;
            } else {
                self.add(devices, rule.access);
            }
        }
        Ok(self)
    }

    fn add(&mut self, devices: Devices, access: u8) {
        match self.exceptions.iter_mut().find(|(known, _)| *known == devices) {
            Some((_, bits)) => *bits |= access,
            None => self.exceptions.push((devices, access)),
        }
    }

    fn take_out(&mut self, devices: Devices, access: u8) -> Result<(), Inexpressible> {
        for (exception, bits) in &mut self.exceptions {
            if *bits & access == 0 || !meet(*exception, devices) {
                continue;
            }
            if !covers(devices, *exception) {
                return Err(Inexpressible);
            }
            *bits &= !access;
        }
        self.exceptions.retain(|(_, bits)| *bits != 0);
        Ok(())
    }

    /// What is allowed, in the words of systemd's DeviceAllow. `None` if that is everything but some.
    pub(crate) fn allowed(&self) -> Option<Allowed> {
        if self.allows_all {
            let all = Allowed { allows_all: true, is_complete: true, devices: Vec::new() };
            return self.exceptions.is_empty().then_some(all);
        }
        let devices = self.exceptions.iter().filter_map(|((kind, major, minor), access)| {
            let word = match kind {
                Kind::Character => "char",
                Kind::Block => "block",
            };
            let name = match (major, minor) {
                (Some(major), Some(minor)) => format!("/dev/{word}/{major}:{minor}"),
                (Some(major), None) => format!("{word}-{major}"),
                (None, None) => format!("{word}-*"),
                (None, Some(_)) => return None,
            };
            Some((name, letters(*access)))
        });
        let devices: Vec<_> = devices.collect();
        Some(Allowed { allows_all: false, is_complete: devices.len() == self.exceptions.len(), devices })
    }

    /// File and text, in the order in which they are written.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let (begin, exceptions) = match self.allows_all {
            true => ("devices.allow", "devices.deny"),
            false => ("devices.deny", "devices.allow"),
        };
        let lines = self.exceptions.iter().map(|((kind, major, minor), access)| {
            let kind = match kind {
                Kind::Character => 'c',
                Kind::Block => 'b',
            };
            let number = |number: &Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
            (exceptions, format!("{kind} {}:{} {}", number(major), number(minor), letters(*access)))
        });
        std::iter::once((begin, "a".to_owned())).chain(lines).collect()
    }
}

/// For systemd.
pub(crate) struct Allowed {
    pub allows_all: bool,
    /// It has a word for each.
    pub is_complete: bool,
    /// With the letters of their access.
    pub devices: Vec<(String, String)>,
}

fn letters(access: u8) -> String {
    let letters = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
    letters.into_iter().filter(|(bit, _)| access & bit != 0).map(|(_, letter)| letter).collect()
}

fn meet(one: Devices, other: Devices) -> bool {
    let number = |one: Option<u32>, other: Option<u32>| one.is_none() || other.is_none() || one == other;
    one.0 == other.0 && number(one.1, other.1) && number(one.2, other.2)
}

fn covers(outer: Devices, inner: Devices) -> bool {
    let number = |outer: Option<u32>, inner: Option<u32>| outer.is_none() || outer == inner;
    outer.0 == inner.0 && number(outer.1, inner.1) && number(outer.2, inner.2)
}

const _: () = assert!(ALL == 7);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{allows, every_use, some_rules};
    use super::*;

    /// As the kernel's devices controller decides (security/device_cgroup.c): an exception counts only if it has all of
    /// the access when it allows, and any of it when it denies.
    fn kernel_allows(list: &List, kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let device = (kind, Some(major), Some(minor));
        let mut fitting = list.exceptions.iter().filter(|(devices, _)| covers(*devices, device));
        match list.allows_all {
            true => !fitting.any(|(_, bits)| bits & access != 0),
            false => fitting.any(|(_, bits)| access & !bits == 0),
        }
    }

    proptest! {
        #[test]
        fn the_list_never_allows_more_than_the_rules(rules in some_rules()) {
            if let Ok(list) = List::new(&rules) {
                for (kind, major, minor, access) in every_use() {
                    let kernel = kernel_allows(&list, kind, major, minor, access);
                    let meant = allows(&rules, kind, major, minor, access);
                    prop_assert!(meant || !kernel, "{kind:?} {major}:{minor} {access}");
                    // For one access at a time they are the same: of several the kernel wants one exception that has all.
                    if access.count_ones() == 1 {
                        prop_assert_eq!(kernel, meant, "{:?} {}:{} {}", kind, major, minor, access);
                    }
                }
            }
        }
    }

    #[test]
    fn a_hole_in_an_exception_is_an_error() {
        let rule =
            |allow, minor| Rule { allow, kind: Some(Kind::Character), major: Some(1), minor, access: ALL };
        assert_eq!(List::new(&[rule(true, None), rule(false, Some(3))]), Err(Inexpressible));
        let list = List::new(&[rule(true, Some(3)), rule(true, Some(5)), rule(false, None)]).unwrap();
        assert_eq!(list.lines(), [("devices.deny", "a".to_owned())]);
    }

    #[test]
    fn the_rules_keep_their_order() {
        let rule = |kind, minor, access| Rule {
            allow: true,
            kind: Some(kind),
            major: Some(10),
            minor: Some(minor),
            access,
        };
        let rules =
            [rule(Kind::Character, 229, ALL), rule(Kind::Block, 20, READ), rule(Kind::Character, 3, READ)];
        let again = rule(Kind::Block, 20, WRITE);
        let lines: Vec<_> = List::new(&[&rules[..], &[again]].concat())
            .unwrap()
            .lines()
            .into_iter()
            .map(|(_, line)| line)
            .collect();
        assert_eq!(lines, ["a", "c 10:229 rwm", "b 10:20 rw", "c 10:3 r"]);
    }

    #[test]
    fn the_defaults_are_runcs_lines_but_for_tun() {
        let list = List::new(&super::super::rules(&[])).unwrap();
        let lines: Vec<_> = list.lines().into_iter().map(|(_, line)| line).collect();
        let expected = [
            "a",
            "c *:* m",
            "b *:* m",
            "c 1:3 rwm",
            "c 1:5 rwm",
            "c 1:7 rwm",
            "c 1:8 rwm",
            "c 1:9 rwm",
            "c 5:0 rwm",
            "c 5:2 rwm",
            "c 136:* rwm",
        ];
        assert_eq!(lines, expected);
    }
}
