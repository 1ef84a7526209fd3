//! Patterns and walks, over bytes and over the bundled base's tokens.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::loader;
use crate::model::tokenizer::{Specials, Tokenizer};

const TEXT: &str = "remind me tomorrow to call \\\"mum\\\" at six";

/// `{"task":RUN|null,"when":RUN|RUN RUN|null}` over words of [`TEXT`].
fn pattern() -> Pattern {
    let bytes = TEXT.as_bytes();
    let starts: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != b' ' && (*at == 0 || bytes[at - 1] == b' ')).collect();
    let ends: Vec<usize> =
        (1..=bytes.len()).filter(|at| bytes[at - 1] != b' ' && bytes.get(*at).is_none_or(|b| *b == b' ')).collect();
    let runs = Runs { text: TEXT, starts: &starts, ends: &ends };
    let mut builder = Builder::default();
    let end = builder.end();
    let closed = builder.literal("}", end);
    let quoted = builder.literal("\"", closed);
    let (when, null) = (builder.run_or_two(runs, quoted), builder.literal("null", closed));
    let when = builder.literal("\"", when);
    let when = builder.any(&[when, null]);
    let when = builder.literal(",\"when\":", when);
    let quoted = builder.literal("\"", when);
    let (task, null) = (builder.run(runs, quoted), builder.literal("null", when));
    let task = builder.literal("\"", task);
    let task = builder.any(&[task, null]);
    let start = builder.literal("{\"task\":", task);
    builder.finish(start)
}

fn bundled() -> (Tokenizer, Vec<u32>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/switchyard-base-q8_0.gguf");
    let checkpoint = loader::open(&path).unwrap();
    (checkpoint.tokenizer, checkpoint.generation.eos)
}

fn grammar() -> (Arc<Grammar>, Tokenizer) {
    let (tokenizer, ends) = bundled();
    (Grammar::new(Vocabulary::new(&tokenizer, &ends), pattern()), tokenizer)
}

#[test]
fn runs_are_runs_and_second_pieces_come_after_first_ones() {
    let pattern = pattern();
    let answer = |task: &str, when: &str| format!("{{\"task\":{task},\"when\":{when}}}");
    for (task, when) in [
        ("null", "null"),
        ("\"call \\\"mum\\\"\"", "\"at six\""),
        ("\"call\"", "\"tomorrow at six\""),
        ("\"remind me tomorrow to call \\\"mum\\\" at six\"", "\"remind six\""),
        ("\"six\"", "\"tomorrow\""),
    ] {
        assert!(pattern.allows(&answer(task, when)), "{task} {when}");
    }
    for (task, when) in [
        ("\"\"", "null"),
        ("\"call me\"", "null"),
        ("\"cal\"", "null"),
        ("\"call \"", "null"),
        ("\" call\"", "null"),
        ("\"call mum\"", "null"),
        ("null", "\"six tomorrow\""),
        ("null", "\"remind tomorrow six\""),
        ("null", "null}"),
        ("nul", "null"),
    ] {
        assert!(!pattern.allows(&answer(task, when)), "{task} {when}");
    }
}

/// Walks an answer as a model would that spells it like the tokenizer: how many tokens were chosen, and all of them.
fn follow(grammar: &Arc<Grammar>, spelled: &[u32]) -> (usize, Vec<u32>) {
    let mut walk = Walk::new(Arc::clone(grammar));
    let (mut tokens, mut chosen) = (grammar.beginning().to_vec(), 0);
    while !walk.is_over() {
        let id = spelled[tokens.len()];
        assert!(walk.allowed(Room::PLENTY).is_allowed(id), "{tokens:?} then {id}");
        tokens.push(id);
        tokens.extend(walk.accept(id));
        chosen += 1;
    }
    (chosen, tokens)
}

#[test]
fn what_is_forced_is_spelled_as_the_tokenizer_spells_it() {
    let (grammar, tokenizer) = grammar();
    for answer in [
        r#"{"task":"call \"mum\"","when":"tomorrow at six"}"#,
        r#"{"task":null,"when":null}"#,
        r#"{"task":"remind me tomorrow to call \"mum\" at six","when":"six"}"#,
    ] {
        let spelled = tokenizer.encode(answer, Specials::Omit).unwrap();
        let (chosen, tokens) = follow(&grammar, &spelled);
        assert_eq!(tokens, spelled, "{answer}");
        assert!(chosen < spelled.len(), "{chosen} of {}", spelled.len());
    }
}

#[test]
fn a_grammar_that_is_written_down_is_compiled_once_and_forces_what_it_must() {
    let (tokenizer, ends) = bundled();
    let vocabulary = Vocabulary::new(&tokenizer, &ends);
    let source = r#"start: "{\"colour\":\"" ("red" | "green") "\",\"sizes\":[" /[0-9]{1,3}/ "]}""#;
    let grammar = Grammar::lark(vocabulary.clone(), source, Begins::AtOnce).unwrap();
    let answer = r#"{"colour":"green","sizes":[42]}"#;
    let spelled = tokenizer.encode(answer, Specials::Omit).unwrap();
    let (chosen, tokens) = follow(&grammar, &spelled);
    assert_eq!(tokens, spelled);
    assert!(chosen < spelled.len(), "{chosen} of {}", spelled.len());
    // Again, from what was kept, and with the thread beside.
    let mut walk = Walk::new(Grammar::lark(vocabulary.clone(), source, Begins::AtOnce).unwrap());
    walk.prepare(&mut Masks::default());
    let begun = tokenizer.decode(grammar.beginning(), Specials::Keep).unwrap();
    let ways: Vec<String> =
        walk.allowed(Room::PLENTY).iter().map(|id| format!("{begun}{}", tokenizer.token_text(id).unwrap())).collect();
    let answers = [r#"{"colour":"red","sizes":["#, r#"{"colour":"green","sizes":["#];
    assert!(ways.len() > 1, "{ways:?}");
    assert!(ways.iter().all(|way| answers.iter().any(|answer| answer.starts_with(way))), "{ways:?}");
    let problem = Grammar::lark(vocabulary.clone(), "start: nothing", Begins::AtOnce).unwrap_err();
    assert!(matches!(&problem, GrammarError::Invalid(text) if text.contains("nothing")), "{problem}");
    let long = format!("start: \"{}\"", "x".repeat(300_000));
    assert!(matches!(Grammar::lark(vocabulary, &long, Begins::AtOnce), Err(GrammarError::TooLong { .. })));
}

#[test]
fn only_what_was_compiled_is_known() {
    let (tokenizer, ends) = bundled();
    let vocabulary = Vocabulary::new(&tokenizer, &ends);
    let known = |source| Grammar::known(vocabulary.clone(), source, Begins::AtOnce);
    assert!(known("start: \"a\"").is_none(), "nothing is compiled by asking");
    let compiled = Grammar::lark(vocabulary.clone(), "start: \"a\"", Begins::AtOnce).unwrap();
    assert_eq!(known("start: \"a\"").unwrap().unwrap().beginning(), compiled.beginning());
    assert!(known("start: \"b\"").is_none());
}

#[test]
fn a_special_token_may_be_one_of_the_ways() {
    let (tokenizer, ends) = bundled();
    let special = tokenizer.special_ids().into_iter().find(|id| !ends.contains(id)).unwrap();
    let source = format!("start: /[a-z]+/ | <[{special}]> \"no 42\"");
    let grammar = Grammar::lark(Vocabulary::new(&tokenizer, &ends), &source, Begins::AtOnce).unwrap();
    let mut walk = Walk::new(Arc::clone(&grammar));
    let allowed = walk.allowed(Room::PLENTY);
    assert!(allowed.is_allowed(special) && allowed.num_set() > 10);
    let mut tokens = walk.accept(special);
    while !walk.is_over() {
        let allowed = walk.allowed(Room::PLENTY);
        let next = allowed.iter().find(|id| !ends.contains(id));
        let Some(next) = next else { break };
        tokens.push(next);
        tokens.extend(walk.accept(next));
    }
    assert_eq!(tokenizer.decode(&tokens, Specials::Keep).unwrap(), "no 42");
}

#[test]
fn an_answer_that_nobody_chose_is_an_answer() {
    let (grammar, tokenizer) = grammar();
    let mut tokens = grammar.any_answer(1000).unwrap();
    assert_eq!(tokens.pop(), bundled().1.first().copied());
    assert!(pattern().allows(&tokenizer.decode(&tokens, Specials::Keep).unwrap()));
    assert_eq!(grammar.any_answer(3).unwrap().len(), 3);
}

/// An answer that draws one of what is allowed until it has to land, and ends within `most` tokens.
fn drawn(expression: &str, most: usize) -> String {
    let (tokenizer, ends) = bundled();
    let rules = regex_rules(expression);
    let grammar = Grammar::lark(Vocabulary::new(&tokenizer, &ends), &rules, Begins::AtOnce).unwrap();
    assert!(grammar.landing > 0, "{expression}: no way to the end was found");
    let mut turn = 0;
    let (mut tokens, _) = grammar.drawn_answer(most, &mut |count| {
        turn += 7;
        turn % count
    });
    assert!(tokens.len() < most, "{expression}: the answer is cut");
    tokens.retain(|id| !ends.contains(id));
    tokenizer.decode(&tokens, Specials::Keep).unwrap()
}

#[test]
fn a_quote_that_closes_nothing_does_not_keep_an_answer_from_its_end() {
    for (expression, begins, ends) in [
        ("Summary: .+\\nScore: [0-9]", "Summary: ", "\nScore: "),
        ("'[^']*'", "'", "'"),
        ("(\"[a-c]\")*z", "", "z"),
        ("(.+\\n){3}end", "", "\nend"),
    ] {
        let text = drawn(expression, 900);
        let text = text.trim_end_matches(|last: char| last.is_ascii_digit());
        assert!(text.starts_with(begins) && text.ends_with(ends), "{expression}: {text:?}");
    }
}

#[test]
fn an_answer_whose_end_is_too_far_goes_as_it_likes() {
    let (tokenizer, ends) = bundled();
    let grammar = Grammar::lark(Vocabulary::new(&tokenizer, &ends), &regex_rules("[a-z]{3000}"), Begins::AtOnce).unwrap();
    assert_eq!(grammar.landing, 0);
    assert!(Walk::new(grammar).allowed(Room { left: 1, all: 100 }).num_set() > 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is chosen of what is allowed, the answer is one.
    #[test]
    fn every_way_leads_to_an_answer(choices in prop::collection::vec(any::<usize>(), 1..20)) {
        let (tokenizer, ends) = bundled();
        let grammar = Grammar::new(Vocabulary::new(&tokenizer, &ends), pattern());
        let mut walk = Walk::new(Arc::clone(&grammar));
        let mut masks = Masks::default();
        let mut tokens = grammar.beginning().to_vec();
        let mut choices = choices.into_iter().cycle();
        while !walk.is_over() {
            walk.prepare(&mut masks);
            let allowed: Vec<u32> = walk.allowed(Room::PLENTY).iter().collect();
            prop_assert!(!allowed.is_empty());
            // Beside the helper's thread the same is found here.
            prop_assert_eq!(&walk.allowed(Room::PLENTY).iter().collect::<Vec<u32>>(), &allowed);
            let id = allowed[choices.next().unwrap() % allowed.len()];
            tokens.push(id);
            tokens.extend(walk.accept(id));
        }
        let text = tokenizer.decode(&tokens, Specials::Keep).unwrap();
        prop_assert!(pattern().allows(&text), "{}", text);
    }
}
