//! Runs the rows, several side by side, and tells how each ended.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::programs;
use harness::shim::{Dialect, bundle, launch, namespace};
use harness::wait;
use serde_json::json;

use crate::fixture::{self, Fixture, version};
use crate::job::{Done, Job, sweep};
use crate::known;
use crate::options::{self, Options};
use crate::report::{self, Counts};
use crate::row::Row;
use crate::rows;
use crate::verdict::{NotOffered, Verdict};

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
    let total = rows.len();
    // What takes long begins first, so that it does not stand alone at the end; what bears no
    // company comes last.
    rows.sort_by_key(|row| (row.alone, std::cmp::Reverse(row.limit)));
    let mut waiting: VecDeque<Row> = rows.into();
    let mut running: Vec<Job> = Vec::new();
    let mut doubted: Vec<&str> = Vec::new();
    let mut begun = 0;
    loop {
        let stopped = stop.load(Ordering::Relaxed);
        let left = options.limit.saturating_sub(began.elapsed());
        while !stopped
            && let Some(row) = waiting.pop_front_if(|row| fits(row, &running, options.jobs))
        {
            running.push(Job::begin(&options, &place(home.path(), begun)?, row, left)?);
            begun += 1;
        }
        let mut index = 0;
        while index < running.len() {
            if !running[index].is_over(stopped)? {
                index += 1;
                continue;
            }
            let job = running.swap_remove(index);
            let keep = options.keep.then(|| home.path().join(job.row.id));
            let done = job.end(keep.as_deref());
            let verdict = if go { on_record(&done) } else { done.verdict.clone() };
            if let Verdict::Broken(seen) = &verdict
                && options.confirm
                && !stopped
                && !doubted.contains(&done.row.id)
            {
                report::doubt(&done.row, seen);
                doubted.push(done.row.id);
                waiting.push_back(done.row.alone());
                continue;
            }
            counts.add(&verdict);
            match &options.tests {
                Some(name) => report::test(name, &done.row, &verdict, done.took),
                None => report::verdict(&done.row, &verdict, done.took, done.swept),
            }
        }
        if running.is_empty() && (stopped || waiting.is_empty()) {
            break;
        }
        wait::pass(Duration::from_millis(5));
    }
    if !waiting.is_empty() {
        report::line("# stopped by a signal");
    }
    let done = counts.held + counts.broken + counts.known + counts.not_offered;
    if options.tests.is_some() {
        report::tests(counts, began.elapsed());
        return Ok(counts.held == total);
    }
    report::counts(counts, done, began.elapsed());
    if options.keep {
        report::line(&format!("# files are in {}", home.keep().display()));
    }
    Ok(counts.broken == 0 && done == total)
}

/// Checks one row in this process and says how it ended, for the process that asked.
pub(crate) fn one(options: &Options, id: &str) -> Result<bool> {
    let row = rows::all().into_iter().find(|row| row.id == id).context("no such row")?;
    let checked = Fixture::new(options).and_then(|fixture| (row.check)(&fixture));
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
        let tried = Fixture::new(&options).and_then(|fixture| {
            let bundle = fixture.shell("exit 0")?;
            let shim = fixture.start(&bundle)?;
            // It may have ended; that is the same result.
            let _ = shim.task(&bundle.id).shutdown();
            Ok(())
        });
        sweep(&options.place, &fixture::sockets(&options.place), false);
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

/// Whether a row may begin beside those that run.
fn fits(row: &Row, running: &[Job], jobs: usize) -> bool {
    running.is_empty()
        || (running.len() < jobs && !row.alone && running.iter().all(|job| !job.row.alone))
}

/// What is broken on the shim that containerd itself ships, and is on record there, is known.
fn on_record(done: &Done) -> Verdict {
    match (&done.verdict, known::record(done.row.id)) {
        (Verdict::Broken(seen), Some(record)) => Verdict::Known(seen.clone(), record),
        (verdict, _) => verdict.clone(),
    }
}
