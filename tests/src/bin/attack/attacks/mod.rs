//! The attacks, one file for each kind of attacker.

mod archive;
mod cgroup;
mod client;
mod descriptor;
mod disk;
mod host;
mod local;
mod pod;
mod rootfs;

use crate::attack::Attack;

/// All of them; those that may take long begin first.
pub(crate) fn all() -> Vec<Attack> {
    let mut all: Vec<Attack> = [
        descriptor::attacks(),
        rootfs::attacks(),
        host::attacks(),
        cgroup::attacks(),
        pod::attacks(),
        local::attacks(),
        archive::attacks(),
        disk::attacks(),
        client::attacks(),
    ]
    .concat();
    all.sort_by_key(|attack| std::cmp::Reverse(attack.limit));
    all
}
