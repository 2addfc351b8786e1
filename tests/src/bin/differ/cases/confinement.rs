//! What a process may do: capabilities, no_new_privs, seccomp, security labels.

use serde_json::{Value, json};

use crate::case::Variation;

/// A profile that allows all but this.
fn profile(rules: Value) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

/// The same capabilities in these sets, none in the others.
fn capabilities(spec: &mut Value, sets: &[&str], names: &[&str]) {
    let mut all = json!({});
    for set in sets {
        all[*set] = json!(names);
    }
    spec["process"]["capabilities"] = all;
}

const ALL_SETS: &[&str] = &["bounding", "effective", "permitted", "inheritable", "ambient"];

pub(super) fn all() -> Vec<Variation> {
    [granted(), seccomp(), labels()].into_iter().flatten().collect()
}

fn granted() -> Vec<Variation> {
    let v = Variation::new;
    let caps = "capabilities";
    vec![
        v(caps, "none given", |spec, _| spec["process"]["capabilities"] = Value::Null).exec(|_| ()),
        v(caps, "no sets", |spec, _| spec["process"]["capabilities"] = json!({}))
            .shows("/caps/effective", "0000000000000000")
            .shows("/caps/bounding", "0000000000000000")
            .exec(|_| ()),
        v(caps, "one in each set", |spec, _| {
            capabilities(spec, ALL_SETS, &["CAP_NET_BIND_SERVICE"]);
        })
        .shows("/caps/effective", "0000000000000400")
        .shows("/caps/permitted", "0000000000000400")
        .shows("/caps/inheritable", "0000000000000400")
        .shows("/caps/bounding", "0000000000000400")
        .shows("/caps/ambient", "0000000000000400"),
        v(caps, "ambient for a user", |spec, _| {
            capabilities(spec, ALL_SETS, &["CAP_NET_RAW"]);
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })
        .shows("/caps/effective", "0000000000002000")
        .shows("/tries/raw", "ok")
        .exec(|_| ())
        .alone(),
        v(caps, "ambient without inheritable", |spec, _| {
            capabilities(
                spec,
                &["bounding", "effective", "permitted", "ambient"],
                &["CAP_NET_RAW"],
            );
        })
        .open(),
        v(caps, "bounding alone", |spec, _| {
            capabilities(spec, &["bounding"], &["CAP_CHOWN", "CAP_KILL"]);
        })
        .shows("/caps/bounding", "0000000000000021"),
        v(caps, "inheritable without ambient, for a user", |spec, _| {
            let sets = ["bounding", "effective", "permitted", "inheritable"];
            capabilities(spec, &sets, &["CAP_NET_RAW", "CAP_CHOWN"]);
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })
        .shows("/caps/effective", "0000000000000000")
        .exec(|_| ())
        .alone(),
        v(caps, "effective beyond permitted", |spec, _| {
            spec["process"]["capabilities"] = json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN"],
                "effective": ["CAP_CHOWN", "CAP_KILL"],
            });
        })
        .open(),
        v(caps, "to administer", |spec, _| {
            capabilities(
                spec,
                &["bounding", "effective", "permitted"],
                &["CAP_SYS_ADMIN", "CAP_SYS_NICE", "CAP_MKNOD", "CAP_NET_ADMIN"],
            );
        })
        .shows("/tries/hostname", "ok")
        .exec(|_| ()),
        v(caps, "an unknown one", |spec, _| {
            capabilities(spec, &["bounding", "effective", "permitted"], &["CAP_NOPE", "CAP_CHOWN"]);
        })
        .open(),
        v(caps, "of an exec alone", |_, _| ()).alone().exec(|process| {
            process["capabilities"] = json!({
                "bounding": ["CAP_SYS_ADMIN", "CAP_CHOWN"],
                "effective": ["CAP_SYS_ADMIN", "CAP_CHOWN"],
                "permitted": ["CAP_SYS_ADMIN", "CAP_CHOWN"],
            });
        }),
        v(caps, "not those of the exec", |_, _| ()).alone().exec(|process| {
            process["capabilities"] = Value::Null;
        }),
        v("no_new_privs", "off", |spec, _| spec["process"]["noNewPrivileges"] = json!(false))
            .shows("/no_new_privs", "0")
            .exec(|_| ()),
        v("no_new_privs", "on", |spec, _| spec["process"]["noNewPrivileges"] = json!(true))
            .shows("/no_new_privs", "1")
            .exec(|process| process["noNewPrivileges"] = json!(false)),
        v("no_new_privs", "on for a user", |spec, _| {
            spec["process"]["noNewPrivileges"] = json!(true);
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        })
        .shows("/no_new_privs", "1")
        .alone(),
    ]
}

fn seccomp() -> Vec<Variation> {
    let v = Variation::new;
    let name = "seccomp";
    vec![
        v(name, "an error", |spec, _| {
            spec["linux"]["seccomp"] =
                profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
        })
        .shows("/seccomp", "2")
        .shows("/tries/mkdir", "EPERM")
        .exec(|_| ()),
        v(name, "an error of one's choice", |spec, _| {
            spec["linux"]["seccomp"] = profile(json!([
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33},
            ]));
        })
        .shows("/tries/mkdir", "EDOM")
        .exec(|_| ()),
        v(name, "without privileges", |spec, _| {
            spec["linux"]["seccomp"] =
                profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
            spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            spec["process"]["noNewPrivileges"] = json!(false);
        })
        .shows("/seccomp", "2")
        .shows("/tries/mkdir", "EPERM")
        .exec(|_| ())
        .alone(),
        v(name, "a default error", |spec, _| {
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": USUAL, "action": "SCMP_ACT_ALLOW"}],
            });
        })
        .shows("/tries/unshare", "ENOSYS")
        .exec(|_| ()),
        v(name, "death of the process", |spec, _| {
            spec["linux"]["seccomp"] = profile(
                json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]),
            );
        })
        .shows("/exit", 159)
        .alone(),
        v(name, "death", |spec, _| {
            spec["linux"]["seccomp"] =
                profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL"}]));
        })
        .shows("/exit", 159)
        .alone(),
        v(name, "a trap", |spec, _| {
            spec["linux"]["seccomp"] =
                profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_TRAP"}]));
        })
        .shows("/exit", 159)
        .alone(),
        v(name, "a log", |spec, _| {
            spec["linux"]["seccomp"] =
                profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_LOG"}]));
        })
        .shows("/seccomp", "2")
        .shows("/tries/mkdir", "ok"),
        v(name, "a tracer that is not there", |spec, _| {
            spec["linux"]["seccomp"] =
                profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_TRACE"}]));
        })
        .shows("/tries/mkdir", "ENOSYS"),
        v(name, "an argument that is equal", |spec, _| {
            spec["linux"]["seccomp"] = profile(json!([{
                "names": ["socket"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": 17, "op": "SCMP_CMP_EQ"}],
            }]));
        })
        .shows("/tries/packet", "EPERM")
        .shows("/tries/unix", "ok")
        .exec(|_| ()),
        v(name, "an argument that is greater", |spec, _| {
            spec["linux"]["seccomp"] = profile(json!([{
                "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33,
                "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_GT"}],
            }]));
        })
        .shows("/tries/inet6", "EDOM")
        .shows("/tries/inet", "ok"),
        v(name, "an argument that is less or equal", |spec, _| {
            spec["linux"]["seccomp"] = profile(json!([{
                "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33,
                "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_LE"}],
            }]));
        })
        .shows("/tries/inet", "EDOM")
        .shows("/tries/inet6", "ok"),
        v(name, "a masked argument", |spec, _| {
            // CLONE_NEWUTS, as the default profile of container engines compares it.
            spec["linux"]["seccomp"] = profile(json!([{
                "names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33,
                "args": [{"index": 0, "value": 67_108_864, "valueTwo": 67_108_864,
                    "op": "SCMP_CMP_MASKED_EQ"}],
            }]));
        })
        .shows("/tries/unshare", "EDOM")
        .exec(|_| ()),
        v(name, "one argument twice", |spec, _| {
            spec["linux"]["seccomp"] = profile(json!([{
                "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 33,
                "args": [{"index": 0, "value": 17, "op": "SCMP_CMP_EQ"},
                    {"index": 0, "value": 10, "op": "SCMP_CMP_EQ"}],
            }]));
        }),
        v(name, "an unknown call", |spec, _| {
            spec["linux"]["seccomp"] = profile(json!([
                {"names": ["not_a_call", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"},
            ]));
        })
        .shows("/tries/mkdir", "EPERM"),
        v(name, "no architecture named", |spec, _| {
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
            });
        })
        .shows("/tries/mkdir", "EPERM"),
        v(name, "nothing but a default", |spec, _| {
            spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        }),
        v(name, "flags", |spec, _| {
            let mut profile =
                profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
            profile["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);
            spec["linux"]["seccomp"] = profile;
        })
        .shows("/seccomp", "2")
        .alone(),
        v(name, "an unknown action", |spec, _| {
            spec["linux"]["seccomp"] =
                profile(json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOPE"}]));
        })
        .refused(),
        v(name, "an unknown architecture", |spec, _| {
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NOPE"],
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
            });
        })
        .refused(),
        v(name, "an unknown flag", |spec, _| {
            spec["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NOPE"],
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
            });
        })
        .refused(),
        v(name, "a listener without a place", |spec, _| {
            spec["linux"]["seccomp"] =
                profile(json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]));
        })
        .refused(),
        v(name, "a listener that is not there", |spec, setting| {
            let mut profile = profile(json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]));
            profile["listenerPath"] = json!(setting.dir.join("nobody.sock"));
            spec["linux"]["seccomp"] = profile;
        })
        .refused(),
        v(name, "an argument beyond the sixth", |spec, _| {
            spec["linux"]["seccomp"] = profile(json!([{
                "names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}],
            }]));
        })
        .refused(),
    ]
}

fn labels() -> Vec<Variation> {
    let v = Variation::new;
    let name = "security labels";
    vec![
        v(name, "apparmor, where the kernel has none", |spec, _| {
            spec["process"]["apparmorProfile"] = json!("some-profile");
        })
        .refused(),
        v(name, "no apparmor profile", |spec, _| spec["process"]["apparmorProfile"] = json!("")),
        v(name, "apparmor for an exec, where the kernel has none", |_, _| ())
            .alone()
            .exec(|process| process["apparmorProfile"] = json!("some-profile")),
        v(name, "selinux, where the kernel has none", |spec, _| {
            spec["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0");
        })
        .refused(),
        v(name, "selinux for mounts, where the kernel has none", |spec, _| {
            spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0");
        })
        .refused(),
        v(name, "no selinux label", |spec, _| {
            spec["process"]["selinuxLabel"] = json!("");
            spec["linux"]["mountLabel"] = json!("");
        }),
    ]
}

/// What the probe and the runtimes' last steps call, and a static program at its start.
const USUAL: &[&str] = &[
    "access",
    "arch_prctl",
    "bind",
    "brk",
    "capget",
    "capset",
    "chdir",
    "chmod",
    "chown",
    "clone",
    "clone3",
    "close",
    "close_range",
    "connect",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "fcntl",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getpid",
    "getppid",
    "getpriority",
    "getrandom",
    "getrlimit",
    "getsid",
    "gettid",
    "getuid",
    "ioctl",
    "kill",
    "lseek",
    "lstat",
    "madvise",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "nanosleep",
    "clock_nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe2",
    "poll",
    "ppoll",
    "prctl",
    "pread64",
    "prlimit64",
    "pwrite64",
    "read",
    "readlink",
    "readlinkat",
    "recvmsg",
    "rmdir",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "seccomp",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "sethostname",
    "setpriority",
    "setresgid",
    "setresuid",
    "setuid",
    "sigaltstack",
    "socket",
    "stat",
    "statfs",
    "statx",
    "tgkill",
    "umask",
    "uname",
    "unlink",
    "unlinkat",
    "wait4",
    "write",
    "writev",
];
