//! Answers whose logits come from outside are those of the engine.

use std::path::Path;
use std::time::Duration;

use super::super::grammar::{Begins, Grammar, Vocabulary, regex_rules};
use super::super::outside::{Outside, Task, Writer, Written};
use super::super::request::Pooling;
use super::*;
use crate::model::loader;
use crate::model::{BlockId, Chunk, LogitRows, Logits, Model};

fn outside(options: &SeededOptions, queue_capacity: usize) -> Outside {
    let model = SeededModel::new(options.clone());
    Outside::new(EngineFacts {
        max_context: options.context,
        model: model.config().clone(),
        weight_bytes: 0,
        kv_block_bytes: 0,
        config: EngineConfig { kv_blocks: 0, queue_capacity, ..EngineConfig::default() },
    })
}

fn open(outside: &Outside, request: Request) -> Result<(Writer, Task, Generation), SubmitError> {
    outside.open(&mut outside.reserve(1, usize::MAX)?, request)
}

/// Computes rows for as long as they are wanted; says how many were.
fn compute(options: &SeededOptions, writer: &Writer, task: Task, adapter: Option<&Arc<PreparedAdapter>>) -> usize {
    let mut model = SeededModel::new(options.clone());
    let blocks: Vec<BlockId> = (0..64).collect();
    model.allocate_kv(blocks.len()).unwrap();
    let (mut tokens, mut start, mut logits) = (task.prompt, 0, Logits::default());
    for row in 1.. {
        let chunk = Chunk { tokens: &tokens[start..], start, blocks: &blocks, adapter, logits: LogitRows::Last };
        model.forward(&[chunk], &mut logits).unwrap();
        start = tokens.len();
        match writer.write(logits.row(0)) {
            Written::Token(id) => tokens.push(id),
            Written::Last(_) | Written::Over => return row,
        }
    }
    0
}

#[test]
fn they_are_the_same_whatever_is_asked() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/switchyard-base-q8_0.gguf");
    let bundled = loader::open(&path).unwrap();
    let vocabulary = Vocabulary::new(&bundled.tokenizer, &bundled.generation.eos);
    let options = SeededOptions { vocab: bundled.config.vocab_size, eos: bundled.generation.eos[0], ..SeededOptions::default() };
    let rules = |expression: &str| {
        let grammar = Grammar::lark(vocabulary.clone(), &regex_rules(expression), Begins::AtOnce);
        Request { grammar: Some(grammar.unwrap()), stop_tokens: bundled.generation.eos.as_slice().into(), ..request("hello", 40) }
    };
    let drawn =
        Sampling { seed: 7, top_p: 0.9, frequency_penalty: 0.5, logit_bias: Arc::new([(70, 3.0)]), ..Sampling::default() };
    let free = tokens(&alone(&options, &EngineConfig::default(), request("hello", 8)).unwrap());
    let requests = [
        request("hello", 12),
        request("hello", 0),
        request("hello", usize::MAX),
        Request { sampling: drawn.clone(), logprobs: Some(3), ..request("another", 20) },
        Request { stop_tokens: Arc::new([free[3]]), ..request("hello", 8) },
        rules("(yes|no), (I|we) (will|can) do [a-z]{3,9} (today|tomorrow)"),
        Request { sampling: drawn, logprobs: Some(1), ..rules("[0-9]{1,30}") },
        Request { max_tokens: 3, ..rules("one two three four five six seven eight") },
    ];
    for asked in requests {
        let outside = outside(&options, 8);
        for adapter in [None, Some(seeded_adapter(3))] {
            let asked = Request { adapter: adapter.clone(), ..asked.clone() };
            let expected = alone(&options, &EngineConfig::default(), asked.clone()).unwrap();
            let (writer, task, generation) = open(&outside, asked.clone()).unwrap();
            let most = task.most;
            let rows = compute(&options, &writer, task, adapter.as_ref());
            assert!(rows <= most, "{asked:?}: no more rows are wanted than was said");
            assert!(writer.is_over() && writer.write(&[]) == Written::Over);
            assert_eq!(collect(generation), expected, "{asked:?}");
        }
        let stats = outside.stats();
        assert_eq!((stats.running, stats.waiting, stats.completed), (0, 0, 2));
    }
}

#[test]
fn every_answer_has_an_end() {
    let outside = outside(&SeededOptions::default(), 2);
    let row = vec![0.0; SeededOptions::default().vocab];
    let (dropped, _, generation) = open(&outside, request("a", 9)).unwrap();
    dropped.write(&row);
    drop(dropped);
    assert!(matches!(collect(generation).last(), Some(Event::Failed(_))));
    let (failed, _, generation) = open(&outside, request("a", 9)).unwrap();
    failed.fail("no memory".to_owned());
    assert_eq!(collect(generation), [Event::Failed("no memory".to_owned())]);
    let (broken, _, generation) = open(&outside, request("a", 9)).unwrap();
    assert_eq!(broken.write(&[f32::NAN; 8]), Written::Over);
    assert!(matches!(&collect(generation)[..], [Event::Failed(_)]));
    let adapter = seeded_adapter(1);
    let (left, _, generation) = open(&outside, with_adapter(&adapter, request("a", 9))).unwrap();
    left.write(&row);
    assert_eq!((outside.stats().running, Arc::strong_count(&adapter)), (1, 2));
    drop(generation);
    assert!(left.is_over() && left.write(&row) == Written::Over);
    let stats = outside.stats();
    assert_eq!((stats.running, Arc::strong_count(&adapter)), (0, 1), "who leaves gives back");
    assert_eq!((stats.failed, stats.cancelled, outside.pressure().sequences()), (3, 1, 0));
}

#[test]
fn what_cannot_be_had_and_what_does_not_fit_is_refused() {
    let outside = outside(&SeededOptions { context: 16, ..SeededOptions::default() }, 2);
    let refused = |request| open(&outside, request).map(|_| ()).unwrap_err();
    let unable = |what| matches!(what, SubmitError::Unable { .. });
    assert!(unable(refused(Request { pooling: Some(Pooling::Mean), ..request("a", 0) })));
    assert!(unable(refused(Request { prompt_logprobs: Some(1), ..request("a", 1) })));
    assert_eq!(refused(request("0123456789abcdef", 1)), SubmitError::PromptTooLong { tokens: 16, limit: 15 });
    let waiting = [open(&outside, request("a", 1)).unwrap(), open(&outside, request("a", 1)).unwrap()];
    assert_eq!(refused(request("a", 1)), SubmitError::Overloaded { waiting: 2 });
    drop(waiting);
    assert_eq!(outside.stats().waiting, 0);
}

#[test]
fn the_end_waits_for_answers_and_cuts_off_what_is_late() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outside = outside(&SeededOptions::default(), 2);
    let row = vec![0.0; SeededOptions::default().vocab];
    let (writer, _, generation) = open(&outside, request("a", 1)).unwrap();
    let (late, _, cut) = open(&outside, request("a", 5)).unwrap();
    late.write(&row);
    assert!(matches!(writer.write(&row), Written::Last(_)));
    runtime.block_on(outside.shutdown(Duration::ZERO));
    assert!(matches!(collect(generation).last(), Some(Event::Done { .. })));
    assert_eq!(collect(cut).last(), Some(&Event::CutOff));
    assert_eq!(late.write(&row), Written::Over);
    assert!(matches!(open(&outside, request("a", 1)), Err(SubmitError::Stopping)));
}
