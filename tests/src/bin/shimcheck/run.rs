//! Runs the rows: each in a process of its own, which is given a directory, a token and a time.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::leak::{self, Scope};
use harness::programs;
use harness::shim::{Dialect, bundle, launch, namespace};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;

use crate::known;
use crate::options::{self, Options};
use crate::report::{self, Counts};
use crate::row::{NotOffered, Row, Verdict};
use crate::rows;
use crate::stage::{self, Stage};

/// Checks every row that was asked for; whether none is broken.
pub(crate) fn all(options: &Options) -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "shims make containers: run this as root");
    let mut rows = rows::all();
    let ids: Vec<&str> = rows.iter().map(|row| row.id).collect();
    rows.retain(|row| {
        options.only.is_empty() || options.only.iter().any(|only| chosen(row.id, only, &ids))
    });
    ensure!(!rows.is_empty(), "no row is called {}", options.only.join(", "));
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).context("watch for signals")?;
    }
    private_mounts(options.runtime.as_deref())?;

    let began = Instant::now();
    let home = tempfile::Builder::new()
        .prefix("sc-")
        .rand_bytes(6)
        .tempdir_in("/tmp")
        .context("make a directory in /tmp")?;
    let mut options = options.clone();
    options.rootfs = home.path().join("rootfs");
    bundle::busybox(&options.rootfs, &programs::find("busybox").context("busybox is missing")?)
        .context("make a root file system of busybox")?;
    let go = launch::is_go(&options.shim);
    if options.dialect.is_none() {
        options.dialect = Some(newest_dialect(&options, home.path())?);
    }
    introduce(&options, go);

    let mut counts = Counts::default();
    for (index, row) in rows.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            report::line("# stopped by a signal");
            break;
        }
        let left = options.limit.saturating_sub(began.elapsed());
        let started = Instant::now();
        let (mut verdict, swept) = if left.is_zero() {
            let why = format!("not reached within {} s", options.limit.as_secs());
            (Verdict::Broken(why), 0)
        } else {
            run(&options, home.path(), index, row, row.limit.min(left), &stop)?
        };
        if go
            && let Verdict::Broken(seen) = &verdict
            && let Some(record) = known::record(row.id)
        {
            verdict = Verdict::Known(seen.clone(), record);
        }
        counts.add(&verdict);
        report::verdict(row, &verdict, started.elapsed(), swept);
    }
    let done = counts.held + counts.broken + counts.known + counts.not_offered;
    report::counts(counts, done, began.elapsed());
    if options.keep {
        report::line(&format!("# files are in {}", home.keep().display()));
    }
    Ok(counts.broken == 0 && done == rows.len())
}

/// Checks one row in this process and says how it ended, for the process that asked.
pub(crate) fn one(options: &Options, id: &str) -> Result<bool> {
    let row = rows::all().into_iter().find(|row| row.id == id).context("no such row")?;
    let checked = Stage::new(options).and_then(|stage| (row.check)(&stage));
    let answer = match checked {
        Ok(()) => json!({ "verdict": "held" }),
        Err(why) => match why.downcast_ref::<NotOffered>() {
            Some(NotOffered(why)) => json!({ "verdict": "not offered", "text": why }),
            None => json!({ "verdict": "broken", "text": format!("{why:#}") }),
        },
    };
    report::line(&answer.to_string());
    Ok(true)
}

/// Whether a row was asked for: by its name, or, where no row has that name, by how it begins.
fn chosen(id: &str, only: &str, ids: &[&str]) -> bool {
    id == only || (!ids.contains(&only) && id.starts_with(only))
}

/// A mount namespace of our own; without the v2 hierarchy beside v1's, which crun would take for
/// the only one.
fn private_mounts(runtime: Option<&Path>) -> Result<()> {
    namespace::private().context("make a private mount namespace")?;
    let crun = runtime.is_some_and(|runtime| version(runtime).starts_with("crun"));
    if crun && namespace::hide_unified().context("hide the v2 hierarchy")? {
        report::line("# hybrid control groups: without /sys/fs/cgroup/unified, for crun");
    }
    Ok(())
}

fn version(program: &Path) -> String {
    Command::new(program)
        .arg("--version")
        .output()
        .map(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().unwrap_or_default().to_owned()
        })
        .unwrap_or_default()
}

fn introduce(options: &Options, go: bool) {
    let own = if go { " (Go: what is on record for it is listed as known)" } else { "" };
    report::line(&format!("# shim: {}{own}", options.shim.display()));
    if let Some(runtime) = &options.runtime {
        report::line(&format!("# runtime: {}: {}", runtime.display(), version(runtime)));
    }
    if let Some(dialect) = options.dialect {
        let asked = options::word(dialect);
        report::line(&format!("# most rows start it as containerd {asked} does"));
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    report::line(&format!("# kernel: {}", kernel.trim()));
}

/// The newest dialect in which it starts at all.
fn newest_dialect(options: &Options, home: &Path) -> Result<Dialect> {
    let mut last = None;
    for (index, dialect) in [Dialect::V2_3, Dialect::V1_6].into_iter().enumerate() {
        let options =
            Options { dialect: Some(dialect), place: place(home, 900 + index)?, ..options.clone() };
        let tried = Stage::new(&options).and_then(|stage| {
            let bundle = stage.shell("exit 0")?;
            let shim = stage.start(&bundle)?;
            // Gone already is as good.
            let _ = shim.task(&bundle.id).shutdown();
            Ok(())
        });
        sweep(&options.place, &stage::sockets(&options.place));
        match tried {
            Ok(()) => return Ok(dialect),
            Err(why) => last = Some(why),
        }
    }
    Err(last.context("no dialect was tried")?.context("the shim does not start"))
}

fn place(home: &Path, index: usize) -> Result<PathBuf> {
    // Not below the shared directory: its token would be part of theirs.
    let name = home.file_name().context("a temporary directory has a name")?.to_string_lossy();
    let path = Path::new("/tmp").join(format!("{name}r{index:03}"));
    fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
    Ok(path)
}

fn run(
    options: &Options,
    home: &Path,
    index: usize,
    row: &Row,
    limit: Duration,
    stop: &AtomicBool,
) -> Result<(Verdict, usize)> {
    let place = place(home, index)?;
    let mut child = spawn(options, &place, row)?;
    let mut out = child.stdout.take().context("its output is piped")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        // What arrived before an error is still worth reading.
        let _ = out.read_to_string(&mut text);
        text
    });
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if began.elapsed() > limit || stop.load(Ordering::Relaxed) {
            end(&mut child);
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // Before the output is read to its end: somebody left behind might hold it.
    let swept = sweep(&place, &stage::sockets(&place));
    if options.keep && place.exists() {
        let kept = home.join(row.id);
        let _ = fs::rename(&place, kept);
    }
    let _ = fs::remove_dir_all(&place);
    let text = reader.join().unwrap_or_default();
    let verdict = match status {
        None => Verdict::Broken(format!("no verdict within {:.0} s", limit.as_secs_f32())),
        Some(status) => verdict(&text).unwrap_or_else(|| {
            Verdict::Broken(format!("the check ended without a verdict: {status}: {text}"))
        }),
    };
    Ok((verdict, swept))
}

fn spawn(options: &Options, place: &Path, row: &Row) -> Result<Child> {
    // By this name it is the same program even when its file was replaced by a newer build.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(&options.shim)
        .args(["--row", row.id, "--execs", &options.execs.to_string()])
        .arg("--place")
        .arg(place)
        .arg("--rootfs")
        .arg(&options.rootfs);
    if let Some(dialect) = options.dialect {
        command.args(["--dialect", options::word(dialect)]);
    }
    if let Some(runtime) = &options.runtime {
        command.arg("--runtime-binary").arg(runtime);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
    command.spawn().context("run a row")
}

fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // Gone is as good.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.wait();
}

fn verdict(text: &str) -> Option<Verdict> {
    let answer: serde_json::Value = serde_json::from_str(text.lines().last()?).ok()?;
    let said = answer["text"].as_str().unwrap_or_default().to_owned();
    match answer["verdict"].as_str()? {
        "held" => Some(Verdict::Held),
        "not offered" => Some(Verdict::NotOffered(said)),
        _ => Some(Verdict::Broken(said)),
    }
}

/// Ends and removes whatever is there; how much there was.
fn sweep(place: &Path, sockets: &[PathBuf]) -> usize {
    let scope = Scope {
        token: place.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        directory: place.to_owned(),
        sockets: sockets.to_vec(),
        namespace_cgroup_may_stay: true,
    };
    let found = leak::look(&scope).len();
    leak::sweep(&scope);
    found
}
