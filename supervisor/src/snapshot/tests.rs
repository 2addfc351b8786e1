//! The snapshotter's promises, through its own API.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use super::*;
use crate::events::Bus;
use crate::metadata::{Database, Labels, Namespace};

struct Fixture {
    folder: tempfile::TempDir,
    database: Database,
    snapshots: Snapshotter,
    namespace: Namespace,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path().join("meta.db")).unwrap();
    let snapshots = Snapshotter::open(folder.path(), database.clone(), Bus::new()).unwrap();
    Fixture { folder, database, snapshots, namespace: Namespace::new("a").unwrap() }
}

fn new(key: &str, parent: &str) -> New {
    New { key: key.to_owned(), parent: parent.to_owned(), ..New::default() }
}

impl Fixture {
    async fn prepare(&self, key: &str, parent: &str) -> Result<Vec<Mount>, SnapshotError> {
        self.snapshots.prepare(&self.namespace, new(key, parent)).await
    }

    async fn commit(&self, name: &str, key: &str) -> Result<(), SnapshotError> {
        let (key, name) = (key.to_owned(), name.to_owned());
        let commit = Commit { key, name, labels: Labels::new(), lease: None };
        self.snapshots.commit(&self.namespace, commit).await
    }

    async fn layers(&self, names: &[&str]) {
        let mut parent = "";
        for name in names {
            self.prepare("layer", parent).await.unwrap();
            self.commit(name, "layer").await.unwrap();
            parent = name;
        }
    }

    fn path(&self, id: u32, rest: &str) -> String {
        self.folder.path().join(format!("snapshots/{id}/{rest}")).display().to_string()
    }
}

#[tokio::test]
async fn one_directory_is_bound_and_more_are_overlaid_newest_first() {
    let fixture = fixture();
    let bound = fixture.prepare("base", "").await.unwrap();
    assert_eq!(bound, [mount::bind(PathBuf::from(fixture.path(1, "fs")), "rw")]);
    fixture.commit("base", "base").await.unwrap();
    fixture.prepare("second", "base").await.unwrap();
    fixture.commit("second-done", "second").await.unwrap();
    let active = fixture.prepare("top", "second-done").await.unwrap();
    assert_eq!((active.len(), active[0].kind.as_str()), (1, "overlay"));
    let lower = format!("{}:{}", fixture.path(2, "fs"), fixture.path(1, "fs"));
    assert_eq!(mount::option(&active[0], "lowerdir"), Some(lower.as_str()));
    assert_eq!(mount::option(&active[0], "upperdir"), Some(fixture.path(3, "fs").as_str()));
    assert_eq!(mount::option(&active[0], "workdir"), Some(fixture.path(3, "work").as_str()));
    assert_eq!(fixture.snapshots.mounts(&fixture.namespace, "top").await.unwrap(), active);

    let view = fixture.snapshots.view(&fixture.namespace, new("v1", "base")).await.unwrap();
    assert_eq!(view, [mount::bind(PathBuf::from(fixture.path(1, "fs")), "ro")]);
    let view = fixture.snapshots.view(&fixture.namespace, new("v2", "second-done")).await.unwrap();
    assert_eq!(mount::option(&view[0], "lowerdir"), Some(lower.as_str()));
    assert_eq!(mount::option(&view[0], "upperdir"), None);
}

#[tokio::test]
async fn the_errors_are_containerd_s() {
    use shim_sdk::Kind;
    let fixture = fixture();
    let kind = |result: Result<(), SnapshotError>| result.unwrap_err().kind();
    let prepare = async |key: &str, parent: &str| fixture.prepare(key, parent).await.map(drop);
    prepare("active", "").await.unwrap();
    assert_eq!(kind(prepare("active", "").await), Kind::AlreadyExists);
    assert_eq!(kind(prepare("", "").await), Kind::InvalidArgument);
    assert_eq!(kind(prepare("x", "absent").await), Kind::NotFound);
    assert_eq!(kind(prepare("x", "active").await), Kind::InvalidArgument);
    assert_eq!(kind(fixture.commit("x", "absent").await), Kind::NotFound);
    fixture.commit("done", "active").await.unwrap();
    assert_eq!(kind(fixture.commit("x", "done").await), Kind::FailedPrecondition);
    prepare("child", "done").await.unwrap();
    assert_eq!(kind(fixture.commit("done", "child").await), Kind::AlreadyExists);
    let (namespace, snapshots) = (&fixture.namespace, &fixture.snapshots);
    assert_eq!(kind(snapshots.remove(namespace, "done", None).await), Kind::FailedPrecondition);
    assert_eq!(kind(snapshots.remove(namespace, "absent", None).await), Kind::NotFound);
    assert_eq!(kind(snapshots.mounts(namespace, "done").await.map(drop)), Kind::FailedPrecondition);
    let field = snapshots.update(namespace, "done", Labels::new(), vec!["kind".into()]).await;
    assert_eq!(kind(field.map(drop)), Kind::InvalidArgument);
}

#[tokio::test]
async fn the_root_of_a_new_snapshot_takes_owner_and_mode_from_its_parent() {
    let fixture = fixture();
    fixture.prepare("base", "").await.unwrap();
    let root = fixture.path(1, "fs");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::lchown(&root, Some(12), Some(34)).unwrap();
    fixture.commit("done", "base").await.unwrap();
    fixture.prepare("top", "done").await.unwrap();
    let top = std::fs::metadata(fixture.path(2, "fs")).unwrap();
    assert_eq!((top.mode() & 0o7777, top.uid(), top.gid()), (0o1777, 12, 34));
}

#[tokio::test]
async fn namespaces_do_not_see_each_other_s_snapshots() {
    let fixture = fixture();
    fixture.layers(&["base"]).await;
    let other = Namespace::new("b").unwrap();
    let absent = fixture.snapshots.stat(&other, "base").await.unwrap_err();
    assert_eq!(absent.kind(), shim_sdk::Kind::NotFound);
    fixture.snapshots.prepare(&other, new("base", "")).await.unwrap();
    assert_eq!(fixture.snapshots.list(&other, &[]).await.unwrap().len(), 1);
    let filter = "kind==committed,name==base".to_owned();
    let found = fixture.snapshots.list(&fixture.namespace, &[filter]).await.unwrap();
    assert_eq!(found.len(), 1);
}

#[tokio::test]
async fn the_usage_of_a_committed_snapshot_is_what_it_had_at_its_commit() {
    let fixture = fixture();
    fixture.prepare("base", "").await.unwrap();
    std::fs::write(PathBuf::from(fixture.path(1, "fs")).join("f"), [1; 9000]).unwrap();
    let active = fixture.snapshots.usage(&fixture.namespace, "base").await.unwrap();
    fixture.commit("done", "base").await.unwrap();
    let committed = fixture.snapshots.usage(&fixture.namespace, "done").await.unwrap();
    assert_eq!(active, committed);
    assert_eq!(committed.inodes, 2);
}

#[tokio::test]
async fn directories_without_a_record_are_swept_and_numbers_never_come_back() {
    let fixture = fixture();
    fixture.layers(&["base"]).await;
    fixture.prepare("gone", "base").await.unwrap();
    fixture.snapshots.remove(&fixture.namespace, "gone", None).await.unwrap();
    std::fs::create_dir_all(fixture.path(77, "fs")).unwrap();
    std::fs::create_dir_all(fixture.folder.path().join("snapshots/odd")).unwrap();
    let draft = fixture.folder.path().join("snapshots/1.draft");
    std::fs::create_dir_all(draft.join("fs/half")).unwrap();
    // A deep one whose removal was killed, here and behind an earlier start.
    for name in ["78", "70.orphan"] {
        let top = fixture.folder.path().join("snapshots").join(name);
        std::fs::create_dir_all(top.join(".removing-1/d")).unwrap();
    }
    let snapshots =
        Snapshotter::open(fixture.folder.path(), fixture.database.clone(), Bus::new()).unwrap();
    let orphans = tokio::task::spawn_blocking(move || snapshots.sweep()).await.unwrap().unwrap();
    assert!(!PathBuf::from(fixture.path(77, "")).exists());
    // While they are removed, a snapshot may be made that bears the number of one.
    let anew = PathBuf::from(fixture.path(77, "fs"));
    std::fs::create_dir_all(&anew).unwrap();
    remove_orphans(&orphans);
    assert!(anew.exists());
    let left = |name: &str| fixture.folder.path().join("snapshots").join(name).exists();
    assert!(!["78", "70.orphan", "77.orphan", "78.orphan"].into_iter().any(left));
    assert!(!draft.exists(), "what was being unpacked goes");
    let aside = std::fs::read_dir(fixture.folder.path().join("set-aside")).unwrap();
    let aside: Vec<_> = aside.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(aside, ["snapshots-odd.1"], "the rest stays");
    assert!(PathBuf::from(fixture.path(1, "fs")).exists());
    let mounts = fixture.prepare("next", "base").await.unwrap();
    assert_eq!(mount::option(&mounts[0], "upperdir"), Some(fixture.path(3, "fs").as_str()));
}

#[tokio::test]
async fn a_failed_prepare_leaves_no_record() {
    let fixture = fixture();
    std::fs::remove_dir_all(fixture.folder.path().join("snapshots")).unwrap();
    assert!(fixture.prepare("k", "").await.is_err());
    assert!(fixture.snapshots.list(&fixture.namespace, &[]).await.unwrap().is_empty());
}
