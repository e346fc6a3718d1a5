//! `vfsrun ps`: what the host's ps(1) tells of a container's processes.

use std::process::Command;

use super::{Failure, Outcome, print, print_lines};
use crate::cli::ListFormat;
use crate::container::{Containers, Id};

pub fn ps(containers: &Containers, id: &Id, format: ListFormat, arguments: &[String]) -> Outcome {
    let pids = containers.find(id)?.processes()?;
    match format {
        ListFormat::Json => print(&serde_json::to_string(&pids)?),
        ListFormat::Table => print_lines(table(&pids, arguments)?),
    }
}

/// The head of what ps prints, and its lines about these processes.
fn table(pids: &[i32], arguments: &[String]) -> Result<Vec<String>, Failure> {
    let failed = |message: String| Failure { message, code: 1 };
    let arguments = if arguments.is_empty() { &["-ef".to_owned()] } else { arguments };
    let told = Command::new("ps").args(arguments).output();
    let told = told.map_err(|error| failed(format!("cannot run ps: {error}")))?;
    if !told.status.success() {
        return Err(failed(format!("ps: {}: {}", told.status, String::from_utf8_lossy(&told.stderr).trim())));
    }
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let (head, lines) = text.split_once('\n').unwrap_or((&text, ""));
    // The words of runc.
    let column = head.split_whitespace().position(|title| title == "PID");
    let column = column.ok_or_else(|| {
        failed(
            "couldn't find PID field in ps output; have it among the columns, as in -o pid,args".to_owned(),
        )
    })?;
    let is_meant = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    Ok(std::iter::once(head).chain(lines.lines().filter(is_meant)).map(str::to_owned).collect())
}
