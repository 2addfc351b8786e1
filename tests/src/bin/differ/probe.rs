//! What a process in a container sees, as one line of JSON.
//!
//! Promise: nothing outside the container's own files is changed by looking; what cannot be seen
//! is absent. `probe [stay] [exit N]`: prints, and then stays or ends.
//! Runs in the container, with the rights that the spec gives.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat};
use rustix::process::Resource;
use serde_json::{Map, Value, json};

const SYSCTLS: &[&str] = &[
    "net/ipv4/ip_forward",
    "net/core/somaxconn",
    "net/ipv4/ping_group_range",
    "net/ipv4/ip_unprivileged_port_start",
    "kernel/msgmax",
    "kernel/shmmax",
    "kernel/sem",
    "fs/mqueue/msg_max",
    "kernel/domainname",
    "kernel/hostname",
];

/// Paths that specs mask or protect by default, and those of the cases.
const PATHS: &[&str] = &[
    "/",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/sys",
    "/sys/firmware",
    "/sys/fs/cgroup",
    "/etc",
    "/etc/passwd",
    "/tmp",
    "/mnt",
    "/mnt/file",
    "/mnt/inner",
    "/dev",
    "/data",
    "/new",
];

const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/fuse",
    "/dev/net/tun",
    "/dev/extra",
    "/dev/nested/extra",
    "/opt/extra",
];

/// Prints what is seen.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let mut words = words.peekable();
    let stays = words.next_if(|word| word == "stay").is_some();
    let code = match words.next().as_deref() {
        Some("exit") => words.next().and_then(|text| text.parse().ok()).unwrap_or(1),
        _ => 0,
    };
    let mut line = facts().to_string();
    line.push('\n');
    if std::io::stdout().write_all(line.as_bytes()).is_err() {
        return ExitCode::from(99);
    }
    let _ = std::io::stdout().flush();
    if stays {
        loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
    }
    ExitCode::from(code)
}

/// Appends what a hook sees to a file: `hook STAGE FILE [fail|sleep]`.
pub(crate) fn hook(mut words: impl Iterator<Item = String>) -> ExitCode {
    let (Some(stage), Some(path)) = (words.next(), words.next()) else {
        return ExitCode::from(99);
    };
    let mut text = String::new();
    let _ = std::io::stdin().take(1 << 20).read_to_string(&mut text);
    let state: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let seen = json!({
        "stage": stage,
        "id": state["id"],
        "status": state["status"],
        "bundle": state["bundle"],
        "annotations": state["annotations"],
        "has pid": state["pid"].as_i64().is_some_and(|pid| pid > 0),
        "has version": state["ociVersion"].as_str().is_some_and(|version| !version.is_empty()),
        "root": fs::canonicalize("/proc/self/root").ok(),
        "in container": Path::new("/bin/probe").exists(),
        "environment": std::env::vars().map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>(),
        "mnt": link("/proc/self/ns/mnt"),
        "net": link("/proc/self/ns/net"),
    });
    let appended = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{seen}\n").as_bytes()));
    if appended.is_err() {
        return ExitCode::from(98);
    }
    match words.next().as_deref() {
        Some("fail") => ExitCode::from(7),
        Some("sleep") => {
            std::thread::sleep(std::time::Duration::from_secs(30));
            ExitCode::SUCCESS
        }
        _ => ExitCode::SUCCESS,
    }
}

fn facts() -> Value {
    // Before anything is tried out.
    let status = status();
    let mut facts = json!({
        "ids": ids(),
        "args": std::env::args().collect::<Vec<_>>(),
        "env": std::env::vars_os()
            .map(|(name, value)| format!("{}={}", name.display(), value.display()))
            .map(|entry| if entry.len() > 200 { format!("{} bytes", entry.len()) } else { entry })
            .collect::<Vec<_>>(),
        "cwd": std::env::current_dir().ok(),
        "name": {
            "host": rustix::system::uname().nodename().to_string_lossy(),
            "domain": rustix::system::uname().domainname().to_string_lossy(),
            "machine": rustix::system::uname().machine().to_string_lossy(),
        },
        "first": std::process::id() == 1,
        "leads its session": rustix::process::getsid(None).is_ok_and(|leader| {
            leader == rustix::process::getpid()
        }),
        "limits": limits(),
        "oom": text("/proc/self/oom_score_adj"),
        "apparmor": text("/proc/self/attr/current"),
        "ns": namespaces(),
        "maps": {
            "uid": words("/proc/self/uid_map"), "gid": words("/proc/self/gid_map"),
            "setgroups": text("/proc/self/setgroups"),
        },
        "time": words("/proc/self/timens_offsets"),
        "cgroup": text("/proc/self/cgroup"),
        "mounts": mounts(),
        "sysctl": SYSCTLS.iter().map(|name| ((*name).to_owned(), json!(words(&format!("/proc/sys/{name}")))))
            .collect::<Map<_, _>>(),
        "dev": nodes(),
        "opens": DEVICES.iter().map(|path| ((*path).to_owned(), json!(opens(path)))).collect::<Map<_, _>>(),
        "paths": PATHS.iter().map(|path| ((*path).to_owned(), path_facts(path))).collect::<Map<_, _>>(),
        "net": interfaces(),
        "descriptors": descriptors(),
        "nice": rustix::process::getpriority_process(None).ok(),
    });
    if let Value::Object(facts) = &mut facts {
        facts.extend(status);
        facts.insert("tries".to_owned(), tries());
    }
    facts
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_matches(['\0', '\n', ' ']).to_owned())
}

fn words(path: &str) -> Option<String> {
    text(path).map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn link(path: &str) -> Option<String> {
    fs::read_link(path).ok().map(|target| target.display().to_string())
}

fn ids() -> Value {
    let mut groups: Vec<_> = rustix::process::getgroups()
        .unwrap_or_default()
        .into_iter()
        .map(rustix::process::Gid::as_raw)
        .collect();
    groups.sort_unstable();
    json!({
        "uid": rustix::process::getuid().as_raw(), "euid": rustix::process::geteuid().as_raw(),
        "gid": rustix::process::getgid().as_raw(), "egid": rustix::process::getegid().as_raw(),
        "groups": groups,
    })
}

fn status() -> Map<String, Value> {
    let table = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = table.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let mut status = Map::new();
    status.insert("no_new_privs".to_owned(), json!(field("NoNewPrivs")));
    status.insert("seccomp".to_owned(), json!(field("Seccomp")));
    status.insert("filters".to_owned(), json!(field("Seccomp_filters")));
    status.insert("umask".to_owned(), json!(field("Umask")));
    status.insert("all uids".to_owned(), json!(field("Uid")));
    status.insert("all gids".to_owned(), json!(field("Gid")));
    status.insert("speculation".to_owned(), json!(field("Speculation_Store_Bypass")));
    status.insert("cpus".to_owned(), json!(field("Cpus_allowed_list")));
    status.insert(
        "caps".to_owned(),
        json!({
            "effective": field("CapEff"), "permitted": field("CapPrm"),
            "inheritable": field("CapInh"), "bounding": field("CapBnd"),
            "ambient": field("CapAmb"),
        }),
    );
    status.insert(
        "signals".to_owned(),
        json!({ "blocked": field("SigBlk"), "ignored": field("SigIgn").map(|mask| signals(&mask)) }),
    );
    status
}

/// A mask of signals without those that say nothing of the runtime: SIGPIPE, which every Rust
/// program ignores, and the two that C libraries keep for themselves (32, 33).
fn signals(mask: &str) -> String {
    let own: u64 = 1 << 12 | 1 << 31 | 1 << 32;
    u64::from_str_radix(mask, 16)
        .map_or_else(|_| mask.to_owned(), |mask| format!("{:x}", mask & !own))
}

fn limits() -> Value {
    let all = [
        ("AS", Resource::As),
        ("CORE", Resource::Core),
        ("CPU", Resource::Cpu),
        ("DATA", Resource::Data),
        ("FSIZE", Resource::Fsize),
        ("LOCKS", Resource::Locks),
        ("MEMLOCK", Resource::Memlock),
        ("MSGQUEUE", Resource::Msgqueue),
        ("NICE", Resource::Nice),
        ("NOFILE", Resource::Nofile),
        ("NPROC", Resource::Nproc),
        ("RSS", Resource::Rss),
        ("RTPRIO", Resource::Rtprio),
        ("RTTIME", Resource::Rttime),
        ("SIGPENDING", Resource::Sigpending),
        ("STACK", Resource::Stack),
    ];
    let shown = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    all.into_iter()
        .map(|(name, resource)| {
            let limit = rustix::process::getrlimit(resource);
            (name, format!("{} {}", shown(limit.current), shown(limit.maximum)))
        })
        .collect()
}

fn namespaces() -> Value {
    ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
        .into_iter()
        .map(|name| (name, json!(link(&format!("/proc/self/ns/{name}")))))
        .collect()
}

/// Mount points with what is mounted there, the topmost last.
fn mounts() -> Value {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts = Map::new();
    for line in table.lines() {
        let Some((mount, source)) = line.split_once(" - ") else { continue };
        let mount: Vec<_> = mount.split(' ').collect();
        let source: Vec<_> = source.splitn(3, ' ').collect();
        let (&[_, _, _, root, point, options, ref optional @ ..], &[kind, _, superblock]) =
            (mount.as_slice(), source.as_slice())
        else {
            continue;
        };
        // Peer groups are numbered anew for each.
        let peers: Vec<_> =
            optional.iter().map(|field| field.split(':').next().unwrap_or_default()).collect();
        let entry = json!({
            "kind": kind, "root": root, "options": sorted(options), "peers": peers.join(" "),
            "super": sorted(superblock),
        });
        match mounts.entry(point.to_owned()).or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(entry),
            _ => continue,
        }
    }
    Value::Object(mounts)
}

fn sorted(options: &str) -> String {
    let mut options: Vec<_> = options.split(',').collect();
    options.sort_unstable();
    options.join(",")
}

fn nodes() -> Value {
    let mut found = Map::new();
    for folder in ["/dev", "/dev/net", "/dev/nested", "/opt"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(data) = path.symlink_metadata() else { continue };
            let kind = data.file_type();
            let what = if kind.is_symlink() {
                format!("-> {}", link(&path.to_string_lossy()).unwrap_or_default())
            } else {
                let letter = match () {
                    () if kind.is_char_device() => 'c',
                    () if kind.is_block_device() => 'b',
                    () if kind.is_fifo() => 'p',
                    () if kind.is_dir() => 'd',
                    () => '-',
                };
                let (major, minor) =
                    (rustix::fs::major(data.rdev()), rustix::fs::minor(data.rdev()));
                let mode = data.mode() & 0o7777;
                format!("{letter} {major}:{minor} {mode:o} {}:{}", data.uid(), data.gid())
            };
            found.insert(path.display().to_string(), json!(what));
        }
    }
    Value::Object(found)
}

/// `ok`, or the error's name.
fn outcome<T>(result: Result<T, impl Into<std::io::Error>>) -> String {
    let Err(error) = result else { return "ok".to_owned() };
    let number = error.into().raw_os_error().unwrap_or(0);
    format!("{:?}", nix::errno::Errno::from_raw(number))
}

fn opens(path: &str) -> String {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    outcome(rustix::fs::open(path, flags, Mode::empty()))
}

fn path_facts(path: &str) -> Value {
    let Ok(data) = fs::metadata(path) else { return Value::Null };
    let content = if data.is_dir() {
        match fs::read_dir(path) {
            // Whether there is anything says whether it is hidden; what there is may change.
            Ok(mut entries) => {
                if entries.next().is_none() { "empty" } else { "entries" }.to_owned()
            }
            Err(error) => outcome::<()>(Err(error)),
        }
    } else {
        let mut one = [0; 1];
        match fs::File::open(path).and_then(|mut file| file.read(&mut one)) {
            Ok(0) => "empty".to_owned(),
            Ok(_) => "bytes".to_owned(),
            Err(error) => outcome::<()>(Err(error)),
        }
    };
    let writable = outcome(accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS));
    json!({
        "content": content, "writable": writable, "owner": format!("{}:{}", data.uid(), data.gid()),
        "mode": if path.starts_with("/proc") || path.starts_with("/sys") { String::new() }
            else { format!("{:o}", data.mode() & 0o7777) },
    })
}

fn interfaces() -> Value {
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names: Vec<_> =
        table.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    // Only a loopback that is up has its own address in the local table.
    let local = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    json!({ "names": names, "loopback": local.contains("127.0.0.1") })
}

fn descriptors() -> Value {
    let mut open: Vec<u32> = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    open.sort_unstable();
    // The last is the one that reads the directory.
    open.pop();
    json!(open)
}

/// Calls that profiles and capabilities decide about.
fn tries() -> Value {
    let open = |family| outcome(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None));
    let raw =
        |family, protocol| outcome(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol));
    let file = "/tmp/.probe";
    let node = |kind, mode, device| {
        let made = rustix::fs::mknodat(CWD, file, kind, mode, device);
        let opened = match made {
            Ok(()) => opens(file),
            Err(error) => return format!("mknod {}", outcome::<()>(Err(error))),
        };
        let _ = fs::remove_file(file);
        format!("open {opened}")
    };
    let (character, read_write) =
        (rustix::fs::FileType::CharacterDevice, Mode::from_raw_mode(0o600));
    let made = fs::write(file, "x")
        .and_then(|()| Ok(rustix::fs::chmodat(CWD, file, read_write, AtFlags::empty())?));
    let owned = rustix::fs::chownat(
        CWD,
        file,
        Some(rustix::process::Uid::from_raw(12)),
        None,
        AtFlags::empty(),
    );
    let _ = fs::remove_file(file);
    let folder = outcome(rustix::fs::mkdirat(CWD, "/tmp/.folder", Mode::RWXU));
    let _ = fs::remove_dir("/tmp/.folder");
    json!({
        "unix": open(AddressFamily::Unix), "inet": open(AddressFamily::Inet),
        "inet6": open(AddressFamily::Inet6), "raw": raw(AddressFamily::Inet, Some(SockProtocol::Icmp)),
        "packet": open(AddressFamily::Packet), "netlink": raw(AddressFamily::Netlink, None),
        "write and chmod": outcome(made),
        "chown": outcome(owned), "mkdir": folder,
        "mem": node(character, read_write, rustix::fs::makedev(1, 1)),
        "null": node(character, read_write, rustix::fs::makedev(1, 3)),
        "loop": node(rustix::fs::FileType::BlockDevice, read_write, rustix::fs::makedev(7, 0)),
        "hostname": outcome(nix::unistd::sethostname("probe")),
        "priority": outcome(rustix::process::setpriority_process(None, -1)),
        "kill": outcome(nix::sys::signal::kill(nix::unistd::Pid::this(), None)),
        // Last, since it changes this process.
        "unshare": outcome(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS)),
        "unshare user": outcome(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)),
    })
}
