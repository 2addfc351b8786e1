//! Numbers as headers state them: octal text, or base-256 as GNU writes what octal has no room for.

/// The value of a field; `None` when it is neither form. A blank field is 0: writers leave fields
/// blank that do not matter.
pub(super) fn numeric(field: &[u8]) -> Option<i64> {
    // Base-256 is two's complement, big-endian, the topmost bit being the mark of the form.
    if field.first()? & 0x80 != 0 { base256(field) } else { octal(field) }
}

fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let fill: u8 = if negative { 0xff } else { 0 };
    let mut bytes: Vec<u8> = field.to_vec();
    // The mark takes the place of the sign's copy.
    bytes[0] = if negative { bytes[0] | 0x80 } else { bytes[0] & 0x7f };
    let surplus = bytes.len().saturating_sub(8);
    let (high, low) = bytes.split_at(surplus);
    if high.iter().any(|byte| *byte != fill) {
        return None;
    }
    let mut whole = [fill; 8];
    whole[8 - low.len()..].copy_from_slice(low);
    let value = i64::from_be_bytes(whole);
    (value.is_negative() == negative).then_some(value)
}

fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|byte| *byte != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    let mut value: i64 = 0;
    for digit in &digits[..end] {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value = value.checked_mul(8)?.checked_add(i64::from(digit))?;
    }
    Some(value)
}

/// A decimal number without a sign.
pub(super) fn decimal<N: std::str::FromStr>(digits: &[u8]) -> Option<N> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields_may_be_padded_and_blank() {
        assert_eq!(numeric(b"0000644\0"), Some(0o644));
        assert_eq!(numeric(b"   644 \0"), Some(0o644));
        assert_eq!(numeric(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(numeric(b"        "), Some(0));
        assert_eq!(numeric(b"77777777777\0"), Some(0o77_777_777_777));
        for bad in [&b"0000648\0"[..], b"-1\0\0\0\0\0\0", b"abc\0\0\0\0\0", b""] {
            assert_eq!(numeric(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn base_256_has_large_and_negative_numbers() {
        let field = |value: i128, mark: u8| {
            let mut field = value.to_be_bytes()[4..].to_vec();
            field[0] |= mark;
            field
        };
        assert_eq!(numeric(&field(1 << 40, 0x80)), Some(1 << 40));
        assert_eq!(numeric(&field(-3600, 0x80)), Some(-3600));
        assert_eq!(numeric(&field(-2_145_916_800, 0x80)), Some(-2_145_916_800));
        assert_eq!(numeric(&field(i128::from(i64::MAX), 0x80)), Some(i64::MAX));
        assert_eq!(numeric(&field(i128::from(i64::MAX) + 1, 0x80)), None);
        assert_eq!(numeric(&[0x80, 0, 0, 0, 0, 1, 0, 0]), Some(65536));
    }
}
