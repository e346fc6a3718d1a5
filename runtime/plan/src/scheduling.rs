//! Scheduling: the words of a config for when a process runs and where its memory comes from, as the kernel's numbers.

use vfsrun_spec::oci::{
    IoPriorityClass, MEMORY_FLAGS, MEMORY_MODES, PersonalityDomain, Scheduler as Said, SchedulerFlag,
    SchedulerPolicy,
};
use vfsrun_spec::{Linux, Process, numbers};

use crate::PlanError;
use crate::plan::{IoPriority, MemoryPolicy, Scheduler, Scheduling};

pub(crate) fn decide(process: &Process, linux: &Linux) -> Result<Scheduling, PlanError> {
    let affinity = process.exec_cpu_affinity.clone().unwrap_or_default();
    Ok(Scheduling {
        scheduler: process.scheduler.as_ref().map(scheduler).transpose()?,
        io_priority: process.io_priority.map(|io| IoPriority {
            class: match io.class {
                IoPriorityClass::RealTime => 1,
                IoPriorityClass::BestEffort => 2,
                IoPriorityClass::Idle => 3,
            },
            priority: io.priority as u16,
        }),
        first_cpus: list(affinity.initial.as_deref(), "process.execCPUAffinity.initial")?,
        cpus: list(affinity.final_.as_deref(), "process.execCPUAffinity.final")?,
        memory: linux.memory_policy.as_ref().map(memory).transpose()?,
        personality: linux.personality.as_ref().map(|personality| match personality.domain {
            PersonalityDomain::Linux => 0,
            PersonalityDomain::Linux32 => 8,
        }),
    })
}

fn list(said: Option<&str>, at: &'static str) -> Result<Vec<u32>, PlanError> {
    numbers(said.unwrap_or_default()).map_err(|reason| PlanError::Scheduling { at, reason })
}

fn scheduler(said: &Said) -> Result<Scheduler, PlanError> {
    let is_real_time = matches!(said.policy, SchedulerPolicy::Fifo | SchedulerPolicy::RoundRobin);
    let priority = said.priority.unwrap_or(0);
    if is_real_time != (priority != 0) {
        let reason = "1 to 99 with SCHED_FIFO and SCHED_RR, and 0 with all others".to_owned();
        return Err(PlanError::Scheduling { at: "process.scheduler.priority", reason });
    }
    let times = [
        (said.runtime, "process.scheduler.runtime"),
        (said.deadline, "process.scheduler.deadline"),
        (said.period, "process.scheduler.period"),
    ];
    let said_time = times.into_iter().find(|(time, _)| time.is_some_and(|time| time != 0));
    if let (Some((_, at)), true) = (said_time, said.policy != SchedulerPolicy::Deadline) {
        return Err(PlanError::Scheduling { at, reason: "only with SCHED_DEADLINE".to_owned() });
    }
    Ok(Scheduler {
        policy: match said.policy {
            SchedulerPolicy::Other => 0,
            SchedulerPolicy::Fifo => 1,
            SchedulerPolicy::RoundRobin => 2,
            SchedulerPolicy::Batch => 3,
            SchedulerPolicy::Iso => 4,
            SchedulerPolicy::Idle => 5,
            SchedulerPolicy::Deadline => 6,
        },
        flags: said.flags.iter().fold(0, |flags, flag| flags | bit(*flag)),
        nice: said.nice.unwrap_or(0),
        priority: priority as u32,
        runtime: said.runtime.unwrap_or(0),
        deadline: said.deadline.unwrap_or(0),
        period: said.period.unwrap_or(0),
    })
}

fn bit(flag: SchedulerFlag) -> u64 {
    match flag {
        SchedulerFlag::ResetOnFork => 0x01,
        SchedulerFlag::Reclaim => 0x02,
        SchedulerFlag::DeadlineOverrun => 0x04,
        SchedulerFlag::KeepPolicy => 0x08,
        SchedulerFlag::KeepParams => 0x10,
        SchedulerFlag::UtilClampMin => 0x20,
        SchedulerFlag::UtilClampMax => 0x40,
    }
}

fn memory(said: &vfsrun_spec::oci::MemoryPolicy) -> Result<MemoryPolicy, PlanError> {
    let number = MEMORY_MODES.iter().position(|mode| *mode == said.mode);
    let mode = number.expect("the spec was refused if its mode is none of these") as u32;
    let flags = MEMORY_FLAGS.iter().filter(|(name, _)| said.flags.iter().any(|flag| flag == name));
    Ok(MemoryPolicy {
        mode: flags.fold(mode, |mode, (_, bit)| mode | bit),
        nodes: list(Some(&said.nodes), "linux.memoryPolicy.nodes")?,
    })
}
