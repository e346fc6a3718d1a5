//! LISTEN_FDS: sockets that systemd has opened for a container (sd_listen_fds(3)), which its command gets.

use thiserror::Error;
use vfsrun_plan::plan::Command;
use vfsrun_spec::merge;

/// More descriptors than the kernel lets a process have by default.
const MOST: u32 = 1 << 20;

#[derive(Debug, Error)]
pub enum ListenError {
    #[error("LISTEN_FDS: {said:?} is no number of descriptors")]
    Number { said: String },
}

/// Descriptors from 3 on that are the command's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    pub count: u32,
    /// LISTEN_FDNAMES, as it is.
    names: Option<String>,
}

impl Sockets {
    /// Those of this program's caller. As with crun they may be given without LISTEN_PID; one that is another process's says that
    /// they are not meant for us.
    pub fn of_caller() -> Result<Sockets, ListenError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Sockets::new(variable, std::process::id())
    }

    fn new(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Result<Sockets, ListenError> {
        let Some(said) = variable("LISTEN_FDS") else { return Ok(Sockets::default()) };
        if variable("LISTEN_PID").is_some_and(|said| said.parse() != Ok(pid)) {
            return Ok(Sockets::default());
        }
        let count = said.parse().ok().filter(|count| *count <= MOST);
        let count = count.ok_or(ListenError::Number { said })?;
        Ok(Sockets { count, names: variable("LISTEN_FDNAMES") })
    }

    /// Tells the command of them. Its pid, which belongs to it, is known when it begins.
    pub fn offer(&self, command: &mut Command) {
        if self.count == 0 {
            return;
        }
        let names = self.names.as_ref().map(|names| format!("LISTEN_FDNAMES={names}"));
        let said: Vec<_> = [format!("LISTEN_FDS={}", self.count)].into_iter().chain(names).collect();
        command.env = merge::env(&command.env, &said);
        command.listens = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets(environment: &[(&str, &str)]) -> Result<Sockets, ListenError> {
        let value =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Sockets::new(value, 42)
    }

    #[test]
    fn those_of_another_process_are_not_ours() {
        let ours = Sockets { count: 2, names: Some("a:b".to_owned()) };
        let names = ("LISTEN_FDNAMES", "a:b");
        assert_eq!(sockets(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "42"), names]).unwrap(), ours);
        assert_eq!(sockets(&[("LISTEN_FDS", "2"), names]).unwrap(), ours);
        assert_eq!(sockets(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "43"), names]).unwrap(), Sockets::default());
        assert_eq!(sockets(&[("LISTEN_PID", "42"), names]).unwrap(), Sockets::default());
    }

    #[test]
    fn what_is_no_number_of_descriptors_is_an_error() {
        for said in ["-1", "two", "4294967295", "4294967296"] {
            sockets(&[("LISTEN_FDS", said)]).unwrap_err();
        }
    }
}
