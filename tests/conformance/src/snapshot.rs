//! The promises of a snapshotter.

use std::fs;
use std::path::Path;

use shim_sdk::mount::{mount_all, unmount};
use shim_sdk::{Kind as ErrorKind, Mount};

use crate::{Labels, Result, labels, refused};

/// Snapshots of file systems, in one namespace.
///
/// An *active* snapshot can be changed through its mounts and has a *key*. A *view* has a key and
/// is read only. A *committed* snapshot has a *name*, never changes, and can be a *parent*. Keys and
/// names are one set.
#[allow(async_fn_in_trait)] // the cases are generic, and need no bounds on the futures
pub trait Snapshotter {
    /// Makes an active snapshot; an empty parent means none.
    async fn prepare(&self, key: &str, parent: &str, labels: &Labels) -> Result<Vec<Mount>>;

    /// Makes a view.
    async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>>;

    /// How to mount an active snapshot or a view.
    async fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Makes an active snapshot a committed one, which has these labels.
    async fn commit(&self, name: &str, key: &str, labels: &Labels) -> Result<()>;

    /// What is known about a snapshot.
    async fn stat(&self, key: &str) -> Result<Info>;

    /// Changes the labels that the field paths name (`labels`, `labels.NAME`); all without paths.
    async fn update(&self, key: &str, labels: &Labels, paths: &[&str]) -> Result<Info>;

    /// Removes a snapshot that has no children.
    async fn remove(&self, key: &str) -> Result<()>;

    /// The snapshots that pass the filters, in any order.
    async fn list(&self, filters: &[&str]) -> Result<Vec<Info>>;

    /// What a snapshot takes up without its parents.
    async fn usage(&self, key: &str) -> Result<Usage>;
}

/// What is known about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its key, or its name once it is committed.
    pub name: String,
    /// Its parent's name; empty without one.
    pub parent: String,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: Labels,
}

/// What a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Read only.
    View,
    /// Being changed.
    Active,
    /// Never changes.
    Committed,
}

/// What a snapshot takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes.
    pub size: u64,
    /// Files, directories among them.
    pub inodes: u64,
}

const NONE: &Labels = &Labels::new();

/// Mounts a snapshot at a temporary place, and looks at it or changes it there.
#[track_caller]
fn mounted<T>(mounts: &[Mount], then: impl FnOnce(&Path) -> T) -> T {
    struct At(tempfile::TempDir);
    impl Drop for At {
        fn drop(&mut self) {
            unmount(self.0.path()).expect("unmount the snapshot");
        }
    }
    let folder = tempfile::tempdir().expect("make a directory");
    mount_all(mounts, folder.path()).expect("mount the snapshot");
    let at = At(folder);
    then(at.0.path())
}

/// Makes a committed snapshot, with what `fill` does to its files.
async fn layer(snapshots: &impl Snapshotter, name: &str, parent: &str, fill: impl FnOnce(&Path)) {
    let key = format!("{name} in work");
    let mounts = snapshots.prepare(&key, parent, NONE).await.expect("prepare");
    mounted(&mounts, fill);
    snapshots.commit(name, &key, NONE).await.expect("commit");
}

async fn empty(snapshots: &impl Snapshotter, name: &str, parent: &str) {
    layer(snapshots, name, parent, |_| ()).await;
}

fn write(path: &Path, name: &str, text: &str) {
    fs::write(path.join(name), text).unwrap_or_else(|cause| panic!("write {name}: {cause}"));
}

fn read(path: &Path, name: &str) -> Option<String> {
    fs::read_to_string(path.join(name)).ok()
}

/// Every file of a chain of three is there, the newest of each name.
pub async fn a_child_shows_the_files_of_its_parents(snapshots: &impl Snapshotter) {
    layer(snapshots, "one", "", |root| {
        write(root, "a", "1");
        write(root, "b", "1");
    })
    .await;
    layer(snapshots, "two", "one", |root| write(root, "b", "2")).await;
    let mounts = snapshots.prepare("three", "two", NONE).await.expect("prepare");
    mounted(&mounts, |root| {
        write(root, "c", "3");
        assert_eq!(read(root, "a").as_deref(), Some("1"));
        assert_eq!(read(root, "b").as_deref(), Some("2"));
    });
    // What was written is there again at the next mount.
    mounted(&mounts, |root| assert_eq!(read(root, "c").as_deref(), Some("3")));
}

/// The removal of a parent's file is part of a snapshot.
pub async fn a_removed_file_stays_removed_in_children(snapshots: &impl Snapshotter) {
    layer(snapshots, "one", "", |root| {
        write(root, "a", "1");
        write(root, "b", "1");
    })
    .await;
    layer(snapshots, "two", "one", |root| fs::remove_file(root.join("a")).expect("remove")).await;
    let mounts = snapshots.view("look", "two").await.expect("view");
    mounted(&mounts, |root| {
        assert_eq!(read(root, "a"), None);
        assert_eq!(read(root, "b").as_deref(), Some("1"));
    });
}

/// A directory that was removed and made again is empty.
pub async fn a_replaced_directory_does_not_show_its_parents_files(snapshots: &impl Snapshotter) {
    layer(snapshots, "one", "", |root| {
        fs::create_dir(root.join("d")).expect("mkdir");
        write(root, "d/old", "1");
    })
    .await;
    layer(snapshots, "two", "one", |root| {
        fs::remove_dir_all(root.join("d")).expect("remove");
        fs::create_dir(root.join("d")).expect("mkdir");
        write(root, "d/new", "2");
    })
    .await;
    let mounts = snapshots.view("look", "two").await.expect("view");
    mounted(&mounts, |root| {
        assert_eq!((read(root, "d/old"), read(root, "d/new").as_deref()), (None, Some("2")));
    });
}

/// A child's changes are the child's alone.
pub async fn a_committed_snapshot_does_not_change_with_its_children(snapshots: &impl Snapshotter) {
    layer(snapshots, "one", "", |root| write(root, "a", "1")).await;
    let mounts = snapshots.prepare("child", "one", NONE).await.expect("prepare");
    mounted(&mounts, |root| {
        write(root, "a", "changed");
        write(root, "new", "2");
    });
    let mounts = snapshots.view("look", "one").await.expect("view");
    mounted(&mounts, |root| {
        assert_eq!((read(root, "a").as_deref(), read(root, "new")), (Some("1"), None));
    });
}

/// A view cannot be written to, whether it has one layer or more.
pub async fn a_view_is_read_only(snapshots: &impl Snapshotter) {
    layer(snapshots, "one", "", |root| write(root, "a", "1")).await;
    empty(snapshots, "two", "one").await;
    for (key, parent) in [("first", "one"), ("second", "two")] {
        let mounts = snapshots.view(key, parent).await.expect("view");
        mounted(&mounts, |root| {
            assert_eq!(read(root, "a").as_deref(), Some("1"));
            let cause = fs::write(root.join("b"), "2").expect_err("a view is read only");
            assert_eq!(cause.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        });
        assert_eq!(snapshots.stat(key).await.expect("stat").kind, Kind::View);
    }
}

/// Two active snapshots of one parent are apart.
pub async fn two_children_of_one_parent_do_not_see_each_other(snapshots: &impl Snapshotter) {
    empty(snapshots, "one", "").await;
    let a = snapshots.prepare("a", "one", NONE).await.expect("prepare");
    let b = snapshots.prepare("b", "one", NONE).await.expect("prepare");
    mounted(&a, |root| write(root, "f", "a"));
    mounted(&b, |root| assert_eq!(read(root, "f"), None));
}

/// A key is taken by an active snapshot and by a view, and a name by a committed one.
pub async fn a_key_is_used_once(snapshots: &impl Snapshotter) {
    empty(snapshots, "one", "").await;
    snapshots.prepare("key", "one", NONE).await.expect("prepare");
    snapshots.view("view", "one").await.expect("view");
    for taken in ["one", "key", "view"] {
        refused(snapshots.prepare(taken, "one", NONE).await, ErrorKind::AlreadyExists);
        refused(snapshots.view(taken, "one").await, ErrorKind::AlreadyExists);
    }
    assert_eq!(snapshots.list(&[]).await.expect("list").len(), 3);
}

/// A commit to a name that is taken is refused; nothing is lost.
pub async fn a_name_is_used_once_and_the_key_stays_active(snapshots: &impl Snapshotter) {
    empty(snapshots, "one", "").await;
    let mounts = snapshots.prepare("key", "one", NONE).await.expect("prepare");
    mounted(&mounts, |root| write(root, "f", "kept"));
    refused(snapshots.commit("one", "key", NONE).await, ErrorKind::AlreadyExists);
    assert_eq!(snapshots.stat("key").await.expect("stat").kind, Kind::Active);
    mounted(&mounts, |root| assert_eq!(read(root, "f").as_deref(), Some("kept")));
    snapshots.commit("two", "key", NONE).await.expect("a free name");
}

/// After a commit the name is there and the key is not; the key can be used again.
pub async fn a_commit_renames_the_key(snapshots: &impl Snapshotter) {
    snapshots.prepare("key", "", NONE).await.expect("prepare");
    snapshots.commit("name", "key", NONE).await.expect("commit");
    refused(snapshots.stat("key").await, ErrorKind::NotFound);
    refused(snapshots.mounts("key").await, ErrorKind::NotFound);
    let info = snapshots.stat("name").await.expect("stat");
    assert_eq!((info.kind, info.parent.as_str()), (Kind::Committed, ""));
    snapshots.prepare("key", "name", NONE).await.expect("the key again");
    let info = snapshots.stat("key").await.expect("stat");
    assert_eq!((info.kind, info.parent.as_str()), (Kind::Active, "name"));
}

/// Views and committed snapshots cannot be committed.
pub async fn only_an_active_snapshot_can_be_committed(snapshots: &impl Snapshotter) {
    empty(snapshots, "one", "").await;
    snapshots.view("view", "one").await.expect("view");
    refused(snapshots.commit("x", "view", NONE).await, ErrorKind::FailedPrecondition);
    refused(snapshots.commit("x", "one", NONE).await, ErrorKind::FailedPrecondition);
    refused(snapshots.commit("x", "absent", NONE).await, ErrorKind::NotFound);
    refused(snapshots.stat("x").await, ErrorKind::NotFound);
}

/// A snapshot that can change is no parent.
pub async fn a_parent_must_be_committed(snapshots: &impl Snapshotter) {
    empty(snapshots, "one", "").await;
    snapshots.prepare("active", "one", NONE).await.expect("prepare");
    snapshots.view("view", "one").await.expect("view");
    for parent in ["active", "view"] {
        refused(snapshots.prepare("x", parent, NONE).await, ErrorKind::InvalidArgument);
        refused(snapshots.view("x", parent).await, ErrorKind::InvalidArgument);
    }
    refused(snapshots.prepare("x", "absent", NONE).await, ErrorKind::NotFound);
    refused(snapshots.stat("x").await, ErrorKind::NotFound);
}

/// A parent stays as long as it has a child of any kind.
pub async fn a_snapshot_with_children_is_not_removed(snapshots: &impl Snapshotter) {
    layer(snapshots, "one", "", |root| write(root, "a", "1")).await;
    empty(snapshots, "two", "one").await;
    snapshots.view("view", "two").await.expect("view");
    refused(snapshots.remove("one").await, ErrorKind::FailedPrecondition);
    refused(snapshots.remove("two").await, ErrorKind::FailedPrecondition);
    let mounts = snapshots.mounts("view").await.expect("mounts");
    mounted(&mounts, |root| assert_eq!(read(root, "a").as_deref(), Some("1")));
    for next in ["view", "two", "one"] {
        snapshots.remove(next).await.expect("it has no children now");
    }
    assert!(snapshots.list(&[]).await.expect("list").is_empty());
}

/// Every request for a snapshot that does not exist is NOT_FOUND.
pub async fn what_is_not_there_is_not_found(snapshots: &impl Snapshotter) {
    refused(snapshots.stat("absent").await, ErrorKind::NotFound);
    refused(snapshots.mounts("absent").await, ErrorKind::NotFound);
    refused(snapshots.usage("absent").await, ErrorKind::NotFound);
    refused(snapshots.remove("absent").await, ErrorKind::NotFound);
    refused(snapshots.update("absent", NONE, &[]).await, ErrorKind::NotFound);
    snapshots.prepare("key", "", NONE).await.expect("prepare");
    snapshots.remove("key").await.expect("remove");
    refused(snapshots.remove("key").await, ErrorKind::NotFound);
    assert!(snapshots.list(&[]).await.expect("list").is_empty());
}

/// A committed snapshot is looked at through a view.
pub async fn a_committed_snapshot_has_no_mounts(snapshots: &impl Snapshotter) {
    empty(snapshots, "one", "").await;
    refused(snapshots.mounts("one").await, ErrorKind::FailedPrecondition);
}

/// A client that lost the answer of `prepare` gets the same one from `mounts`.
pub async fn mounts_answer_the_same_again(snapshots: &impl Snapshotter) {
    empty(snapshots, "one", "").await;
    let active = snapshots.prepare("active", "one", NONE).await.expect("prepare");
    let view = snapshots.view("view", "one").await.expect("view");
    assert_eq!(snapshots.mounts("active").await.expect("mounts"), active);
    assert_eq!(snapshots.mounts("view").await.expect("mounts"), view);
}

/// Nothing has an empty key or name. (containerd 1.6 refuses with UNKNOWN.)
pub async fn an_empty_key_is_refused(snapshots: &impl Snapshotter) {
    snapshots.prepare("", "", NONE).await.expect_err("an empty key");
    snapshots.prepare("key", "", NONE).await.expect("prepare");
    snapshots.commit("", "key", NONE).await.expect_err("an empty name");
    assert_eq!(snapshots.list(&[]).await.expect("list").len(), 1);
}

/// A committed snapshot has the labels that its commit gave, and no others.
pub async fn labels_of_a_commit_replace_those_of_the_key(snapshots: &impl Snapshotter) {
    snapshots.prepare("key", "", &labels(&[("of", "key")])).await.expect("prepare");
    assert_eq!(snapshots.stat("key").await.expect("stat").labels, labels(&[("of", "key")]));
    let given = labels(&[("by", "commit")]);
    snapshots.commit("name", "key", &given).await.expect("commit");
    assert_eq!(snapshots.stat("name").await.expect("stat").labels, given);
}

/// A path changes one label; no path replaces all; other fields do not change.
pub async fn snapshot_labels_change_one_by_one_or_all_at_once(snapshots: &impl Snapshotter) {
    snapshots.prepare("key", "", &labels(&[("a", "1"), ("b", "2")])).await.expect("prepare");
    let change = labels(&[("a", "9"), ("b", "9")]);
    let one = snapshots.update("key", &change, &["labels.a"]).await.expect("one label");
    assert_eq!(one.labels, labels(&[("a", "9"), ("b", "2")]));
    let all = snapshots.update("key", &labels(&[("z", "0")]), &[]).await.expect("all labels");
    assert_eq!(all.labels, labels(&[("z", "0")]));
    assert_eq!(snapshots.stat("key").await.expect("stat"), all);
    for field in ["kind", "parent", "name"] {
        refused(snapshots.update("key", &change, &[field]).await, ErrorKind::InvalidArgument);
    }
    assert_eq!(snapshots.stat("key").await.expect("stat"), all);
}

/// Snapshots are found by name, parent, kind and label.
pub async fn snapshots_are_listed_by_filters(snapshots: &impl Snapshotter) {
    empty(snapshots, "one", "").await;
    empty(snapshots, "two", "one").await;
    snapshots.prepare("key", "two", &labels(&[("k", "v")])).await.expect("prepare");
    snapshots.view("look", "one").await.expect("view");
    let found = async |filters: &[&str]| {
        let infos = snapshots.list(filters).await.expect("list");
        let mut names: Vec<_> = infos.into_iter().map(|info| info.name).collect();
        names.sort();
        names
    };
    assert_eq!(found(&[]).await, ["key", "look", "one", "two"]);
    assert_eq!(found(&["kind==committed"]).await, ["one", "two"]);
    assert_eq!(found(&["kind==active", "kind==view"]).await, ["key", "look"]);
    assert_eq!(found(&["parent==one"]).await, ["look", "two"]);
    assert_eq!(found(&["parent==one,kind==view"]).await, ["look"]);
    assert_eq!(found(&["labels.k==v"]).await, ["key"]);
    assert_eq!(found(&["name==two"]).await, ["two"]);
    // containerd 1.6 refuses with UNKNOWN.
    snapshots.list(&["kind=="]).await.expect_err("a filter that ends early");
}

/// A snapshot's usage has its own files and not its parents'; a commit does not change it.
pub async fn usage_counts_a_snapshots_own_files(snapshots: &impl Snapshotter) {
    layer(snapshots, "one", "", |root| write(root, "large", &"x".repeat(1 << 20))).await;
    let base = snapshots.usage("one").await.expect("usage");
    assert!(base.size >= 1 << 20, "{base:?}");
    let mounts = snapshots.prepare("key", "one", NONE).await.expect("prepare");
    let before = snapshots.usage("key").await.expect("usage");
    assert!(before.size < 1 << 20, "{before:?}");
    mounted(&mounts, |root| write(root, "small", &"x".repeat(9000)));
    let active = snapshots.usage("key").await.expect("usage");
    assert!((9000..1 << 20).contains(&active.size), "{active:?}");
    assert_eq!(active.inodes, before.inodes + 1);
    snapshots.commit("two", "key", NONE).await.expect("commit");
    assert_eq!(snapshots.usage("two").await.expect("usage"), active);
}
