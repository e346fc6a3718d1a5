/* The least that a container of runc's default config takes: the kernel's work, and nothing decided, checked or told well.

   container BUNDLE STATE COMMAND...

   BUNDLE has config.json, which is read and not understood, and rootfs; STATE is where the container's directory is made. It
   makes the system calls that `vfsrun run` makes for such a config with cgroups of version 1: itself executed from a read-only
   mount, cgroups with runc's rules of devices, five namespaces, the mounts, masked and read-only paths, the devices, a session
   keyring and three capabilities; and removes all. Ends with 1 where a call fails. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define HAS(call) ({ long result_ = (long)(call); if (result_ < 0) fail(#call); result_; })

static void fail(const char *what) {
    fprintf(stderr, "container: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_tree_at(int at, const char *path) {
    return syscall(SYS_open_tree, at, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
}

static long set_attributes(int tree, uint64_t set, uint64_t propagation) {
    struct mount_attr attributes = {.attr_set = set, .propagation = propagation};
    return syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes);
}

static void move(int tree, int at, const char *path) {
    HAS(syscall(SYS_move_mount, tree, "", at, path, MOVE_MOUNT_F_EMPTY_PATH | (*path ? 0 : MOVE_MOUNT_T_EMPTY_PATH)));
    close(tree);
}

/* `options` are pairs of key and value, or a key and NULL for a flag; a NULL key ends them. */
static int make(const char *type, unsigned attributes, const char *const *options) {
    int context = HAS(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
    for (; options && options[0]; options += 2) {
        int command = options[1] ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;
        HAS(syscall(SYS_fsconfig, context, command, options[0], options[1], 0));
    }
    HAS(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    int mount = HAS(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes));
    close(context);
    return mount;
}

static void write_to(int directory, const char *name, const char *text) {
    int file = HAS(openat(directory, name, O_WRONLY | O_CLOEXEC));
    HAS(write(file, text, strlen(text)));
    close(file);
}

static void seal(char **word) {
    struct statvfs of;
    int self = HAS(open("/proc/self/exe", O_PATH | O_CLOEXEC));
    HAS(fstatvfs(self, &of));
    if (of.f_flag & ST_RDONLY) {
        close(self);
        return;
    }
    int tree = HAS(open_tree_at(self, ""));
    HAS(set_attributes(tree, MOUNT_ATTR_RDONLY, 0));
    HAS(syscall(SYS_execveat, tree, "", word, environ, AT_EMPTY_PATH));
}

static struct { char name[300]; int directory; } cgroups[32];
static int cgroups_count;

static void make_cgroups(const char *name) {
    DIR *all = opendir("/sys/fs/cgroup");
    if (!all) fail("/sys/fs/cgroup");
    for (struct dirent *entry; (entry = readdir(all));) {
        if (entry->d_name[0] == '.' || entry->d_type == DT_LNK) continue;
        int parent = openat(dirfd(all), entry->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (parent < 0 || faccessat(parent, "cgroup.procs", W_OK, 0)) {
            close(parent);
            continue;
        }
        HAS(mkdirat(parent, name, 0755));
        int own = HAS(openat(parent, name, O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!strcmp(entry->d_name, "cpuset")) {
            write_to(own, "cpuset.cpus", "0");
            write_to(own, "cpuset.mems", "0");
        }
        if (!strcmp(entry->d_name, "devices")) {
            static const char *const allowed[] = {"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
                "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm", "c 136:* rwm"};
            write_to(own, "devices.deny", "a");
            for (size_t each = 0; each < sizeof allowed / sizeof *allowed; each++) write_to(own, "devices.allow", allowed[each]);
        }
        snprintf(cgroups[cgroups_count].name, sizeof cgroups->name, "/sys/fs/cgroup/%s", entry->d_name);
        cgroups[cgroups_count++].directory = own;
        close(parent);
    }
    closedir(all);
}

static void make_root(const char *bundle, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/rootfs", bundle);
    struct mount_attr slave = {.propagation = MS_SLAVE};
    HAS(syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &slave, sizeof slave));
    int tree = HAS(open_tree_at(AT_FDCWD, path));
    HAS(set_attributes(tree, 0, MS_PRIVATE));
    int root = dup(tree);
    move(tree, AT_FDCWD, path);
    enum { NOSUID = MOUNT_ATTR_NOSUID, NODEV = MOUNT_ATTR_NODEV, NOEXEC = MOUNT_ATTR_NOEXEC, RDONLY = MOUNT_ATTR_RDONLY };
    const char *dev[] = {"source", "tmpfs", "mode", "755", "size", "65536k", NULL};
    const char *pts[] = {"source", "devpts", "newinstance", NULL, "ptmxmode", "0666", "mode", "0620", "gid", "5", NULL};
    const char *shm[] = {"source", "shm", "mode", "1777", "size", "65536k", NULL};
    const char *top[] = {"mode", "0755", NULL}, *empty[] = {"mode", "0555", "size", "0", NULL};
    move(make("proc", 0, NULL), root, "proc");
    move(make("tmpfs", NOSUID | MOUNT_ATTR_STRICTATIME, dev), root, "dev");
    HAS(mkdirat(root, "dev/pts", 0755));
    move(make("devpts", NOSUID | NOEXEC, pts), root, "dev/pts");
    HAS(mkdirat(root, "dev/shm", 0755));
    move(make("tmpfs", NOSUID | NODEV | NOEXEC, shm), root, "dev/shm");
    HAS(mkdirat(root, "dev/mqueue", 0755));
    move(make("mqueue", NOSUID | NODEV | NOEXEC, NULL), root, "dev/mqueue");
    move(make("sysfs", NOSUID | NODEV | NOEXEC | RDONLY, NULL), root, "sys");
    int hierarchies = make("tmpfs", NOSUID | NODEV | NOEXEC, top);
    HAS(syscall(SYS_move_mount, hierarchies, "", root, "sys/fs/cgroup", MOVE_MOUNT_F_EMPTY_PATH));
    for (int each = 0; each < cgroups_count; each++) {
        const char *own = strrchr(cgroups[each].name, '/') + 1;
        HAS(mkdirat(hierarchies, own, 0755));
        snprintf(path, sizeof path, "%s/%s", cgroups[each].name, name);
        int bound = HAS(open_tree_at(AT_FDCWD, path));
        HAS(set_attributes(bound, NOSUID | NODEV | NOEXEC | RDONLY, MS_PRIVATE));
        move(bound, hierarchies, own);
    }
    HAS(set_attributes(hierarchies, RDONLY, 0));
    close(hierarchies);
    static const struct { const char *name; int major, minor; } nodes[] = {
        {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7}, {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
    umask(0);
    for (size_t each = 0; each < sizeof nodes / sizeof *nodes; each++)
        HAS(mknodat(root, nodes[each].name, S_IFCHR | 0666, makedev(nodes[each].major, nodes[each].minor)));
    umask(022);
    HAS(symlinkat("/proc/self/fd", root, "dev/fd"));
    HAS(symlinkat("/proc/self/fd/0", root, "dev/stdin"));
    HAS(symlinkat("/proc/self/fd/1", root, "dev/stdout"));
    HAS(symlinkat("/proc/self/fd/2", root, "dev/stderr"));
    HAS(symlinkat("pts/ptmx", root, "dev/ptmx"));
    static const char *const readonly[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
    static const char *const masked[] = {"proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats",
        "proc/timer_list", "proc/timer_stats", "proc/sched_debug", "sys/firmware", "proc/scsi"};
    for (size_t each = 0; each < sizeof readonly / sizeof *readonly; each++) {
        int bound = open_tree_at(root, readonly[each]);
        if (bound < 0) continue;
        HAS(set_attributes(bound, RDONLY, 0));
        move(bound, root, readonly[each]);
    }
    int nothing = make("tmpfs", NOSUID | NODEV | NOEXEC | RDONLY, empty);
    for (size_t each = 0; each < sizeof masked / sizeof *masked; each++) {
        int at = openat(root, masked[each], O_PATH | O_CLOEXEC);
        struct stat stat;
        if (at < 0) continue;
        HAS(fstat(at, &stat));
        move(HAS(S_ISDIR(stat.st_mode) ? open_tree_at(nothing, "") : open_tree_at(AT_FDCWD, "/dev/null")), at, "");
        close(at);
    }
    close(nothing);
    struct mount_attr only = {.attr_set = RDONLY};
    HAS(syscall(SYS_mount_setattr, root, "", AT_EMPTY_PATH, &only, sizeof only));
    HAS(fchdir(root));
    HAS(syscall(SYS_pivot_root, ".", "."));
    HAS(umount2(".", MNT_DETACH));
    HAS(chdir("/"));
}

static void become(char **command) {
    HAS(setsid());
    HAS(syscall(SYS_keyctl, 1, "_ses.limit"));
    struct rlimit files = {1024, 1024};
    HAS(setrlimit(RLIMIT_NOFILE, &files));
    uint32_t kept = 1u << CAP_AUDIT_WRITE | 1u << CAP_KILL | 1u << CAP_NET_BIND_SERVICE;
    for (int each = 0; each <= CAP_LAST_CAP && each <= 40; each++)
        if (each > 31 || !(kept >> each & 1)) HAS(prctl(PR_CAPBSET_DROP, each));
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{kept, kept, kept}, {0, 0, 0}};
    HAS(syscall(SYS_capset, &header, data));
    for (int each = 0; each < 32; each++)
        if (kept >> each & 1) HAS(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, each, 0, 0));
    HAS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    HAS(syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC));
    static char *const environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", NULL};
    execve(command[0], command, environment);
    fail(command[0]);
}

static void run_lo(void) {
    int socket_ = HAS(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    HAS(ioctl(socket_, SIOCSIFFLAGS, &loopback));
    close(socket_);
}

int main(int words, char **word) {
    if (words < 4) return 2;
    seal(word);
    static char config[1 << 20], path[4096], name[64], pid[16];
    snprintf(path, sizeof path, "%s/config.json", word[1]);
    int file = HAS(open(path, O_RDONLY | O_CLOEXEC));
    ssize_t length = HAS(read(file, config, sizeof config));
    close(file);
    snprintf(name, sizeof name, "limit-%d", getpid());
    snprintf(path, sizeof path, "%s/%s", word[2], name);
    HAS(mkdir(path, 0700));
    int state = HAS(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    make_cgroups(name);
    int ends[2], pidfd;
    HAS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
    struct clone_args clone = {.flags = CLONE_PIDFD | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET,
        .pidfd = (uint64_t)(uintptr_t)&pidfd, .exit_signal = SIGCHLD};
    pid_t child = HAS(syscall(SYS_clone3, &clone, sizeof clone));
    char byte;
    if (child == 0) {
        HAS(prctl(PR_SET_PDEATHSIG, SIGKILL));
        if (read(ends[1], &byte, 1) != 1) return 1;
        HAS(prctl(PR_SET_DUMPABLE, 0));
        HAS(sethostname("runc", 4));
        run_lo();
        make_root(word[1], name);
        HAS(write(ends[1], "c", 1));
        if (read(ends[1], &byte, 1) != 1) return 1;
        become(word + 3);
    }
    snprintf(pid, sizeof pid, "%d", child);
    for (int each = 0; each < cgroups_count; each++) write_to(cgroups[each].directory, "cgroup.procs", pid);
    HAS(write(ends[0], "g", 1));
    close(ends[1]);
    if (read(ends[0], &byte, 1) != 1) return 1;
    file = HAS(openat(state, "config.json", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    HAS(write(file, config, length));
    close(file);
    file = HAS(openat(state, "state.json", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    HAS(write(file, config, length / 2));
    close(file);
    HAS(write(ends[0], "g", 1));
    int status;
    HAS(waitpid(child, &status, 0));
    for (int each = 0; each < cgroups_count; each++) {
        snprintf(path, sizeof path, "%s/%s", cgroups[each].name, name);
        HAS(rmdir(path));
    }
    HAS(unlinkat(state, "config.json", 0));
    HAS(unlinkat(state, "state.json", 0));
    snprintf(path, sizeof path, "%s/%s", word[2], name);
    HAS(rmdir(path));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
