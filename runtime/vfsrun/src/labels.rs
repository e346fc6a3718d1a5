//! Labels of security modules: what the command is for AppArmor and SELinux once it is executed.

use std::io;
use std::path::Path;

use thiserror::Error;
use vfsrun_plan::plan::Labels;
use vfsrun_sys::procfs::Procfs;

#[derive(Debug, Error)]
#[error("{at}: cannot take {label:?}")]
pub struct LabelError {
    at: &'static str,
    label: String,
    source: io::Error,
}

/// The host's /proc, from which they are set, where there are any. Stage: before the root is left.
pub fn procfs(labels: &Labels) -> io::Result<Option<Procfs>> {
    let any = labels.apparmor.is_some() || labels.selinux.is_some();
    any.then(Procfs::own).transpose()
}

/// Stage: workload, as the user of the command: who opens such a file must be who writes it.
pub fn take(labels: &Labels, procfs: &Procfs) -> Result<(), LabelError> {
    let write =
        |file: &str, text: &str| procfs.write(&Path::new("thread-self/attr").join(file), text.as_bytes());
    let failed = |at, label: &str| {
        let label = label.to_owned();
        move |source| LabelError { at, label, source }
    };
    if let Some(profile) = &labels.apparmor {
        let text = format!("exec {profile}");
        let taken = match write("apparmor/exec", &text) {
            // Before Linux 5.8 there was one such file for all modules.
            Err(error) if error.kind() == io::ErrorKind::NotFound => write("exec", &text),
            taken => taken,
        };
        taken.map_err(failed("process.apparmorProfile", profile))?;
    }
    if let Some(label) = &labels.selinux {
        write("exec", label).map_err(failed("process.selinuxLabel", label))?;
    }
    Ok(())
}
