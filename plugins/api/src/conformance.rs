//! Conformance suite (written next).
