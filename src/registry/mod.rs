//! Durable truth about adapters: versions, names, files.
