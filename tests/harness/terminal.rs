//! Running a command on a terminal of its own.
//!
//! `setsid --ctty` (util-linux) makes the terminal the controlling one, which spares us the fork
//! that only unsafe code could do.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};

use crate::{command, eventually, programs, wait};

/// A command on a terminal.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    line: String,
    path: PathBuf,
}

impl Terminal {
    /// Starts a command on a terminal of 33 rows and 99 columns.
    ///
    /// # Panics
    ///
    /// When there is no terminal to be had, or the command does not start.
    #[must_use]
    pub fn start(inner: &Command) -> Self {
        let size = Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("open a pseudo-terminal");
        let line = command::line(inner);
        let path = nix::unistd::ttyname(&pair.slave).expect("a terminal has a name");
        let mut outer = Command::new(programs::system("setsid"));
        outer.args(["--ctty", "--wait"]).arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        if let Some(directory) = inner.get_current_dir() {
            outer.current_dir(directory);
        }
        let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("duplicate a descriptor"));
        outer.stdin(end(&pair.slave)).stdout(end(&pair.slave)).stderr(end(&pair.slave));
        let child = outer.spawn().unwrap_or_else(|why| panic!("start `{line}`: {why}"));
        // The command holds the only copies now, so that its end is the end of the screen.
        drop(outer);
        drop(pair.slave);
        let keyboard = File::from(pair.master.try_clone().expect("duplicate a descriptor"));
        let mut master = File::from(pair.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO is how Linux says that the last holder of the terminal is gone.
            while let Ok(count @ 1..) = master.read(&mut buffer) {
                shown.lock().expect("no holder panics").extend_from_slice(&buffer[..count]);
            }
        });
        Self { child, keyboard, screen, line, path }
    }

    /// Types.
    ///
    /// # Panics
    ///
    /// When the terminal is gone.
    pub fn type_in(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("the terminal is open");
    }

    /// Changes its size, as the user of a terminal window does.
    ///
    /// # Panics
    ///
    /// When the terminal is gone.
    pub fn resize(&self, rows: u16, columns: u16) {
        let mut stty = Command::new(programs::system("stty"));
        stty.arg("-F").arg(&self.path).args(["rows", &rows.to_string()]);
        let _ = command::run(stty.args(["cols", &columns.to_string()])).success();
    }

    /// What the screen has shown so far.
    #[must_use]
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().expect("no holder panics")).into_owned()
    }

    /// Waits until the screen shows something.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn shows(&self, text: &str) {
        let shown = wait::until(wait::SOON, || self.screen().contains(text).then_some(()));
        let (line, screen) = (&self.line, self.screen());
        assert!(shown.is_some(), "`{line}` never showed {text:?}, only:\n{screen}");
    }

    /// Waits for the command's end; its exit code.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn end(&mut self) -> i32 {
        let status = eventually(wait::SOON, &format!("`{}` ends", self.line), || {
            self.child.try_wait().expect("a child of this process")
        });
        status.code().unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Harmless when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
