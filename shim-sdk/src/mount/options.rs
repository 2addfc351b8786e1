//! Splits fstab(5) options into the arguments of mount(2): flags, propagation, data.

use nix::mount::MsFlags;

/// A mount's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// Flags of the mount itself.
    pub(super) flags: MsFlags,
    /// A change of propagation, which needs a separate call.
    pub(super) propagation: MsFlags,
    /// The other options, which are the file system's own.
    pub(super) data: Vec<String>,
}

impl MountOptions {
    /// Parses options. Later ones win, as in mount(8).
    pub(super) fn parse(options: &[String]) -> Self {
        let mut parsed =
            Self { flags: MsFlags::empty(), propagation: MsFlags::empty(), data: Vec::new() };
        for option in options {
            let (set, clear, propagation) = match option.as_str() {
                "defaults" => (MsFlags::empty(), MsFlags::empty(), false),
                "ro" => (MsFlags::MS_RDONLY, MsFlags::empty(), false),
                "rw" => (MsFlags::empty(), MsFlags::MS_RDONLY, false),
                "bind" => (MsFlags::MS_BIND, MsFlags::empty(), false),
                "rbind" => (MsFlags::MS_BIND.union(MsFlags::MS_REC), MsFlags::empty(), false),
                "remount" => (MsFlags::MS_REMOUNT, MsFlags::empty(), false),
                "nosuid" => (MsFlags::MS_NOSUID, MsFlags::empty(), false),
                "suid" => (MsFlags::empty(), MsFlags::MS_NOSUID, false),
                "nodev" => (MsFlags::MS_NODEV, MsFlags::empty(), false),
                "dev" => (MsFlags::empty(), MsFlags::MS_NODEV, false),
                "noexec" => (MsFlags::MS_NOEXEC, MsFlags::empty(), false),
                "exec" => (MsFlags::empty(), MsFlags::MS_NOEXEC, false),
                "sync" => (MsFlags::MS_SYNCHRONOUS, MsFlags::empty(), false),
                "async" => (MsFlags::empty(), MsFlags::MS_SYNCHRONOUS, false),
                "dirsync" => (MsFlags::MS_DIRSYNC, MsFlags::empty(), false),
                "mand" => (MsFlags::MS_MANDLOCK, MsFlags::empty(), false),
                "nomand" => (MsFlags::empty(), MsFlags::MS_MANDLOCK, false),
                "noatime" => (MsFlags::MS_NOATIME, MsFlags::empty(), false),
                "atime" => (MsFlags::empty(), MsFlags::MS_NOATIME, false),
                "nodiratime" => (MsFlags::MS_NODIRATIME, MsFlags::empty(), false),
                "diratime" => (MsFlags::empty(), MsFlags::MS_NODIRATIME, false),
                "relatime" => (MsFlags::MS_RELATIME, MsFlags::empty(), false),
                "norelatime" => (MsFlags::empty(), MsFlags::MS_RELATIME, false),
                "strictatime" => (MsFlags::MS_STRICTATIME, MsFlags::empty(), false),
                "nostrictatime" => (MsFlags::empty(), MsFlags::MS_STRICTATIME, false),
                "private" => (MsFlags::MS_PRIVATE, MsFlags::empty(), true),
                "rprivate" => (MsFlags::MS_PRIVATE.union(MsFlags::MS_REC), MsFlags::empty(), true),
                "shared" => (MsFlags::MS_SHARED, MsFlags::empty(), true),
                "rshared" => (MsFlags::MS_SHARED.union(MsFlags::MS_REC), MsFlags::empty(), true),
                "slave" => (MsFlags::MS_SLAVE, MsFlags::empty(), true),
                "rslave" => (MsFlags::MS_SLAVE.union(MsFlags::MS_REC), MsFlags::empty(), true),
                "unbindable" => (MsFlags::MS_UNBINDABLE, MsFlags::empty(), true),
                "runbindable" => {
                    (MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC), MsFlags::empty(), true)
                }
                // Comments for user space, see mount(8); the kernel would refuse them.
                note if note.starts_with("X-") || note.starts_with("x-") => continue,
                data => {
                    parsed.data.push(data.to_owned());
                    continue;
                }
            };
            if propagation {
                parsed.propagation = set;
            } else {
                parsed.flags.insert(set);
                parsed.flags.remove(clear);
            }
        }
        parsed
    }

    /// The flags of a bind mount that only a remount can set.
    pub(super) fn bind_remount(&self) -> Option<MsFlags> {
        let wanted = self.flags.difference(MsFlags::MS_BIND.union(MsFlags::MS_REC));
        let bound = self.flags.contains(MsFlags::MS_BIND)
            && !self.flags.contains(MsFlags::MS_REMOUNT)
            && !wanted.is_empty();
        bound.then(|| wanted.union(MsFlags::MS_BIND).union(MsFlags::MS_REMOUNT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        MountOptions::parse(&options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_flags_propagation_or_data() {
        let parsed = parse(&["rbind", "ro", "rslave", "lowerdir=/a:/b", "X-note", "mode=0755"]);
        assert_eq!(parsed.flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_RDONLY);
        assert_eq!(parsed.propagation, MsFlags::MS_SLAVE | MsFlags::MS_REC);
        assert_eq!(parsed.data, ["lowerdir=/a:/b", "mode=0755"]);
    }

    #[test]
    fn a_read_only_bind_mount_needs_a_remount() {
        let remount = parse(&["bind", "ro"]).bind_remount().expect("needed");
        assert!(remount.contains(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY));
        assert_eq!(parse(&["rbind", "rw"]).bind_remount(), None);
        assert_eq!(parse(&["ro"]).bind_remount(), None);
    }

    #[test]
    fn later_options_win() {
        assert!(!parse(&["ro", "rw"]).flags.contains(MsFlags::MS_RDONLY));
    }
}
