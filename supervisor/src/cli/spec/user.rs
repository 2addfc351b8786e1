//! The user and groups of a container's process, by the image's passwd and group files.
//!
//! The rules are containerd's. A name needs an entry. A number needs none; without one its group
//! is 0. The supplementary groups are those that list the user as a member, and the user's own group:
//! a process that drops it must not gain access (CVE-2022-36109).
//! The libcontainer helper has a parser of passwd too, which runs inside the container and looks for
//! a home directory only (`shim-runc/src/engine/libcontainer/helper/environment.rs`).

use std::path::Path;

use installer::layer::merged::Merged;
use oci_spec::runtime::User;

use super::SpecError;

/// The largest id that containerd takes for a number.
const MAX_ID: u32 = i32::MAX as u32;

/// The contents of the two files; a file that does not exist is empty.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

impl Accounts {
    /// No more than this is read of each file.
    pub(crate) const MAX_BYTES: u64 = 16 << 20;

    /// Reads them from an image's layers.
    pub(crate) fn of_image(merged: &mut Merged) -> Result<Self, SpecError> {
        let mut read = |path: &'static str| {
            let content = merged.read(Path::new(path), Self::MAX_BYTES);
            content
                .map(Option::unwrap_or_default)
                .map_err(|cause| SpecError::ReadAccounts { path, cause })
        };
        Ok(Self { passwd: read("etc/passwd")?, group: read("etc/group")? })
    }

    /// From their contents.
    pub(crate) fn new(passwd: Vec<u8>, group: Vec<u8>) -> Self {
        Self { passwd, group }
    }

    /// The user that `USER[:GROUP]` means; empty is root.
    pub(crate) fn user(&self, text: &str) -> Result<User, SpecError> {
        let (name, group) = match text.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (text, None),
        };
        if group.is_some_and(|group| group.is_empty() || group.contains(':'))
            || (name.is_empty() && !text.is_empty())
        {
            return Err(SpecError::BadUser { text: text.to_owned() });
        }
        let (uid, own_group, name) = if text.is_empty() {
            // Uid 0: its groups are looked up by its name in passwd, or by `root`.
            (0, 0, self.account(|account| account.uid == 0).map_or("root", |account| account.name))
        } else {
            match number(name) {
                Some(uid) => match self.account(|account| account.uid == uid) {
                    Some(account) => (uid, account.gid, account.name),
                    None => (uid, 0, ""),
                },
                None => {
                    let found = self.account(|account| account.name == name);
                    let found = found.ok_or_else(|| SpecError::NoSuchUser { name: name.into() })?;
                    (found.uid, found.gid, found.name)
                }
            }
        };
        let gid = match group {
            None => own_group,
            Some(group) => match number(group) {
                Some(gid) => gid,
                None => self
                    .groups()
                    .find(|(found, _, _)| *found == group)
                    .map(|(_, gid, _)| gid)
                    .ok_or_else(|| SpecError::NoSuchGroup { name: group.into() })?,
            },
        };
        let mut additional = vec![gid];
        if !name.is_empty() {
            for (group, other, mut members) in self.groups() {
                let member = group != name && members.any(|member| member == name);
                if member && !additional.contains(&other) {
                    additional.push(other);
                }
            }
        }
        let mut user = User::default();
        user.set_uid(uid).set_gid(gid).set_additional_gids(Some(additional));
        Ok(user)
    }

    fn account(&self, wanted: impl Fn(&Account<'_>) -> bool) -> Option<Account<'_>> {
        lines(&self.passwd)
            .filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                let uid = fields.nth(1)?.parse().ok()?;
                let gid = fields.next()?.parse().ok()?;
                Some(Account { name, uid, gid })
            })
            .find(wanted)
    }

    /// Name, number and members of each group.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, std::str::Split<'_, char>)> {
        lines(&self.group).filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or("").split(',')))
        })
    }
}

/// Lines that are UTF-8. Others are skipped.
fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::new(
            b"root:x:0:0:root:/root:/bin/sh\n# comment\n\nbroken\napp:x:1000:1000::/app:/bin/sh\n"
                .to_vec(),
            b"root:x:0:root\nwheel:x:10:root,app\nadm:x:4:other\napp:x:1000:app\nnobody:x:65534:\n\
              video:x:27:app\n"
                .to_vec(),
        )
    }

    /// uid, gid, supplementary groups.
    fn who(text: &str) -> (u32, u32, Vec<u32>) {
        let user = accounts().user(text).unwrap();
        (user.uid(), user.gid(), user.additional_gids().clone().unwrap())
    }

    #[test]
    fn names_and_numbers_lead_to_the_same_account() {
        assert_eq!(who("app"), (1000, 1000, vec![1000, 10, 27]));
        assert_eq!(who("1000"), who("app"));
        assert_eq!(who(""), (0, 0, vec![0, 10]));
        assert_eq!(who("root"), who(""));
    }

    #[test]
    fn a_group_may_be_named_or_numbered() {
        assert_eq!(who("app:wheel"), (1000, 10, vec![10, 27]));
        assert_eq!(who("app:4711").1, 4711);
        assert_eq!(who("0:nobody"), (0, 65534, vec![65534, 10]));
    }

    #[test]
    fn a_number_needs_no_entry_and_has_group_zero() {
        assert_eq!(who("4242"), (4242, 0, vec![0]));
        assert_eq!(who("4242:4343"), (4242, 4343, vec![4343]));
        let nothing = Accounts::default();
        assert_eq!(nothing.user("7:8").unwrap().gid(), 8);
        assert_eq!(nothing.user("").unwrap().uid(), 0);
    }

    #[test]
    fn unknown_names_and_malformed_users_are_refused_by_name() {
        let accounts = accounts();
        assert!(accounts.user("ghost").unwrap_err().to_string().contains("ghost"));
        assert!(accounts.user("app:ghosts").unwrap_err().to_string().contains("ghosts"));
        for text in [":", ":app", "app:", "a:b:c"] {
            assert!(accounts.user(text).is_err(), "{text}");
        }
        // A number above containerd's limit is a name, which has no entry.
        assert!(accounts.user("4294967295").is_err());
    }
}
