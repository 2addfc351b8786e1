//! A runtime binary that runs the real one, until a row makes it hang, crash, flood or answer wrongly.
//!
//! It is a shell script that notes how it was called, runs the fault for its verb if there is one,
//! and otherwise executes the real runtime. Faults are shell text, in files that come and go while
//! the shim runs; they may use `$log` (the value of `--log`), `$pidfile`, `$real` and `$d`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use harness::programs;

use crate::fixture::Fixture;
use crate::verdict::not_offered;

/// Sleeps as the process itself, under a name that the sweep can find.
pub(crate) const HANG: &str = "exec \"$d/sleep\" 300";
/// Dies by a signal.
pub(crate) const CRASH: &str = "kill -SEGV $$";

/// A runtime binary under a row's control.
pub(crate) struct FakeRuntime {
    dir: PathBuf,
    /// What to name as `BinaryName`.
    pub(crate) path: PathBuf,
}

impl FakeRuntime {
    /// Makes one around the runtime under test.
    pub(crate) fn new(fixture: &Fixture) -> Result<Self> {
        let dir = fixture.dir.join("fake");
        fs::create_dir_all(&dir)?;
        let real = match &fixture.options.runtime {
            Some(runtime) => runtime.clone(),
            None => programs::find("runc").context("runc is missing")?,
        };
        let busybox = programs::find("busybox").context("busybox is missing")?;
        std::os::unix::fs::symlink(busybox, dir.join("sleep"))?;
        let path = dir.join("runtime");
        let script = format!(
            r#"#!/bin/sh
d='{dir}'
real='{real}'
verb= log= pidfile= before=
for word do
    case $before in
        --log) log=$word ;;
        --pid-file) pidfile=$word ;;
    esac
    case $word in
        create|start|run|kill|delete|exec|ps|state|pause|resume|update|events|checkpoint|restore|features|list)
            [ -n "$verb" ] || verb=$word ;;
    esac
    before=$word
done
printf '%s\n' "$verb: $* NOTIFY_SOCKET=${{NOTIFY_SOCKET-unset}}" >> "$d/calls"
if [ -e "$d/fault.$verb" ]; then
    . "$d/fault.$verb"
fi
exec "$real" "$@"
"#,
            dir = dir.display(),
            real = real.display(),
        );
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self { dir, path })
    }

    /// A bundle that is to be run by it.
    pub(crate) fn bundle(&self, fixture: &Fixture, script: &str) -> Result<harness::shim::Bundle> {
        let mut bundle = fixture.shell(script)?;
        let options = bundle.options.get_or_insert_default();
        options.binary_name = self.path.display().to_string();
        Ok(bundle)
    }

    /// Makes `verb` go wrong from now on.
    pub(crate) fn fault(&self, verb: &str, text: &str) -> Result<()> {
        // Renamed into place, so that no shim runs half of it.
        let beside = self.dir.join(format!(".{verb}"));
        fs::write(&beside, format!("{text}\n"))?;
        fs::rename(beside, self.dir.join(format!("fault.{verb}")))?;
        Ok(())
    }

    /// Lets `verb` be.
    pub(crate) fn mend(&self, verb: &str) {
        // It may be absent; that is the same result.
        let _ = fs::remove_file(self.dir.join(format!("fault.{verb}")));
    }

    /// How it was called: one line a call, beginning with the verb.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Ends the row as not offered unless the shim has called it with `verb`.
    pub(crate) fn must_be_used(&self, verb: &str) -> Result<()> {
        if self.calls().iter().any(|call| call.starts_with(&format!("{verb}: "))) {
            return Ok(());
        }
        not_offered(format!("the shim runs no runtime binary for {verb}"))
    }
}
