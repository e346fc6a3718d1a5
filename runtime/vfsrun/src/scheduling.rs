//! Scheduling of the command: what the plan says of it, told to the kernel.

use std::io;

use nix::sys::personality::{self, Persona};
use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;
use vfsrun_plan::plan::Scheduling;
use vfsrun_sys::scheduling::{self, Scheduler};

#[derive(Debug, Error)]
#[error("{at}: the kernel refuses it")]
pub struct SchedulingError {
    at: &'static str,
    source: io::Error,
}

fn refused(at: &'static str) -> impl FnOnce(io::Error) -> SchedulingError {
    move |source| SchedulingError { at, source }
}

/// Stage: workload, in a session of its own, while it has the capabilities to raise its priority.
pub fn apply(plan: &Scheduling) -> Result<(), SchedulingError> {
    if let Some(scheduler) = plan.scheduler {
        let wanted = Scheduler {
            policy: scheduler.policy,
            flags: scheduler.flags,
            nice: scheduler.nice,
            priority: scheduler.priority,
            runtime: scheduler.runtime,
            deadline: scheduler.deadline,
            period: scheduler.period,
        };
        scheduling::set_scheduler(wanted).map_err(refused("process.scheduler"))?;
    }
    if let Some(io) = plan.io_priority {
        scheduling::set_io_priority(io.class, io.priority).map_err(refused("process.ioPriority"))?;
    }
    if let Some(memory) = &plan.memory {
        scheduling::set_memory_policy(memory.mode, &memory.nodes).map_err(refused("linux.memoryPolicy"))?;
    }
    if let Some(domain) = plan.personality {
        personality::set(Persona::from_bits_retain(domain as i32))
            .map_err(|errno| refused("linux.personality")(errno.into()))?;
    }
    Ok(())
}

/// Of a command that joins a container, before it is in any cgroup of it.
pub fn start_on(plan: &Scheduling) -> Result<(), SchedulingError> {
    run_on(&plan.first_cpus).map_err(refused("process.execCPUAffinity.initial"))
}

/// The same, in the container's cgroup.
pub fn stay_on(plan: &Scheduling) -> Result<(), SchedulingError> {
    run_on(&plan.cpus).map_err(refused("process.execCPUAffinity.final"))
}

fn run_on(cpus: &[u32]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu as usize));
    Ok(sched_setaffinity(None, &set)?)
}
