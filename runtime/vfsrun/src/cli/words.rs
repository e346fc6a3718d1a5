//! The words of a command line, before they are parsed: a spec first, and callers of runc.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::{Cli, Command, Container, Global, RUN_SPEC};

/// Puts the hidden command, whose options may stand anywhere, before everything else when the first word is a spec.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.into_iter().collect();
    let Some(position) = first_word(&arguments) else { return arguments };
    if is_spec(&arguments[position]) {
        arguments.insert(1, RUN_SPEC.into());
    } else if is_of_runtime(&arguments[position]) {
        name_as_go_does(&mut arguments, position);
    }
    arguments
}

/// What the words say. Errors: clap's, with its advice.
pub fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    runtime_call(arguments).map_or_else(|| Cli::try_parse_from(arguments), Ok)
}

/// A call as engines make it. `None` for every other one, and for one that is wrong, which is to be told by the parser of all.
fn runtime_call(arguments: &[OsString]) -> Option<Cli> {
    let command = arguments[first_word(arguments)?].to_str()?;
    let parser = Container::parser(command)?;
    let program =
        Global::augment_args(clap::Command::new("vfsrun")).args_override_self(true).subcommand(parser);
    let mut matches = program.try_get_matches_from(arguments).ok()?;
    let global = Global::from_arg_matches_mut(&mut matches).ok()?;
    let command = Command::Container(Container::from_arg_matches_mut(&mut matches).ok()?);
    Some(Cli { version: None, global, command })
}

/// The options of every command, of a command line that is otherwise none.
pub fn global_alone(arguments: &[OsString]) -> Option<Global> {
    let mut matches = Cli::command().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    Global::from_arg_matches_mut(&mut matches).ok()
}

/// Without the advice that follows.
pub fn in_one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or(&text);
    let words: Vec<_> = first.trim_start_matches("error: ").split_whitespace().collect();
    words.join(" ")
}

fn is_of_runtime(command: &OsStr) -> bool {
    command.to_str().is_some_and(Container::has_subcommand)
}

/// Whether these are of a command of an OCI runtime. So is what is nobody's: a caller may know commands that this version does not.
pub fn call_runtime(arguments: &[OsString]) -> bool {
    first_word(arguments).is_some_and(|position| {
        let word = &arguments[position];
        is_of_runtime(word) || Cli::command().find_subcommand(word).is_none()
    })
}

/// Go's programs take `-option` for `--option`, and some callers of runc say it so. What follows the id is left alone: it
/// may be a command's own.
fn name_as_go_does(arguments: &mut [OsString], command: usize) {
    let is_one_dash = |text: &OsString| {
        let text = text.as_encoded_bytes();
        text.len() > 2 && text[0] == b'-' && text[1] != b'-'
    };
    if !arguments.iter().any(is_one_dash) {
        return;
    }
    let mut all = Cli::command();
    all.build();
    let Some(own) = arguments[command].to_str().and_then(|name| all.find_subcommand(name)) else { return };
    let mut index = 1;
    while index < arguments.len() {
        let text = arguments[index].to_string_lossy().into_owned();
        let word = text.trim_start_matches('-');
        let name = word.split('=').next().unwrap_or(word);
        if text == "--" || (index > command && word == text) {
            return;
        }
        let option = own.get_arguments().find(|option| match name.len() {
            1 => option.get_short().is_some_and(|short| name.starts_with(short)),
            _ => option.get_long() == Some(name),
        });
        if option.is_some() && is_one_dash(&arguments[index]) && name.len() > 1 {
            arguments[index] = format!("-{text}").into();
        }
        let takes_next = option.is_some_and(|option| option.get_action().takes_values()) && name == word;
        index += if takes_next && index != command { 2 } else { 1 };
    }
}

/// The index of the first argument that is neither an option nor an option's value; none if the program is asked about
/// itself before.
fn first_word(arguments: &[OsString]) -> Option<usize> {
    const WITH_VALUE: [&str; 11] = [
        "--root",
        "--store",
        "--log",
        "--log-format",
        "--log-level",
        "--cgroup-manager",
        "--rootless",
        "-e",
        "--env",
        "--result",
        "--trace-log",
    ];
    let mut index = 1;
    while let Some(argument) = arguments.get(index) {
        let text = argument.to_string_lossy();
        if matches!(text.as_ref(), "-h" | "--help" | "-v" | "-V" | "--version") {
            return None;
        }
        // Go's callers may say a long one with one dash.
        if WITH_VALUE.iter().any(|option| *option == text || option.strip_prefix('-') == Some(&*text)) {
            index += 2;
        } else if text.starts_with('-') && text != "-" {
            index += 1;
        } else {
            return Some(index);
        }
    }
    None
}

fn is_spec(argument: &OsString) -> bool {
    let text = argument.to_string_lossy();
    text == "-" || text.contains('/') || text.ends_with(".json") || is_bundle(Path::new(argument))
}

fn is_bundle(path: &Path) -> bool {
    // A directory named like a command is not meant when the command is typed.
    path.is_dir() && path.join("config.json").exists()
}

/// `vfsrun run x.json`: what runc's users type.
pub fn meant_spec(arguments: &[OsString]) -> Option<String> {
    let position = first_word(arguments)?;
    if arguments[position] != "run" {
        return None;
    }
    let next = arguments.get(position + 1)?;
    is_spec(next).then(|| format!("did you mean: vfsrun {}", next.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Whose;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn a_spec_is_recognised_after_options() {
        let given = arguments(words("vfsrun --store /s --debug -e P=/bin --quiet spec.json -- make"));
        assert_eq!(given, words("vfsrun run-spec --store /s --debug -e P=/bin --quiet spec.json -- make"));
        Cli::try_parse_from(given).unwrap();
    }

    #[test]
    fn what_follows_trace_is_not_its_value() {
        let given = arguments(words("vfsrun --trace --trace-log log spec.json"));
        let Command::RunSpec(run) = Cli::try_parse_from(given).unwrap().command else {
            panic!("a spec is run")
        };
        assert_eq!((run.trace, run.spec), (Some(Whose::Action), "spec.json".into()));
        let given = arguments(words("vfsrun spec.json --trace=process"));
        let Command::RunSpec(run) = Cli::try_parse_from(given).unwrap().command else {
            panic!("a spec is run")
        };
        assert_eq!(run.trace, Some(Whose::Process));
    }

    #[test]
    fn long_options_of_a_runtime_may_have_one_dash() {
        let given = |text| arguments(words(text));
        assert_eq!(
            given("vfsrun -log-format json -root=/r run -no-pivot -bundle b -d -keep web"),
            words("vfsrun --log-format json --root=/r run --no-pivot --bundle b -d --keep web")
        );
        // A value, and a command's own options.
        assert_eq!(given("vfsrun run --pid-file -keep web"), words("vfsrun run --pid-file -keep web"));
        assert_eq!(given("vfsrun exec -tty web find -user x"), words("vfsrun exec --tty web find -user x"));
        assert_eq!(given("vfsrun exec -td web sh -c x"), words("vfsrun exec -td web sh -c x"));
        assert_eq!(given("vfsrun run -- -keep"), words("vfsrun run -- -keep"));
    }

    #[test]
    fn parser_of_one_command_understands_what_the_parser_of_all_does() {
        for line in [
            "vfsrun --root /r --log=/l --log-format json --systemd-cgroup create -b b --pid-file p --console-socket c web",
            "vfsrun --rootless true --cgroup-manager disabled run --detach --keep web --preserve-fds 3 --no-pivot",
            "vfsrun run --root /r --debug --root /s web",
            "vfsrun exec -d --pid-file p --process f web",
            "vfsrun exec -e A=1 -e B=2 -u 1:2 -t -c CAP_KILL web sh -c x --root /x",
            "vfsrun --log-level debug start web",
            "vfsrun state web --log /l",
            "vfsrun kill --all web 9",
            "vfsrun kill -r web.* TERM",
            "vfsrun delete --force web",
            "vfsrun delete -- web",
        ] {
            let all = format!("{:?}", Cli::try_parse_from(words(line)).unwrap());
            assert_eq!(format!("{:?}", runtime_call(&words(line)).unwrap()), all);
        }
        for line in [
            "vfsrun run --help",
            "vfsrun exec web --help",
            "vfsrun exec web -h",
            "vfsrun run",
            "vfsrun start -x",
            "vfsrun list",
            "vfsrun --version run x",
        ] {
            assert!(runtime_call(&words(line)).is_none(), "{line}");
        }
    }

    #[test]
    fn version_comes_before_any_spec() {
        let given = arguments(words("vfsrun --version ./spec.json"));
        let answer = Cli::try_parse_from(given).unwrap_err();
        assert_eq!(answer.kind(), clap::error::ErrorKind::DisplayVersion);
    }

    #[test]
    fn a_command_is_left_alone() {
        assert_eq!(arguments(words("vfsrun layer ls")), words("vfsrun layer ls"));
        assert_eq!(arguments(words("vfsrun plan ./spec.json")), words("vfsrun plan ./spec.json"));
    }

    #[test]
    fn run_before_a_spec_is_answered_with_what_was_meant() {
        let hint = meant_spec(&words("vfsrun run x.json")).unwrap();
        assert_eq!(hint, "did you mean: vfsrun x.json");
        assert!(meant_spec(&words("vfsrun run container-id")).is_none());
    }
}
