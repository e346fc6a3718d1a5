//! The commands of an OCI runtime, with the exit codes of runc: 1 for every failure.

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::{Failure, Outcome, print, print_lines};
use crate::cli::{
    Container as Command, Create, Delete, Exec, Global, Kill, ListFormat, One, Run, Update, Which,
};
use crate::container::{
    self, Asked, Changes, ContainerError, Containers, CreateRequest, Event, EventsError, ExecRequest, Id,
    Manner, ProcessSource, State, UpdateError,
};
use crate::listen::Sockets;
use crate::log::note;
use crate::{directories, probe};

pub fn container(command: &Command, global: &Global) -> Outcome {
    match command {
        Command::Create(arguments) => {
            container::create(&request(arguments, global)?, notes(global))?;
            Ok(0)
        }
        Command::Run(Run { create: arguments, detach, keep, no_subreaper: _ }) => {
            let manner = Manner { detach: *detach, keep: *keep };
            Ok(container::run(&request(arguments, global)?, manner, notes(global))?)
        }
        Command::Start(One { id }) => done(containers(global)?.start(id)),
        Command::Exec(arguments) => exec(arguments, global),
        Command::State(One { id }) => state(&containers(global)?, id),
        Command::Kill(Kill { which, signal, all }) => kill(&containers(global)?, which, *signal, *all),
        Command::Delete(Delete { which, force }) => delete(&containers(global)?, which, *force),
        Command::Ps { format, id, args } => super::ps::ps(&containers(global)?, id, *format, args),
        Command::Pause(One { id }) => done(containers(global)?.pause(id)),
        Command::Resume(One { id }) => done(containers(global)?.resume(id)),
        Command::Update(arguments) => {
            Ok(containers(global)?.update(&arguments.id, &asked(arguments)?, notes(global)).map(|()| 0)?)
        }
        Command::Events { interval, stats, id } => events(&containers(global)?, id, *interval, *stats),
        Command::Checkpoint(_) => Err(not_built("checkpoint")),
        Command::Restore(_) => Err(not_built("restore")),
        Command::Features => super::features::features(),
        Command::List { format, quiet } => list(&containers(global)?, *format, *quiet),
    }
}

fn containers(global: &Global) -> Result<Containers, Failure> {
    let runtime = directories::runtime(global.root.as_deref(), probe::caller().privileged)?;
    Ok(Containers::of(&runtime))
}

/// Where notes about a container or a command in one go: its stderr is this program's, and whoever reads it has a log of ours besides.
fn notes(global: &Global) -> fn(&str) {
    match global.log {
        Some(_) => |text| tracing::debug!(text, "note"),
        None => note,
    }
}

fn not_built(command: &str) -> Failure {
    Failure { message: format!("{command}: this version does not build it"), code: 1 }
}

fn done(result: Result<(), ContainerError>) -> Outcome {
    Ok(result.map(|()| 0)?)
}

fn request(arguments: &Create, global: &Global) -> Result<CreateRequest, Failure> {
    Ok(CreateRequest {
        id: arguments.id.clone(),
        bundle: std::path::absolute(&arguments.bundle).unwrap_or_else(|_| arguments.bundle.clone()),
        config: arguments.config.clone(),
        pid_file: arguments.pid_file.clone(),
        console_socket: arguments.console_socket.clone(),
        pidfd_socket: arguments.pidfd_socket.clone(),
        preserve_fds: arguments.preserve_fds,
        sockets: Sockets::of_caller()?,
        no_new_keyring: arguments.no_new_keyring,
        runtime: global.root.clone(),
        store: global.store.clone(),
        cgroup_manager: global.cgroup_manager(),
    })
}

/// A command that cannot be executed is 255, as with runc.
fn exec(arguments: &Exec, global: &Global) -> Outcome {
    let process = match &arguments.process {
        Some(file) => ProcessSource::File(file.clone()),
        None => ProcessSource::Changed(Changes {
            args: arguments.args.clone(),
            cwd: arguments.cwd.clone(),
            env: arguments.env.clone(),
            user: arguments.user,
            groups: arguments.group.clone(),
            terminal: arguments.tty,
            capabilities: arguments.cap.clone(),
            no_new_privileges: arguments.no_new_privs,
            apparmor_profile: arguments.apparmor.clone(),
            selinux_label: arguments.process_label.clone(),
        }),
    };
    let request = ExecRequest {
        id: arguments.id.clone(),
        process,
        detach: arguments.detach,
        pid_file: arguments.pid_file.clone(),
        console_socket: arguments.console_socket.clone(),
        pidfd_socket: arguments.pidfd_socket.clone(),
        preserve_fds: arguments.preserve_fds,
        sockets: Sockets::of_caller()?,
        cgroups: arguments.cgroup.clone(),
        runtime: directories::runtime(global.root.as_deref(), probe::caller().privileged)?,
        ignore_paused: arguments.ignore_paused,
    };
    container::exec(&request, notes(global)).map_err(|error| Failure::of_runtime(&error, 255))
}

fn asked(arguments: &Update) -> Result<Asked, UpdateError> {
    let asked = match arguments.resources.as_deref() {
        None => Asked::by_flags(arguments.flags()),
        Some(file) if file == Path::new("-") => Asked::read(io::stdin(), "standard input")?,
        Some(file) => {
            let opened = File::open(file);
            Asked::read(opened.map_err(|source| UpdateError::Read { file: file.into(), source })?, file)?
        }
    };
    Ok(asked.with(arguments.schemata()))
}

fn state(containers: &Containers, id: &Id) -> Outcome {
    let container = containers.find(id)?;
    print(&serde_json::to_string_pretty(&container.state()?)?)
}

fn kill(containers: &Containers, which: &Which, signal: Signal, all: bool) -> Outcome {
    each(containers, which, |id| {
        let container = containers.find(id)?;
        if all { container.kill_all(signal) } else { container.kill(signal) }
    })
}

fn delete(containers: &Containers, which: &Which, force: bool) -> Outcome {
    each(containers, which, |id| containers.delete(id, force, note))
}

/// One that fails keeps none of the others from it.
fn each(containers: &Containers, which: &Which, act: impl Fn(&Id) -> Result<(), ContainerError>) -> Outcome {
    let ids = if which.regex { containers.matching(&which.id)? } else { vec![which.id.parse()?] };
    let failed = ids.iter().map(act).fold(Ok(()), Result::and);
    done(failed)
}

/// Ends quietly when nobody reads any more.
fn events(containers: &Containers, id: &Id, interval: Duration, once: bool) -> Outcome {
    let mut tell = |event: &Event<'_>| -> Result<ControlFlow<()>, EventsError> {
        let line = serde_json::to_string(event).map_err(|error| EventsError::Tell(error.into()))?;
        match writeln!(io::stdout().lock(), "{line}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            written => written.map(ControlFlow::Continue).map_err(EventsError::Tell),
        }
    };
    match once {
        true => containers.tell_stats(id, &mut tell)?,
        false => containers.tell_events(id, interval, &mut tell)?,
    }
    Ok(0)
}

fn list(containers: &Containers, format: ListFormat, quiet: bool) -> Outcome {
    let containers = containers.all()?;
    if quiet && containers.is_empty() {
        return Ok(0);
    }
    if quiet {
        return print_lines(containers.iter().map(|container| container.id().as_str()));
    }
    let states =
        containers.iter().map(|container| container.state()).collect::<Result<Vec<State<'_>>, _>>()?;
    match format {
        ListFormat::Json => print(&serde_json::to_string(&states)?),
        ListFormat::Table => print_lines(table(&states)),
    }
}

fn table(states: &[State<'_>]) -> Vec<String> {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = states.iter().map(|state| {
        let bundle = state.bundle.display().to_string();
        [
            state.id.to_owned(),
            state.pid.to_string(),
            state.status.to_string(),
            bundle,
            state.created.to_owned(),
            state.owner.clone(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..5).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths.iter().chain([&0]));
        let line = cells.map(|(cell, &width)| format!("{cell:width$}")).collect::<Vec<_>>().join("  ");
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
