//! Whole runs against recordings.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::VecDeque;

use super::*;
use crate::backends::upstream::{Reply, Usage};

fn task() -> Task {
    let seed = |user: &str, assistant: &str| Seed { user: user.to_owned(), assistant: assistant.to_owned() };
    Task {
        description: "short answers of a house robot".to_owned(),
        system: Some("You are a robot.".to_owned()),
        seeds: vec![seed("light on", "done"), seed("light off", "done")],
        per_call: 2,
        max_tokens: 100,
        temperature: 1.0,
        seed: 1,
    }
}

fn reply(examples: &[(&str, &str)]) -> Reply {
    let list: Vec<Value> = examples.iter().map(|(user, answer)| json!({"user": user, "assistant": answer})).collect();
    let usage = Some(Usage { prompt_tokens: 50, completion_tokens: 10 });
    Reply { text: json!({"examples": list}).to_string(), finish: None, usage }
}

/// A recording of a teacher that gives these answers, whatever rows its calls left.
struct Script {
    directory: tempfile::TempDir,
}

impl Script {
    /// Plays the run once without keeping it, to learn which questions are asked.
    fn new(replies: &[Reply], wanted: u64) -> Self {
        let script = Self { directory: tempfile::tempdir().unwrap() };
        let task = task();
        let (mut judge, mut rows, mut lines) = (Judge::new(&task.seeds), 0, String::new());
        let mut replies: VecDeque<&Reply> = replies.iter().collect();
        for call in 0.. {
            let Some(reply) = replies.pop_front() else { break };
            let chat = ask::chat(&task, call, wanted - rows, judge.last());
            let request = json!({"model": "m", "messages": chat.messages, "max_tokens": chat.max_tokens,
                "temperature": chat.temperature, "seed": chat.seed});
            lines.push_str(&format!("{}\n", json!({"request": request, "reply": reply})));
            for example in ask::read(&reply.text).unwrap_or_default() {
                rows += u64::from(rows < wanted && judge.accept(example, &mut Rejected::default()).is_some());
            }
        }
        std::fs::write(script.directory.path().join("cassette"), lines).unwrap();
        script
    }

    fn rows(&self) -> PathBuf {
        self.directory.path().join("rows.jsonl")
    }

    fn teacher(&self) -> Teacher {
        Teacher::played("m", &self.directory.path().join("cassette")).unwrap()
    }

    async fn run(&self, caps: &Caps, rows: u64) -> Result<Outcome, GenerateError> {
        generate(&task(), caps, &self.teacher(), &self.rows(), rows, |_, _| {}).await
    }
}

#[tokio::test]
async fn rows_are_written_until_there_are_enough() {
    let script = Script::new(&[reply(&[("heat", "ok"), ("Light on!", "ok")]), reply(&[("doors", "ok"), ("music", "ok")])], 3);
    let outcome = script.run(&Caps::default(), 3).await.unwrap();
    assert_eq!((outcome.rows, outcome.ended, outcome.progress.rejected.duplicate), (3, Ended::Enough, 1));
    assert_eq!(outcome.progress.spent, Spent { calls: 2, prompt_tokens: 100, completion_tokens: 20, nanos: 0 });
    let text = std::fs::read_to_string(script.rows()).unwrap();
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["messages"][0], json!({"role": "system", "content": "You are a robot."}));
    assert_eq!((&first["messages"][1]["content"], &first["messages"][2]["content"]), (&json!("heat"), &json!("ok")));
    assert_eq!(text.lines().count(), 3);
}

#[tokio::test]
async fn a_run_that_was_cut_off_goes_on_where_it_was() {
    let replies = [reply(&[("heat", "ok"), ("doors", "ok")]), reply(&[("music", "ok"), ("news", "ok")])];
    let script = Script::new(&replies, 4);
    let one = Caps { calls: Some(1), ..Caps::default() };
    assert_eq!(script.run(&one, 4).await.unwrap().ended, Ended::Capped(Cap::Calls));
    // As if the power had gone in the middle of a line.
    let torn = std::fs::read_to_string(script.rows()).unwrap() + "{\"messages\": [{\"ro";
    std::fs::write(script.rows(), torn).unwrap();
    let outcome = script.run(&Caps::default(), 4).await.unwrap();
    assert_eq!((outcome.rows, outcome.ended, outcome.progress.spent.calls), (4, Ended::Enough, 2));
    // And once there are enough, nothing is asked.
    assert_eq!(script.run(&Caps::default(), 4).await.unwrap(), outcome);
}

#[tokio::test]
async fn no_cap_is_exceeded() {
    let script = Script::new(&[reply(&[("heat", "ok")]), reply(&[("doors", "ok")])], 9);
    let prices = Prices { prompt_nanos: 10, completion_nanos: 100 };
    let tokens = Caps { tokens: Some(120), ..Caps::default() };
    assert_eq!(script.run(&tokens, 9).await.unwrap().ended, Ended::Capped(Cap::Tokens), "not even the first call fits");
    assert!(std::fs::read_to_string(script.rows()).unwrap().is_empty());
    let first = Spent::most(&ask::chat(&task(), 0, 9, &[]), &prices);
    let money = Caps { nanos: Some(first.nanos), prices, ..Caps::default() };
    let outcome = script.run(&money, 9).await.unwrap();
    assert_eq!((outcome.rows, outcome.ended), (1, Ended::Capped(Cap::Money)));
    // What the server counted, not what was feared.
    assert_eq!(outcome.progress.spent.nanos, 50 * 10 + 10 * 100);
}

#[tokio::test]
async fn a_teacher_that_repeats_itself_or_talks_is_left() {
    let chatter = Reply { text: "Sure! Here are some examples.".to_owned(), finish: None, usage: None };
    let again = reply(&[("light on", "done")]);
    let script = Script::new(&[chatter, again.clone(), again.clone(), again.clone(), again], 5);
    let outcome = script.run(&Caps::default(), 5).await.unwrap();
    assert_eq!((outcome.rows, outcome.ended), (0, Ended::Dry));
    assert_eq!((outcome.progress.rejected.unreadable, outcome.progress.rejected.duplicate), (1, 4));
}

#[tokio::test]
async fn a_file_of_something_else_is_left_alone() {
    let script = Script::new(&[reply(&[("heat", "ok")])], 1);
    std::fs::write(script.rows(), "precious\n").unwrap();
    assert!(matches!(script.run(&Caps::default(), 1).await, Err(GenerateError::Another { .. })));
    assert_eq!(std::fs::read_to_string(script.rows()).unwrap(), "precious\n");
    std::fs::remove_file(script.rows()).unwrap();
    script.run(&Caps::default(), 1).await.unwrap();
    let other = Task { description: "something else".to_owned(), ..task() };
    let outcome = generate(&other, &Caps::default(), &script.teacher(), &script.rows(), 1, |_, _| {}).await;
    assert!(matches!(outcome, Err(GenerateError::Another { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_call_that_is_refused_costs_nothing() {
    let script = Script::new(&[], 1);
    assert!(matches!(script.run(&Caps::default(), 1).await, Err(GenerateError::Teacher(_))));
    let kept: Progress = serde_json::from_slice(&std::fs::read(beside(&script.rows())).unwrap()).unwrap();
    assert_eq!(kept.spent, Spent::default());
}

#[test]
fn answers_are_read_in_the_forms_that_teachers_use() {
    let plain = r#"{"examples": [{"user": "a", "assistant": {"b": 1}}, {"user": "c"}, "d"]}"#;
    for text in [plain.to_owned(), format!("```json\n{plain}\n```")] {
        let read = ask::read(&text).unwrap();
        assert_eq!(read, [Some(Seed { user: "a".to_owned(), assistant: r#"{"b":1}"#.to_owned() }), None, None]);
    }
    assert_eq!(ask::read(r#"[{"user": "a", "assistant": "b"}]"#).unwrap().len(), 1);
    assert_eq!(ask::read("no"), None);
    assert_eq!(ask::read("{}"), None);
}
