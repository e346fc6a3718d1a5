//! An action's root against an overlay that the kernel alone makes: random stacks of host directories, in which the same
//! program does the same things in both, and has to get the same answers and to leave the same tree.
//!
//! `VFSRUN_TEST_ROUNDS=N` tries N times as many stacks, and `VFSRUN_TEST_SEED=N` others. A failure tells the seed, what the
//! branches of the case are, and what was done in it.

use std::collections::BTreeSet;

use vfsrun_tests::changes::Random;
use vfsrun_tests::random_stack::{self, Branch, Known, Mounter, PLACE, RandomStack};
use vfsrun_tests::{Caller, Sandbox, as_root_and_user, fixtures, json};

as_root_and_user!(action_answers_as_the_kernels_overlay_does);

const STACKS: usize = 5;
const CASES: usize = 16;
const DEEDS: usize = 50;

fn action_answers_as_the_kernels_overlay_does(sandbox: &Sandbox) {
    let seed = number("VFSRUN_TEST_SEED").unwrap_or(0);
    let mut random = Random(2 * seed + u64::from(sandbox.caller == Caller::User));
    fixtures::actor(sandbox);
    let mut counts = Counts::default();
    for number in 0..STACKS * number("VFSRUN_TEST_ROUNDS").unwrap_or(1) as usize {
        let is_roots = sandbox.caller == Caller::Root && number % 2 == 0;
        let mounter = if is_roots { Mounter::Root } else { Mounter::NamespaceRoot };
        // The first one has none, as most directories.
        let xattrs = if number % 3 == 0 { "off" } else { "pass" };
        let stack = Stack::build(sandbox, number, &mut random, mounter, xattrs);
        let kernel = stack.in_overlay();
        for way in [Way::EachAlone, Way::Together] {
            let compared = stack.compare(&kernel, &stack.in_action(way), &mut counts);
            compared.unwrap_or_else(|difference| {
                panic!("VFSRUN_TEST_SEED={seed}, stack {number}, {mounter:?}, {way:?}, xattrs {xattrs}, {difference}")
            });
        }
    }
    assert!(counts.errors < counts.answers / 4 * 3, "hardly anything could be done: {counts:?}");
    assert!(counts.cut_short < counts.answers / DEEDS / 20, "hardly any case came to its end: {counts:?}");
}

/// How the view server has the branches.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The overlay of the action merges them.
    EachAlone,
    /// The server merges them.
    Together,
}

struct Stack<'a> {
    sandbox: &'a Sandbox,
    /// In the scratch directory.
    name: String,
    mounter: Mounter,
    /// As in the spec. With `off` the branches have none.
    xattrs: &'static str,
    stack: RandomStack,
    /// Of each case.
    deeds: Vec<Vec<String>>,
}

impl Stack<'_> {
    fn build<'a>(
        sandbox: &'a Sandbox,
        number: usize,
        random: &mut Random,
        mounter: Mounter,
        xattrs: &'static str,
    ) -> Stack<'a> {
        let stack = RandomStack::new(random, CASES, mounter, xattrs != "off");
        let (name, deeds) = (format!("stack{number}"), Vec::new());
        let mut built = Stack { sandbox, name, mounter, xattrs, stack, deeds };
        built.make_branches(random);
        let mut script = vec!["unprivileged".to_owned()];
        for (case, deeds) in built.deeds.iter().enumerate() {
            script.push(format!("enter {PLACE}/{}", random_stack::directory(case)));
            script.extend(deeds.iter().cloned());
            script.push("dump .".to_owned());
        }
        sandbox.write("actor/script", script.join("\n") + "\n");
        built
    }

    /// Makes them, and decides what is done with what is there then.
    fn make_branches(&mut self, random: &mut Random) {
        let mut script = Vec::new();
        for case in 0..CASES {
            for (index, branch) in self.stack.branches.iter().enumerate() {
                let directory = self.sandbox.path(self.file(&index.to_string()));
                let directory = directory.join(random_stack::directory(case)).display().to_string();
                script.extend([format!("mkdirs {directory}"), format!("enter {directory}")]);
                script.extend(branch.parts[case].iter().cloned());
            }
        }
        self.sandbox.write(self.file("build"), script.join("\n") + "\n");
        let said = self.sandbox.sh(&format!("actor/actor {}", self.file("build")));
        // What is before the dump are answers.
        let mut dumps = said.split("dumped\n");
        for case in 0..CASES {
            let mut known = BTreeSet::new();
            for _ in &self.stack.branches {
                let dump: Vec<_> = dumps.next().expect("every part is dumped").lines().collect();
                known.extend(dump.iter().filter_map(|line| known_from(line)));
            }
            self.deeds.push(random_stack::deeds(
                random,
                case,
                known.into_iter().collect(),
                self.mounter,
                DEEDS,
            ));
        }
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// What the actor says in an overlay that is mounted as an action's is.
    fn in_overlay(&self) -> String {
        let lower: Vec<_> =
            (0..self.stack.branches.len()).map(|index| self.file(&index.to_string())).collect();
        let (lower, name) = (lower.join(":"), &self.name);
        let (enter, option) = match self.mounter {
            Mounter::Root => ("unshare --mount --propagation private", ""),
            Mounter::NamespaceRoot => ("unshare --user --map-root-user --mount", ",userxattr"),
        };
        let script = format!(
            "mkdir {name}/upper {name}/work {name}/root
            {enter} sh -ec '
                cd {name}; mount -t tmpfs root root; mkdir root{PLACE} root/actor; mount --bind ../actor root/actor; cd ..
                mount -t overlay overlay {name}/root{PLACE} \\
                    -o {OPTIONS}{option},lowerdir={lower},upperdir={name}/upper,workdir={name}/work
                exec chroot {name}/root /actor/actor /actor/script'"
        );
        self.sandbox.sh(&script)
    }

    fn in_action(&self, way: Way) -> String {
        let mut branches: Vec<_> = match way {
            Way::Together => {
                vec![
                    json!({ "glob": self.file("[0-9]"), "at": PLACE, "whiteouts": "overlay", "xattrs": self.xattrs }),
                ]
            }
            Way::EachAlone => {
                let described = |(index, branch): (usize, &Branch)| {
                    let whiteouts = if branch.is_marked { "overlay" } else { "none" };
                    let path = self.file(&index.to_string());
                    json!({ "path": path, "at": PLACE, "whiteouts": whiteouts, "xattrs": self.xattrs })
                };
                self.stack.branches.iter().enumerate().map(described).collect()
            }
        };
        branches.push(json!({ "path": "actor", "at": "/actor" }));
        let spec = json!({
            "process": { "args": ["/actor/actor", "/actor/script"] },
            "vfs": { "branches": branches, "landlock": false, "capture": false },
        });
        self.sandbox.run(&spec).expect(0).stdout
    }

    /// Errors: in words, the first case in which the two differ.
    fn compare(&self, kernel: &str, action: &str, counts: &mut Counts) -> Result<(), String> {
        let (mut kernel, mut action) = (kernel.lines(), action.lines());
        assert_eq!((kernel.next(), action.next()), (Some("ok"), Some("ok")), "capabilities are dropped");
        for (index, deeds) in self.deeds.iter().enumerate() {
            let [kernel, action] = [&mut kernel, &mut action].map(|lines| Answers::read(lines, deeds.len()));
            let case = Case { stack: self, index, deeds };
            case.compare(&kernel, &action, counts)
                .map_err(|difference| format!("case {index}\n{}{difference}", self.story(index)))?;
        }
        Ok(())
    }

    fn story(&self, case: usize) -> String {
        let branches = self.stack.branches.iter().enumerate();
        let of_branch = |(index, branch): (usize, &Branch)| {
            format!("--- branch {index}, marked: {}\n{}\n", branch.is_marked, branch.parts[case].join("\n"))
        };
        branches.map(of_branch).collect()
    }
}

/// That the rounds are about what they are meant to be about.
#[derive(Debug, Default)]
struct Counts {
    answers: usize,
    errors: usize,
    /// Cases of which the end was not compared.
    cut_short: usize,
}

/// What the actor said in a case.
struct Answers<'a> {
    /// Of each deed.
    deeds: Vec<&'a str>,
    /// A line for each name that was there in the end.
    tree: Vec<&'a str>,
}

impl<'a> Answers<'a> {
    fn read(lines: &mut impl Iterator<Item = &'a str>, deeds: usize) -> Answers<'a> {
        let deeds = lines.by_ref().skip(1).take(deeds).collect();
        Answers { deeds, tree: lines.take_while(|line| *line != "dumped").collect() }
    }
}

struct Case<'a> {
    stack: &'a Stack<'a>,
    index: usize,
    deeds: &'a [String],
}

impl Case<'_> {
    fn compare(&self, kernel: &Answers, action: &Answers, counts: &mut Counts) -> Result<(), String> {
        let mut told = "--- what was done\n".to_owned();
        for (index, deed) in self.deeds.iter().enumerate() {
            let answer =
                |answers: &Answers| answers.deeds.get(index).copied().unwrap_or("nothing").to_owned();
            let (kernel, action) = (answer(kernel), answer(action));
            counts.answers += 1;
            counts.errors += usize::from(kernel.starts_with('E'));
            if kernel != action && !self.is_meant(deed, &kernel, &action) {
                if action == "ok" && self.has_whiteouts_by_attribute() && is_full_of_whiteouts(&kernel) {
                    // Nothing after this is the same.
                    counts.cut_short += 1;
                    return Ok(());
                }
                return Err(format!("{told}{deed}\n    kernel: {kernel}\n    action: {action}\n"));
            }
            told += &format!("{deed}\n    {kernel}\n");
        }
        let action: Vec<_> = action.tree.iter().map(|line| self.without_refusal(line)).collect();
        let meant = |line: &&&str| self.is_stale_whiteout(line) && !action.iter().any(|said| said == **line);
        let kernel: Vec<_> =
            kernel.tree.iter().filter(|line| !meant(line)).map(|line| (*line).to_owned()).collect();
        if kernel == action {
            return Ok(());
        }
        let only = |world: &str, one: &[String], other: &[String]| -> String {
            one.iter().filter(|line| !other.contains(line)).map(|line| format!("{world} {line}\n")).collect()
        };
        Err(told + "--- the tree\n" + &only("kernel", &kernel, &action) + &only("action", &action, &kernel))
    }

    /// Whether an action's root is documented to differ in this.
    fn is_meant(&self, deed: &str, kernel: &str, action: &str) -> bool {
        self.has_no_attributes(deed, kernel, action) || self.lists_stale_whiteouts(kernel, action)
    }

    /// Attributes of host files are not shown, and that there are none is said once for all (docs/spec.md, "What of a host
    /// file is shown"). These have none either.
    fn has_no_attributes(&self, deed: &str, kernel: &str, action: &str) -> bool {
        let are_off = self.stack.xattrs == "off";
        let asks = [("xattrs ", "xattrs"), ("removexattr ", "ENODATA")];
        are_off
            && action == "EOPNOTSUPP"
            && asks.iter().any(|(kind, none)| deed.starts_with(kind) && kernel == *none)
    }

    fn without_refusal(&self, line: &str) -> String {
        if self.stack.xattrs == "off" { line.replace(" EOPNOTSUPP", " xattrs") } else { line.to_owned() }
    }

    /// The kernel lists a whiteout where no other layer has the directory, and looks it up in vain; the view does not.
    fn lists_stale_whiteouts(&self, kernel: &str, action: &str) -> bool {
        let said: Vec<_> = action.split(' ').collect();
        let kept = |name: &&str| !self.is_stale(name) || said.contains(name);
        let lists = kernel.starts_with("has") || kernel.starts_with("ENOTEMPTY has");
        lists && kernel.split(' ').filter(kept).eq(said.iter().copied())
    }

    fn is_stale_whiteout(&self, line: &str) -> bool {
        line.strip_prefix("at ")
            .and_then(|line| line.split(' ').nth(1))
            .is_some_and(|told| self.is_stale(told))
    }

    /// NAME:TYPE!ERROR, or what is behind the colon. Devices are whiteouts for sure.
    fn is_stale(&self, told: &str) -> bool {
        let is_device = told.ends_with("?!ENOENT") || told.ends_with("?!EACCES");
        let is_by_attribute = told.ends_with("-!ENOENT") || told.ends_with("-!EACCES");
        is_device || is_by_attribute && self.has_whiteouts_by_attribute()
    }

    fn has_whiteouts_by_attribute(&self) -> bool {
        let mut parts = self.stack.stack.branches.iter().flat_map(|branch| &branch.parts[self.index]);
        parts.any(|command| command.contains(".overlay.whiteout"))
    }
}

/// Whether the kernel refuses to remove a directory for whiteouts by attribute alone, which it does not know in a
/// directory that only one layer has. The view does.
fn is_full_of_whiteouts(answer: &str) -> bool {
    let is_one = |word: &str| word == "has" || word == "EACCES" || word.ends_with("-!ENOENT");
    answer.strip_prefix("ENOTEMPTY").is_some_and(|listing| listing.split_whitespace().all(is_one))
}

fn known_from(line: &str) -> Option<Known> {
    let (path, rest) = line.strip_prefix("at ")?.split_once(' ')?;
    let path = path.strip_prefix("./").unwrap_or(path);
    // Of a whiteout, and of what the builder has closed, there is nothing to use.
    rest.starts_with(['-', 'd', 'l', 'p', 's']).then(|| (path.to_owned(), rest.chars().next().unwrap_or('-')))
}

/// As runtime/vfsrun mounts it.
const OPTIONS: &str = "xino=on,redirect_dir=nofollow,metacopy=off,index=off,nfs_export=off,volatile";

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")))
}
