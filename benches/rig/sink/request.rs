//! As much of a request as an answer needs.

use memchr::memmem::Finder;

/// One request, borrowed.
pub(super) struct Request<'a> {
    pub(super) is_binary: bool,
    pub(super) code: i32,
    pub(super) opaque: i32,
    flag: i32,
    /// The text of the queue id that was asked for.
    pub(super) queue: &'a [u8],
    pub(super) body: &'a [u8],
}

/// Searches for the fields of a JSON header by their quoted names. A quote within a JSON string is escaped, so what they
/// find is a name; and the numbers stand at the top level, where extension fields of the same name hold strings.
pub(super) struct Finders {
    code: Finder<'static>,
    flag: Finder<'static>,
    opaque: Finder<'static>,
    queue: Finder<'static>,
    queue_of_v2: Finder<'static>,
}

impl Finders {
    pub(super) fn new() -> Self {
        Self {
            code: Finder::new("\"code\":"),
            flag: Finder::new("\"flag\":"),
            opaque: Finder::new("\"opaque\":"),
            queue: Finder::new("\"queueId\":\""),
            queue_of_v2: Finder::new("\"e\":\""),
        }
    }
}

impl<'a> Request<'a> {
    /// Reads a frame without its length. `None` for what is no request.
    pub(super) fn read(frame: &'a [u8], finders: &Finders) -> Option<Self> {
        let (word, rest) = frame.split_first_chunk::<4>()?;
        let [form, length @ ..] = *word;
        let [high, middle, low] = length;
        let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?;
        let (header, body) = rest.split_at_checked(length)?;
        if form == 1 {
            Self::read_binary(header, body)
        } else {
            Self::read_json(header, body, finders)
        }
    }

    fn read_json(header: &'a [u8], body: &'a [u8], finders: &Finders) -> Option<Self> {
        let number = |finder: &Finder<'_>| {
            finder
                .find_iter(header)
                .find_map(|at| leading_number(header.get(at + finder.needle().len()..)?))
        };
        let text = |finder: &Finder<'_>| {
            let rest = header.get(finder.find(header)? + finder.needle().len()..)?;
            rest.split(|byte| *byte == b'"').next()
        };
        let code = number(&finders.code)?;
        let queue = match code {
            super::SEND_MESSAGE_V2 | super::SEND_BATCH_MESSAGE => text(&finders.queue_of_v2),
            super::SEND_MESSAGE => text(&finders.queue),
            _ => None,
        };
        Some(Self {
            is_binary: false,
            code,
            opaque: number(&finders.opaque)?,
            flag: number(&finders.flag)?,
            queue: queue.unwrap_or(b"0"),
            body,
        })
    }

    fn read_binary(header: &'a [u8], body: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor(header);
        let code = i32::from(cursor.short()?);
        // Language and version.
        cursor.skip(3)?;
        let (opaque, flag) = (cursor.number()?, cursor.number()?);
        let remark = cursor.length()?;
        cursor.skip(remark)?;
        cursor.skip(4)?;
        let mut queue: &[u8] = b"0";
        while !cursor.0.is_empty() {
            let name_length = usize::from(cursor.short()?);
            let name = cursor.take(name_length)?;
            let value_length = cursor.length()?;
            let value = cursor.take(value_length)?;
            if name == b"e" || name == b"queueId" {
                queue = value;
                break;
            }
        }
        Some(Self {
            is_binary: true,
            code,
            opaque,
            flag,
            queue,
            body,
        })
    }

    pub(super) fn is_response(&self) -> bool {
        self.flag & 1 != 0
    }

    pub(super) fn is_one_way(&self) -> bool {
        self.flag & 2 != 0
    }
}

fn leading_number(text: &[u8]) -> Option<i32> {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        digits => (1, digits),
    };
    let mut number: Option<i32> = None;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        let so_far = number.unwrap_or(0).wrapping_mul(10);
        number = Some(so_far.wrapping_add(sign * i32::from(digit - b'0')));
    }
    number
}

/// Messages in the body of a batch: each begins with its own length.
pub(super) fn messages_in(mut body: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(length) = body.first_chunk() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let Some((_, rest)) = body.split_at_checked(length.max(4)) else {
            break;
        };
        body = rest;
        count += 1;
    }
    count
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(|_| ())
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }
}
