//! Runs every case under every runtime, several at once, and prints the differences.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use harness::programs;
use harness::shim::namespace;

use crate::case::{Case, Setting, Variation, generate};
use crate::cases;
use crate::compare::{self, Difference};
use crate::fixture::Fixture;
use crate::host::Hierarchy;
use crate::known;
use crate::observe::{Names, Outcome};
use crate::options::Options;
use crate::runtimes::{RUNTIMES, Results, Run, Runtime};
use crate::{raw, shim, table};

/// How many of one runtime's containers are made at once.
const WORKERS: usize = 2;

/// A run that takes longer is printed.
const SLOW: Duration = Duration::from_secs(5);

/// Runs what was asked for; whether all is well.
pub(crate) fn all(options: &Options) -> Result<bool> {
    let began = Instant::now();
    // What a runtime does not unmount is unmounted when this process ends. Needs to be before the first thread.
    namespace::private().context("make a private mount namespace")?;
    nix::sys::prctl::set_child_subreaper(true).context("become a reaper")?;
    let host = Hierarchy::of_host();
    let mut variations = cases::all();
    variations.retain(|one| host.has(one.feature));
    let mut cases = generate(&variations, options.combinations);
    cases.retain(|case| {
        options.only.is_empty() || options.only.iter().any(|only| case.name.contains(only.as_str()))
    });
    ensure!(!cases.is_empty(), "no case has such a name");
    let fixture = Fixture::new()?;
    let results = Results { outcomes: perform(&fixture, &variations, &cases)?, cases };
    fixture.forget_theirs();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "# {} specs under runc, crun and libcontainer in {:.1} s",
        results.cases.len(),
        began.elapsed().as_secs_f32()
    )?;
    let mut good = judge(&results, host, options, &mut out)?;
    good &= broken_claims(&results, &variations, &mut out)?;
    if options.only.is_empty() {
        good &= table::check(&results, &variations, options, &mut out)?;
    }
    Ok(good)
}

/// Hands the cases to workers, each of which keeps to one runtime.
fn perform(
    fixture: &Fixture,
    variations: &[Variation],
    cases: &[Case],
) -> Result<Vec<[Outcome; 3]>> {
    let found: Mutex<Vec<[Option<Outcome>; 3]>> =
        Mutex::new(cases.iter().map(|_| [None, None, None]).collect());
    let next = [const { AtomicUsize::new(0) }; 3];
    std::thread::scope(|scope| {
        for (column, runtime) in RUNTIMES.into_iter().enumerate() {
            for _ in 0..WORKERS {
                let (found, next) = (&found, &next[column]);
                scope.spawn(move || {
                    let ready = settle_in(runtime);
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(case) = cases.get(index) else { return };
                        let began = Instant::now();
                        let outcome = match &ready {
                            Ok(()) => one(fixture, variations, case, runtime, index),
                            Err(why) => Err(anyhow!("{why:#}")),
                        };
                        let outcome =
                            outcome.unwrap_or_else(|why| Outcome::Lost(format!("{why:#}")));
                        if began.elapsed() > SLOW {
                            slow(case, runtime, began.elapsed());
                        }
                        if let Ok(mut found) = found.lock() {
                            found[index][column] = Some(outcome);
                        }
                    }
                });
            }
        }
    });
    let found = found.into_inner().map_err(|_| anyhow!("a worker panicked"))?;
    found
        .into_iter()
        .map(|row| {
            let row: Option<Vec<_>> = row.into_iter().collect();
            row.and_then(|row| row.try_into().ok()).context("a case was not run")
        })
        .collect()
}

/// crun takes the v2 hierarchy that hybrid hosts mount beside those of v1 for the only one; its
/// workers, and so what they execute, do not see it.
fn settle_in(runtime: Runtime) -> Result<()> {
    if runtime == Runtime::Crun {
        namespace::private().context("make a mount namespace for crun")?;
        namespace::hide_unified().context("hide the v2 hierarchy")?;
    }
    Ok(())
}

/// So that a run that hangs is not just a run that takes long.
fn slow(case: &Case, runtime: Runtime, took: Duration) {
    let _ = writeln!(
        std::io::stdout(),
        "# {:.1} s under {runtime:?}: {}",
        took.as_secs_f32(),
        case.name
    );
}

fn one(
    fixture: &Fixture,
    variations: &[Variation],
    case: &Case,
    runtime: Runtime,
    index: usize,
) -> Result<Outcome> {
    let letter = match runtime {
        Runtime::Runc => 'r',
        Runtime::Crun => 'c',
        Runtime::Ours => 'y',
    };
    let id = format!("{}-{letter}{index:04}", fixture.root.namespace());
    let dir = fixture.root.path().join(format!("{letter}{index:04}"));
    let bundle = dir.join("b").join(&id);
    fs::create_dir_all(&bundle)?;
    open_to_all(&dir)?;
    let setting = Setting {
        id: &id,
        dir: &dir,
        token: fixture.root.namespace(),
        shared: &fixture.shared,
        program: &fixture.program,
        holder: &fixture.holder,
    };
    let mut spec = case.spec(variations, &setting);
    if runtime == Runtime::Crun && case.joins(variations) {
        spec["process"]["args"] = serde_json::json!(["/bin/probe", "probe"]);
    }
    // crun's exec never ends where a namespace was joined by path.
    let joins = runtime == Runtime::Crun && case.joins(variations);
    let process = (case.has_exec(variations) && !joins).then(|| case.process(variations, &spec));
    let run = Run { fixture, id, dir, bundle, spec, process };
    let outcome = match runtime {
        Runtime::Runc => raw::run(&programs::system("runc"), &run),
        Runtime::Crun => raw::run(&programs::system("crun"), &run),
        Runtime::Ours => shim::run(&run),
    }?;
    let names = Names::new(&run.id, &run.dir, &run.bundle, &fixture.holder);
    let outcome = match outcome {
        Outcome::Ran(seen) => Outcome::Ran(names.translate(&seen)),
        other => other,
    };
    // Streams and state that a refusal left are gone with it; what is mounted is not removed.
    fs::remove_dir_all(&run.dir).with_context(|| format!("remove {}", run.dir.display()))?;
    Ok(outcome)
}

/// A directory that root in a user namespace can read, with one that it can write to, and what
/// some variations mount.
fn open_to_all(dir: &Path) -> Result<()> {
    let hooks = dir.join("hooks");
    let source = dir.join("source");
    fs::create_dir_all(source.join("below"))?;
    fs::create_dir_all(&hooks)?;
    fs::write(hooks.join("log"), "")?;
    fs::write(source.join("file"), "mounted\n")?;
    for (path, mode) in [
        (dir.to_owned(), 0o755),
        (hooks.join("log"), 0o666),
        (hooks, 0o777),
        (source.join("file"), 0o644),
        (source, 0o755),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Prints the differences between runc and ours that are not known; and what is known and does not
/// differ.
fn judge(
    results: &Results,
    host: Hierarchy,
    options: &Options,
    out: &mut impl Write,
) -> Result<bool> {
    let mut met = vec![0_usize; known::KNOWN.len()];
    let mut strange = 0;
    for (case, [runc, crun, ours]) in results.cases.iter().zip(&results.outcomes) {
        if options.verbose {
            writeln!(out, "## {}", case.name)?;
            for outcome in [runc, crun, ours] {
                writeln!(out, "   {}", compare::brief(outcome))?;
            }
            if let Outcome::Ran(seen) = ours {
                writeln!(out, "{seen:#}")?;
            }
        }
        let mut unknown: Vec<Difference> = Vec::new();
        for difference in compare::differences(runc, ours) {
            match known::find(host, &case.name, &difference) {
                Some(index) => met[index] += 1,
                None => unknown.push(difference),
            }
        }
        if unknown.is_empty() {
            continue;
        }
        strange += 1;
        writeln!(out, "DIFFERS {}", case.name)?;
        let as_crun = compare::differences(crun, ours);
        for Difference { place, theirs, ours } in unknown {
            let with =
                if as_crun.iter().any(|other| other.place == place) { "" } else { " (as crun)" };
            writeln!(out, "   {place}: runc {theirs} | ours {ours}{with}")?;
        }
    }
    let mut stale = 0;
    if options.is_whole() {
        for (reason, _) in known::KNOWN
            .iter()
            .zip(&met)
            .filter(|(known, count)| known.shows_on(host) && **count == 0)
        {
            stale += 1;
            writeln!(out, "NO LONGER {} / {}: {}", reason.case, reason.place, reason.why)?;
        }
    }
    writeln!(
        out,
        "# {strange} differ, {} differences known, {stale} known ones not met",
        met.iter().sum::<usize>()
    )?;
    Ok(strange == 0 && stale == 0)
}

/// Prints where ours is not what the specification has it be, runc or not.
fn broken_claims(
    results: &Results,
    variations: &[Variation],
    out: &mut impl Write,
) -> Result<bool> {
    let mut broken = 0;
    for (case, [_, _, ours]) in results.cases.iter().zip(&results.outcomes) {
        let &[part] = case.parts.as_slice() else { continue };
        if let Some(why) = table::shortfall(&variations[part], ours)
            && !known::falls_short(&case.name)
        {
            broken += 1;
            writeln!(out, "BROKEN {}: {why}", case.name)?;
        }
    }
    Ok(broken == 0)
}
