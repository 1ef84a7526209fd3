//! Answers of several models to the same questions, greedily, by whatever backend serves everybody else. Others go first: while
//! anybody waits nothing is handed in, and while anybody is served one question at a time is. Dropping the future ends the work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};

use super::{EvaluateError, Question};
use crate::backends::{Backend, Event, Finish, PreparedAdapter, Realm, Request, Sampling, SubmitError};
use crate::model::tokenizer::{Position, Specials, Tokenizer};

/// How long a place is not asked for again while others are served.
const PATIENCE: Duration = Duration::from_millis(10);
/// Tokens that an answer may have beyond twice those of the target.
const SPARE_TOKENS: usize = 32;

/// One model of the comparison.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What it is here.
    pub role: Role,
    /// What it is called (`support@3`).
    pub name: String,
    /// Its adapter; `None` is the base.
    pub adapter: Option<Arc<PreparedAdapter>>,
}

/// What a model is in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one that is judged.
    Candidate,
    /// The version in service under the same name.
    Incumbent,
    /// The base without an adapter.
    Base,
}

/// What answers, and how.
#[derive(Clone)]
pub struct Bench {
    /// Answers.
    pub backend: Backend,
    /// Writes the answers out.
    pub tokenizer: Tokenizer,
    /// Tokens that end an answer.
    pub end_tokens: Arc<[u32]>,
    /// Whose prefixes are shared: the tenant's.
    pub realm: Realm,
    /// Most tokens of an answer; less where the target is short (twice its tokens and 32).
    pub max_tokens: usize,
    /// Most answers at the same time on an idle server.
    pub at_once: usize,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Its text, without special tokens.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// It ended because there was no more room for it.
    pub cut: bool,
    /// From handing in to the first token.
    pub first_token: Duration,
    /// From handing in to the end.
    pub duration: Duration,
}

impl Bench {
    /// Answers of each subject to each question: by subject, then by question. `progress` hears how many are done.
    ///
    /// A question that leaves no room for an answer is answered with nothing.
    pub async fn answers(
        &self,
        subjects: &[Subject],
        questions: &[Question],
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Vec<Answer>>, EvaluateError> {
        let mut answers = vec![vec![Answer::default(); questions.len()]; subjects.len()];
        // Question by question, so that all subjects meet the same load.
        let mut todo = (0..questions.len()).flat_map(|row| (0..subjects.len()).map(move |subject| (subject, row))).peekable();
        let mut running = FuturesUnordered::new();
        let mut done = 0;
        loop {
            while let Some((subject, row)) = todo.peek().copied() {
                if running.len() >= self.at_once.max(1) || !self.welcome(running.len()) {
                    break;
                }
                match self.ask(&subjects[subject], &questions[row])? {
                    Asked::Running(answer) => running.push(async move { (subject, row, answer.await) }),
                    Asked::NoRoom => done += 1,
                    Asked::Busy => break,
                }
                todo.next();
            }
            let finished = if running.is_empty() {
                if todo.peek().is_none() {
                    return Ok(answers);
                }
                tokio::time::sleep(PATIENCE).await;
                None
            } else if todo.peek().is_some() && running.len() < self.at_once {
                // There may be room for another before one of them ends.
                tokio::time::timeout(PATIENCE, running.next()).await.ok().flatten()
            } else {
                running.next().await
            };
            if let Some((subject, row, answer)) = finished {
                answers[subject][row] = answer?;
                done += 1;
                progress(done);
            }
        }
    }

    /// Whether another request of ours would be in nobody's way, beside `ours` that run.
    fn welcome(&self, ours: usize) -> bool {
        let stats = self.backend.stats();
        let others = (stats.running + stats.waiting).saturating_sub(ours);
        others == 0 || (ours == 0 && stats.waiting == 0)
    }

    fn ask(
        &self,
        subject: &Subject,
        question: &Question,
    ) -> Result<Asked<impl Future<Output = Result<Answer, EvaluateError>> + use<>>, EvaluateError> {
        let target = self
            .tokenizer
            .encode(&question.target, Specials::Omit)
            .map_err(|error| EvaluateError::Tokenizer(error.to_string()))?;
        let begun = Instant::now();
        let request = Request {
            realm: self.realm,
            prompt: question.prompt.clone(),
            adapter: subject.adapter.clone(),
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            max_tokens: self.max_tokens.min(2 * target.len() + SPARE_TOKENS).max(1),
            stop_tokens: Arc::clone(&self.end_tokens),
            logprobs: None,
            prompt_logprobs: None,
            grammar: None,
            pooling: None,
        };
        let submitted = self.backend.reserve(1, 1).and_then(|mut places| self.backend.submit_at(&mut places, request));
        let mut generation = match submitted {
            Ok(generation) => generation,
            Err(SubmitError::Overloaded { .. }) => return Ok(Asked::Busy),
            Err(SubmitError::PromptTooLong { .. }) => return Ok(Asked::NoRoom),
            Err(error) => return Err(error.into()),
        };
        let mut text = self.tokenizer.stream(Specials::Omit, Position::Start);
        let end_tokens = Arc::clone(&self.end_tokens);
        Ok(Asked::Running(async move {
            let mut answer = Answer::default();
            while let Some(event) = generation.next().await {
                match event {
                    Event::Prompt(_) | Event::Embedding(_) => {}
                    Event::Token { id, .. } => {
                        if answer.tokens == 0 {
                            answer.first_token = begun.elapsed();
                        }
                        answer.tokens += 1;
                        if !end_tokens.contains(&id) {
                            answer.text.push_str(&text.push(id));
                        }
                    }
                    Event::Done { finish, .. } => {
                        answer.text.push_str(&text.finish());
                        answer.cut = finish == Finish::Length;
                        answer.duration = begun.elapsed();
                        return Ok(answer);
                    }
                    Event::NothingAllowed => return Err(EvaluateError::Engine("the grammar allows nothing more".to_owned())),
                    Event::Failed(reason) => return Err(EvaluateError::Engine(reason)),
                    Event::CutOff => break,
                }
            }
            Err(EvaluateError::Submit(SubmitError::Stopping))
        }))
    }
}

/// What became of a question.
enum Asked<F> {
    /// It is being answered.
    Running(F),
    /// There is no place now.
    Busy,
    /// Its prompt fills the context.
    NoRoom,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;
    use crate::backends::NullBackend;
    use crate::backends::null::{NullConfig, Pace};
    use crate::model::config::{Architecture, ModelConfig, RopeScaling};

    const END: u32 = 5;

    fn tokenizer() -> Tokenizer {
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [{"id": END, "content": "<end>", "special": true, "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                      "vocab": {"a": 0, "Ġthe": 1, "Ġtwo": 2, "Ġsix": 3, "Ġ1": 4}, "merges": []},
        });
        Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
    }

    fn bench(at_once: usize) -> Bench {
        let model = ModelConfig {
            architecture: Architecture::Llama,
            vocab_size: 6,
            hidden_size: 8,
            intermediate_size: 12,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            rms_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            context_length: 64,
            sliding_window: None,
            tied_embeddings: false,
            details: crate::model::config::Details::default(),
        };
        let pace = Pace { delay: Duration::from_millis(1), gap: Duration::ZERO };
        let config = NullConfig { model, pace, open_length: 3, queue_capacity: 8 };
        let tokenizer = tokenizer();
        let backend = Backend::Null(NullBackend::start(config, &tokenizer).unwrap());
        Bench { backend, tokenizer, end_tokens: [END].into(), realm: Realm::default(), max_tokens: 4, at_once }
    }

    fn subjects() -> Vec<Subject> {
        [Role::Candidate, Role::Base].map(|role| Subject { role, name: format!("{role:?}"), adapter: None }).to_vec()
    }

    fn question(tokens: usize) -> Question {
        Question { prompt: vec![1; tokens], prompt_text: String::new(), target: "a".to_owned() }
    }

    #[tokio::test]
    async fn every_subject_answers_every_question_in_its_place() {
        let bench = bench(3);
        let questions: Vec<Question> = (1..6).map(question).collect();
        let mut seen = Vec::new();
        let answers = bench.answers(&subjects(), &questions, |done| seen.push(done)).await.unwrap();
        assert_eq!(seen, (1..=10).collect::<Vec<_>>());
        // Words of this backend depend on the prompt and the adapter alone.
        assert_eq!(
            answers[0].iter().map(|a| &a.text).collect::<Vec<_>>(),
            answers[1].iter().map(|a| &a.text).collect::<Vec<_>>()
        );
        assert!(answers.iter().flatten().all(|answer| answer.tokens > 0 && answer.duration >= answer.first_token));
        assert_eq!(bench.backend.stats().running, 0);
    }

    #[tokio::test]
    async fn a_question_without_room_has_an_empty_answer() {
        let answers = bench(1).answers(&subjects(), &[question(64), question(2)], |_| {}).await.unwrap();
        assert_eq!(answers[0][0], Answer::default());
        assert!(answers[0][1].tokens > 0);
    }

    #[tokio::test]
    async fn a_stopped_backend_ends_the_evaluation() {
        let bench = bench(1);
        bench.backend.shutdown(Duration::ZERO).await;
        let ended = bench.answers(&subjects(), &[question(2)], |_| {}).await;
        assert!(matches!(ended, Err(EvaluateError::Submit(SubmitError::Stopping))), "{ended:?}");
    }
}
