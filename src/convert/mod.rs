//! From what a person said to what is meant: cleaning, schemas, spans, confidence. Pure; knows no model, no tokens, no HTTP.
//!
//! A model reads the cleaned text and answers with JSON whose form the [`schema`] and whose words the text itself prescribe:
//! `{"intent":"set_reminder","task":"call mum","when":"tomorrow at six"}`. What it may answer is made here ([`schema`], [`spans`]), and
//! what it answered is read here ([`reading`]); everything between is somebody else's.

pub mod clean;
pub mod confidence;
pub mod correction;
pub mod reading;
pub mod schema;
pub mod spans;
pub mod when;

pub use clean::{clean, leading};
pub use confidence::Calibration;
pub use reading::Reading;
pub use schema::{Entity, Intent, Kind, Schema};
pub use spans::Spans;
