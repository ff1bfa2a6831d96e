//! Frames that are alike but for a few values: what they have in common is encoded once, and copied for each.
//!
//! The layout stays the business of whoever writes the fields: a template is made by the same code as a frame, which marks
//! the values that differ. Two of them, the opaque and a stamp, usually have as many digits as before, and are written
//! over; others belong between the pieces of the template. A frame from a template is, byte for byte, the one that would
//! have been encoded.

use super::WireError;
use super::decimal::Decimal;
use super::frame::Serialization;
use super::header::{Envelope, FieldWriter, Places, append_header, complete_frame};
use super::{header_binary, header_json};

/// A frame without its body and without the values that belong between its pieces.
#[derive(Debug)]
pub(crate) struct Template {
    serialization: Serialization,
    bytes: Box<[u8]>,
    places: Places,
    opaque_digits: usize,
    stamp_digits: usize,
    fields_start: usize,
}

/// Room that the values of most frames need: numbers, a message id and a few properties.
const USUAL_VALUES: usize = 160;

impl Template {
    /// Encodes what all frames have in common.
    pub(crate) fn new(
        envelope: &Envelope<'_>,
        write_fields: impl FnOnce(&mut FieldWriter<'_>),
    ) -> Result<Self, WireError> {
        let (mut bytes, mut places) = (Vec::new(), Places::default());
        let fields_start = append_header(&mut bytes, envelope, write_fields, Some(&mut places))?;
        let digits_at = |place: usize| {
            let behind = bytes.get(place..).unwrap_or_default();
            let is_digit = |byte: &u8| byte.is_ascii_digit() || *byte == b'-';
            behind
                .iter()
                .position(|byte| !is_digit(byte))
                .unwrap_or(behind.len())
        };
        Ok(Self {
            serialization: envelope.serialization,
            opaque_digits: digits_at(places.opaque),
            stamp_digits: digits_at(places.stamp),
            bytes: bytes.into(),
            places,
            fields_start,
        })
    }

    /// Appends one frame to `out`: `stamps` are its opaque and its stamp, and `fill` gives the other values, in the order
    /// in which the fields were written. `None`, with `out` as it was, if the stamps have other lengths than those that the
    /// template was made with: then this is no frame of it.
    ///
    /// # Errors
    /// When the frame is over a limit. `out` is then as it was.
    #[inline]
    pub(crate) fn append(
        &self,
        out: &mut Vec<u8>,
        stamps: (i32, i64),
        fill: impl FnOnce(&mut Filler<'_>),
        body: &[u8],
    ) -> Option<Result<(), WireError>> {
        let start = out.len();
        out.reserve(self.bytes.len() + body.len() + USUAL_VALUES);
        let mut filler = Filler {
            template: self,
            out,
            next_cut: 0,
            copied: 0,
            failure: None,
        };
        filler.go_on();
        if !self.stamp(filler.out, start, stamps) {
            out.truncate(start);
            return None;
        }
        fill(&mut filler);
        let outcome = filler
            .finish()
            .and_then(|()| complete_frame(out, start, start + self.fields_start, self.serialization, body));
        if outcome.is_err() {
            out.truncate(start);
        }
        Some(outcome)
    }

    /// Writes opaque and stamp over those of the template. False if they have other lengths.
    #[inline]
    fn stamp(&self, out: &mut [u8], start: usize, (opaque, stamp): (i32, i64)) -> bool {
        let mut write = |place: usize, length: usize, text: &[u8]| {
            let slot = out.get_mut(start + place..start + place + length);
            match slot {
                Some(slot) if slot.len() == text.len() => {
                    slot.copy_from_slice(text);
                    true
                }
                _ => false,
            }
        };
        let has_opaque = match self.serialization {
            Serialization::Json => {
                let digits = Decimal::new(opaque.into());
                write(self.places.opaque, self.opaque_digits, digits.as_bytes())
            }
            Serialization::Binary => write(self.places.opaque, size_of::<i32>(), &opaque.to_be_bytes()),
        };
        let digits = Decimal::new(stamp);
        has_opaque && write(self.places.stamp, self.stamp_digits, digits.as_bytes())
    }
}

/// Puts the other values of one frame between the pieces of its template, one after the other.
#[derive(Debug)]
pub(crate) struct Filler<'a> {
    template: &'a Template,
    out: &'a mut Vec<u8>,
    next_cut: usize,
    /// So much of the template has been copied.
    copied: usize,
    failure: Option<WireError>,
}

impl Filler<'_> {
    /// Copies the template up to the place of the next value, or to its end.
    #[inline]
    fn go_on(&mut self) {
        let (bytes, cuts) = (&self.template.bytes, &self.template.places.cuts);
        let cut = cuts.get(self.next_cut).copied().unwrap_or(bytes.len());
        self.out
            .extend_from_slice(bytes.get(self.copied..cut).unwrap_or_default());
        self.copied = cut;
        self.next_cut += 1;
    }

    #[inline]
    pub(crate) fn number(&mut self, value: i64) {
        let decimal = Decimal::new(value);
        match self.template.serialization {
            Serialization::Json => self.out.extend_from_slice(decimal.as_bytes()),
            Serialization::Binary => {
                let written = header_binary::write_behind_length(self.out, decimal.as_bytes());
                self.keep(written);
            }
        }
        self.go_on();
    }

    #[inline]
    pub(crate) fn properties<'p>(&mut self, properties: impl Iterator<Item = (&'p str, &'p str)>) {
        match self.template.serialization {
            Serialization::Json => header_json::write_property_text(self.out, properties),
            Serialization::Binary => {
                let written = header_binary::write_property_text(self.out, properties);
                self.keep(written);
            }
        }
        self.go_on();
    }

    #[inline]
    fn finish(self) -> Result<(), WireError> {
        debug_assert_eq!(
            self.next_cut,
            self.template.places.cuts.len() + 1,
            "a value for each place"
        );
        self.failure.map_or(Ok(()), Err)
    }

    fn keep(&mut self, written: Result<(), WireError>) {
        if let Err(error) = written {
            self.failure.get_or_insert(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Filler, Template};
    use crate::wire::frame::Serialization;
    use crate::wire::header::{Envelope, FieldWriter, Language, encode_frame};
    use crate::wire::limits::MAX_FRAME_LENGTH;

    fn envelope(serialization: Serialization, opaque: i32) -> Envelope<'static> {
        Envelope {
            code: 310,
            opaque,
            flag: 0,
            language: Language::OTHER,
            version: 513,
            remark: None,
            serialization,
        }
    }

    fn write<'p>(
        (stamp, number): (i64, i64),
        properties: &'p [(&'p str, &'p str)],
    ) -> impl Fn(&mut FieldWriter<'_>) + use<'p> {
        move |writer| {
            writer.text("b", "in \"common\"");
            writer.stamp("g", stamp);
            writer.boolean("z", true);
            writer.varying_number("n", number);
            writer.varying_properties("i", properties.iter().copied());
        }
    }

    #[test]
    fn a_frame_from_a_template_is_the_frame_that_would_have_been_encoded() {
        for serialization in [Serialization::Json, Serialization::Binary] {
            let envelope = |opaque| envelope(serialization, opaque);
            let template = Template::new(&envelope(1_000_000_000), write((-1_795, 5), &[])).unwrap();
            for (opaque, stamp) in [
                (i32::MAX, 12_345),
                (1_000_000_001, -9_999),
                (1_234_567_890, 10_000),
            ] {
                for number in [0, -7, i64::MIN, i64::MAX] {
                    for properties in [&[][..], &[("UNIQ_KEY", "FD00"), ("k\u{e9}", "a\"b\\")][..]] {
                        let (mut expected, mut found) = (b"before".to_vec(), b"before".to_vec());
                        let fields = write((stamp, number), properties);
                        encode_frame(&mut expected, &envelope(opaque), fields, b"body").unwrap();
                        let fill = |filler: &mut Filler<'_>| {
                            filler.number(number);
                            filler.properties(properties.iter().copied());
                        };
                        template
                            .append(&mut found, (opaque, stamp), fill, b"body")
                            .unwrap()
                            .unwrap();
                        assert_eq!(found, expected, "{serialization:?} {opaque} {stamp} {number}");
                    }
                }
            }
        }
    }

    fn nothing(filler: &mut Filler<'_>) {
        filler.number(1);
        filler.properties(std::iter::empty());
    }

    #[test]
    fn stamps_of_another_length_are_refused() {
        for serialization in [Serialization::Json, Serialization::Binary] {
            let template = Template::new(&envelope(serialization, 100), write((100, 0), &[])).unwrap();
            let mut out = b"before".to_vec();
            assert!(template.append(&mut out, (100, 99), nothing, b"").is_none());
            let other_opaque = template.append(&mut out, (1000, 999), nothing, b"");
            assert_eq!(other_opaque.is_none(), serialization == Serialization::Json);
            out.truncate(6);
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn a_frame_over_a_limit_leaves_nothing_behind() {
        for serialization in [Serialization::Json, Serialization::Binary] {
            let template = Template::new(&envelope(serialization, 0), write((0, 0), &[])).unwrap();
            let mut out = b"before".to_vec();
            let body = vec![0; MAX_FRAME_LENGTH];
            assert!(
                template
                    .append(&mut out, (1, 1), nothing, &body)
                    .unwrap()
                    .is_err()
            );
            assert_eq!(out, b"before");
        }
    }
}
