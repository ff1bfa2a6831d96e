//! Integers as decimal text, made on the stack. Nothing else lives here.

/// `-9223372036854775808` has 20 characters.
const MAX_DIGITS: usize = 20;

/// The decimal text of an integer, held inline.
#[derive(Clone, Copy)]
pub(crate) struct Decimal {
    // The digits stand at the end.
    text: [u8; MAX_DIGITS],
    start: usize,
}

impl Decimal {
    pub(crate) fn new(value: i64) -> Self {
        let mut text = [b'0'; MAX_DIGITS];
        let mut start = MAX_DIGITS;
        let mut rest = value.unsigned_abs();
        for digit in text.iter_mut().rev() {
            // The remainder is below ten, so the fallback is never taken.
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            start -= 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            start = start.saturating_sub(1);
            if let Some(sign) = text.get_mut(start) {
                *sign = b'-';
            }
        }
        Self { text, start }
    }

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
