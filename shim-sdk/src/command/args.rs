//! Arguments in the form of Go's package flag: `-name value`, `-name=value`, one dash or two.
//!
//! An unknown flag is refused with Go's message. The flags of all containerd releases are known;
//! some have no effect.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::{Error, Result};

/// The action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// `-v`
    Version,
    /// `-info`
    Info,
    /// `start`
    Start,
    /// No action: run as the server.
    Serve,
    /// `delete`
    Delete,
}

/// A shim's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) action: Action,
    pub(crate) namespace: String,
    pub(crate) id: String,
    /// The daemon's address; it is hashed into the socket's name.
    pub(crate) address: String,
    pub(crate) bundle: Option<PathBuf>,
    /// A socket given on the command line. Normally the listener is passed as a descriptor.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) debug: bool,
}

impl Args {
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut parsed = Self {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
            socket: None,
            debug: false,
        };
        let mut version = false;
        let mut info = false;
        let mut arguments = arguments.map(|argument| {
            argument.into_string().map_err(|argument| {
                Error::invalid(format!("argument {argument:?} is not valid UTF-8"))
            })
        });
        while let Some(argument) = arguments.next() {
            let argument = argument?;
            let Some(flag) = argument.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
                parsed.action = match argument.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    other => return Err(Error::invalid(format!("unknown action {other:?}"))),
                };
                // As in Go, parsing stops at the first argument that is no flag.
                break;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            if flag.is_empty() {
                break;
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let switch = |value: Option<String>| match value.as_deref() {
                None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
                Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
                Some(other) => {
                    Err(Error::invalid(format!("invalid boolean value {other:?} for -{name}")))
                }
            };
            match name {
                "debug" => parsed.debug = switch(value)?,
                "v" | "version" => version = switch(value)?,
                "info" => info = switch(value)?,
                "namespace" | "id" | "address" | "bundle" | "socket" | "publish-binary" => {
                    let value = match value {
                        Some(value) => value,
                        None => arguments.next().transpose()?.ok_or_else(|| {
                            Error::invalid(format!("flag needs an argument: -{name}"))
                        })?,
                    };
                    let path = || (!value.is_empty()).then(|| PathBuf::from(&value));
                    match name {
                        "namespace" => parsed.namespace = value,
                        "id" => parsed.id = value,
                        "address" => parsed.address = value,
                        "bundle" => parsed.bundle = path(),
                        "socket" => parsed.socket = path(),
                        // publish-binary: events go over ttrpc, without containerd's binary.
                        _ => {}
                    }
                }
                _ => {
                    return Err(Error::invalid(format!("flag provided but not defined: -{name}")));
                }
            }
        }
        if version {
            parsed.action = Action::Version;
        } else if info {
            parsed.action = Action::Info;
        } else if parsed.namespace.is_empty() {
            return Err(Error::invalid("shim namespace cannot be empty"));
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn containerds_own_line_is_understood() {
        let args = parse(
            "-namespace default -address /run/containerd/containerd.sock -publish-binary \
             /usr/bin/containerd -id web -debug start",
        );
        let args = args.expect("valid");
        assert_eq!(args.action, Action::Start);
        assert_eq!((args.namespace.as_str(), args.id.as_str()), ("default", "web"));
        assert!(args.debug);
    }

    #[test]
    fn one_dash_or_two_and_an_equals_sign_are_the_same() {
        let args = parse("--namespace=n -id=i --bundle /b delete").expect("valid");
        assert_eq!(args.action, Action::Delete);
        assert_eq!(args.bundle, Some("/b".into()));
        assert_eq!(args.namespace, "n");
    }

    #[test]
    fn no_action_means_the_server() {
        assert_eq!(parse("-namespace n -id i").expect("valid").action, Action::Serve);
    }

    #[test]
    fn version_and_info_need_no_namespace() {
        assert_eq!(parse("-v").expect("valid").action, Action::Version);
        assert_eq!(parse("-info").expect("valid").action, Action::Info);
        assert!(parse("start").is_err());
    }

    #[test]
    fn unknown_flags_and_actions_are_refused_by_name() {
        assert!(parse("-nope").expect_err("unknown").to_string().contains("-nope"));
        assert!(parse("-namespace n stop").expect_err("unknown").to_string().contains("stop"));
        assert!(parse("-id").expect_err("no value").to_string().contains("-id"));
    }
}
