//! The record of a training: all that it was made of and what came of it, so that it can be made again. One form for jobs and for
//! `switchyard train`. Pure: knows no database and no server.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::trainer::Made;

/// The form of these documents; a change that readers must know of counts it up.
pub const SCHEMA: u32 = 1;
/// Name of the file beside an adapter that `switchyard train` has made.
pub const RECORD_FILE: &str = "run.json";
/// Largest record that is read, bytes.
pub const MAX_RECORD: u64 = 16 << 20;

/// A training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The fine-tuning job, where it was one.
    pub job: Option<String>,
    /// How it stands, in the words of jobs: `running`, `succeeded`, `failed` ...
    pub outcome: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Seconds since 1970.
    pub started_at: Option<i64>,
    /// Seconds since 1970.
    pub finished_at: Option<i64>,
    /// What was asked for; all else was chosen.
    pub asked: Value,
    /// What was learnt from, once it was read.
    pub data: Option<Data>,
    /// What it was made with, once it began.
    pub made: Option<Made>,
    /// Steps done.
    pub steps_done: u64,
    /// Tokens that were learnt from, each as often as it was seen.
    pub trained_tokens: u64,
    /// What held-out rows said on the way, and the last step.
    pub measured: Vec<Measure>,
    /// What answers to held-out rows were worth, where they were judged.
    pub evaluation: Option<Value>,
    /// What the gate said to that.
    pub gate: Option<Value>,
    /// The adapter.
    pub result: Option<Outcome>,
}

/// What was learnt from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// The file with the rows.
    pub training: FileFacts,
    /// The file with the rows to judge by.
    pub validation: Option<FileFacts>,
    /// Without such a file, the share that was held out, by conversation and the seed of the settings.
    pub held_out_share: Option<f64>,
    /// The time that chat templates wrote, seconds since 1970.
    pub template_time: i64,
    /// Rows to learn from.
    pub rows: u64,
    /// Rows to judge by.
    pub held_out_rows: u64,
    /// Of the rows to learn from.
    pub tokens: u64,
    /// Rows that are longer than the context.
    pub truncated_rows: u64,
    /// Rows of which nothing is left to learn.
    pub lost_rows: u64,
    /// Rows without a prompt or without an answer, which are left out.
    pub missing_rows: u64,
    /// Digest of what the rows say, however the file is written.
    pub dataset_digest: String,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileFacts {
    /// As its owner calls it: its ending says something about its form.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Digest of its bytes.
    pub sha256: String,
    /// Where `switchyard train` found it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// What was measured at a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// From 1; 0 is the base alone.
    pub step: u64,
    /// Mean loss of the step.
    pub train_loss: Option<f64>,
    /// Mean loss of the held-out rows.
    pub held_out_loss: Option<f64>,
    /// Share of their tokens that the model would have written.
    pub held_out_accuracy: Option<f64>,
}

/// The adapter that came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its digest.
    pub version: String,
    /// Of which step.
    pub kept: Kept,
    /// What it is called, where it is served.
    pub model: Option<String>,
}

/// Which of a run's adapters is its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kept {
    /// The one whose held-out loss was lowest.
    Best,
    /// The one of the last step.
    Last,
}

impl Kept {
    /// The word, and the directory's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Last => "last",
        }
    }
}

impl RunRecord {
    /// A record as it was written; an error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is not JSON: {error}"))?;
        match value.get("schema").and_then(Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(schema) => return Err(format!("its schema is {schema}; this version reads {SCHEMA}")),
            None => return Err("it is no record of a training: \"schema\" is missing".to_owned()),
        }
        serde_json::from_value(value).map_err(|error| format!("it is no record of a training: {error}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_record_reads_back_and_another_form_is_refused() {
        let record = RunRecord {
            schema: SCHEMA,
            job: None,
            outcome: "running".to_owned(),
            error: None,
            started_at: Some(1),
            finished_at: None,
            asked: Value::Null,
            data: None,
            made: None,
            steps_done: 0,
            trained_tokens: 0,
            measured: vec![Measure { step: 1, train_loss: Some(0.1 + 0.2), held_out_loss: None, held_out_accuracy: None }],
            evaluation: None,
            gate: None,
            result: Some(Outcome { version: "x".to_owned(), kept: Kept::Best, model: None }),
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(RunRecord::parse(text.as_bytes()).unwrap(), record);
        let other = text.replace("\"schema\":1", "\"schema\":2");
        assert_eq!(RunRecord::parse(other.as_bytes()).unwrap_err(), "its schema is 2; this version reads 1");
        assert!(RunRecord::parse(b"{}").unwrap_err().contains("\"schema\" is missing"));
        assert!(RunRecord::parse(b"rows").unwrap_err().contains("not JSON"));
    }
}
