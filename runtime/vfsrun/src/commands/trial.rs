//! `vfsrun try`: runs a command on the whole host, and asks what becomes of what it would change.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vfsrun_layers::{LayerStore, check_name};
use vfsrun_sys::chain;

use super::run::{trace_mode, write_result};
use super::{Failure, Outcome, apply, changes};
use crate::cli::{Global, Try};
use crate::decide::Request;
use crate::log::note;
use crate::run::first_of;
use crate::trace::TraceRequest;
use crate::trial::apart::{self, Told};
use crate::trial::patterns::{self, Wanted};
use crate::trial::proposal::Proposal;
use crate::trial::question::{self, Answer};
use crate::trial::sockets::{self, Socket};
use crate::trial::spec::Trial;
use crate::{directories, probe, run, summary};

/// How many changes are listed.
const LISTED: usize = 100;

pub fn trial(arguments: &Try, global: &Global) -> Outcome {
    let trier = Trier::new(arguments, global)?;
    let on = arguments.on.as_ref().map(|name| trier.open(name)).transpose()?;
    let on = on.map(Proposal::made_on_host).transpose().map_err(|error| Failure::own(&error))?;
    let (attempted, mut proposal) = match arguments.args.is_empty() {
        true => trier.attempt(&[shell()], on.as_ref())?,
        false => trier.attempt(&arguments.args, on.as_ref())?,
    };
    if arguments.explore && !arguments.args.is_empty() {
        proposal = trier.explore(proposal)?;
    }
    let ended = trier.end(proposal, attempted.code)?;
    if let Some(path) = &arguments.result {
        write_result(path, ended.result(attempted.result))?;
    }
    Ok(ended.code)
}

/// What became of a proposal.
struct Ended {
    code: u8,
    /// `none`, `applied`, `discarded` or `kept`.
    end: &'static str,
    /// Under which they are kept.
    name: Option<String>,
    count: usize,
}

impl Ended {
    /// That of the run, with what became of what it wrote.
    fn result(&self, mut file: Value) -> serde_json::Result<String> {
        file["layer"]["name"] = json!(self.name);
        file["try"] =
            json!({ "changes": self.count, "end": self.end, "name": self.name, "status": self.code });
        serde_json::to_string_pretty(&file)
    }
}

/// What a run came to, as it is told from process to process.
#[derive(Serialize, Deserialize)]
struct Attempted {
    /// The command's exit status, or that of a failure.
    code: u8,
    /// Why it did not run to its end.
    error: Option<String>,
    /// What it wrote has its name.
    named: bool,
    /// Paths of the host that somebody else changed.
    changed: Vec<String>,
    /// The `--result` file.
    result: Value,
}

/// Stage: a process apart.
fn attempted(request: &Request) -> Attempted {
    let value = |text: serde_json::Result<String>| {
        text.and_then(|text| serde_json::from_str(&text)).unwrap_or_default()
    };
    match run::run(request, note) {
        Ok(outcome) => Attempted {
            code: outcome.ended.code,
            error: None,
            named: outcome.named.is_some(),
            changed: outcome.inputs_changed.iter().map(|path| path.display().to_string()).collect(),
            result: value(summary::json(&outcome)),
        },
        Err(error) => Attempted {
            code: error.exit_code(),
            error: Some(chain(&error)),
            named: false,
            changed: Vec::new(),
            result: value(summary::json_of_failure(&error)),
        },
    }
}

struct Trier<'a> {
    arguments: &'a Try,
    global: &'a Global,
    cwd: PathBuf,
    wanted: Wanted,
    sockets: Vec<PathBuf>,
    store: LayerStore,
    runtime: PathBuf,
}

impl<'a> Trier<'a> {
    fn new(arguments: &'a Try, global: &'a Global) -> Result<Trier<'a>, Failure> {
        let cwd = std::env::current_dir().map_err(|source| Failure {
            message: format!("cannot tell the current directory: {source}"),
            code: 125,
        })?;
        let own = |error: &dyn std::error::Error| Failure::own(error);
        arguments.keep.as_deref().map_or(Ok(()), check_name).map_err(|error| own(&error))?;
        let wanted = Wanted::new(&arguments.only, &arguments.ignore, &cwd).map_err(|error| own(&error))?;
        let privileged = probe::caller().privileged;
        let store = directories::store(global.store.as_deref(), privileged).map_err(|error| own(&error))?;
        let runtime =
            directories::runtime(global.root.as_deref(), privileged).map_err(|error| own(&error))?;
        let store = LayerStore::open(&store).map_err(|error| own(&error))?;
        // What an apply that was killed has left is no state of the host to begin with.
        apply::settle(&store)?;
        let sockets = sockets::places(&said_sockets(arguments)?, |name| std::env::var(name).ok());
        Ok(Trier { arguments, global, cwd, wanted, sockets, store, runtime })
    }

    fn open(&self, name: &str) -> Result<Proposal, Failure> {
        Proposal::open(&self.store, name).map_err(|error| Failure::own(&error))
    }

    /// Runs a command, over the changes of `on`.
    fn attempt(&self, args: &[String], on: Option<&Proposal>) -> Result<(Attempted, Proposal), Failure> {
        let own = |error: &dyn std::error::Error| Failure::own(error);
        let (name, caller) = (self.fresh_name()?, probe::caller());
        let umask = rustix::process::umask(rustix::fs::Mode::empty());
        rustix::process::umask(umask);
        let is_terminal =
            io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal();
        let trial = Trial {
            args: args.to_vec(),
            env: environment(),
            cwd: self.cwd.clone(),
            uid: caller.uid,
            gid: caller.gid,
            umask: umask.as_raw_mode(),
            terminal: is_terminal,
            on: on.map(|on| on.base.layer.to_string()).into_iter().collect(),
            hide: self.arguments.hide.iter().map(|pattern| patterns::from_root(pattern, &self.cwd)).collect(),
            own: self.own_places(),
            sockets: self.sockets.clone(),
            network: !self.arguments.no_network,
            name: name.clone(),
        };
        let text = serde_json::to_string(&trial.spec()).map_err(|error| own(&error))?;
        let trace = self.arguments.trace.map(|whose| TraceRequest {
            mode: trace_mode(whose),
            log: self.arguments.trace_log.clone().unwrap_or_else(|| "try.trace".into()),
        });
        let request = Request {
            spec: "try".into(),
            text: Some(text),
            bundle: Some(self.cwd.clone()),
            trace,
            runtime: self.global.root.clone(),
            store: self.global.store.clone(),
            cgroup_manager: self.global.cgroup_manager(),
            ..Request::default()
        };
        let told = apart::work(|| attempted(&request)).map_err(|source| Failure {
            message: format!("cannot run the command in a process apart: {source}"),
            code: 125,
        })?;
        let attempted = match told {
            Told::Word(attempted) => attempted,
            Told::Ended(code) => process::exit(code.into()),
        };
        if attempted.error.is_some() || !attempted.named {
            let text = serde_json::to_string_pretty(&attempted.result);
            self.arguments.result.as_ref().map_or(Ok(()), |path| write_result(path, text))?;
        }
        if let Some(message) = attempted.error {
            return Err(Failure { message, code: attempted.code });
        }
        if !attempted.named {
            let changed = first_of(attempted.changed.iter().cloned());
            let message = format!(
                "somebody changed what the command read meanwhile ({changed}), so that what it wrote is no proposal: run it again"
            );
            return Err(Failure { message, code: 125 });
        }
        let mut proposal = self.open(&name)?;
        if let Some(on) = on {
            proposal = proposal.stacked_on(on, &self.store).map_err(|error| own(&error))?;
        }
        Ok((attempted, proposal))
    }

    /// Where the store and the runtime directory are, without links, as the view has them.
    fn own_places(&self) -> Vec<PathBuf> {
        let places = [self.store.path(), &self.runtime];
        places.iter().map(|place| place.canonicalize().unwrap_or_else(|_| self.cwd.join(place))).collect()
    }

    /// One that nobody else has: of what a process of the same number had kept nothing is replaced.
    fn fresh_name(&self) -> Result<String, Failure> {
        let names = self.store.names().map_err(|error| Failure::own(&error))?;
        let is_free = |name: &String| names.iter().all(|(other, _)| other != name);
        let numbered = |number| format!("try/{}{number}", process::id());
        let more = (2..).map(|number| numbered(format!(".{number}")));
        Ok(std::iter::once(numbered(String::new()))
            .chain(more)
            .find(is_free)
            .expect("there are more numbers"))
    }

    /// A shell in what the command left; what is done there belongs to the proposal. It is as it was if there is no shell.
    fn explore(&self, proposal: Proposal) -> Result<Proposal, Failure> {
        let name = self.fresh_name()?;
        let mut words = ["try", "--quiet", "--explore", "--on", &proposal.name, "--keep", &name]
            .map(str::to_owned)
            .to_vec();
        words.extend(self.arguments.hide.iter().map(|pattern| format!("--hide={pattern}")));
        if self.arguments.no_network {
            words.push("--no-network".to_owned());
        }
        if let Some(sockets) = &self.arguments.sockets {
            let names: Vec<_> = sockets.iter().map(Socket::to_string).collect();
            words.push(format!("--sockets={}", names.join(",")));
        }
        self.call(&words)?;
        if self.store.resolve(&name).is_err() {
            return Ok(proposal);
        }
        let explored = self.open(&name)?;
        proposal.discard(&self.store).map_err(|error| Failure::own(&error))?;
        Ok(explored)
    }

    /// Another command of this program, to its end.
    fn call(&self, words: &[String]) -> Result<u8, Failure> {
        let mut command = process::Command::new("/proc/self/exe");
        command.arg("--store").arg(self.store.path()).arg("--root").arg(&self.runtime).args(words);
        let failed =
            |error| Failure { message: format!("cannot start `vfsrun {}`: {error}", words[0]), code: 125 };
        let status = command.status().map_err(failed)?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(125))
    }

    /// What becomes of it, as the command line says or the user.
    fn end(&self, mut proposal: Proposal, code: u8) -> Result<Ended, Failure> {
        proposal = self.narrowed(proposal)?;
        loop {
            // Files are read for it.
            let changes: Vec<String> = proposal.changes().iter().map(changes::line).collect();
            let count = changes.len();
            if count > 0 && self.asks() {
                question::calm(io::stderr()).map_err(|error| Failure::own(&error))?;
            }
            let ended = |code, end, name| Ok(Ended { code, end, name, count });
            if count == 0 && self.arguments.keep.is_none() {
                self.discard(proposal)?;
                return ended(code, "none", None);
            }
            if !self.arguments.quiet {
                list(&changes, &proposal.name);
            }
            match self.answer(count, &proposal.name, code)? {
                Answer::Yes => {
                    let applied = self.call(&["apply".to_owned(), proposal.name.clone()])?;
                    if applied == 0 {
                        self.discard(proposal)?;
                        return ended(code, "applied", None);
                    }
                    let name = self.keep(proposal, None)?;
                    return ended(if code == 0 { applied } else { code }, "applied", Some(name));
                }
                Answer::Pick => {
                    let picked =
                        self.call(&["apply".to_owned(), "--patch".to_owned(), proposal.name.clone()])?;
                    let name = self.keep(proposal, None)?;
                    return ended(if code == 0 { picked } else { code }, "applied", Some(name));
                }
                Answer::Diff => {
                    self.call(&["diff".to_owned(), proposal.name.clone()])?;
                }
                Answer::Explore => proposal = self.narrowed(self.explore(proposal)?)?,
                Answer::No => {
                    self.discard(proposal)?;
                    let would = u8::from(self.arguments.check && code == 0);
                    return ended(code.max(would), "discarded", None);
                }
                Answer::Keep(name) => {
                    let name = self.keep(proposal, name.as_deref())?;
                    return ended(code, "kept", Some(name));
                }
            }
        }
    }

    /// Whether the user decides.
    fn asks(&self) -> bool {
        let Try { yes, no, check, keep, .. } = self.arguments;
        let is_said = *yes || *no || *check || keep.is_some();
        !is_said && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Without a terminal nobody can answer, and what a command did that failed nobody wants unseen.
    fn answer(&self, changes: usize, name: &str, code: u8) -> Result<Answer, Failure> {
        let Try { yes, no, check, keep, .. } = self.arguments;
        if *no || *check {
            return Ok(Answer::No);
        }
        if let Some(name) = keep {
            return Ok(Answer::Keep(Some(name.clone())));
        }
        if *yes && code == 0 {
            return Ok(Answer::Yes);
        }
        if *yes {
            note(&format!("the command failed ({code}), so that nothing is applied"));
        }
        if !self.asks() {
            return Ok(Answer::Keep(None));
        }
        let question = format!("vfsrun: apply {} of {name}?", counted(changes));
        question::ask(&question, io::stdin().lock(), io::stderr().lock())
            .map_err(|error| Failure::own(&error))
    }

    /// Without the changes that are not wanted.
    fn narrowed(&self, proposal: Proposal) -> Result<Proposal, Failure> {
        if self.wanted.is_all() {
            return Ok(proposal);
        }
        proposal
            .narrowed(&self.store, |path, is_directory| self.wanted.has(path, is_directory))
            .map_err(|error| Failure::own(&error))
    }

    fn keep(&self, proposal: Proposal, name: Option<&str>) -> Result<String, Failure> {
        let own = |error: &dyn std::error::Error| Failure::own(error);
        let proposal = match name {
            Some(name) if name != proposal.name => {
                proposal.renamed(&self.store, name).map_err(|error| own(&error))?
            }
            _ => proposal,
        };
        // Whoever has not chosen the name has to be told it.
        if !self.arguments.quiet || self.arguments.keep.is_none() {
            let name = &proposal.name;
            note(&format!("kept as {name}: vfsrun diff {name}, vfsrun apply {name}, vfsrun layer rm {name}"));
        }
        Ok(proposal.name)
    }

    fn discard(&self, proposal: Proposal) -> Result<(), Failure> {
        proposal.discard(&self.store).map_err(|error| Failure::own(&error))
    }
}

/// On stderr: stdout is the command's.
fn list(changes: &[String], name: &str) {
    changes.iter().take(LISTED).for_each(|change| note(change));
    if let Some(more @ 1..) = changes.len().checked_sub(LISTED) {
        note(&format!("and {more} more: vfsrun changes {name}"));
    }
}

fn counted(changes: usize) -> String {
    if changes == 1 { "this change".to_owned() } else { format!("these {changes} changes") }
}

/// Those that are named on the command line, or for all trials.
fn said_sockets(arguments: &Try) -> Result<Vec<Socket>, Failure> {
    if let Some(sockets) = &arguments.sockets {
        return Ok(sockets.clone());
    }
    let Ok(text) = std::env::var("VFSRUN_SOCKETS") else { return Ok(sockets::USUAL.to_vec()) };
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    let sockets = words.map(|word| word.parse::<Socket>());
    sockets.collect::<Result<_, _>>().map_err(|reason| Failure {
        message: format!("VFSRUN_SOCKETS: {reason}; see vfsrun try --help"),
        code: 125,
    })
}

fn shell() -> String {
    std::env::var("SHELL").ok().filter(|shell| shell.starts_with('/')).unwrap_or_else(|| "/bin/sh".to_owned())
}

/// What is no UTF-8 cannot be said in a spec.
fn environment() -> Vec<String> {
    let pairs = std::env::vars_os();
    let texts = pairs.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    texts.filter(|(name, _)| !name.is_empty()).map(|(name, value)| format!("{name}={value}")).collect()
}
