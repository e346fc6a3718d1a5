//! A program under ptrace that is killed at a chosen system call: itself, or a process that it has made.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Who is killed, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// 0 is the program, then those that it and they make, in order.
    pub process: usize,
    /// At the entry of this system call, from 0 on.
    pub call: usize,
}

/// Runs `command` to the end of its program, as file `program`, and returns how many system calls each of its processes
/// has made until then. Processes that live on are let go.
pub fn run(command: &Command, program: &Path, death: Option<Death>) -> Vec<usize> {
    // What a thread traces is let go by its end, and it waits for nobody else's.
    std::thread::scope(|scope| {
        let traced = scope.spawn(|| Trace::start(command, program, death).until_end());
        let trace = traced.join().expect("a trace comes to its end");
        // One that was just made may not have been told yet to go on.
        for pid in trace.numbers.into_keys() {
            let _ = kill(pid, Signal::SIGCONT);
        }
        trace.calls
    })
}

struct Trace<'a> {
    program: &'a Path,
    death: Option<Death>,
    main: Pid,
    /// Of each process its number, from when it has one.
    numbers: HashMap<Pid, usize>,
    calls: Vec<usize>,
    /// Those that are in a system call.
    inside: HashMap<Pid, bool>,
}

impl<'a> Trace<'a> {
    #[expect(clippy::zombie_processes, reason = "a trace waits for it, by its number")]
    fn start(command: &Command, program: &'a Path, death: Option<Death>) -> Trace<'a> {
        let mut waiting = Command::new("sh");
        waiting
            .args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""])
            .arg(command.get_program())
            .args(command.get_args());
        if let Some(directory) = command.get_current_dir() {
            waiting.current_dir(directory);
        }
        waiting.env_clear();
        waiting.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        waiting.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = waiting.spawn().expect("sh can be started");
        let main = Pid::from_raw(child.id().try_into().expect("pids are positive"));
        waitpid(main, Some(WaitPidFlag::WUNTRACED)).expect("a child of ours");
        ptrace::attach(main).expect("a child of ours may be traced");
        waitpid(main, Some(WaitPidFlag::__WALL)).expect("a tracee of ours");
        let made = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK;
        let options = made | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD;
        ptrace::setoptions(main, options).expect("a stopped tracee takes options");
        kill(main, Signal::SIGCONT).expect("it is there");
        Trace { program, death, main, numbers: HashMap::new(), calls: Vec::new(), inside: HashMap::new() }
            .resumed(main, None)
    }

    fn resumed(self, pid: Pid, signal: Option<Signal>) -> Self {
        // It may have been killed meanwhile: its end is told then.
        let _ = ptrace::syscall(pid, signal);
        self
    }

    fn until_end(mut self) -> Self {
        loop {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            match waitpid(None, Some(flags)).expect("the program is still to end") {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == self.main => {
                    return self;
                }
                WaitStatus::PtraceSyscall(pid) => {
                    let inside = self.inside.entry(pid).or_default();
                    *inside = !*inside;
                    if *inside {
                        self.enter(pid);
                    }
                    self = self.resumed(pid, None);
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    self.happened(pid, event);
                    self = self.resumed(pid, None);
                }
                // The first of these is how one that is made begins to be traced.
                WaitStatus::Stopped(pid, Signal::SIGSTOP | Signal::SIGTRAP) => self = self.resumed(pid, None),
                WaitStatus::Stopped(pid, signal) => self = self.resumed(pid, Some(signal)),
                _ => {}
            }
        }
    }

    fn enter(&mut self, pid: Pid) {
        let Some(&process) = self.numbers.get(&pid) else { return };
        let call = self.calls[process];
        self.calls[process] += 1;
        if self.death == Some(Death { process, call }) {
            kill(pid, Signal::SIGKILL).expect("it is stopped");
        }
    }

    fn happened(&mut self, pid: Pid, event: i32) {
        let is_made =
            [libc::PTRACE_EVENT_CLONE, libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK].contains(&event);
        if is_made && self.numbers.contains_key(&pid) {
            let made = ptrace::getevent(pid).expect("an event has a message");
            self.number(Pid::from_raw(made as libc::pid_t));
        } else if event == libc::PTRACE_EVENT_EXEC && self.numbers.is_empty() {
            // Before it is whatever leads to the program.
            // Its path may be another one in its mount namespace.
            let [executed, program] = [Path::new(&format!("/proc/{pid}/exe")), self.program].map(|path| {
                path.metadata().map(|file| (file.dev(), file.ino())).expect("a program is a file")
            });
            if executed == program {
                self.number(pid);
            }
        }
    }

    fn number(&mut self, pid: Pid) {
        self.numbers.insert(pid, self.calls.len());
        self.calls.push(0);
    }
}
