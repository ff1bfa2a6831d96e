//! Frames that are alike but for a few values: what they have in common is encoded once, and copied for each.
//!
//! The layout stays the business of whoever writes the fields: a template is made by the same code as a frame, which marks
//! the values that differ as *varying*. A frame from a template is, byte for byte, the one that would have been encoded.

use super::WireError;
use super::decimal::Decimal;
use super::frame::Serialization;
use super::header::{Envelope, FieldWriter, append_header, complete_frame};
use super::{header_binary, header_json};

/// A frame without its body and without the opaque and the varying values.
#[derive(Debug)]
pub(crate) struct Template {
    serialization: Serialization,
    bytes: Box<[u8]>,
    /// Where those values belong, the opaque first.
    cuts: Box<[usize]>,
    fields_start: usize,
}

impl Template {
    /// Encodes what all frames have in common. The opaque of the envelope and varying values are not looked at.
    pub(crate) fn new(
        envelope: &Envelope<'_>,
        write_fields: impl FnOnce(&mut FieldWriter<'_>),
    ) -> Result<Self, WireError> {
        let (mut bytes, mut cuts) = (Vec::new(), Vec::new());
        let fields_start = append_header(&mut bytes, envelope, write_fields, Some(&mut cuts))?;
        Ok(Self {
            serialization: envelope.serialization,
            bytes: bytes.into(),
            cuts: cuts.into(),
            fields_start,
        })
    }

    /// Appends one frame to `out`: `fill` gives the varying values, in the order in which the fields were written.
    ///
    /// # Errors
    /// When the frame is over a limit. `out` is then as it was.
    #[inline]
    pub(crate) fn append(
        &self,
        out: &mut Vec<u8>,
        opaque: i32,
        fill: impl FnOnce(&mut Filler<'_>),
        body: &[u8],
    ) -> Result<(), WireError> {
        let start = out.len();
        out.reserve(self.bytes.len() + body.len() + USUAL_VALUES);
        let mut filler = Filler {
            template: self,
            out,
            next_cut: 0,
            copied: 0,
            failure: None,
        };
        filler.opaque(opaque);
        fill(&mut filler);
        let outcome = filler.finish().and_then(|()| {
            // In the binary form, the opaque stands before the fields.
            let fields_start = match self.serialization {
                Serialization::Json => 0,
                Serialization::Binary => start + self.fields_start + size_of::<i32>(),
            };
            complete_frame(out, start, fields_start, self.serialization, body)
        });
        if outcome.is_err() {
            out.truncate(start);
        }
        outcome
    }
}

/// Room that the values of most frames need: numbers, a message id and a few properties.
const USUAL_VALUES: usize = 160;

/// Puts the varying values of one frame into their places, one after the other.
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
    /// Copies the template up to the place of the next value.
    #[inline]
    fn go_on(&mut self) {
        let cut = self.template.cuts.get(self.next_cut);
        debug_assert!(cut.is_some(), "more values than the template has places for");
        let cut = cut.copied().unwrap_or(self.copied);
        let common = self.template.bytes.get(self.copied..cut).unwrap_or_default();
        self.out.extend_from_slice(common);
        self.copied = cut;
        self.next_cut += 1;
    }

    #[inline]
    fn opaque(&mut self, opaque: i32) {
        self.go_on();
        match self.template.serialization {
            Serialization::Json => self.out.extend_from_slice(Decimal::new(opaque.into()).as_bytes()),
            Serialization::Binary => self.out.extend_from_slice(&opaque.to_be_bytes()),
        }
    }

    #[inline]
    pub(crate) fn number(&mut self, value: i64) {
        self.go_on();
        let decimal = Decimal::new(value);
        match self.template.serialization {
            Serialization::Json => self.out.extend_from_slice(decimal.as_bytes()),
            Serialization::Binary => {
                let written = header_binary::write_behind_length(self.out, decimal.as_bytes());
                self.keep(written);
            }
        }
    }

    #[inline]
    pub(crate) fn properties<'p>(&mut self, properties: impl Iterator<Item = (&'p str, &'p str)>) {
        self.go_on();
        match self.template.serialization {
            Serialization::Json => header_json::write_property_text(self.out, properties),
            Serialization::Binary => {
                let written = header_binary::write_property_text(self.out, properties);
                self.keep(written);
            }
        }
    }

    #[inline]
    fn finish(self) -> Result<(), WireError> {
        debug_assert_eq!(self.next_cut, self.template.cuts.len(), "a place without a value");
        let rest = self.template.bytes.get(self.copied..).unwrap_or_default();
        self.out.extend_from_slice(rest);
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
    use super::Template;
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
        number: i64,
        properties: &'p [(&'p str, &'p str)],
    ) -> impl Fn(&mut FieldWriter<'_>) + use<'p> {
        move |writer| {
            writer.varying_number("first", number);
            writer.text("b", "in \"common\"");
            writer.varying_number("n", -number);
            writer.varying_properties("i", properties.iter().copied());
            writer.boolean("z", true);
        }
    }

    #[test]
    fn a_frame_from_a_template_is_the_frame_that_would_have_been_encoded() {
        for serialization in [Serialization::Json, Serialization::Binary] {
            let template = Template::new(&envelope(serialization, 77), write(5, &[])).unwrap();
            for (opaque, number) in [
                (1, 0),
                (-1, i64::MAX),
                (i32::MIN, -12),
                (i32::MAX, 1_795_423_244_454),
            ] {
                for properties in [&[][..], &[("UNIQ_KEY", "FD00"), ("k\u{e9}", "a\"b\\")][..]] {
                    let (mut expected, mut found) = (b"before".to_vec(), b"before".to_vec());
                    let envelope = envelope(serialization, opaque);
                    encode_frame(&mut expected, &envelope, write(number, properties), b"body").unwrap();
                    let fill = |filler: &mut super::Filler<'_>| {
                        filler.number(number);
                        filler.number(-number);
                        filler.properties(properties.iter().copied());
                    };
                    template.append(&mut found, opaque, fill, b"body").unwrap();
                    assert_eq!(found, expected, "{serialization:?} {opaque} {number}");
                }
            }
        }
    }

    #[test]
    fn a_frame_over_a_limit_leaves_nothing_behind() {
        for serialization in [Serialization::Json, Serialization::Binary] {
            let template = Template::new(&envelope(serialization, 0), write(0, &[])).unwrap();
            let mut out = b"before".to_vec();
            let fill = |filler: &mut super::Filler<'_>| {
                filler.number(1);
                filler.number(1);
                filler.properties(std::iter::empty());
            };
            let body = vec![0; MAX_FRAME_LENGTH];
            assert!(template.append(&mut out, 1, fill, &body).is_err());
            assert_eq!(out, b"before");
        }
    }
}
