//! Makes an input from the seeds: one of them, changed a few times.

use crate::random::Random;

/// Bytes at the edges of what decoders tell apart.
const EDGES: [u8; 14] =
    [0, 1, 0x1f, b' ', b'"', b'+', b'-', b'/', b'0', b'9', 0x7f, 0x80, 0xc3, 0xff];
/// Numbers at the edges, as text.
const NUMBERS: [&str; 9] = [
    "0",
    "-1",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "77777777777",
];

pub(crate) struct Mutator<'a> {
    random: &'a mut Random,
    seeds: &'a [Vec<u8>],
    words: &'a [&'a str],
    max_bytes: usize,
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(
        random: &'a mut Random,
        seeds: &'a [Vec<u8>],
        words: &'a [&'a str],
        max_bytes: usize,
    ) -> Self {
        Self { random, seeds, words, max_bytes }
    }

    /// One input.
    pub(crate) fn input(&mut self) -> Vec<u8> {
        let mut input = self.random.choose(self.seeds).cloned().unwrap_or_default();
        // Mostly few changes: many at once seldom get past the first check.
        let changes = 1 << self.random.below(5);
        for _ in 0..changes {
            self.change(&mut input);
            input.truncate(self.max_bytes);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let byte = self.random.next() as u8;
        match self.random.below(12) {
            0 if at < input.len() => input[at] ^= 1 << (byte & 7),
            1 if at < input.len() => input[at] = byte,
            2 if at < input.len() => {
                input[at] = *self.random.choose(&EDGES).expect("there are some");
            }
            3 => input.truncate(at),
            4 => {
                let end = self.span(at, input.len());
                input.drain(at..end);
            }
            5 => {
                // Once more, and often many times: what costs more than it should grows with it.
                let end = self.span(at, input.len());
                let part = input[at..end].to_vec();
                let times = if byte < 32 { 1 + usize::from(byte) * 8 } else { 1 };
                let room = self.max_bytes.saturating_sub(input.len());
                let times = times.min(room / part.len().max(1));
                splice(input, at, at, &part.repeat(times));
            }
            6 | 7 => {
                let word = self.random.choose(self.words).map_or(&b""[..], |word| word.as_bytes());
                let end = if byte < 128 { at } else { (at + word.len()).min(input.len()) };
                splice(input, at, end, word);
            }
            8 => {
                // A number where one stands, or anywhere.
                let number = self.random.choose(&NUMBERS).expect("there are some").as_bytes();
                let digits = input[at..].iter().position(u8::is_ascii_digit).map_or(at, |n| at + n);
                let length = input[digits..].iter().take_while(|b| b.is_ascii_digit()).count();
                splice(input, digits, digits + length, number);
            }
            9 => {
                let other = self.random.choose(self.seeds).cloned().unwrap_or_default();
                let from = self.random.below(other.len() + 1);
                let to = self.span(from, other.len());
                let end = if byte < 128 { at } else { self.span(at, input.len()) };
                splice(input, at, end, &other[from..to]);
            }
            10 => {
                let edge = *self.random.choose(&EDGES).expect("there are some");
                let count = 1 + self.random.below(if byte < 16 { 4096 } else { 4 });
                splice(input, at, at, &vec![edge; count]);
            }
            _ => input.insert(at, byte),
        }
    }

    /// An end for a part that begins at `at`: near more often than far.
    fn span(&mut self, at: usize, length: usize) -> usize {
        let reach =
            if self.random.next().is_multiple_of(4) { length - at } else { (length - at).min(32) };
        at + self.random.below(reach + 1)
    }
}

fn splice(input: &mut Vec<u8>, from: usize, to: usize, with: &[u8]) {
    input.splice(from..to, with.iter().copied());
}
