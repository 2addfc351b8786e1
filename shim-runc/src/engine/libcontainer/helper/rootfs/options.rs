//! The options of a mount.
//!
//! Promise: the last of contradictory options counts. An option that is not of the mount itself is passed
//! to the file system, which refuses unknown options.
//! Not here: applying them (`mounts`).
//! See the OCI runtime specification, config.md, "Linux mount options"; mount_setattr(2).

use libcontainer::oci_spec::runtime::Mount;
use nix::mount::MsFlags;
use rustix::mount::MountAttrFlags as Attributes;

/// Attributes to set and to clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) set: Attributes,
    pub(super) clear: Attributes,
}

/// The options of a mount.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct MountOptions {
    pub(super) bind: bool,
    /// A bind includes the mounts below its source.
    pub(super) recursive: bool,
    pub(super) copy_up: bool,
    /// Ids are mapped, which this engine does not support.
    pub(super) mapped: bool,
    /// The attributes of the mount alone.
    pub(super) change: Change,
    /// The attributes of the mount and the mounts below it.
    pub(super) change_all: Change,
    /// The propagation, with MS_REC if it includes the mounts below.
    pub(super) propagation: Vec<MsFlags>,
    /// Flags of every file system.
    pub(super) superblock: Vec<&'static str>,
    /// Options of this kind of file system.
    pub(super) data: Vec<String>,
}

impl Default for Change {
    fn default() -> Self {
        Self { set: Attributes::empty(), clear: Attributes::empty() }
    }
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.clear.is_empty()
    }

    pub(super) const READ_ONLY: Self =
        Self { set: Attributes::MOUNT_ATTR_RDONLY, clear: Attributes::empty() };

    fn apply(&mut self, attribute: Attribute) {
        match attribute {
            Attribute::On(flag) => {
                self.set.insert(flag);
                self.clear.remove(flag);
            }
            Attribute::Off(flag) => {
                self.set.remove(flag);
                self.clear.insert(flag);
            }
            // The access-time mode is a number in three bits.
            Attribute::AccessTime(kind) => {
                self.set.remove(Attributes::MOUNT_ATTR__ATIME);
                self.set.insert(kind);
                self.clear.insert(Attributes::MOUNT_ATTR__ATIME);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Attribute {
    On(Attributes),
    Off(Attributes),
    AccessTime(Attributes),
}

impl MountOptions {
    pub(super) fn of(mount: &Mount) -> Self {
        let mut options = Self { bind: mount.typ().as_deref() == Some("bind"), ..Self::default() };
        for option in mount.options().iter().flatten() {
            options.add(option);
        }
        options
    }

    fn add(&mut self, option: &str) {
        if let Some(attribute) = attribute(option) {
            self.change.apply(attribute);
        } else if let Some(attribute) = option.strip_prefix('r').and_then(attribute) {
            self.change_all.apply(attribute);
        } else if let Some(kind) = propagation(option) {
            self.propagation.push(kind);
        } else {
            self.add_other(option);
        }
    }

    fn add_other(&mut self, option: &str) {
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "tmpcopyup" => self.copy_up = true,
            "sync" => self.superblock.push("sync"),
            "async" => self.superblock.retain(|flag| *flag != "sync"),
            "dirsync" => self.superblock.push("dirsync"),
            "lazytime" => self.superblock.push("lazytime"),
            "nolazytime" => self.superblock.retain(|flag| *flag != "lazytime"),
            "mand" => self.superblock.push("mand"),
            "nomand" => self.superblock.retain(|flag| *flag != "mand"),
            "idmap" | "ridmap" => self.mapped = true,
            // Options of mount(8), or without a meaning for a new mount.
            "" | "defaults" | "remount" | "silent" | "loud" | "iversion" | "noiversion" => {}
            other => self.data.push(other.to_owned()),
        }
    }

    /// Whether an option of the file system is given.
    pub(super) fn gives(&self, key: &str) -> bool {
        self.data.iter().any(|option| option.split('=').next() == Some(key))
    }
}

fn attribute(option: &str) -> Option<Attribute> {
    use Attribute::{AccessTime, Off, On};
    Some(match option {
        "ro" => On(Attributes::MOUNT_ATTR_RDONLY),
        "rw" => Off(Attributes::MOUNT_ATTR_RDONLY),
        "nosuid" => On(Attributes::MOUNT_ATTR_NOSUID),
        "suid" => Off(Attributes::MOUNT_ATTR_NOSUID),
        "nodev" => On(Attributes::MOUNT_ATTR_NODEV),
        "dev" => Off(Attributes::MOUNT_ATTR_NODEV),
        "noexec" => On(Attributes::MOUNT_ATTR_NOEXEC),
        "exec" => Off(Attributes::MOUNT_ATTR_NOEXEC),
        "nosymfollow" => On(Attributes::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => Off(Attributes::MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => On(Attributes::MOUNT_ATTR_NODIRATIME),
        "diratime" => Off(Attributes::MOUNT_ATTR_NODIRATIME),
        "noatime" => AccessTime(Attributes::MOUNT_ATTR_NOATIME),
        "strictatime" => AccessTime(Attributes::MOUNT_ATTR_STRICTATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => {
            AccessTime(Attributes::MOUNT_ATTR_RELATIME)
        }
        _ => return None,
    })
}

fn propagation(option: &str) -> Option<MsFlags> {
    let (name, below) = match option.strip_prefix('r') {
        Some(name) => (name, MsFlags::MS_REC),
        None => (option, MsFlags::empty()),
    };
    let kind = match name {
        "private" => MsFlags::MS_PRIVATE,
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return None,
    };
    Some(kind | below)
}

#[cfg(test)]
mod tests {
    use libcontainer::oci_spec::runtime::MountBuilder;

    use super::*;

    fn options(list: &[&str]) -> MountOptions {
        let list: Vec<_> = list.iter().map(|option| (*option).to_owned()).collect();
        let mount = MountBuilder::default().destination("/mnt").typ("tmpfs").options(list);
        MountOptions::of(&mount.build().unwrap())
    }

    #[test]
    fn the_last_of_options_that_contradict_each_other_holds() {
        let found = options(&["ro", "noexec", "rw", "exec", "noatime", "strictatime"]);
        assert_eq!(found.change.set, Attributes::MOUNT_ATTR_STRICTATIME);
        let cleared = Attributes::MOUNT_ATTR_RDONLY
            | Attributes::MOUNT_ATTR_NOEXEC
            | Attributes::MOUNT_ATTR__ATIME;
        assert_eq!(found.change.clear, cleared);
    }

    #[test]
    fn a_letter_tells_the_mount_from_all_below_it() {
        let found = options(&["ro", "rnosuid", "relatime", "rshared", "private"]);
        assert_eq!(found.change.set, Attributes::MOUNT_ATTR_RDONLY);
        assert_eq!(found.change_all.set, Attributes::MOUNT_ATTR_NOSUID);
        let shared = MsFlags::MS_SHARED | MsFlags::MS_REC;
        assert_eq!(found.propagation, [shared, MsFlags::MS_PRIVATE]);
    }

    #[test]
    fn what_is_not_the_mounts_own_is_the_file_systems() {
        let found = options(&["mode=755", "newinstance", "bind", "sync", "dirsync", "async", ""]);
        assert_eq!(found.data, ["mode=755", "newinstance"]);
        assert_eq!(found.superblock, ["dirsync"]);
        assert!(found.bind && !found.recursive && found.gives("mode") && !found.gives("mod"));
    }
}
