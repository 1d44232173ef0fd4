//! The fields of a protobuf message, one after another, without building the message (Protocol Buffers encoding
//! specification). For the heads of calls and answers, where building it would cost more than all the rest.
//!
//! Nothing is allocated here: lengths are checked against what is there, and bytes are ranges of the payload.

use std::ops::Range;

/// Why bytes are no protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// It ends within a field.
    #[error("message ends within a field")]
    Truncated,
    /// A varint of more than 64 bits.
    #[error("varint has more than 64 bits")]
    Varint,
    /// A wire type that does not exist, or groups, which proto3 does not have.
    #[error("wire type {0} is not known")]
    WireType(u8),
    /// A field number of zero or over the most.
    #[error("field number is not valid")]
    Number,
    /// A known field of another wire type.
    #[error("field {0} has the wrong wire type")]
    Mismatch(u32),
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Varint(u64),
    /// Where its bytes are in the payload.
    Bytes(Range<usize>),
    /// Four or eight bytes; no message of ours has such a field.
    Fixed,
}

/// Reads the fields of one message.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    payload: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    /// The message in `range` of `payload`.
    pub(crate) fn new(payload: &'a [u8], range: Range<usize>) -> Self {
        Self { payload, at: range.start, end: range.end }
    }

    /// The next field's number and value.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value)>, FieldError> {
        if self.at == self.end {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or(FieldError::Number)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.skip(8)?;
                Value::Fixed
            }
            2 => {
                let length = self.varint()?;
                let start = self.at;
                self.skip(length)?;
                Value::Bytes(start..self.at)
            }
            5 => {
                self.skip(4)?;
                Value::Fixed
            }
            other => return Err(FieldError::WireType(other as u8)),
        };
        Ok(Some((number, value)))
    }

    fn skip(&mut self, length: u64) -> Result<(), FieldError> {
        if length > (self.end - self.at) as u64 {
            return Err(FieldError::Truncated);
        }
        self.at += length as usize;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, FieldError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if self.at == self.end {
                return Err(FieldError::Truncated);
            }
            let byte = self.payload[self.at];
            self.at += 1;
            // The tenth byte has room for one bit.
            if shift == 63 && byte > 1 {
                return Err(FieldError::Varint);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(FieldError::Varint)
    }
}

impl Value {
    pub(crate) fn varint(&self, number: u32) -> Result<u64, FieldError> {
        match self {
            Value::Varint(value) => Ok(*value),
            _ => Err(FieldError::Mismatch(number)),
        }
    }

    pub(crate) fn bytes(self, number: u32) -> Result<Range<usize>, FieldError> {
        match self {
            Value::Bytes(range) => Ok(range),
            _ => Err(FieldError::Mismatch(number)),
        }
    }
}
