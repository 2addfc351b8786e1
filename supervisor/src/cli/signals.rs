//! Signals that arrive at this process and are passed to the container.

use std::collections::VecDeque;
use std::convert::Infallible;

use nix::sys::signal::Signal;
use protos::grpc::containerd::services::tasks::v1::{KillRequest, ResizePtyRequest};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::client::Client;
use super::error::{CliError, unless_absent};
use super::terminal;

/// Signals that go to the container's process.
const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Handlers of the signals. They no longer end this process; those that arrive before
/// [`Signals::forward`] are kept.
pub(crate) struct Signals {
    streams: Vec<(Signal, Stream)>,
    resized: Option<Stream>,
    /// Signals that arrived before the container's process was started.
    kept: VecDeque<Signal>,
}

impl Signals {
    pub(crate) fn catch(terminal: bool) -> Result<Self, CliError> {
        let stream = |number: Signal| {
            signal(SignalKind::from_raw(number as i32))
                .map_err(|cause| CliError::io(format!("handle {number}"), cause))
        };
        let streams = FORWARDED
            .into_iter()
            .map(|number| stream(number).map(|stream| (number, stream)))
            .collect::<Result<_, _>>()?;
        let resized = terminal.then(|| stream(Signal::SIGWINCH)).transpose()?;
        Ok(Self { streams, resized, kept: VecDeque::new() })
    }

    /// Passes signals to the process, until this future is dropped.
    pub(crate) async fn forward(
        &mut self,
        client: &Client,
        container: &str,
        exec: &str,
    ) -> Infallible {
        if self.resized.is_some() {
            resize(client, container, exec).await;
        }
        loop {
            match self.next().await {
                None => resize(client, container, exec).await,
                Some(number) => {
                    let request = KillRequest {
                        container_id: container.to_owned(),
                        exec_id: exec.to_owned(),
                        signal: number as u32,
                        all: false,
                    };
                    let killed = client.tasks().kill(request).await;
                    if let Err(error) = unless_absent(killed, || format!("forward {number}")) {
                        log::warn!("{}", error.report());
                    }
                }
            }
        }
    }

    /// Returns the next signal that asks this process to end. Others are kept for
    /// [`Signals::forward`].
    ///
    /// # Cancel safety
    ///
    /// No signal is lost.
    pub(crate) async fn interrupted(&mut self) -> Signal {
        loop {
            match self.arrived().await {
                Some(
                    signal @ (Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT),
                ) => return signal,
                Some(other) => self.kept.push_back(other),
                // `forward` sends the terminal's size when it begins.
                None => {}
            }
        }
    }

    /// The next signal; `None` for a terminal that was resized.
    async fn next(&mut self) -> Option<Signal> {
        match self.kept.pop_front() {
            Some(kept) => Some(kept),
            None => self.arrived().await,
        }
    }

    async fn arrived(&mut self) -> Option<Signal> {
        std::future::poll_fn(|context| {
            for (number, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(Some(*number));
                }
            }
            if let Some(resized) = &mut self.resized
                && resized.poll_recv(context).is_ready()
            {
                return std::task::Poll::Ready(None);
            }
            std::task::Poll::Pending
        })
        .await
    }
}

async fn resize(client: &Client, container: &str, exec: &str) {
    let Some((width, height)) = terminal::size() else { return };
    let request = ResizePtyRequest {
        container_id: container.to_owned(),
        exec_id: exec.to_owned(),
        width,
        height,
    };
    // Fails when the process has ended, which is harmless.
    let _ = client.tasks().resize_pty(request).await;
}

/// Parses a signal by name, with or without SIG, or by number.
pub(crate) fn parse(text: &str) -> Result<u32, CliError> {
    let unknown = || CliError::UnknownSignal { text: text.to_owned() };
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // SIGRTMIN is 34: the C library uses the two signals below it.
    let (first, last) = (34, 64);
    let number = |text: &str| text.parse::<u32>().map_err(|_| unknown());
    let real_time = match name.strip_prefix("RTM") {
        Some("IN") => Some(first),
        Some("AX") => Some(last),
        Some(rest) => match (rest.strip_prefix("IN+"), rest.strip_prefix("AX-")) {
            (Some(offset), _) => Some(first + number(offset)?),
            (_, Some(offset)) => Some(last - number(offset)?.min(last)),
            (None, None) => None,
        },
        None => None,
    };
    match real_time {
        Some(number) if (first..=last).contains(&number) => Ok(number),
        Some(_) => Err(unknown()),
        None => format!("SIG{name}")
            .parse::<Signal>()
            .map(|signal| signal as u32)
            .map_err(|_| unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_by_number() {
        for (text, number) in
            [("SIGKILL", 9), ("kill", 9), ("15", 15), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "SIG", "0", "65", "RTMIN+99", "NOPE"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
