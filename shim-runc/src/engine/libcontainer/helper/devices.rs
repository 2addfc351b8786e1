//! Who may use which device on cgroup v2: the spec's rules as a program for the kernel.
//!
//! Version 2 has no file for devices. A program attached to the group is asked about every device
//! that is opened or made; libcontainer has none without a C library that is not linked here.
//!
//! Promise: for each of reading, writing and making, the last rule that names the device decides;
//! what no rule names is refused. Rules for all devices replace those before them, as they do on
//! version 1. What every container needs is allowed last, as runc does.
//! See the kernel's cgroup-v2 document, "Device controller"; bpf(2); its instruction-set document.

use std::fs::File;
use std::io;
use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::sys;

/// The kinds and ways of access as the kernel tells them (`BPF_DEVCG_*`).
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;
const ALL: i32 = MAKE | READ | WRITE;

/// What every container may use: kind, major, minor.
const USUAL: [(i32, i64, Option<i64>); 9] = [
    (CHARACTER, 1, Some(3)),    // null
    (CHARACTER, 1, Some(5)),    // zero
    (CHARACTER, 1, Some(7)),    // full
    (CHARACTER, 1, Some(8)),    // random
    (CHARACTER, 1, Some(9)),    // urandom
    (CHARACTER, 5, Some(0)),    // tty
    (CHARACTER, 5, Some(2)),    // ptmx
    (CHARACTER, 136, None),     // pts
    (CHARACTER, 10, Some(200)), // net/tun
];

/// One rule, for devices of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: i32,
    major: Option<i32>,
    minor: Option<i32>,
    access: i32,
}

/// The rules of a container.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Devices {
    otherwise: bool,
    rules: Vec<Rule>,
}

impl Devices {
    /// Of the rules in a spec.
    pub(super) fn of(spec: &[LinuxDeviceCgroup]) -> io::Result<Self> {
        let mut this = Self { otherwise: false, rules: Vec::new() };
        for rule in spec {
            this.add(rule)?;
        }
        for kind in [CHARACTER, BLOCK] {
            let rule = Rule { allow: true, kind, major: None, minor: None, access: MAKE };
            this.rules.push(rule);
        }
        for (kind, major, minor) in USUAL {
            let (major, minor) = (Some(number(major)?), minor.map(number).transpose()?);
            this.rules.push(Rule { allow: true, kind, major, minor, access: ALL });
        }
        Ok(this)
    }

    fn add(&mut self, rule: &LinuxDeviceCgroup) -> io::Result<()> {
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => {
                *self = Self { otherwise: rule.allow(), rules: Vec::new() };
                return Ok(());
            }
            LinuxDeviceType::B => BLOCK,
            LinuxDeviceType::C | LinuxDeviceType::U => CHARACTER,
            // Nobody is asked about those.
            LinuxDeviceType::P => return Ok(()),
        };
        let mut access = 0;
        for letter in rule.access().iter().flat_map(|text| text.chars()) {
            access |= match letter {
                'm' => MAKE,
                'r' => READ,
                'w' => WRITE,
                _ => return Err(invalid(format!("devices: {letter:?} is no way of access"))),
            };
        }
        // Any number is written as -1, too.
        let wanted =
            |given: Option<i64>| given.filter(|number| *number >= 0).map(number).transpose();
        let (major, minor) = (wanted(rule.major())?, wanted(rule.minor())?);
        self.rules.push(Rule { allow: rule.allow(), kind, major, minor, access });
        Ok(())
    }

    /// Makes them count in a control group and those below it.
    pub(super) fn attach(&self, group: &Path) -> io::Result<()> {
        let named = |what: &'static str| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
        };
        let program =
            sys::bpf::load_device_program(&self.program()).map_err(named("bpf(PROG_LOAD)"))?;
        sys::bpf::attach_device_program(program, File::open(group)?)
            .map_err(named("bpf(PROG_ATTACH)"))
    }

    /// As instructions. The last rule is asked first; what it does not decide of the access is left
    /// in a register for those before it.
    fn program(&self) -> Vec<u64> {
        use register::{ASKED, CONTEXT, KIND, LEFT, MAJOR, MINOR, RESULT};
        let mut code = vec![
            load(KIND, CONTEXT, 0),
            and(KIND, 0xffff),
            load(LEFT, CONTEXT, 0),
            shift_right(LEFT, 16),
            load(MAJOR, CONTEXT, 4),
            load(MINOR, CONTEXT, 8),
        ];
        for rule in self.rules.iter().rev() {
            let mut tests = vec![(KIND, rule.kind)];
            tests.extend(rule.major.map(|major| (MAJOR, major)));
            tests.extend(rule.minor.map(|minor| (MINOR, minor)));
            let decision = if rule.allow {
                let rest = [and(LEFT, ALL & !rule.access), jump_if_other(LEFT, 0, 2)];
                [&rest[..], &[set(RESULT, 1), EXIT]].concat()
            } else {
                let asked = [copy(ASKED, LEFT), and(ASKED, rule.access), jump_if(ASKED, 0, 2)];
                [&asked[..], &[set(RESULT, 0), EXIT]].concat()
            };
            let mut beyond = tests.len() + decision.len();
            for (register, value) in tests {
                beyond -= 1;
                code.push(jump_if_other(register, value, beyond));
            }
            code.extend(decision);
        }
        code.extend([set(RESULT, i32::from(self.otherwise)), EXIT]);
        code
    }
}

fn number(number: i64) -> io::Result<i32> {
    i32::try_from(number).map_err(|_| invalid(format!("devices: {number} is no device's number")))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// What is kept in which register.
mod register {
    pub(super) const RESULT: u8 = 0;
    pub(super) const CONTEXT: u8 = 1;
    pub(super) const KIND: u8 = 2;
    pub(super) const LEFT: u8 = 3;
    pub(super) const MAJOR: u8 = 4;
    pub(super) const MINOR: u8 = 5;
    pub(super) const ASKED: u8 = 6;
}

const EXIT: u64 = 0x95;

/// `code` with two registers, an offset and a constant, as `struct bpf_insn` has them.
const fn instruction(code: u8, to: u8, from: u8, offset: u16, constant: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = constant.to_le_bytes();
    u64::from_ne_bytes([code, to | from << 4, low, high, a, b, c, d])
}

/// Reads a word of the question.
const fn load(to: u8, from: u8, offset: u16) -> u64 {
    instruction(0x61, to, from, offset, 0)
}

const fn and(register: u8, mask: i32) -> u64 {
    instruction(0x54, register, 0, 0, mask)
}

const fn shift_right(register: u8, bits: i32) -> u64 {
    instruction(0x74, register, 0, 0, bits)
}

const fn set(register: u8, value: i32) -> u64 {
    instruction(0xb4, register, 0, 0, value)
}

const fn copy(to: u8, from: u8) -> u64 {
    instruction(0xbc, to, from, 0, 0)
}

/// Passes over so many instructions where a register has a value.
fn jump_if(register: u8, value: i32, over: usize) -> u64 {
    instruction(0x15, register, 0, over as u16, value)
}

/// The same where it has another.
fn jump_if_other(register: u8, value: i32, over: usize) -> u64 {
    instruction(0x55, register, 0, over as u16, value)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn devices(rules: Value) -> Devices {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
        Devices::of(&rules).unwrap()
    }

    /// What a program answers, worked out one instruction after the other.
    fn allows(devices: &Devices, kind: i32, major: i32, minor: i32, access: i32) -> bool {
        let question = [access << 16 | kind, major, minor];
        let code = devices.program();
        let mut registers = [0_i64; 11];
        let mut at = 0;
        loop {
            let [code, pair, low, high, a, b, c, d] = code[at].to_ne_bytes();
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let offset = usize::from(u16::from_le_bytes([low, high]));
            let constant = i64::from(i32::from_le_bytes([a, b, c, d]));
            at += 1;
            match code {
                0x61 => registers[to] = i64::from(question[offset / 4]),
                0x54 => registers[to] &= constant,
                0x74 => registers[to] >>= constant,
                0xb4 => registers[to] = constant,
                0xbc => registers[to] = registers[from],
                0x15 if registers[to] == constant => at += offset,
                0x55 if registers[to] != constant => at += offset,
                0x15 | 0x55 => {}
                0x95 => return registers[0] == 1,
                other => panic!("no instruction: {other:#x}"),
            }
        }
    }

    #[test]
    fn what_no_rule_names_may_be_made_and_not_opened() {
        for devices in [devices(json!([])), devices(json!([{"allow": false, "access": "rwm"}]))] {
            assert!(allows(&devices, CHARACTER, 1, 3, READ | WRITE));
            assert!(allows(&devices, CHARACTER, 136, 7, READ | WRITE));
            assert!(allows(&devices, BLOCK, 7, 0, MAKE));
            assert!(!allows(&devices, BLOCK, 7, 0, READ));
            assert!(!allows(&devices, BLOCK, 7, 0, MAKE | READ));
            assert!(!allows(&devices, BLOCK, 1, 3, READ), "the kind counts");
            assert!(!allows(&devices, CHARACTER, 5, 1, READ), "the host's console");
        }
    }

    #[test]
    fn everything_is_allowed_where_the_last_rule_for_all_says_so() {
        let all = devices(json!([
            {"allow": false, "type": "b", "major": 7, "access": "rwm"},
            {"allow": true, "access": "rwm"},
        ]));
        assert!(allows(&all, BLOCK, 7, 0, READ | WRITE));
        let but = devices(json!([
            {"allow": true, "access": "rwm"},
            {"allow": false, "type": "b", "major": 7, "access": "w"},
        ]));
        assert!(allows(&but, BLOCK, 7, 0, READ));
        assert!(!allows(&but, BLOCK, 7, 0, READ | WRITE), "part of it is refused");
        assert!(allows(&but, BLOCK, 8, 0, READ | WRITE));
    }

    #[test]
    fn each_way_of_access_is_decided_by_the_last_rule_about_it() {
        let mixed = devices(json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 4, "minor": 64, "access": "rw"},
            {"allow": false, "type": "c", "major": 4, "minor": -1, "access": "w"},
            {"allow": true, "type": "c", "major": 4, "minor": 65, "access": "w"},
        ]));
        assert!(allows(&mixed, CHARACTER, 4, 64, READ));
        assert!(!allows(&mixed, CHARACTER, 4, 64, WRITE));
        assert!(!allows(&mixed, CHARACTER, 4, 64, READ | WRITE));
        assert!(allows(&mixed, CHARACTER, 4, 65, WRITE));
        assert!(!allows(&mixed, CHARACTER, 4, 65, READ | WRITE), "nobody allows it to be read");
    }

    #[test]
    fn an_access_that_nobody_knows_is_refused() {
        let rules = json!([{"allow": true, "type": "c", "major": 1, "minor": 1, "access": "rx"}]);
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
        assert!(Devices::of(&rules).unwrap_err().to_string().contains("'x'"));
    }
}
