//! The same on a host of cgroup v2 with a criu that works.
//!
//! That host is a nested machine: `tests/vm/test.sh` runs these in it, and nothing else does.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use harness::command::LIMIT;
use harness::{Root, eventually, run, wait};
use serde_json::{Value, json};

use super::StockContainerd;
use super::life::flat;
use crate::engine::Engine;

/// As `with_engines`, for the nested machine alone.
macro_rules! nested {
    ($($engine:ident: $variant:ident { $($name:ident)* })*) => {
        $(mod $engine {
            $(
                #[test]
                #[ignore = "wants a host of cgroup v2 and a criu that works: tests/vm/test.sh"]
                fn $name() { super::$name($crate::engine::Engine::$variant); }
            )*
        })*
    };
}

nested! {
    runc: Runc {
        a_checkpoint_made_by_ctr_goes_on_where_it_was
        a_container_lives_is_measured_and_runs_out_of_memory
    }
    crun: Crun {
        a_container_lives_is_measured_and_runs_out_of_memory
    }
}

fn a_container_lives_is_measured_and_runs_out_of_memory(engine: Engine) {
    let root = Root::new();
    let stock = StockContainerd::lean(&root, engine);
    let watch = stock.watch();
    // It uses some of everything, and all of its memory when it is told to.
    let script = "trap 'exec busybox tail -c 200000000 /dev/zero' USR1; \
                  dd if=/dev/zero of=/f bs=64k count=32 2>/dev/null; cat /f >/dev/null; \
                  echo up >/up; while :; do sleep 0.05; done";
    let id = stock.detached(&["--memory-limit", "16777216", "--cpus", "0.9"], script);
    let up = stock.containerd.bundle(&id).join("rootfs/up");
    eventually(wait::SOON, "it has used what it uses", || up.exists().then_some(()));
    let done = run(&mut stock.exec(&id, "e1", "echo inside; exit 5")).ended_with(5);
    assert_eq!(done.out(), "inside");

    // Paused, so that two look at the same.
    let _ = stock.ctr(&["task", "pause", &id]).success();
    assert_eq!(stock.status(&id), "PAUSED");
    metrics_are_what_the_files_say(&stock, &id);
    let _ = stock.ctr(&["task", "resume", &id]).success();

    let _ = stock.ctr(&["task", "kill", "--signal", "SIGUSR1", &id]).success();
    stock.becomes(&id, "STOPPED");
    stock.ctr(&["task", "rm", &id]).success().complains_of(&["exit code 137"]);
    let _ = stock.ctr(&["containers", "rm", &id]).success();
    watch.wait_for(&id, "delete");
    let exec = ["exec-added:e1", "exec-started:e1", "exit:e1"];
    let expected =
        [&["create", "start"], &exec[..], &["paused", "resumed", "oom", "exit", "delete"]];
    assert_eq!(watch.words(&id), expected.concat());
    nothing_is_left(&stock, &id);
}

/// What `ctr` prints of a container's memory, by the names in `memory.stat`.
const MEMORY: &[&str] = &[
    "anon",
    "file",
    "kernel_stack",
    "slab",
    "sock",
    "shmem",
    "file_mapped",
    "file_dirty",
    "file_writeback",
    "anon_thp",
    "inactive_anon",
    "active_anon",
    "inactive_file",
    "active_file",
    "unevictable",
    "slab_reclaimable",
    "slab_unreclaimable",
    "pgfault",
    "pgmajfault",
    "workingset_nodereclaim",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "pgactivate",
    "pgdeactivate",
    "pglazyfree",
    "pglazyfreed",
    "thp_fault_alloc",
    "thp_collapse_alloc",
];

fn metrics_are_what_the_files_say(stock: &StockContainerd<'_>, id: &str) {
    let group = group(stock, id);
    let (told, files) = eventually(wait::SOON, "two looks at the same", || {
        let before = files(&group);
        let out = stock.ctr(&["task", "metrics", "--format", "json", id]).success().out();
        let metrics: Value = serde_json::from_str(&out).expect("ctr writes JSON");
        let mut told = BTreeMap::new();
        for part in ["pids", "cpu", "memory", "memory_events", "hugetlb"] {
            flat(part, &metrics[part], &mut told);
        }
        (files(&group) == before).then_some((told, before))
    });
    assert_eq!(told, files);
    assert_eq!(told["memory/usage_limit"], json!(16_777_216));
    assert!(told["cpu/usage_usec"].as_u64() > Some(1000), "{told:?}");
    // Zeros are left out of both, so which more there are depends on what it happened to do.
    for key in ["pids/current", "memory/usage", "memory/anon", "memory/pgfault", "hugetlb"] {
        assert!(told.contains_key(key), "{key} in {told:?}");
    }
}

/// The same from the files of its control group, as the kernel's cgroup-v2 document has them.
fn files(group: &Path) -> BTreeMap<String, Value> {
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
    let number = |file: &str| match read(file).trim() {
        "max" => json!(u64::MAX),
        text => text.parse::<u64>().map_or(Value::Null, |number| json!(number)),
    };
    let keyed = |file: &str| -> BTreeMap<String, u64> {
        let text = read(file);
        text.lines()
            .filter_map(|line| {
                let (key, value) = line.split_once(' ')?;
                Some((key.to_owned(), value.parse().ok()?))
            })
            .collect()
    };
    let mut found = BTreeMap::new();
    flat("pids/current", &number("pids.current"), &mut found);
    flat("pids/limit", &number("pids.max"), &mut found);
    let cpu = keyed("cpu.stat");
    for key in
        ["usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec"]
    {
        flat(&format!("cpu/{key}"), &json!(cpu.get(key)), &mut found);
    }
    let memory = keyed("memory.stat");
    for key in MEMORY {
        flat(&format!("memory/{key}"), &json!(memory.get(*key)), &mut found);
    }
    // Counted apart by the kernel since 5.9.
    for key in ["workingset_refault", "workingset_activate"] {
        let sum: u64 = ["", "_anon", "_file"]
            .iter()
            .filter_map(|kind| memory.get(&format!("{key}{kind}")))
            .sum();
        flat(&format!("memory/{key}"), &json!(sum), &mut found);
    }
    for (name, file) in [
        ("usage", "memory.current"),
        ("usage_limit", "memory.max"),
        ("swap_usage", "memory.swap.current"),
        ("swap_limit", "memory.swap.max"),
    ] {
        flat(&format!("memory/{name}"), &number(file), &mut found);
    }
    let events = keyed("memory.events");
    for key in ["low", "high", "max", "oom", "oom_kill"] {
        flat(&format!("memory_events/{key}"), &json!(events.get(key)), &mut found);
    }
    let mut pages: Vec<Value> = ["1GB", "2MB"]
        .into_iter()
        .filter(|size| group.join(format!("hugetlb.{size}.max")).exists())
        .map(|size| json!({ "max": number(&format!("hugetlb.{size}.max")), "pagesize": size }))
        .collect();
    pages.sort_by_key(|one| one["pagesize"].to_string());
    flat("hugetlb", &Value::Array(pages), &mut found);
    found
}

fn a_checkpoint_made_by_ctr_goes_on_where_it_was(engine: Engine) {
    let root = Root::new();
    let stock = StockContainerd::lean(&root, engine);
    let watch = stock.watch();
    // It counts the lines that it reads in its memory, and keeps a file.
    let script = "n=0; while read word; do \
                  case $word in leave) exit 44;; esac; \
                  n=$((n + 1)); echo $n $word; echo $n >/count; done";
    let (mut command, first) = stock.run(&["--detach"], script);
    Talk::start(&stock, "run", &mut command).ends_with(0);
    let mut talk = attach(&stock, &first);
    talk.say("one");
    talk.hears("1 one");
    talk.breaks_off();

    let words = ["containers", "checkpoint", "--task", "--image", "--rw", &first, "checkpoint:1"];
    let _ = stock.ctr(&words).success();
    assert_eq!(stock.status(&first), "RUNNING");
    let mut talk = attach(&stock, &first);
    talk.say("two");
    talk.hears("2 two");
    talk.breaks_off();
    stock.remove(&first);
    watch.wait_for(&first, "delete");
    let expected = ["create", "start", "paused", "resumed", "exit", "delete"];
    assert_eq!(watch.words(&first), expected);
    nothing_is_left(&stock, &first);

    // Under another name, of what was when the checkpoint was made.
    let second = root.id("c");
    stock.containerd.expect_shim(&second);
    let words = ["containers", "restore", "--rw", "--live", &second, "checkpoint:1"];
    Talk::start(&stock, "restore", &mut stock.containerd.ctr(&words)).ends_with(0);
    assert_eq!(stock.status(&second), "RUNNING");
    assert_eq!(run(&mut stock.exec(&second, "e1", "cat /count")).success().out(), "1");
    let mut talk = attach(&stock, &second);
    talk.say("again");
    talk.hears("2 again");
    talk.say("leave");
    // ctr passes init's exit code on, and removes the task.
    talk.ends_with(44);
    watch.wait_for(&second, "delete");
    let exec = ["exec-added:e1", "exec-started:e1", "exit:e1"];
    let expected = [&["create", "start"], &exec[..], &["exit", "delete"]].concat();
    assert_eq!(watch.words(&second), expected);
    let _ = stock.ctr(&["containers", "rm", &second]).success();
    nothing_is_left(&stock, &second);
}

/// A container's group, in which both of a checkpoint's are: the place is in the spec.
fn group(stock: &StockContainerd<'_>, id: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(stock.root.namespace()).join(id)
}

/// Neither of the runtime nor of the kernel nor of containerd. What the whole test leaves is
/// looked for at its end.
#[track_caller]
fn nothing_is_left(stock: &StockContainerd<'_>, id: &str) {
    let record = Path::new("/run/containerd/runc").join(stock.root.namespace()).join(id);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("there is a table of mounts");
    assert!(!record.exists(), "the runtime's record of {id} stays");
    assert!(!group(stock, id).exists(), "the cgroup of {id} stays");
    assert!(!mounts.contains(id), "mounts of {id} stay:\n{mounts}");
    assert!(!stock.containerd.bundle(id).exists(), "the bundle of {id} stays");
    // Where ctr puts those of a container that it restores.
    let streams =
        run(Command::new("find").args(["/run/containerd/fifo", "-name"]).arg(format!("{id}-*")));
    assert_eq!(streams.out(), "", "fifos of {id} stay");
}

/// A `ctr` that speaks to a container: its input stays open until the test ends it.
struct Talk {
    child: Child,
    input: ChildStdin,
    heard: PathBuf,
}

fn attach(stock: &StockContainerd<'_>, id: &str) -> Talk {
    Talk::start(stock, "attach", &mut stock.containerd.ctr(&["task", "attach", id]))
}

impl Talk {
    fn start(stock: &StockContainerd<'_>, name: &str, command: &mut Command) -> Self {
        let heard = stock.root.path().join(stock.root.id(name)).with_extension("out");
        let file = File::create(&heard).expect("make a file");
        let also = file.try_clone().expect("it is open");
        command.stdin(Stdio::piped()).stdout(file).stderr(also);
        let mut child = command.spawn().expect("start ctr");
        let input = child.stdin.take().expect("piped above");
        Self { child, input, heard }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.heard).unwrap_or_default()
    }

    fn say(&mut self, word: &str) {
        writeln!(self.input, "{word}").expect("ctr reads");
    }

    #[track_caller]
    fn hears(&self, line: &str) {
        eventually(wait::SOON, &format!("it says {line:?}"), || {
            self.text().lines().any(|heard| heard == line).then_some(())
        });
    }

    /// Ends ctr, and leaves the container as it is.
    fn breaks_off(mut self) {
        self.child.kill().expect("it runs");
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.heard);
    }

    #[track_caller]
    fn ends_with(mut self, code: i32) {
        let status = eventually(LIMIT, "ctr ends", || self.child.try_wait().expect("it is ours"));
        assert_eq!(status.code(), Some(code), "{}", self.text());
        let _ = fs::remove_file(&self.heard);
    }
}
