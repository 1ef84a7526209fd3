//! A teacher: another server, or a recording of one. A recording is a file of JSON lines, each a question and its answer; played
//! back, the same question gets the same answer (asked again, the next one that was recorded), without a network.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Chat, Reply, Upstream, UpstreamError};

/// Characters of a question that an error shows.
const SHOWN: usize = 120;

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CassetteError {
    /// It cannot be read or written.
    #[error("the recording {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A line is none of ours.
    #[error("the recording {path}, line {line}: {source}", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// The cause.
        source: serde_json::Error,
    },
    /// A question was never recorded, or not as often.
    #[error("the recording has no answer (any more) to this question: {0}")]
    Unknown(String),
}

/// Who is asked.
#[derive(Debug)]
pub enum Teacher {
    /// A server.
    Live(Upstream),
    /// A server whose answers are written down.
    Recorded(Upstream, Recorder),
    /// A recording.
    Played(Player),
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    request: Value,
    reply: Reply,
}

/// Writes answers down.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: Mutex<File>,
}

/// Plays answers back.
#[derive(Debug)]
pub struct Player {
    model: String,
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
}

impl Teacher {
    /// Writes down what the server says, at the end of the file.
    pub fn recorded(upstream: Upstream, path: &Path) -> Result<Self, CassetteError> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|source| CassetteError::File { path: path.to_owned(), source })?;
        Ok(Self::Recorded(upstream, Recorder { path: path.to_owned(), file: Mutex::new(file) }))
    }

    /// Plays a recording of this model.
    pub fn played(model: &str, path: &Path) -> Result<Self, CassetteError> {
        let of_file = |source| CassetteError::File { path: path.to_owned(), source };
        let mut replies: HashMap<String, VecDeque<Reply>> = HashMap::new();
        for (index, text) in BufReader::new(File::open(path).map_err(of_file)?).lines().enumerate() {
            let text = text.map_err(of_file)?;
            let line: Line = serde_json::from_str(&text).map_err(|source| CassetteError::Line {
                path: path.to_owned(),
                line: index as u64 + 1,
                source,
            })?;
            replies.entry(line.request.to_string()).or_default().push_back(line.reply);
        }
        Ok(Self::Played(Player { model: model.to_owned(), replies: Mutex::new(replies) }))
    }

    /// The model that is asked.
    pub fn model(&self) -> &str {
        match self {
            Self::Live(upstream) | Self::Recorded(upstream, _) => upstream.model(),
            Self::Played(player) => &player.model,
        }
    }

    /// A whole answer.
    pub async fn chat(&self, chat: &Chat) -> Result<Reply, UpstreamError> {
        match self {
            Self::Live(upstream) => upstream.chat(chat).await,
            Self::Recorded(upstream, recorder) => {
                let reply = upstream.chat(chat).await?;
                recorder.write(Line { request: chat.body(upstream.model()), reply: reply.clone() })?;
                Ok(reply)
            }
            Self::Played(player) => Ok(player.reply(&chat.body(&player.model))?),
        }
    }
}

impl Recorder {
    fn write(&self, line: Line) -> Result<(), CassetteError> {
        let of_file = |source| CassetteError::File { path: self.path.clone(), source };
        let mut text = serde_json::to_string(&line).map_err(|error| of_file(error.into()))?;
        text.push('\n');
        locked(&self.file).write_all(text.as_bytes()).map_err(of_file)
    }
}

impl Player {
    fn reply(&self, request: &Value) -> Result<Reply, CassetteError> {
        let text = request.to_string();
        let reply = locked(&self.replies).get_mut(&text).and_then(VecDeque::pop_front);
        reply.ok_or_else(|| CassetteError::Unknown(text.chars().take(SHOWN).collect()))
    }
}

/// Nothing panics while these are held.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
