//! What inputs that are tar archives need.

const BLOCK: usize = 512;
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Writes the right checksum into every block that looks like a header, and makes whole blocks: else
/// the first changed byte of a header would be the last that is looked at.
pub fn repair(input: &mut Vec<u8>) {
    input.resize(input.len().next_multiple_of(BLOCK), 0);
    for block in input.chunks_exact_mut(BLOCK) {
        if block[257..].starts_with(b"ustar") {
            block[CHECKSUM].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// One entry: a header of the given type, and its content in whole blocks.
#[must_use]
pub fn entry(kind: u8, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    let mut put = |at: usize, text: &[u8]| bytes[at..at + text.len()].copy_from_slice(text);
    put(0, &name.as_bytes()[..name.len().min(100)]);
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(156, &[kind]);
    put(157, &link.as_bytes()[..link.len().min(100)]);
    put(257, b"ustar\x0000");
    bytes.extend(content);
    repair(&mut bytes);
    bytes
}
