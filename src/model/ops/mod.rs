//! The small set of operations that the forward is written against.
