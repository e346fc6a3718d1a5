//! vfsrun: runs any command in any root you compose, and hands you what it wrote as a layer.

#![forbid(unsafe_code)]

mod base;
mod cli;
mod clock;
mod commands;
mod container;
mod decide;
mod directories;
mod filter_cache;
mod hooks;
mod id_maps;
mod images;
mod kept_root;
mod keyring;
mod labels;
mod launch;
mod listen;
mod log;
mod mount_ids;
mod net_devices;
mod notify;
mod oci_state;
mod own_ids;
mod passwd;
mod probe;
mod progress;
mod proxy;
mod refused;
mod result_file;
mod rlimits;
mod root;
mod root_layer;
mod route;
mod run;
mod sandbox;
mod scheduling;
mod seal;
mod seccomp_agent;
mod seccomp_filter;
mod segments;
#[cfg(test)]
#[path = "../../../tests/src/skip.rs"]
mod skip;
mod stage;
mod summary;
mod supervise;
mod terminal;
mod time_namespace;
mod trace;
mod trial;
mod upper;
mod view;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::Command;

/// What a failure of our own exits with; the command's own codes are passed on.
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let given: Vec<OsString> = std::env::args_os().collect();
    if let Some(hint) = cli::meant_spec(&given) {
        log::note(&format!("`run` takes a container, not a spec; {hint}"));
        return ExitCode::from(OWN_FAILURE);
    }
    let arguments = cli::arguments(given);
    let cli = match cli::parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return answer(&error, &arguments),
    };
    if let Command::ViewServer { options } = &cli.command {
        return vfsrun_fuse::server::main(options);
    }
    let log = match log::Log::open(&cli.global) {
        Ok(log) => log,
        Err(error) => {
            log::note(&vfsrun_sys::chain(&error));
            return ExitCode::from(OWN_FAILURE);
        }
    };
    let code = match cli.command {
        Command::RunSpec(arguments) => commands::run::run(&arguments, &cli.global),
        Command::Plan { spec } => commands::plan::plan(spec, &cli.global),
        Command::Spec(arguments) => commands::spec::spec(arguments, &cli.global),
        Command::Which { odd: true, spec, .. } => commands::odd::odd(spec, &cli.global),
        Command::Which { json, spec, paths, .. } => commands::which::which(spec, &paths, json, &cli.global),
        Command::View(view) => commands::view::view(&view, &cli.global),
        Command::New { args } => commands::new::new(&args),
        Command::Doctor => commands::doctor::doctor(&cli.global),
        Command::Changes { json, tree, name } => {
            let form = match (json, tree) {
                (true, _) => commands::changes::Form::Json,
                (_, true) => commands::changes::Form::Tree,
                _ => commands::changes::Form::List,
            };
            commands::changes::changes(&name, form, &cli.global)
        }
        Command::Apply(arguments) => commands::apply::apply(&arguments, &cli.global),
        Command::Diff(arguments) => commands::diff::diff(&arguments, &cli.global),
        Command::Try(arguments) => commands::trial::trial(&arguments, &cli.global),
        Command::Layer(layer) => commands::layer::layer(&layer, &cli.global),
        Command::Inputs(inputs) => commands::inputs::inputs(&inputs, &cli.global),
        Command::Trace(trace) => commands::trace::trace(&trace),
        Command::Container(container) => commands::container::container(&container, &cli.global),
        Command::ViewServer { .. } => unreachable!("served above"),
    };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            log.error(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// To what is no command line of ours, or asks for help or the version.
fn answer(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if !cli::call_runtime(arguments) {
        return ExitCode::from(OWN_FAILURE);
    }
    // Who calls a runtime reads the log.
    if let Some(Ok(log)) = cli::global_alone(arguments).map(|global| log::Log::open(&global)) {
        log.write_error(&cli::in_one_line(error));
    }
    ExitCode::FAILURE
}
