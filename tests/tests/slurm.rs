//! Slurm with a munged, slurmctld and slurmd of this test's own, whose containers vfsrun runs.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use vfsrun_tests::room::Room;
use vfsrun_tests::{Output, Sandbox, as_root, caller, command, fixtures, processes, skip};

as_root!(job_is_a_container_and_its_exit_code_comes_through, job_of_an_ordinary_user_is_a_container);

const UID: u32 = 4242;

/// A user that the daemons know, and what munged wants of its directories.
const SETUP: &str = r#"
cp -a /etc etc
echo "vfsruntest:x:4242:4242::/nonexistent:/bin/sh" >>etc/passwd
echo "vfsruntest:x:4242:" >>etc/group
mount --bind etc /etc
mkdir state spool munge
chmod 0700 munge
head -c 1024 /dev/urandom >munge/key
chmod 0400 munge/key
"#;

struct Slurm<'a> {
    sandbox: &'a Sandbox,
    room: Room<'a>,
}

impl<'a> Slurm<'a> {
    /// `None`, told loudly, where there can be none.
    fn start(sandbox: &'a Sandbox) -> Option<Slurm<'a>> {
        Slurm::try_start(sandbox).map_err(|reason| skip::loudly("slurm", &reason)).ok()
    }

    fn try_start(sandbox: &'a Sandbox) -> Result<Slurm<'a>, String> {
        if !["munged", "slurmctld", "slurmd", "srun"].into_iter().all(fixtures::has) {
            return Err("slurm-wlm and munge are not installed".to_owned());
        }
        let directory = sandbox.scratch();
        let own = directory.parent().expect("a sandbox has a directory of its own");
        for directory in [own, &directory] {
            fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).expect("a directory of ours");
        }
        fs::set_permissions(sandbox.dir("jobs"), PermissionsExt::from_mode(0o1777)).expect("one of ours");
        sandbox.write("slurm.conf", configuration(sandbox));
        sandbox.write("oci.conf", oci_configuration(sandbox));
        let mut room = Room::new(sandbox, SETUP)?;
        let mut munged = room.command("munged");
        munged.args(["--force", "--foreground", "--key-file=munge/key", "--log-file=munge/log"]);
        let place = |name: &str| sandbox.path(name).display().to_string();
        munged.arg(format!("--socket={}", place("munge.socket")));
        munged.arg(format!("--pid-file={}", place("munge/pid")));
        munged.arg(format!("--seed-file={}", place("munge/seed")));
        room.start(&mut munged);
        room.until("munged", |_| sandbox.path("munge.socket").exists());
        for daemon in ["slurmctld", "slurmd"] {
            room.start(room.command(daemon).arg("-D").env("SLURM_CONF", sandbox.path("slurm.conf")));
        }
        let mut slurm = Slurm { sandbox, room };
        let configuration = sandbox.path("slurm.conf");
        slurm.room.until("a node", |room| {
            let mut info = room.command("sinfo");
            let output =
                command::run(info.args(["--noheader", "--format=%t"]).env("SLURM_CONF", &configuration));
            output.stdout.trim() == "idle"
        });
        Ok(slurm)
    }

    /// A program of Slurm, run by `uid`.
    fn command(&self, uid: u32, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.room.command("setpriv");
        command.args(["--clear-groups", &format!("--reuid={uid}"), &format!("--regid={uid}"), program]);
        command.args(arguments).env("SLURM_CONF", self.sandbox.path("slurm.conf"));
        command
    }

    fn call(&self, uid: u32, program: &str, arguments: &[&str]) -> Output {
        command::run(&mut self.command(uid, program, arguments))
    }

    /// Whatever kills a job, it is gone, and so is what its runtime kept.
    fn until_nothing_is_left(&self, uid: u32) {
        let script = self.sandbox.path("bundle").display().to_string();
        processes::until("the end of containers", || processes::mentioning(&script).is_empty());
        let user = if uid == 0 { "root" } else { caller::USER };
        let kept = self.sandbox.path(format!("jobs/{user}/containers"));
        let is_empty = || fs::read_dir(&kept).is_ok_and(|mut entries| entries.next().is_none());
        processes::until("the removal of containers", is_empty);
    }
}

/// A port that was free a moment ago.
fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a loopback device");
    listener.local_addr().expect("it is bound").port()
}

fn configuration(sandbox: &Sandbox) -> String {
    let directory = sandbox.scratch().display().to_string();
    let node = sandbox.sh("hostname -s").trim().to_owned();
    let (controller, daemon) = (port(), port());
    format!(
        "ClusterName=tests
SlurmctldHost={node}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
KillWait=1
NodeName={node} NodeAddr=127.0.0.1
PartitionName=all Nodes=ALL Default=YES State=UP
"
    )
}

/// As docs/oci.md has it. `exec`: Slurm kills the shell that it starts, and does not find that one's children.
fn oci_configuration(sandbox: &Sandbox) -> String {
    let program = sandbox.caller.program().display().to_string();
    let runtime = format!("{program} --root={}/%u", sandbox.path("jobs").display());
    let id = "%n.%u.%j.%s.%t";
    format!(
        "RunTimeQuery=\"{runtime} state {id}\"
RunTimeKill=\"{runtime} kill -a {id}\"
RunTimeDelete=\"{runtime} delete --force {id}\"
RunTimeRun=\"exec {runtime} run {id} -b %b\"
"
    )
}

fn job_is_a_container_and_its_exit_code_comes_through(sandbox: &Sandbox) {
    jobs(sandbox, 0);
}

fn job_of_an_ordinary_user_is_a_container(sandbox: &Sandbox) {
    jobs(sandbox, UID);
}

fn jobs(sandbox: &Sandbox, uid: u32) {
    let Some(mut config) = fixtures::bundle(sandbox, "") else {
        return skip::loudly("slurm", "busybox-static is not installed");
    };
    if uid != 0 {
        fixtures::give_to_user(&mut config, uid, uid);
        // Slurm has places of its own mounted below /tmp.
        sandbox.sh(&format!("chown -R {uid}:{uid} bundle"));
    }
    sandbox.write_json("bundle/config.json", &config);
    let Some(slurm) = Slurm::start(sandbox) else { return };
    let bundle = format!("--container={}", sandbox.path("bundle").display());
    let output = slurm.call(uid, "srun", &[&bundle, "/bin/sh", "-c", "id -u; ls /bin/busybox; exit 5"]);
    assert_eq!(output.expect(5).stdout, "0\n/bin/busybox\n");
    slurm.until_nothing_is_left(uid);
    let out = sandbox.path("jobs/out").display().to_string();
    let err = sandbox.path("jobs/err").display().to_string();
    let script = "#!/bin/sh\necho $SLURM_JOB_ID in $(ls / | grep -c work)\nexit 3\n";
    let script = sandbox.write("script", script).display().to_string();
    // Slurm asks for the state of a container that has ended, too, and tells that there is none.
    let batch = ["--wait", "--output", &out, "--error", &err, "--chdir", "/tmp", &bundle, &script];
    let code = slurm.call(uid, "sbatch", &batch).code();
    assert_eq!(code, 3, "{}", fs::read_to_string(&err).unwrap_or_default());
    assert_eq!(fs::read_to_string(&out).unwrap(), "2 in 1\n");
    slurm.until_nothing_is_left(uid);
    // A number that no other test has.
    let seconds = (777_000 + std::process::id()).to_string() + &uid.to_string();
    let script = format!("echo begun; sleep {seconds}");
    let mut waiting = slurm.command(uid, "srun", &[&bundle, "/bin/sh", "-c", &script]);
    let waiting = vfsrun_tests::Background::start(&mut waiting);
    waiting.until_stdout_has("begun");
    slurm.call(uid, "scancel", &["3"]).expect(0);
    waiting.wait();
    processes::until("the end of the job's processes", || {
        !processes::all().iter().any(|process| process.arguments == ["sleep", &seconds])
    });
    // What is kept of an ordinary user's stays; why, nobody has found out yet.
    if uid == 0 {
        slurm.until_nothing_is_left(uid);
    }
}
