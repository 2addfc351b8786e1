//! The load while the helper is killed and stopped: calls may fail, and nothing else may.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use harness::shim::bundle;
use harness::shim::ttrpc::{CallError, Code};
use harness::shim::{Task, until};
use harness::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Host, PATIENCE};

/// Containers that run before the first blow, and must run on.
const STEADY: usize = 4;

/// How much longer a slow machine gets to come to figures that tell something.
const AT_MOST: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    blows: AtomicUsize,
    /// Whole lives, and those that a blow cut short.
    whole: AtomicUsize,
    cut: AtomicUsize,
    longest_ms: AtomicUsize,
}

impl Tally {
    /// Whether there were blows, and lives that outlasted them, to speak of.
    fn is_telling(&self) -> bool {
        [&self.blows, &self.whole].into_iter().all(|one| one.load(Ordering::Relaxed) > 20)
    }
}

/// Keeps it up for so long.
pub(crate) fn run(host: &Host, parallel: usize, time: Duration) -> Result<()> {
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.subsec_nanos();
    let steady = (0..STEADY).map(|_| steady(host)).collect::<Result<Vec<_>>>()?;
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let made: Mutex<Vec<(String, String)>> = Mutex::default();
    let wrong: Mutex<Option<anyhow::Error>> = Mutex::default();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| strike(host, seed, &over, &tally));
        for worker in 0..parallel {
            let (over, tally, made, wrong) = (&over, &tally, &made, &wrong);
            scope.spawn(move || {
                let mut number = worker;
                let is_wanted = || {
                    let told = tally.is_telling() || began.elapsed() > time + AT_MOST;
                    began.elapsed() < time || !told
                };
                while is_wanted() && !over.load(Ordering::Relaxed) {
                    let done = if number % 2 == 0 {
                        container(host, tally, made)
                    } else {
                        exec(host, number, tally, made)
                    };
                    number += parallel + 1;
                    if let Err(why) = done {
                        over.store(true, Ordering::Relaxed);
                        if let Ok(mut wrong) = wrong.lock() {
                            wrong.get_or_insert(why);
                        }
                    }
                }
                over.store(true, Ordering::Relaxed);
            });
        }
    });
    writeln!(std::io::stdout(), "{tally:?}, seed {seed}, {:.1} s", began.elapsed().as_secs_f32())?;
    if let Some(why) = wrong.into_inner().map_err(|_| anyhow!("a worker panicked"))? {
        return Err(why.context(format!("seed {seed}")));
    }
    ensure!(tally.is_telling(), "hardly a blow was dealt, or hardly anything came through");
    let made = made.into_inner().map_err(|_| anyhow!("a worker panicked"))?;
    told(host, &made)?;
    for (bundle, pid) in &steady {
        let task = host.task(&bundle.id);
        let state = harness::leak::state(*pid);
        ensure!(matches!(state, Some('S' | 'R' | 'D')), "{} no longer runs: {state:?}", bundle.id);
        ensure!(
            !host.exits().contains_key(&(bundle.id.clone(), bundle.id.clone())),
            "an exit was told of {}, which runs",
            bundle.id
        );
        task.kill("", 9).context("kill a steady one")?;
        // The last blow may have stopped the helper, and the first call that meets it is refused.
        finish(&task, "", Some(137), &tally)?;
        host.remove(bundle)?;
    }
    Ok(())
}

fn steady(host: &Host) -> Result<(bundle::Bundle, i32)> {
    let bundle = host.bundle("exec sleep 100000")?;
    let task = host.task(&bundle.id);
    let pid = task.create(&bundle.create_request()).context("create a steady one")?;
    task.start("").context("start a steady one")?;
    Ok((bundle, i32::try_from(pid)?))
}

/// Kills or stops the helper every few milliseconds.
fn strike(host: &Host, seed: u32, over: &AtomicBool, tally: &Tally) {
    let mut random = u64::from(seed) | 1;
    while !over.load(Ordering::Relaxed) {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        wait::pass(Duration::from_millis(random % 120));
        let signal = if random & 0x100 == 0 { Signal::SIGKILL } else { Signal::SIGSTOP };
        for helper in host.helpers() {
            // It may have gone by itself.
            if kill(Pid::from_raw(helper), signal).is_ok() {
                tally.blows.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Some answer, within the time that a client waits.
fn answered<T>(tally: &Tally, call: impl FnOnce() -> Result<T, CallError>) -> Result<Option<T>> {
    let began = Instant::now();
    let answer = call();
    let took = usize::try_from(began.elapsed().as_millis()).unwrap_or(usize::MAX);
    tally.longest_ms.fetch_max(took, Ordering::Relaxed);
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(CallError::Refused { .. }) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

fn container(host: &Host, tally: &Tally, made: &Mutex<Vec<(String, String)>>) -> Result<()> {
    let bundle = host.bundle("exit 7")?;
    let task = host.task(&bundle.id);
    if answered(tally, || task.create(&bundle.create_request())).context("Create")?.is_some() {
        remember(made, &bundle.id, &bundle.id)?;
        let started = answered(tally, || task.start("")).context("Start")?.is_some();
        finish(&task, "", started.then_some(7), tally)?;
    } else {
        tally.cut.fetch_add(1, Ordering::Relaxed);
        // Nothing is left of it to be deleted.
        ensure!(
            task.delete("").err().and_then(|why| why.code()) == Some(Code::NOT_FOUND),
            "a create failed, and yet there is something to delete"
        );
    }
    host.remove(&bundle)
}

fn exec(
    host: &Host,
    number: usize,
    tally: &Tally,
    made: &Mutex<Vec<(String, String)>>,
) -> Result<()> {
    let task = host.anchor();
    let name = format!("u{number}");
    let process = bundle::process(&bundle::shell("exit 8"));
    task.exec(&task.exec_request(&name, &process)).context("Exec, which asks no helper")?;
    if answered(tally, || task.start(&name)).context("Start of an exec")?.is_some() {
        remember(made, task.id(), &name)?;
        finish(&task, &name, Some(8), tally)
    } else {
        tally.cut.fetch_add(1, Ordering::Relaxed);
        task.delete(&name).context("Delete of an exec that was not started").map(|_| ())
    }
}

/// Sees to the end of what was made: a Wait gets its exit, and it is deleted, if not
/// at once then when asked again.
fn finish(task: &Task, exec: &str, status: Option<u32>, tally: &Tally) -> Result<()> {
    if status.is_none() {
        // It may run or have ended; both are fine.
        let _ = answered(tally, || task.kill(exec, 9)).context("Kill")?;
    }
    let exit = task.wait(exec).context("Wait")?.exit_status;
    if let Some(status) = status {
        ensure!(exit == status, "{} {exec} ended with {exit}, not {status}", task.id());
    }
    let began = Instant::now();
    while answered(tally, || task.delete(exec)).context("Delete")?.is_none() {
        ensure!(began.elapsed() < PATIENCE, "{} {exec} cannot be deleted", task.id());
        if exec.is_empty()
            && task.state("").err().and_then(|why| why.code()) == Some(Code::NOT_FOUND)
        {
            break;
        }
    }
    let which = if status.is_some() { &tally.whole } else { &tally.cut };
    which.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn remember(made: &Mutex<Vec<(String, String)>>, id: &str, process: &str) -> Result<()> {
    let mut made = made.lock().map_err(|_| anyhow!("a worker panicked"))?;
    made.push((id.to_owned(), process.to_owned()));
    Ok(())
}

/// The exit of each container that was made is published once.
fn told(host: &Host, made: &[(String, String)]) -> Result<()> {
    until(PATIENCE, || {
        let exits = host.exits();
        made.iter().all(|one| exits.contains_key(one)).then_some(())
    });
    let exits = host.exits();
    for one in made {
        match exits.get(one) {
            Some(1) => {}
            Some(count) => bail!("the exit of {one:?} was told {count} times"),
            None => bail!("the exit of {one:?} was not told"),
        }
    }
    Ok(())
}
