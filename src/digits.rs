//! Formats numbers without `fmt`, which takes ten times as long: each request has several.

/// Writes `number` in base `BASE`, with as many digits as there is room for.
#[inline]
pub fn write<const BASE: u64>(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number % BASE) as usize];
        number /= BASE;
    }
}

/// Sixteen hexadecimal digits for each number.
pub fn hex(numbers: &[u64]) -> String {
    let mut text = vec![0; 16 * numbers.len()];
    let places = text.chunks_mut(16);
    places.zip(numbers).for_each(|(place, number)| write::<16>(place, *number));
    String::from_utf8(text).expect("ASCII")
}

/// Appends a byte in base 10.
pub fn push(text: &mut String, byte: u8) {
    for place in [100, 10, 1] {
        if byte >= place || place == 1 {
            text.push((b'0' + byte / place % 10).into());
        }
    }
}
