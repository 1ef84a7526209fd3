//! Reads PEFT adapter directories.
