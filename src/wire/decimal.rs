//! Integers as decimal text, made on the stack. Nothing else lives here.

/// `-9223372036854775808` has 20 characters.
const MAX_DIGITS: usize = 20;

/// All pairs of digits.
const PAIRS: [[u8; 2]; 100] = pairs();

const fn pairs() -> [[u8; 2]; 100] {
    let mut pairs = [[b'0'; 2]; 100];
    let mut tens = b'0';
    let mut index = 0;
    while tens <= b'9' {
        let mut ones = b'0';
        while ones <= b'9' {
            pairs[index] = [tens, ones];
            index += 1;
            ones += 1;
        }
        tens += 1;
    }
    pairs
}

/// Writes a number below 100 at `start`.
#[inline]
fn put_pair(text: &mut [u8; MAX_DIGITS], start: usize, pair: u64) {
    let pair = usize::try_from(pair).ok().and_then(|pair| PAIRS.get(pair));
    if let (Some(slot), Some(pair)) = (text.get_mut(start..start + 2), pair) {
        slot.copy_from_slice(pair);
    }
}

/// The decimal text of an integer, held inline.
#[derive(Clone, Copy)]
pub(crate) struct Decimal {
    // The digits stand at the end.
    text: [u8; MAX_DIGITS],
    start: usize,
}

impl Decimal {
    #[inline]
    pub(crate) fn new(value: i64) -> Self {
        let mut text = [b'0'; MAX_DIGITS];
        let mut start = MAX_DIGITS;
        let mut rest = value.unsigned_abs();
        // Two digits at a time, from the back.
        while rest >= 100 {
            start -= 2;
            put_pair(&mut text, start, rest % 100);
            rest /= 100;
        }
        start -= 2;
        put_pair(&mut text, start, rest);
        if rest < 10 {
            start += 1;
        }
        if value < 0 {
            start = start.saturating_sub(1);
            if let Some(sign) = text.get_mut(start) {
                *sign = b'-';
            }
        }
        Self { text, start }
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.get(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::Decimal;

    #[test]
    fn agrees_with_the_standard_library() {
        let mut value: i64 = 1;
        let mut values = vec![
            0,
            i64::MAX,
            i64::MIN,
            i64::from(i32::MIN),
            9,
            10,
            99,
            100,
            -1,
            -10,
        ];
        for _ in 0..19 {
            values.extend([value, -value, value - 1, value.wrapping_add(7)]);
            value = value.wrapping_mul(10);
        }
        for value in values {
            assert_eq!(Decimal::new(value).as_bytes(), value.to_string().as_bytes());
        }
    }
}
