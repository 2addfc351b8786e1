//! Seccomp profiles as programs: compiled once for each profile and boot, loaded for each process.
//!
//! libseccomp takes about 5 ms to compile containerd's default profile, which is half of what a
//! container costs; loading the program takes a tenth of that. So programs are kept beside the
//! containers' records, which are on a file system that does not outlive the host.
//!
//! Promise: a program is used only for the profile that it was compiled from, and only if no other user can
//! have written it. If the file is damaged or of another user, the profile is compiled again.
//! See seccomp(2), seccomp_export_bpf(3).

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator,
};
use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
    ScmpVersion,
};
use rustix::fs::MemfdFlags;

use super::super::wire::{Failure, Reason};
use super::failure::failed;
use crate::sys;

/// The directory of kept programs, beside the containers' records; no container can have the name.
const DIRECTORY: &str = ".seccomp";

/// The greatest number of programs that are kept.
const KEPT: usize = 64;

/// The largest file that is read: a profile and its program.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
const WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// One instruction of a program.
const INSTRUCTION_BYTES: usize = 8;

/// A program that the kernel can load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeccompProgram {
    code: Vec<u8>,
    flags: u64,
}

impl SeccompProgram {
    /// The program of a profile, compiled unless it is kept below `root`.
    pub(super) fn of(root: &Path, profile: &LinuxSeccomp) -> Result<Self, Failure> {
        check_listener(profile)?;
        let flags = flags(profile);
        let origin = origin(profile)?;
        let path = path(root, &origin);
        if let Some(code) = kept(&path, &origin) {
            return Ok(Self { code, flags });
        }
        let code = compile(profile)?;
        // Harmless if it fails: the next container compiles the profile again.
        let _ = keep(&path, &origin, &code);
        Ok(Self { code, flags })
    }

    /// Whether the profile has a listener (SCMP_ACT_NOTIFY).
    pub(super) fn notifies(&self) -> bool {
        self.flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
    }

    /// Loads the program into the calling process. Returns the descriptor of the notifications.
    pub(super) fn load(&self) -> Result<Option<OwnedFd>, Failure> {
        sys::seccomp::set_seccomp_filter(&self.code, self.flags)
            .map_err(|error| failed("load seccomp profile", &error))
    }
}

/// Everything that the program depends on. It is kept with the program and compared byte by byte.
fn origin(profile: &LinuxSeccomp) -> Result<Vec<u8>, Failure> {
    let version = ScmpVersion::current().map_err(|error| invalid("libseccomp", &error))?;
    let mut origin = format!("shim seccomp 1, libseccomp {version}\n").into_bytes();
    serde_json::to_writer(&mut origin, profile)
        .map_err(|error| Failure::new(Reason::InvalidRequest, format!("seccomp: {error}")))?;
    origin.push(b'\n');
    Ok(origin)
}

fn path(root: &Path, origin: &[u8]) -> PathBuf {
    // The name is a hash only; the content of the file decides.
    let mut hasher = DefaultHasher::new();
    origin.hash(&mut hasher);
    root.join(DIRECTORY).join(format!("{:016x}", hasher.finish()))
}

fn kept(path: &Path, origin: &[u8]) -> Option<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let ours = metadata.is_file()
        && metadata.uid() == rustix::process::geteuid().as_raw()
        && metadata.mode() & 0o077 == 0;
    if !ours {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES).read_to_end(&mut bytes).ok()?;
    let code = bytes.strip_prefix(origin)?;
    let whole = !code.is_empty() && code.len() % INSTRUCTION_BYTES == 0;
    whole.then(|| code.to_vec())
}

fn keep(path: &Path, origin: &[u8], code: &[u8]) -> io::Result<()> {
    let Some(directory) = path.parent() else { return Ok(()) };
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if fs::read_dir(directory)?.count() >= KEPT {
        for entry in fs::read_dir(directory)? {
            let _ = fs::remove_file(entry?.path());
        }
    }
    let draft = path.with_extension(format!("{}", std::process::id()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file
        .write_all(origin)
        .and_then(|()| file.write_all(code))
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

fn compile(profile: &LinuxSeccomp) -> Result<Vec<u8>, Failure> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut filter =
        ScmpFilterContext::new(default).map_err(|error| invalid("defaultAction", &error))?;
    // A tree instead of a list: the kernel tries the program on every call when it is loaded.
    // Older libseccomp makes the list.
    let _ = filter.set_ctl_optimize(2);
    for named in profile.architectures().iter().flatten() {
        filter
            .add_arch(architecture(*named))
            .map_err(|error| invalid(&format!("architecture {named:?}"), &error))?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            continue;
        }
        for name in rule.names() {
            // A call that this libseccomp does not know keeps the default, as with runc.
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            add(&mut filter, action, call, rule.args().as_deref().unwrap_or_default())
                .map_err(|error| invalid(&format!("rule for {name}"), &error))?;
        }
    }
    export(&filter)
}

/// Adds one rule. libseccomp compares each argument once in a rule; where a profile compares one
/// twice, each comparison is a rule of its own, as runc has it.
fn add(
    filter: &mut ScmpFilterContext,
    action: ScmpAction,
    call: ScmpSyscall,
    arguments: &[LinuxSeccompArg],
) -> Result<(), SeccompError> {
    if arguments.is_empty() {
        return filter.add_rule(action, call).map(drop);
    }
    let comparisons: Vec<_> = arguments
        .iter()
        .map(|argument| {
            // An index beyond the sixth argument is libseccomp's to refuse.
            let index = u32::try_from(argument.index()).unwrap_or(u32::MAX);
            let (operator, value) = comparison(argument);
            ScmpArgCompare::new(index, operator, value)
        })
        .collect();
    let twice = arguments
        .iter()
        .enumerate()
        .any(|(at, one)| arguments[..at].iter().any(|other| other.index() == one.index()));
    if twice {
        comparisons
            .iter()
            .try_for_each(|one| filter.add_rule_conditional(action, call, &[*one]).map(drop))
    } else {
        filter.add_rule_conditional(action, call, &comparisons).map(drop)
    }
}

fn comparison(argument: &LinuxSeccompArg) -> (ScmpCompareOp, u64) {
    let value = argument.value();
    match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        // `value` is the mask and `valueTwo` what is compared with, as runc has it. libcontainer
        // has them the other way round, by which the default profile's rule for clone(2), a mask
        // of namespace flags compared with 0, allows every flag.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(value), argument.value_two().unwrap_or(0))
        }
    }
}

fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: io::Error| failed("export a program", &error);
    let mut file = rustix::fs::memfd_create("seccomp", MemfdFlags::CLOEXEC)
        .map(File::from)
        .map_err(|error| unreadable(error.into()))?;
    filter.export_bpf(&file).map_err(|error| invalid("export", &error))?;
    let mut code = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut code)).map_err(unreadable)?;
    Ok(code)
}

fn action(named: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Failure> {
    let errno = errno.unwrap_or(libc::EPERM.unsigned_abs());
    let too_large = |_| {
        Failure::new(Reason::InvalidRequest, format!("seccomp: errnoRet {errno} is out of range"))
    };
    Ok(match named {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => {
            ScmpAction::Errno(i32::try_from(errno).map_err(too_large)?)
        }
        LinuxSeccompAction::ScmpActTrace => {
            ScmpAction::Trace(u16::try_from(errno).map_err(too_large)?)
        }
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
    })
}

fn architecture(named: Arch) -> ScmpArch {
    match named {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

/// The flags of seccomp(2) that the profile asks for.
fn flags(profile: &LinuxSeccomp) -> u64 {
    let asked = profile
        .flags()
        .iter()
        .flatten()
        .map(|flag| match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
                libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
            }
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
        })
        .fold(0, |flags, flag| flags | flag);
    if libcontainer::seccomp::is_notify(profile) {
        // The kernel refuses both flags together: the answer would be the listener's descriptor, or a
        // thread that could not be reached. A process that is being made has one thread, so TSYNC is
        // not needed.
        return asked & !libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    }
    // The flag of a listener.
    asked & !WAIT_KILLABLE_RECV
}

/// Refuses a profile that asks the listener about write(2), or about every call that it does not name:
/// under it the process hands the listener's descriptor over, and writes its report.
fn check_listener(profile: &LinuxSeccomp) -> Result<(), Failure> {
    let refused = |what: &str| {
        let text = format!("seccomp: SCMP_ACT_NOTIFY cannot be used {what}");
        Err(Failure::new(Reason::InvalidRequest, text))
    };
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return refused("as default action");
    }
    let mut rules = profile.syscalls().iter().flatten();
    let for_write = rules.any(|rule| {
        rule.action() == LinuxSeccompAction::ScmpActNotify
            && rule.names().iter().any(|name| name == "write")
    });
    if for_write { refused("for the write syscall") } else { Ok(()) }
}

fn invalid(what: &str, error: &SeccompError) -> Failure {
    Failure::new(Reason::InvalidRequest, format!("seccomp: {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn profile(value: serde_json::Value) -> LinuxSeccomp {
        serde_json::from_value(value).unwrap()
    }

    fn sample() -> LinuxSeccomp {
        profile(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["umask", "no_such_call"], "action": "SCMP_ACT_ERRNO"}],
        }))
    }

    fn only(root: &Path) -> PathBuf {
        let mut entries = fs::read_dir(root.join(DIRECTORY)).unwrap();
        let one = entries.next().unwrap().unwrap().path();
        assert!(entries.next().is_none());
        one
    }

    #[test]
    fn a_program_is_kept_and_used_again() {
        let root = tempfile::tempdir().unwrap();
        let compiled = SeccompProgram::of(root.path(), &sample()).unwrap();
        let file = only(root.path());
        let written = fs::metadata(&file).unwrap().mtime_nsec();
        assert_eq!(SeccompProgram::of(root.path(), &sample()).unwrap(), compiled);
        assert_eq!(fs::metadata(file).unwrap().mtime_nsec(), written);
    }

    #[test]
    fn a_kept_program_of_another_profile_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        SeccompProgram::of(root.path(), &sample()).unwrap();
        let other = profile(json!({"defaultAction": "SCMP_ACT_LOG"}));
        let compiled = compile(&other).unwrap();
        // As if both had the same name.
        fs::rename(only(root.path()), path(root.path(), &origin(&other).unwrap())).unwrap();
        assert_eq!(SeccompProgram::of(root.path(), &other).unwrap().code, compiled);
    }

    #[test]
    fn a_program_that_others_can_write_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let compiled = SeccompProgram::of(root.path(), &sample()).unwrap();
        let file = only(root.path());
        let mut forged = origin(&sample()).unwrap();
        forged.extend_from_slice(&[6, 0, 0, 0, 0, 0, 255, 127]); // allow everything
        fs::write(&file, forged).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(SeccompProgram::of(root.path(), &sample()).unwrap(), compiled);
    }

    #[test]
    fn a_truncated_program_is_compiled_anew() {
        let root = tempfile::tempdir().unwrap();
        let compiled = SeccompProgram::of(root.path(), &sample()).unwrap();
        let file = only(root.path());
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 3]).unwrap();
        assert_eq!(SeccompProgram::of(root.path(), &sample()).unwrap(), compiled);
    }

    #[test]
    fn a_profile_that_compares_one_argument_twice_compiles() {
        let twice = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{
                "names": ["personality"], "action": "SCMP_ACT_ALLOW",
                "args": [
                    {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"},
                    {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"},
                ],
            }],
        });
        assert!(!compile(&profile(twice)).unwrap().is_empty());
    }

    #[test]
    fn an_errno_out_of_range_is_refused() {
        let profile = profile(json!({"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 70000}));
        let failure = compile(&profile).unwrap_err();
        assert_eq!(failure.message, "seccomp: errnoRet 70000 is out of range");
    }

    /// What a program answers to a call on x86_64: classic BPF as the kernel runs it.
    #[cfg(target_arch = "x86_64")]
    fn answer(code: &[u8], number: u32, first: u64) -> u32 {
        let mut data = [0u8; 64];
        data[..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&0xc000_003e_u32.to_ne_bytes());
        data[16..24].copy_from_slice(&first.to_ne_bytes());
        let word = |at: usize, from: &[u8]| {
            u32::from_ne_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]])
        };
        let (mut at, mut a) = (0, 0);
        loop {
            let one = &code[at * 8..at * 8 + 8];
            let (op, jump_true, jump_false, k) =
                (u16::from_ne_bytes([one[0], one[1]]), one[2], one[3], word(4, one));
            at += 1;
            let mut jump = |yes: bool| at += usize::from(if yes { jump_true } else { jump_false });
            match op {
                0x20 => a = word(k as usize, &data),
                0x54 => a &= k,
                0x05 => at += k as usize,
                0x15 => jump(a == k),
                0x25 => jump(a > k),
                0x35 => jump(a >= k),
                0x45 => jump(a & k != 0),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_default_profiles_rule_for_clone_refuses_namespaces() {
        let code = compile(&profile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {
                    "names": ["clone"], "action": "SCMP_ACT_ALLOW",
                    "args": [{
                        "index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ",
                    }],
                },
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            ],
        })))
        .unwrap();
        let (allow, errno) = (0x7fff_0000, 0x0005_0000);
        assert_eq!(answer(&code, libc::SYS_read as u32, 0), allow);
        let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::SIGCHLD) as u64;
        assert_eq!(answer(&code, libc::SYS_clone as u32, thread), allow);
        let namespace = (libc::CLONE_NEWUSER | libc::SIGCHLD) as u64;
        assert_eq!(answer(&code, libc::SYS_clone as u32, namespace), errno | 1);
        assert_eq!(answer(&code, libc::SYS_clone3 as u32, 0), errno | 38);
        assert_eq!(answer(&code, libc::SYS_mount as u32, 0), errno | 1);
    }
}
