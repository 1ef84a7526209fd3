//! The request journey, written once and free of HTTP.
