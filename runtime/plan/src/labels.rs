//! Labels of AppArmor and SELinux: a command's is refused where the kernel does not enforce it, for somebody relies on it.

use vfsrun_spec::{Linux, Process};

use crate::plan::{Labels, Mount, MountKind};
use crate::{Facts, PlanError};

pub(crate) fn decide(process: &Process, facts: &Facts) -> Result<Labels, PlanError> {
    let apparmor = said(&process.apparmor_profile);
    let selinux = said(&process.selinux_label);
    if apparmor.is_some() && !facts.security.apparmor {
        return Err(PlanError::NoSecurityModule { at: "process.apparmorProfile", module: "AppArmor" });
    }
    if selinux.is_some() && !facts.security.selinux {
        return Err(PlanError::NoSecurityModule { at: "process.selinuxLabel", module: "SELinux" });
    }
    Ok(Labels { apparmor: apparmor.map(str::to_owned), selinux: selinux.map(str::to_owned) })
}

/// What the files of new file systems are for SELinux. It lets a command with a label of its own reach them, and keeps nobody
/// out; so without SELinux there is none, which is told.
pub(crate) fn label_mounts(linux: &Linux, mounts: &mut [Mount], facts: &Facts) -> Option<String> {
    let label = said(&linux.mount_label)?;
    if !facts.security.selinux {
        return Some(
            "linux.mountLabel: SELinux is not enabled on this machine; mounts get no label".to_owned(),
        );
    }
    label_all(label, mounts);
    None
}

fn label_all(label: &str, mounts: &mut [Mount]) {
    /// Their files have labels of their own.
    const UNLABELLED: [&str; 5] = ["proc", "sysfs", "mqueue", "cgroup", "cgroup2"];
    for mount in mounts {
        if let MountKind::FileSystem { name, options, .. } = &mut mount.what
            && !UNLABELLED.contains(&name.as_str())
        {
            options.push(format!("context={label}"));
        }
    }
}

/// Go programs write the empty string for "not said".
fn said(label: &Option<String>) -> Option<&str> {
    label.as_deref().filter(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::plan::Attributes;

    fn mount(name: &str) -> Mount {
        Mount {
            destination: PathBuf::from("/at"),
            what: MountKind::FileSystem {
                name: name.to_owned(),
                source: None,
                options: vec!["mode=755".to_owned()],
                copies_up: false,
                covers_mode: false,
            },
            attributes: Attributes::default(),
            on_link: false,
            at: "mounts[0]".to_owned(),
        }
    }

    fn labelled(name: &str) -> Vec<String> {
        let mut mounts = [mount(name)];
        label_all("system_u:object_r:container_file_t:s0", &mut mounts);
        match &mounts[0].what {
            MountKind::FileSystem { options, .. } => options.clone(),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn new_file_systems_are_labelled_but_those_of_the_kernel() {
        assert_eq!(labelled("tmpfs"), ["mode=755", "context=system_u:object_r:container_file_t:s0"]);
        assert_eq!(labelled("sysfs"), ["mode=755"]);
    }
}
