//! One thread, many sequences: scheduling, KV blocks, sampling. Knows token ids and adapter versions, never tenants, HTTP or disk.

pub mod request;
