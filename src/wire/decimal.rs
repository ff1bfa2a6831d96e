//! Integers as decimal text, made on the stack. Nothing else lives here.

/// `-9223372036854775808` has 20 characters.
const MAX_DIGITS: usize = 20;

/// All pairs of digits, one behind the other.
const PAIRS: &[u8; 200] = b"\
    0001020304050607080910111213141516171819\
    2021222324252627282930313233343536373839\
    4041424344454647484950515253545556575859\
    6061626364656667686970717273747576777879\
    8081828384858687888990919293949596979899";

/// Writes a number below 100 at `start`.
#[inline]
fn put_pair(text: &mut [u8; MAX_DIGITS], start: usize, pair: u64) {
    let at = 2 * usize::try_from(pair).unwrap_or_default();
    if let (Some(slot), Some(pair)) = (text.get_mut(start..start + 2), PAIRS.get(at..at + 2)) {
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
