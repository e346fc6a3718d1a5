//! Live branches: whatever has changed a host directory, the next run sees it, though the view server and the kernel
//! hold what earlier runs saw. Each time `look` is run in an action and on the host, and has to print the same.
//!
//! `VFSRUN_TEST_ROUNDS=N` makes the random tests N times as long, for a proof by hand, and `VFSRUN_TEST_SEED=N` gives
//! them other changes. A failure tells the seed and the last commands, which the changer takes as they are:
//! `mkdir src out; target/…/fixtures/changer < commands`.

use std::cell::RefCell;
use std::path::Path;
use std::thread;
use std::time::Duration;

use vfsrun_tests::changes::Random;
use vfsrun_tests::random_changes::{INSIDE, OUTSIDE};
use vfsrun_tests::{
    Background, Changer, Dialogue, Output, RandomChanges, Sandbox, Value, as_root_and_user, command,
    fixtures, json, skip,
};

as_root_and_user!(
    any_change_is_seen,
    any_change_is_seen_beside_other_actions,
    stores_that_change_no_time_are_seen,
    what_git_does_is_seen,
    what_make_does_is_seen,
    what_cargo_does_is_seen,
    what_editors_do_is_seen,
);

/// How a branch finds out what has changed. `None`: the spec does not say.
const MODES: [Option<&str>; 3] = [None, Some("watch"), Some("sweep")];

const ROUNDS: usize = 400;

/// What an action looks at, in the letters of `look`: most often everything. Else the kernel holds a part only.
const EVERYTHING: &str = "nlsc";
const WAYS: [&str; 8] = [EVERYTHING, EVERYTHING, EVERYTHING, EVERYTHING, "nls", "sc", "n", "l"];

/// A branch, and `look` in it and on it.
struct Live<'a> {
    sandbox: &'a Sandbox,
    mode: Option<&'static str>,
    /// `look` on the host: always the same, so that it opens no file twice.
    host: RefCell<Dialogue>,
}

fn any_change_is_seen(sandbox: &Sandbox) {
    for mode in MODES {
        let live = Live::new(sandbox, mode);
        let counts = random_rounds(&live, 1, |_| {});
        // A server may hear of the last client's end later than of the next one's beginning.
        assert!(counts.warm > rounds() / 2, "{mode:?}: {counts:?} of {}", rounds());
        // Three quarters of them: the host lists directories, and what was changed is looked at for some rounds.
        let trusts_watches = counts.looked_at < counts.names / 10 * 9;
        assert_eq!(trusts_watches, mode != Some("sweep") && sandbox.can_watch(), "{mode:?}: {counts:?}");
    }
}

/// Two actions stay inside, of which one has looked at everything and the other looks again and again, and a third
/// looks for the first time while things change. What they see may be old or torn. From time to time they are killed,
/// and others take their places.
fn any_change_is_seen_beside_other_actions(sandbox: &Sandbox) {
    for mode in MODES {
        let live = Live::new(sandbox, mode);
        let mut staying = [("600000", None), ("10", None)];
        let mut hasty = None;
        let counts = random_rounds(&live, 2, |random| {
            for (pause, action) in &mut staying {
                if action.is_none() || random.below(16) == 0 {
                    *action = Some(live.start_looking(pause));
                }
            }
            if random.below(2) == 0 {
                hasty = Some(live.start(&[EVERYTHING]));
                // Some part of what it takes to start and to look.
                thread::sleep(Duration::from_millis(random.below(14) as u64));
            }
        });
        assert!(0 < counts.warm && counts.warm < rounds(), "{mode:?}: {counts:?} of {}", rounds());
    }
}

/// After the first store through a mapping its page is dirty, and further ones change nothing that stat tells.
fn stores_that_change_no_time_are_seen(sandbox: &Sandbox) {
    for mode in MODES {
        let live = Live::new(sandbox, mode);
        let mut changer = Changer::start(sandbox);
        let mut silent = 0;
        for round in 0..20 {
            for command in ["write src/f 9 A", "map 0 src/f", "close 0", "store 0 0 B"] {
                assert!(changer.try_to(command), "{command}");
            }
            live.assert_seen("the first store");
            // With somebody inside, the next run gets a segment of its own.
            let _inside = (round % 2 == 1).then(|| live.start_looking("600000"));
            for command in ["store 0 1 C", "store 0 2 D", "leave 0 3 E"] {
                let times = || sandbox.sh("stat -c '%y %z' src/f");
                let before = times();
                assert!(changer.try_to(command), "{command}");
                silent += usize::from(times() == before);
                live.assert_seen(command);
            }
        }
        // The kernel may have written the page to the disk in between.
        assert!(silent > 40, "only {silent} of 60 stores changed no time");
    }
}

fn what_git_does_is_seen(sandbox: &Sandbox) {
    if !fixtures::has("git") {
        return skip::loudly("live::what_git_does_is_seen", "git is not installed");
    }
    let setup = "
        git init -q -b main; git config user.name tests; git config user.email tests@localhost
        for i in 1 2 3 4 5; do mkdir d$i; echo $i > d$i/f; echo $i > f$i; done
        git add .; git commit -qm first
        git checkout -qb other; git rm -qr d1 f1; echo other | tee d1 f2 > d2/f; git add .; git commit -qm other
        git checkout -q main";
    let steps = [
        "git checkout -q other",
        "git checkout -q main",
        "echo $ROUND >> f3; echo $ROUND > d3/new$ROUND",
        "git add .",
        "git commit -qm round",
        "echo $ROUND > f4; git stash -q",
        "git stash pop -q",
        "mkdir e; mv f5 e; git reset -q --hard",
        "git clean -qfd",
        "git merge -q -s ours -m merge other; git gc -q",
    ];
    every_step_is_seen(sandbox, setup, &steps, 3);
}

fn what_make_does_is_seen(sandbox: &Sandbox) {
    if !fixtures::has("make") {
        return skip::loudly("live::what_make_does_is_seen", "make is not installed");
    }
    let setup = r#"
        for i in 1 2 3 4; do echo "int f$i(void) { return $i; }" > f$i.c; done
        echo 'int main(void) { return 0; }' > main.c
        echo 'program: main.o f1.o f2.o f3.o f4.o; cc -o $@ $^' > Makefile
        echo 'clean:; rm -f program *.o' >> Makefile"#;
    let steps = [
        "make -s -j2",
        r#"echo "int f$ROUND(void) { return $ROUND$ROUND; }" > f$ROUND.c; make -s -j2"#,
        r#"echo "int g$ROUND;" >> main.c; make -s -j2"#,
        "touch f2.c; make -s -j2",
        "make -s clean",
    ];
    every_step_is_seen(sandbox, setup, &steps, 4);
}

fn what_cargo_does_is_seen(sandbox: &Sandbox) {
    // Where the one is that builds the tests: no caller has it in PATH, and not everybody may go there.
    let cargo = std::env::var("CARGO").unwrap_or_default();
    let directory = Path::new(&cargo).parent().unwrap_or(Path::new("/")).display();
    let prepared = |script: &str| format!("PATH={directory}:$PATH; {script}");
    if command::run(sandbox.command("sh").args(["-c", &prepared("cargo --version")])).code() != 0 {
        let test = format!("live::what_cargo_does_is_seen as {:?}", sandbox.caller);
        return skip::loudly(&test, &format!("cannot execute {cargo:?}"));
    }
    let setup = r#"
        mkdir src; echo 'pub fn f() -> u32 { 0 }' > src/lib.rs
        printf '[package]\nname = "tiny"\nedition = "2024"\nversion = "0.1.0"\n' > Cargo.toml"#;
    let steps = [
        "cargo build -q --offline",
        r#"echo "pub fn f$ROUND() -> u32 { $ROUND }" >> src/lib.rs; cargo build -q --offline"#,
        "touch src/lib.rs; cargo check -q --offline",
        "sed -i s/^version.*/version=\\\"$ROUND.0.0\\\"/ Cargo.toml; cargo build -q --offline --release",
        "cargo clean -q --offline",
    ]
    .map(prepared);
    every_step_is_seen(sandbox, setup, &steps.each_ref().map(String::as_str), 3);
}

fn what_editors_do_is_seen(sandbox: &Sandbox) {
    let setup = "mkdir d; echo text | tee f d/f d/g > d/h";
    let steps = [
        // Another file, synced and renamed over.
        "echo $ROUND > d/.f.new; sync d/.f.new; mv d/.f.new d/f",
        // The old one becomes a backup, a new one comes in its place.
        "mv f f~; echo $ROUND after a backup > f; sync f",
        // In place, as long as before and not.
        "printf %s $ROUND | dd of=d/f conv=notrunc,fsync status=none",
        "echo $ROUND in place > d/f; sync d/f",
        // A lock and a swap file beside it, which go again.
        "ln -s pid-$ROUND d/.#f; touch d/.f.swp",
        "sed -i s/t/$ROUND/ d/g; rm d/.#f d/.f.swp",
        // Replaced, with the size and time that it had.
        "cp -p d/h d/h.new; printf %s $ROUND | dd of=d/h.new conv=notrunc status=none
         touch -r d/h d/h.new; mv d/h.new d/h",
    ];
    every_step_is_seen(sandbox, setup, &steps, 4);
}

/// Runs `steps` in a row, `times` times, with $ROUND counted from 1.
fn every_step_is_seen(sandbox: &Sandbox, setup: &str, steps: &[&str], times: usize) {
    for mode in MODES {
        let live = Live::new(sandbox, mode);
        sandbox.sh(&format!("cd {INSIDE}; {setup}"));
        let mut warm = 0;
        for round in 1..=times {
            for step in steps {
                sandbox.sh(&format!("cd {INSIDE}; ROUND={round}; {step}"));
                let output = live.assert_seen(&format!("{step} in round {round}"));
                warm += usize::from(output.warm()[0]);
            }
        }
        assert!(warm > times * steps.len() / 2, "only {warm} runs were warm");
    }
}

/// That the rounds are about what they are meant to be about.
#[derive(Debug, Default)]
struct Counts {
    /// Runs that found the branch warm.
    warm: usize,
    /// Names that there were for those who looked at everything, and that the server had to look at first.
    names: usize,
    looked_at: usize,
}

impl Counts {
    fn add(&mut self, output: &Output, way: &str) {
        self.warm += usize::from(output.warm()[0]);
        if way == EVERYTHING {
            self.names += output.stdout.lines().filter(|line| line.contains(" mtime ")).count();
            let looked_at = output.result["segments"][0]["lookedAt"].as_u64();
            self.looked_at += looked_at.expect("lookedAt is a number") as usize;
        }
    }
}

/// `before_each` is called before the changes of each round.
fn random_rounds(live: &Live, variant: u64, mut before_each: impl FnMut(&mut Random)) -> Counts {
    let seed = number("VFSRUN_TEST_SEED").unwrap_or(0);
    let mut random = Random(10 * seed + variant);
    let mut changes = RandomChanges::new(live.sandbox);
    let mut counts = Counts::default();
    for round in 0..rounds() {
        before_each(&mut random);
        for _ in 0..=random.below(3) {
            changes.make_one(&mut random);
        }
        let way = random.one_of(&WAYS);
        match live.look(way) {
            Ok(output) => counts.add(&output, way),
            Err(difference) => panic!(
                "VFSRUN_TEST_SEED={seed}, mode {:?}, round {round}: look {way}\n{difference}--- the last commands\n{}",
                live.mode,
                changes.story()
            ),
        }
        changes.tell(format!("# round {round}: look {way}"));
    }
    let seldom: Vec<_> = changes.done().iter().filter(|(_, count)| **count < 3).collect();
    assert!(seldom.is_empty(), "hardly ever done: {seldom:?}");
    assert_eq!(live.sandbox.servers().len(), 1);
    counts
}

fn rounds() -> usize {
    ROUNDS * number("VFSRUN_TEST_ROUNDS").unwrap_or(1) as usize
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")))
}

impl<'a> Live<'a> {
    fn new(sandbox: &'a Sandbox, mode: Option<&'static str>) -> Live<'a> {
        for dir in [INSIDE, OUTSIDE] {
            // An earlier mode's, and perhaps with rights that keep its owner out.
            sandbox.sh(&format!("[ ! -e {dir} ] || chmod -R u+rwX {dir}; rm -rf {dir}; mkdir {dir}"));
        }
        let program = fixtures::look(sandbox).display().to_string();
        let mut host = sandbox.command(&program);
        host.arg(sandbox.path(INSIDE)).arg("-");
        Live { sandbox, mode, host: RefCell::new(Dialogue::start(host)) }
    }

    /// Errors: what the two looks differ in.
    fn look(&self, way: &str) -> Result<Output, String> {
        let inside = self.sandbox.run_named("look.json", &self.spec(&[way]), &[]);
        let host = self.look_on_host(way);
        if inside.code() == 0 && inside.stdout == host {
            return Ok(inside);
        }
        let only = |world: &str, one: &str, other: &str| -> String {
            let known: Vec<_> = other.lines().collect();
            let lines = one.lines().filter(|line| !known.contains(line));
            lines.map(|line| format!("{world} {line}\n")).collect()
        };
        let (action, host) = (only("action", &inside.stdout, &host), only("host  ", &host, &inside.stdout));
        Err(format!("{}\n{}{action}{host}", inside.status, inside.stderr))
    }

    fn look_on_host(&self, way: &str) -> String {
        let mut host = self.host.borrow_mut();
        host.tell(way);
        let lines = std::iter::repeat_with(|| host.hear()).take_while(|line| line != "\n");
        lines.collect()
    }

    #[track_caller]
    fn assert_seen(&self, what: &str) -> Output {
        match self.look(EVERYTHING) {
            Ok(output) => output,
            Err(difference) => panic!("mode {:?}, after {what}:\n{difference}", self.mode),
        }
    }

    /// An action that has looked at everything, and looks again after each pause, in milliseconds.
    fn start_looking(&self, pause: &str) -> Background {
        let action = self.start(&[EVERYTHING, pause]);
        action.until_stdout_has("ready\n");
        action
    }

    /// An action that looks, while the test goes on.
    fn start(&self, words: &[&str]) -> Background {
        self.sandbox.write_json("other.json", &self.spec(words));
        Background::start(&mut self.sandbox.vfsrun(&["./other.json"]))
    }

    fn spec(&self, words: &[&str]) -> Value {
        let mut branch = json!({ "path": INSIDE, "at": "/src" });
        if let Some(mode) = self.mode {
            branch["live"] = json!(mode);
        }
        let args: Vec<_> = ["/look", "/src"].iter().chain(words).collect();
        json!({
            "process": { "args": args },
            "vfs": { "branches": [branch, { "path": "look" }], "capture": false },
        })
    }
}
