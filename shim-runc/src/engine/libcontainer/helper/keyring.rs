//! A session keyring for each container, which its execs join.
//!
//! Without it a container's processes would have the session keyring of the daemon, and could read its
//! keys and add others. runc names the keyring `_ses.ID`; every root process on the host can join it, or
//! make it before. Here a random number follows the id, the name is kept in the container's record, and
//! only processes of the container can see the keyring.
//!
//! Promise: init has a new keyring; an exec has init's. With NoNewKeyring the processes have the shim's. On
//! a kernel without keyrings there is none.
//! See keyctl(2), session-keyring(7).

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::super::wire::Failure;
use super::failure::failed;
use crate::sys;

/// The file in a container's record that has the name.
const FILE: &str = "keyring";

/// The longest name that is read back from a record; names written here are shorter.
const NAME_BYTES: usize = 256;

/// The possessor may do everything. The owner may find the keyring by its name, which an exec needs, but not
/// view it. (KEY_POS_ALL, KEY_USR_SEARCH)
const PERMISSIONS: u32 = 0x3f00_0000 | 0x0008_0000;

/// The name of a keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keyring(CString);

impl Keyring {
    /// Chooses the name for a new container.
    pub(super) fn new(id: &str) -> io::Result<Self> {
        let mut number = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut number)?;
        let name = format!("_ses.{id}.{:016x}", u64::from_ne_bytes(number));
        Ok(Self(CString::new(name)?))
    }

    /// Writes the name into the container's record.
    pub(super) fn keep(&self, record: &Path) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(record.join(FILE))?;
        file.write_all(self.0.as_bytes())
    }

    /// Reads the name from a container's record.
    pub(super) fn of(record: &Path) -> io::Result<Option<Self>> {
        match fs::read(record.join(FILE)) {
            Ok(name) if name.len() <= NAME_BYTES => Ok(Some(Self(CString::new(name)?))),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Joins the keyring, and makes it if it does not exist. Called by the process itself, as root of the
    /// container's user namespace: a name is valid in one user namespace.
    pub(super) fn join(&self) -> Result<(), Failure> {
        let join = || {
            let keyring = sys::keyring::join_session_keyring(&self.0)?;
            sys::keyring::set_key_permissions(keyring, PERMISSIONS)
        };
        match join() {
            Err(error) if error.raw_os_error() != Some(libc::ENOSYS) => {
                Err(failed(&format!("join the session keyring {:?}", self.0), &error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_from_the_record_and_never_the_same() {
        let record = tempfile::tempdir().unwrap();
        assert_eq!(Keyring::of(record.path()).unwrap(), None);
        let name = Keyring::new("c").unwrap();
        name.keep(record.path()).unwrap();
        assert_eq!(Keyring::of(record.path()).unwrap(), Some(name.clone()));
        assert_ne!(Keyring::new("c").unwrap(), name);
    }
}
