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
    /// The payload up to the end of the message.
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The message in `range` of `payload`.
    #[inline]
    pub(crate) fn new(payload: &'a [u8], range: Range<usize>) -> Self {
        Self { bytes: &payload[..range.end], at: range.start }
    }

    /// The next field's number and value.
    #[inline(always)] // measured: a call in place of this costs more than what it does
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value)>, FieldError> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        if key < 1 << 3 || key > u64::from(u32::MAX) {
            return Err(FieldError::Number);
        }
        let value = match key & 7 {
            2 => {
                let length = self.varint()?;
                let start = self.at;
                self.skip(length)?;
                Value::Bytes(start..self.at)
            }
            0 => Value::Varint(self.varint()?),
            1 => {
                self.skip(8)?;
                Value::Fixed
            }
            5 => {
                self.skip(4)?;
                Value::Fixed
            }
            other => return Err(FieldError::WireType(other as u8)),
        };
        Ok(Some(((key >> 3) as u32, value)))
    }

    #[inline(always)]
    fn skip(&mut self, length: u64) -> Result<(), FieldError> {
        if length > (self.bytes.len() - self.at) as u64 {
            return Err(FieldError::Truncated);
        }
        self.at += length as usize;
        Ok(())
    }

    /// Nearly every varint of a head has one byte.
    #[inline(always)]
    fn varint(&mut self) -> Result<u64, FieldError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(byte.into())
            }
            _ => self.long_varint(),
        }
    }

    #[cold]
    fn long_varint(&mut self) -> Result<u64, FieldError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let &byte = self.bytes.get(self.at).ok_or(FieldError::Truncated)?;
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
    #[inline]
    pub(crate) fn varint(&self, number: u32) -> Result<u64, FieldError> {
        match self {
            Value::Varint(value) => Ok(*value),
            _ => Err(FieldError::Mismatch(number)),
        }
    }

    #[inline]
    pub(crate) fn bytes(self, number: u32) -> Result<Range<usize>, FieldError> {
        match self {
            Value::Bytes(range) => Ok(range),
            _ => Err(FieldError::Mismatch(number)),
        }
    }
}
