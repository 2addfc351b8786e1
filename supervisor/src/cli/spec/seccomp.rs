//! The default seccomp profile: containerd's, call by call.
//!
//! A call that is not listed fails with EPERM. The tables follow containerd's default profile
//! (contrib/seccomp). Runtimes skip calls that their libseccomp does not know. A filter cannot see the
//! flags of `clone3`, so it fails with ENOSYS, and C libraries use `clone`.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

/// Allowed with any capabilities.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2
    dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
    fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
    fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64
    futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd
    getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
    getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid
    gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup
    io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
    listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock
    mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
    msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat
    _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
    pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
    process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
    sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget
    shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat
    stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo
    tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
    timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
    uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write
    writev process_vm_readv process_vm_writev ptrace";

/// Allowed with a capability in the bounding set.
const WITH_CAPABILITY: &[(Capability, &str)] = &[
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount \
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns syslog umount umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module query_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];

/// Allowed on this architecture only.
const OF_ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") {
    "arch_prctl modify_ldt"
} else if cfg!(target_arch = "aarch64") {
    "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"
} else {
    ""
};

/// Arguments of personality(2) that are allowed: Linux, 32-bit, each with UNAME26, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x20000, 0x20008, 0xffff_ffff];

/// The clone(2) flags that make namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
const AF_VSOCK: u64 = 40;
const ENOSYS: u32 = 38;

/// The profile for a container with these capabilities in its bounding set.
pub(super) fn default_profile(bounding: &HashSet<Capability>) -> LinuxSeccomp {
    let mut syscalls = vec![allow(ALLOWED, None)];
    syscalls.extend(
        PERSONALITIES
            .map(|persona| allow("personality", Some((LinuxSeccompOperator::ScmpCmpEq, persona)))),
    );
    // Vsock sockets reach the hypervisor; network namespaces do not confine them.
    syscalls.push(allow("socket", Some((LinuxSeccompOperator::ScmpCmpNe, AF_VSOCK))));
    if !OF_ARCHITECTURE.is_empty() {
        syscalls.push(allow(OF_ARCHITECTURE, None));
    }
    for (capability, names) in WITH_CAPABILITY {
        if bounding.contains(capability) {
            syscalls.push(allow(names, None));
        }
    }
    if !bounding.contains(&Capability::SysAdmin) {
        syscalls
            .push(allow("clone", Some((LinuxSeccompOperator::ScmpCmpMaskedEq, NEW_NAMESPACES))));
        let mut absent = allow("clone3", None);
        absent.set_action(LinuxSeccompAction::ScmpActErrno).set_errno_ret(Some(ENOSYS));
        syscalls.push(absent);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_architectures(Some(architectures()))
        .set_syscalls(Some(syscalls));
    profile
}

fn allow(names: &str, first: Option<(LinuxSeccompOperator, u64)>) -> LinuxSyscall {
    let mut syscall = LinuxSyscall::default();
    syscall
        .set_names(names.split_whitespace().map(str::to_owned).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow)
        .set_args(first.map(|(operator, value)| {
            let argument =
                LinuxSeccompArgBuilder::default().index(0_usize).value(value).op(operator);
            let argument = if operator == LinuxSeccompOperator::ScmpCmpMaskedEq {
                argument.value_two(0_u64)
            } else {
                argument
            };
            // The builder only fails when a field is missing.
            vec![argument.build().unwrap_or_default()]
        }));
    syscall
}

fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "x86_64") {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    } else if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchArm, Arch::ScmpArchAarch64]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &LinuxSeccomp) -> Vec<String> {
        let syscalls = profile.syscalls().as_ref().unwrap();
        syscalls.iter().flat_map(|syscall| syscall.names().clone()).collect()
    }

    #[test]
    fn no_call_is_listed_twice_without_conditions() {
        let listed: Vec<_> = ALLOWED.split_whitespace().collect();
        let unique: HashSet<_> = listed.iter().collect();
        assert_eq!(listed.len(), unique.len());
        for (_, more) in WITH_CAPABILITY {
            assert!(more.split_whitespace().all(|name| !listed.contains(&name)), "{more}");
        }
    }

    #[test]
    fn namespaces_and_mounts_need_the_admin_capability() {
        let plain = names(&default_profile(&HashSet::new()));
        let admin = names(&default_profile(&HashSet::from([Capability::SysAdmin])));
        for name in ["mount", "setns", "unshare", "bpf", "fsopen"] {
            assert!(!plain.contains(&name.to_owned()) && admin.contains(&name.to_owned()));
        }
    }

    #[test]
    fn clone3_is_absent_rather_than_forbidden() {
        let profile = default_profile(&HashSet::new());
        let syscalls = profile.syscalls().as_ref().unwrap();
        let clone3 = syscalls.iter().find(|call| call.names() == &["clone3"]).unwrap();
        assert_eq!(clone3.errno_ret(), Some(ENOSYS));
    }
}
