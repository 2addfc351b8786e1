//! Makes the authority of gRPC's C library one that the HTTP library takes.
//!
//! grpcio and the other wrappers of gRPC's C library send the socket's path, percent-encoded, as
//! `:authority` (`run%2Fx.sock`); old ones, and other clients, send it as it is. RFC 3986 allows the
//! one; the `http` crate neither, so h2 resets every stream with PROTOCOL_ERROR, before anything of
//! ours sees the request. No code reads the
//! authority, so the characters in question are replaced while bytes come in.
//! Promise: no length changes, neither of a frame nor of a decoded header, so the two ends' header
//! tables stay the same. Only the first frame of a header block is looked at, where the pseudo
//! header is. Data is passed on where it lies; a header block is held until it is whole.
//! See RFC 9113 (frames), RFC 7541 (header blocks).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// `PRI * HTTP/2.0...`, with which a client's side begins.
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
/// No peer may send larger frames, unless it is allowed to, which we do not do.
const FRAME_BYTES: usize = 1 << 14;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// How much is read at a time behind a part of a header block.
const READ_BYTES: usize = 4096;
/// The index of `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;

/// What comes next in the byte stream of a client.
#[derive(Debug)]
enum Next {
    /// Bytes that are passed on as they are.
    Payload(usize),
    FrameHeader([u8; FRAME_HEADER_BYTES], usize),
    /// A header block of this length, in a frame with these flags.
    Block(usize, u8),
}

/// Rewrites what a client sends.
#[derive(Debug)]
pub(super) struct Authority {
    next: Next,
    /// The beginning of a header block whose end has not been read.
    held: Vec<u8>,
    /// Bytes to be given out before others are read.
    ready: Vec<u8>,
}

impl Authority {
    pub(super) fn new() -> Self {
        Self { next: Next::Payload(PREFACE_BYTES), held: Vec::new(), ready: Vec::new() }
    }

    /// Reads from a client's stream.
    pub(super) fn poll_read(
        &mut self,
        mut stream: Pin<&mut impl AsyncRead>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.ready.is_empty() {
                let n = buffer.remaining().min(self.ready.len());
                buffer.put_slice(&self.ready[..n]);
                self.ready.drain(..n);
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() {
                let before = buffer.filled().len();
                ready!(stream.as_mut().poll_read(context, buffer))?;
                let bytes = &mut buffer.filled_mut()[before..];
                if bytes.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                let passed = self.pass(bytes);
                self.held.extend_from_slice(&bytes[passed..]);
                buffer.set_filled(before + passed);
                if passed > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut more = [0; READ_BYTES];
                let mut more = ReadBuf::new(&mut more);
                ready!(stream.as_mut().poll_read(context, &mut more))?;
                if more.filled().is_empty() {
                    // The client has gone in the middle of a header block.
                    return Poll::Ready(Ok(()));
                }
                let mut held = std::mem::take(&mut self.held);
                held.extend_from_slice(more.filled());
                let passed = self.pass(&mut held);
                self.held = held.split_off(passed);
                self.ready = held;
            }
        }
    }

    /// Goes through bytes and changes what has to be; returns how many may be passed on. The rest
    /// is a part of a header block, and must be at the beginning of the next call's bytes.
    fn pass(&mut self, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let left = bytes.len() - at;
            match &mut self.next {
                Next::Payload(expected) => {
                    let n = left.min(*expected);
                    *expected -= n;
                    at += n;
                    if *expected > 0 {
                        break;
                    }
                    self.next = Next::FrameHeader([0; FRAME_HEADER_BYTES], 0);
                }
                Next::FrameHeader(header, got) => {
                    let n = left.min(FRAME_HEADER_BYTES - *got);
                    header[*got..*got + n].copy_from_slice(&bytes[at..at + n]);
                    *got += n;
                    at += n;
                    if *got == FRAME_HEADER_BYTES {
                        self.next = after(*header);
                    }
                }
                Next::Block(length, flags) => {
                    let (length, flags) = (*length, *flags);
                    if left < length {
                        break;
                    }
                    let block = fields(&mut bytes[at..at + length], flags);
                    // What is malformed is for the HTTP library to refuse.
                    let _ = block.and_then(rewrite);
                    at += length;
                    self.next = Next::FrameHeader([0; FRAME_HEADER_BYTES], 0);
                }
            }
        }
        at
    }
}

/// What follows a frame's header.
fn after(header: [u8; FRAME_HEADER_BYTES]) -> Next {
    let [high, middle, low, kind, flags, ..] = header;
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    match (kind, length) {
        (_, 0) => Next::FrameHeader([0; FRAME_HEADER_BYTES], 0),
        (HEADERS, 1..=FRAME_BYTES) => Next::Block(length, flags),
        _ => Next::Payload(length),
    }
}

/// The header fields of a HEADERS frame's payload.
fn fields(payload: &mut [u8], flags: u8) -> Option<&mut [u8]> {
    let mut begin = 0;
    let mut end = payload.len();
    if flags & PADDED != 0 {
        begin += 1;
        end = end.checked_sub((*payload.first()?).into())?;
    }
    if flags & PRIORITY != 0 {
        begin += 5;
    }
    payload.get_mut(begin..end)
}

/// Replaces what is not taken in each `:authority` that is spelled out in a header block; `None`
/// when the block ends before its time.
fn rewrite(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = integer(block, &mut at, prefix)?;
        if first >= 0x80 || (0x20..0x40).contains(&first) {
            // A field of a table, or the table's size: no text.
            continue;
        }
        let mut is_authority = index == AUTHORITY;
        if index == 0 {
            let (name, is_packed) = string(block, &mut at)?;
            is_authority = !is_packed && name == b":authority";
        }
        let (value, is_packed) = string(block, &mut at)?;
        match is_packed {
            _ if !is_authority => {}
            true => replace_packed(value),
            false if !value.iter().all(is_taken) => value
                .iter_mut()
                .filter(|byte| !byte.is_ascii_alphanumeric() && !b"-._~".contains(byte))
                .for_each(|byte| *byte = b'-'),
            false => {}
        }
    }
    Some(())
}

/// Whether a character may be in an authority (RFC 3986, 3.2), encoded ones excepted.
fn is_taken(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:@[]!$&'()*+,;=".contains(byte)
}

/// An integer with a prefix of so many bits (RFC 7541, 5.1).
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    // No length or index of a frame's takes more.
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A string, and whether it is in HPACK's Huffman code.
fn string<'a>(block: &'a mut [u8], at: &mut usize) -> Option<(&'a mut [u8], bool)> {
    let is_packed = block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let begin = *at;
    *at = begin.checked_add(length)?;
    Some((block.get_mut(begin..*at)?, is_packed))
}

/// How many symbols HPACK's Huffman code has of each length in bits. Codes of a length are
/// consecutive, so that these numbers are enough to tell where each symbol ends.
const SYMBOLS: [u32; 31] = [
    0, 0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19,
    29, 0, 4,
];
/// The codes of `%`, `/` and `-` have six bits.
const PERCENT: (usize, u32) = (6, 0b01_0101);
const SLASH: (usize, u32) = (6, 0b01_1000);
const DASH: u32 = 0b01_0110;

/// Replaces `%` and `/` by `-` in a Huffman-coded string.
fn replace_packed(value: &mut [u8]) {
    let (mut length, mut code, mut first) = (0, 0, 0);
    for bit in 0..value.len() * 8 {
        length += 1;
        if length >= SYMBOLS.len() {
            return; // no code is this long
        }
        code = code << 1 | u32::from(value[bit / 8] >> (7 - bit % 8) & 1);
        if code - first < SYMBOLS[length] {
            if [PERCENT, SLASH].contains(&(length, code)) {
                for at in (0..6).filter(|at| (code ^ DASH) >> at & 1 == 1) {
                    value[(bit - at) / 8] ^= 1 << (7 - (bit - at) % 8);
                }
            }
            (length, code, first) = (0, 0, 0);
        } else {
            first = (first + SYMBOLS[length]) << 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// What grpcio 1.85.3 sends for `Version` to `unix:/tmp/dmn-try/raw.sock`, as recorded.
    const GRPCIO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
        \x00\x00\x24\x04\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\
        \x00\x04\x00@\x00\x00\x00\x05\x00@\x00\x00\x00\x06\x00\x00@\x00\xfe\x03\x00\x00\x00\x01\
        \x00\x00\x04\x08\x00\x00\x00\x00\x00\x00?\x00\x01\
        \x00\x00\x00\x04\x01\x00\x00\x00\x00\
        \x00\x01\x1f\x01\x04\x00\x00\x00\x01@\x05:path//containerd.services.version.v1.Version/\
        Version@\n:authority\x18tmp%2Fdmn-try%2Fraw.sock\x83\x86@\x0ccontent-type\x10application\
        /grpc@\x02te\x08trailers@\x14grpc-accept-encoding\x17identity, deflate, gzip@\x0c\
        grpc-timeout\x025S@\nuser-agent0grpc-python/1.85.3 grpc-c/58.0.0 (linux; chttp2)\x00\x14\
        containerd-namespace\x02t1\
        \x00\x00\x04\x08\x00\x00\x00\x00\x01\x00\x00\x00\x05\
        \x00\x00\x05\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00";

    struct Filtered<S>(Authority, S);

    impl<S: AsyncRead + Unpin> AsyncRead for Filtered<S> {
        fn poll_read(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            this.0.poll_read(Pin::new(&mut this.1), context, buffer)
        }
    }

    /// What comes out when `sent` arrives in pieces of `piece` bytes.
    async fn filtered(sent: &[u8], piece: usize) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(piece);
        let sent = sent.to_vec();
        let sending = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut client, &sent).await.unwrap();
        });
        let mut got = Vec::new();
        Filtered(Authority::new(), server).read_to_end(&mut got).await.unwrap();
        sending.await.unwrap();
        got
    }

    fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        [&bytes[..at], to.as_bytes(), &bytes[at + to.len()..]].concat()
    }

    #[tokio::test]
    async fn a_recorded_session_of_grpcio_gets_an_authority_that_is_taken() {
        let authority = "tmp%2Fdmn-try%2Fraw.sock";
        let wanted = replaced(GRPCIO, authority, "tmp-2Fdmn-try-2Fraw.sock");
        for piece in [1, 2, 7, 100, 65_536] {
            assert_eq!(filtered(GRPCIO, piece).await, wanted, "in pieces of {piece}");
        }
        // The HTTP library's own judgement.
        use tonic::codegen::http::uri::Authority as Taken;
        assert!(authority.parse::<Taken>().is_err());
        assert!("tmp-2Fdmn-try-2Fraw.sock".parse::<Taken>().is_ok());
    }

    /// A frame of headers, after the preface.
    fn session(payload: &[u8], flags: u8) -> Vec<u8> {
        let mut bytes = GRPCIO[..PREFACE_BYTES].to_vec();
        bytes.extend([0, 0, payload.len() as u8, HEADERS, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    #[tokio::test]
    async fn every_form_of_the_field_is_found_and_others_are_left_alone() {
        // A path as it is.
        let wanted = session(b"\x01\x07-run-x.", 4);
        assert_eq!(filtered(&session(b"\x01\x07/run/x.", 4), 3).await, wanted);
        // By index, in each of the three kinds of literals; padded and with a priority.
        for kind in [0x41, 0x01, 0x11] {
            let field = [&[0x83, 0x86, 0x3f, 0x61, kind, 8][..], b"a%2F@b:1"].concat();
            let wanted =
                session(&[&[0x83, 0x86, 0x3f, 0x61, kind, 8][..], b"a-2F-b-1"].concat(), 4);
            assert_eq!(filtered(&session(&field, 4), 3).await, wanted);
            let padded = [&[2, 0, 0, 0, 0, 7][..], &[kind, 3], b"a%b", &[0, 0]].concat();
            let wanted = [&[2, 0, 0, 0, 0, 7][..], &[kind, 3], b"a-b", &[0, 0]].concat();
            let sent = session(&padded, 4 | PADDED | PRIORITY);
            assert_eq!(filtered(&sent, 64).await, session(&wanted, 4 | PADDED | PRIORITY));
        }
        for other in [
            &b"\x44\x04/%2F"[..],
            b"\x41\x0elocalhost:8080",
            b"\x41\x0buser@[::1]:",
            b"\x40\x05x-abc\x03%2F",
            // Cut short in every way.
            b"\x41\x7f",
            b"\x41\x05%",
            b"\x40\x0a:auth",
            b"\x7f\xff\xff\xff\xff\xff\xff\x01%",
        ] {
            assert_eq!(filtered(&session(other, 4), 5).await, session(other, 4));
        }
        let padding_beyond = session(b"\x09\x41\x01%", 4 | PADDED);
        assert_eq!(filtered(&padding_beyond, 64).await, padding_beyond);
    }

    #[test]
    fn a_huffman_coded_percent_becomes_a_dash() {
        let kraft: u64 = (1..31).map(|length| u64::from(SYMBOLS[length]) << (30 - length)).sum();
        assert_eq!(kraft, 1 << 30, "the code is complete");
        assert_eq!(SYMBOLS.iter().sum::<u32>(), 257);
        // RFC 7541, C.4.1: www.example.com has no percent.
        let mut example = *b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
        replace_packed(&mut example);
        assert_eq!(example, *b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff");
        // "%%", then "a%" (00011 010101), each padded with ones.
        // "//" as well.
        let slashes = ([0x61, 0x8f], [0x59, 0x6f]);
        for (before, after) in [([0x55, 0x5f], [0x59, 0x6f]), ([0x1a, 0xbf], [0x1a, 0xdf]), slashes]
        {
            let mut packed = before;
            replace_packed(&mut packed);
            assert_eq!(packed, after);
        }
        let mut endless = [0xff; 16];
        replace_packed(&mut endless);
        assert_eq!(endless, [0xff; 16]);
    }
}
