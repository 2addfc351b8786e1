//! Feeds mutated inputs to a decoder of outside bytes, and checks what each input costs.
//!
//! A *target* is a unit test in the crate that owns the decoder, so that private decoders stay
//! private: it makes a [`Target`] and hands [`Target::run`] a function over bytes, which asserts
//! what must hold. Its *seeds* are the files of `tests/fuzz/corpus/TARGET`.
//!
//! Promise: inputs are made from the seeds and the target's name alone, so a failure comes again;
//! no input may panic, hold more memory or take more processor time than the target allows; the
//! input that does is kept as a file, and named.
//!
//! - `cargo test` replays the seeds and a few thousand inputs made from them.
//! - `FUZZ_SECONDS=N` goes on for N seconds a target; `FUZZ_SEED=N` makes other inputs.
//! - `tests/fuzz.sh` builds with `-C instrument-coverage` and `--cfg fuzz_coverage`: an input that
//!   runs new code becomes a seed for the rest of that run. Stable Rust can do so, which is why this
//!   is not cargo-fuzz: that one needs a nightly compiler.
//!
//! Memory and time are the calling thread's; a target that starts threads is not measured there.

mod coverage;
mod mutate;
mod random;
mod sys;
pub mod tar;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coverage::Coverage;
use mutate::Mutator;
use random::Random;

/// Inputs made from the seeds where no time is given.
const INPUTS: u64 = 3000;
/// And no longer than that, for targets that write files.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is found and becomes a seed for the run, at most.
const MAX_SEEDS: usize = 4096;

/// A decoder to be fed, and what an input may cost it.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    words: &'static [&'static str],
    max_bytes: usize,
    memory_bytes: usize,
    time: Duration,
    repair: Option<fn(&mut Vec<u8>)>,
}

impl Target {
    /// A target whose seeds lie in `corpus/NAME`.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            words: &[],
            max_bytes: 16 * 1024,
            memory_bytes: 16 << 20,
            time: Duration::from_secs(2),
            repair: None,
        }
    }

    /// Words that mean something to the decoder, to be put into inputs.
    #[must_use]
    pub fn words(self, words: &'static [&'static str]) -> Self {
        Self { words, ..self }
    }

    /// The longest input that is made.
    #[must_use]
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// The memory that may be held at one time for one input, above what was held before.
    #[must_use]
    pub fn memory_bytes(self, memory_bytes: usize) -> Self {
        Self { memory_bytes, ..self }
    }

    /// Mends an input before it is used: checksums that would end every decoding at once.
    #[must_use]
    pub fn repair(self, repair: fn(&mut Vec<u8>)) -> Self {
        Self { repair: Some(repair), ..self }
    }

    /// Feeds `decode` the seeds and then what is made from them.
    ///
    /// # Panics
    ///
    /// When there is no seed, when `decode` panics, or when an input costs more than it may.
    pub fn run(self, mut decode: impl FnMut(&[u8])) {
        let mut seeds = self.seeds();
        assert!(!seeds.is_empty(), "{} holds no seed", self.corpus().display());
        let mut coverage = Coverage::begin();
        let current = Current::new(self.name);
        for seed in &seeds {
            self.feed(seed, &current, &mut decode);
            coverage.is_new();
        }
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seconds: Option<u64> = number("FUZZ_SECONDS");
        let patience = seconds.map_or(PATIENCE, Duration::from_secs);
        let inputs = if seconds.is_some() { u64::MAX } else { INPUTS };
        let mut random = Random::of(self.name, number("FUZZ_SEED").unwrap_or(0));
        let began = Instant::now();
        let mut fed = 0u64;
        while fed < inputs && began.elapsed() < patience {
            let mut input = Mutator::new(&mut random, &seeds, self.words, self.max_bytes).input();
            if let Some(repair) = self.repair {
                repair(&mut input);
            }
            self.feed(&input, &current, &mut decode);
            if coverage.is_new() && seeds.len() < MAX_SEEDS {
                seeds.push(input);
            }
            fed += 1;
        }
        println!("{}: {fed} inputs in {:?}, {} seeds", self.name, began.elapsed(), seeds.len());
    }

    /// The directory of its seeds.
    fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let directory = self.corpus();
        let mut files: Vec<PathBuf> = fs::read_dir(&directory)
            .unwrap_or_else(|why| panic!("list the seeds in {}: {why}", directory.display()))
            .map(|entry| entry.expect("read a directory").path())
            .collect();
        // The order of a directory is not the same everywhere, and inputs are to be.
        files.sort();
        files.iter().map(|file| fs::read(file).expect("read a seed")).collect()
    }

    fn feed(&self, input: &[u8], current: &Current, decode: &mut impl FnMut(&[u8])) {
        // Written before, for what cannot be caught: an abort, an overflow of the stack, a kill.
        current.write(input);
        let measured = sys::Measured::begin(self.memory_bytes);
        let outcome = catch_unwind(AssertUnwindSafe(|| decode(input)));
        let (memory_bytes, time) = measured.end();
        let fault = match outcome {
            Err(panic) => {
                let kept = current.keep();
                println!("{}: the input is kept as {}", self.name, kept.display());
                resume_unwind(panic);
            }
            Ok(()) if memory_bytes > self.memory_bytes => {
                format!("held {memory_bytes} bytes, {} are allowed", self.memory_bytes)
            }
            Ok(()) if time > self.time => format!("took {time:?}, {:?} are allowed", self.time),
            Ok(()) => return,
        };
        panic!(
            "{}: an input of {} bytes {fault}: {}",
            self.name,
            input.len(),
            current.keep().display()
        );
    }
}

/// The file with the input that is being decoded.
struct Current(PathBuf);

impl Current {
    fn new(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz");
        fs::create_dir_all(&directory).expect("make target/fuzz");
        Self(directory.join(format!("{name}.{}.current", std::process::id())))
    }

    fn write(&self, input: &[u8]) {
        fs::write(&self.0, input).expect("write the current input");
    }

    /// Names it for good: by its content, so that one fault is one file.
    fn keep(&self) -> PathBuf {
        let input = fs::read(&self.0).expect("read the current input");
        let name = self.0.file_name().and_then(|name| name.to_str()).unwrap_or("input");
        let target = name.split('.').next().unwrap_or("input");
        let kept = self.0.with_file_name(format!("{target}.{:016x}.fault", random::hash(&input)));
        fs::rename(&self.0, &kept).expect("keep the input");
        kept
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        // Kept under another name where it is a fault.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_makes_the_same_inputs() {
        let inputs = |name| {
            let mut seen = Vec::new();
            let mut random = Random::of(name, 0);
            for _ in 0..200 {
                let seeds = [b"seed one".to_vec(), b"another".to_vec()];
                seen.push(Mutator::new(&mut random, &seeds, &["word"], 64).input());
            }
            seen
        };
        assert_eq!(inputs("a"), inputs("a"));
        assert_ne!(inputs("a"), inputs("b"));
        assert!(inputs("a").iter().all(|input| input.len() <= 64));
    }

    #[test]
    fn what_an_input_holds_and_takes_is_measured() {
        let measured = sys::Measured::begin(1 << 20);
        drop(std::hint::black_box(vec![1u8; 300_000]));
        let (memory_bytes, _) = measured.end();
        assert!((300_000..400_000).contains(&memory_bytes), "{memory_bytes}");
    }

    #[test]
    fn an_input_that_costs_too_much_is_named_and_kept() {
        for (name, decode) in [
            ("example", (|_: &[u8]| drop(std::hint::black_box(vec![1u8; 2 << 20]))) as fn(&[u8])),
            ("example", |_: &[u8]| panic!("on purpose")),
        ] {
            let target = Target::new(name).memory_bytes(1 << 20);
            let fault = catch_unwind(AssertUnwindSafe(|| target.run(decode))).unwrap_err();
            let text =
                fault.downcast_ref::<String>().map_or("on purpose", String::as_str).to_owned();
            assert!(text.contains("on purpose") || text.contains("are allowed"), "{text}");
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz");
            let seed = fs::read(Target::new(name).corpus().join("seed")).expect("its seed");
            let kept = directory.join(format!("example.{:016x}.fault", random::hash(&seed)));
            fs::remove_file(kept).expect("the input was kept");
        }
    }
}
