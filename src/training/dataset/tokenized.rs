//! Rows that are tokens already, for `switchyard train`: with a weight for each, and, where a grammar decides what may be said, with
//! the tokens that it allows. Made by programs that know the grammar; knows nothing of conversations.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::render::{Rendered, Sample};
use super::{DatasetError, Loaded};

/// Longest line, bytes.
const MAX_LINE: u64 = 16 << 20;
/// Bad rows that an error names.
const NAMED: usize = 10;

/// What the rows are checked against.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Token ids are below this.
    pub vocab: usize,
    /// Most tokens of a row.
    pub context: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    tokens: Vec<u32>,
    weights: Vec<f32>,
    /// `[index, allowed]`: the token at `index` competes with those alone.
    #[serde(default)]
    among: Vec<(u32, Vec<u32>)>,
}

/// Whether a file holds such rows: its first line begins as one.
pub fn is_tokenized(path: &Path) -> bool {
    let mut first = [0u8; 64];
    let read = File::open(path).and_then(|mut file| file.read(&mut first));
    let text: String = String::from_utf8_lossy(&first[..read.unwrap_or(0)]).chars().filter(|c| !c.is_whitespace()).collect();
    text.starts_with("{\"tokens\":[")
}

/// A file as a training run takes it; what it is judged by are rows of the same kind, or none.
pub fn load(path: &Path, validation: Option<&Path>, bounds: Bounds) -> Result<Loaded, DatasetError> {
    let (train, digest) = read(path, bounds)?;
    let held_out = validation.map_or_else(|| Ok(Vec::new()), |path| read(path, bounds).map(|(rows, _)| rows))?;
    let count = |of: fn(&Sample) -> usize| train.iter().map(|sample| of(sample) as u64).sum();
    let (train_tokens, learnt_tokens) = (count(|sample| sample.tokens.len()), count(Sample::learnt));
    Ok(Loaded {
        train: Rendered::Supervised(train),
        held_out: Rendered::Supervised(held_out),
        questions: Vec::new(),
        digest,
        truncated: 0,
        lost: 0,
        missing: 0,
        train_tokens,
        learnt_tokens,
    })
}

/// Reads all rows; bad ones are named by line. With them comes the digest of the file.
fn read(path: &Path, bounds: Bounds) -> Result<(Vec<Sample>, String), DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(io)?);
    let (mut samples, mut hash) = (Vec::new(), Sha256::new());
    let (mut bad, mut first) = (0u64, Vec::new());
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        if (&mut file).take(MAX_LINE).read_until(b'\n', &mut line).map_err(io)? == 0 {
            break;
        }
        hash.update(&line);
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match sample(&line, bounds) {
            Ok(sample) => samples.push(sample),
            Err(problem) => {
                bad += 1;
                if first.len() < NAMED {
                    first.push(format!("line {number}: {problem}"));
                }
            }
        }
    }
    if bad > 0 {
        return Err(DatasetError::BadRows { count: bad, first });
    }
    if samples.is_empty() {
        return Err(DatasetError::Unusable("no row is left to learn from".to_owned()));
    }
    Ok((samples, crate::ids::hex(&hash.finalize())))
}

fn sample(line: &[u8], bounds: Bounds) -> Result<Sample, String> {
    let Line { tokens, weights, among } = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if tokens.len() < 2 || tokens.len() > bounds.context {
        return Err(format!("tokens: 2 to {} are right, there are {}", bounds.context, tokens.len()));
    }
    if weights.len() != tokens.len() {
        return Err(format!("weights: one for each of the {} tokens is right, there are {}", tokens.len(), weights.len()));
    }
    if let Some(weight) = weights.iter().find(|weight| !(0.0..=1000.0).contains(*weight)) {
        return Err(format!("weights: 0 to 1000 is right, there is {weight}"));
    }
    if weights.iter().skip(1).all(|weight| *weight == 0.0) {
        return Err("weights: nothing is to be learnt, as all of them are 0 after the first".to_owned());
    }
    let known = |token: &u32| (*token as usize) < bounds.vocab;
    let all = tokens.iter().chain(among.iter().flat_map(|(_, allowed)| allowed));
    if let Some(token) = all.into_iter().find(|token| !known(token)) {
        return Err(format!("{token} is no token of this base, which has {}", bounds.vocab));
    }
    let mut last = 0;
    for (at, allowed) in &among {
        let token = tokens.get(*at as usize).filter(|_| *at > last);
        let token = token.ok_or_else(|| format!("among: indices ascend from 1 to {}, there is {at}", tokens.len() - 1))?;
        if !allowed.contains(token) {
            return Err(format!("among: the tokens that are allowed at {at} do not have {token}, which stands there"));
        }
        last = *at;
    }
    let among = among.into_iter().map(|(at, allowed)| (at, Arc::from(allowed))).collect();
    Ok(Sample { tokens, weights, among })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn rows_are_checked_and_bad_ones_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let bounds = Bounds { vocab: 10, context: 4 };
        std::fs::write(&path, "{\"tokens\": [1, 2, 3], \"weights\": [0, 0, 1], \"among\": [[2, [3, 4]]]}\n\n").unwrap();
        assert!(is_tokenized(&path));
        let (rows, digest) = read(&path, bounds).unwrap();
        assert_eq!((rows.len(), rows[0].among.len(), digest.len()), (1, 1, 64));
        let loaded = load(&path, Some(&path), bounds).unwrap();
        assert_eq!((loaded.train_tokens, loaded.learnt_tokens, loaded.held_out.len()), (3, 1, 1));
        for (row, named) in [
            (r#"{"tokens": [1], "weights": [0]}"#, "2 to 4"),
            (r#"{"tokens": [1, 2, 3, 4, 5], "weights": [0, 1, 1, 1, 1]}"#, "2 to 4"),
            (r#"{"tokens": [1, 2], "weights": [1]}"#, "one for each"),
            (r#"{"tokens": [1, 2], "weights": [1, 0]}"#, "nothing is to be learnt"),
            (r#"{"tokens": [1, 2], "weights": [0, -1]}"#, "0 to 1000"),
            (r#"{"tokens": [1, 12], "weights": [0, 1]}"#, "12 is no token"),
            (r#"{"tokens": [1, 2], "weights": [0, 1], "among": [[1, [3]]]}"#, "do not have 2"),
            (r#"{"tokens": [1, 2], "weights": [0, 1], "among": [[2, [3]]]}"#, "indices ascend"),
            (r#"{"tokens": [1, 2], "weights": [0, 1], "other": 1}"#, "unknown field `other`"),
        ] {
            std::fs::write(&path, format!("{row}\n")).unwrap();
            let error = read(&path, bounds).unwrap_err().to_string();
            assert!(error.contains("line 1") && error.contains(named), "{row}: {error}");
        }
        std::fs::write(&path, "{\"messages\": []}").unwrap();
        assert!(!is_tokenized(&path));
    }
}
