//! What every backend promises, said once: the same test bodies over the engine, over another server, and (in builds that have it) over
//! mistralrs. What a backend cannot do it refuses by name, and a body says so. Each test has the real binary to itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bodies;
mod forms;
#[cfg(feature = "mistralrs")]
mod mistralrs;
mod subject;
#[path = "../process/support.rs"]
#[allow(dead_code, reason = "the tests of the binary need more of it")]
mod support;

/// One module of tests for a backend: every body over it.
macro_rules! contract {
    ($($backend:ident),*; $($module:ident :: $body:ident),*) => {
        contract!(@each [$($backend),*] [$($module :: $body),*]);
    };
    (@each [$($backend:ident),*] $bodies:tt) => {
        $(contract!(@one $backend $bodies);)*
    };
    (@one $backend:ident [$($module:ident :: $body:ident),*]) => {
        mod $backend {
            $(
                #[tokio::test]
                async fn $body() {
                    let subject = crate::subject::Subject::$backend(&[]);
                    crate::$module::$body(&subject).await;
                    subject.stop();
                }
            )*
        }
    };
}

macro_rules! over {
    ($($backend:ident),*) => {
        contract! {
            $($backend),*;
            bodies::a_chat_has_a_text_an_end_and_a_usage,
            bodies::completions_take_texts_and_tokens,
            bodies::a_stream_says_what_the_whole_answer_says,
            bodies::usage_is_what_the_ledger_has,
            bodies::an_answer_ends_before_its_stop_string,
            bodies::lengths_are_kept,
            bodies::several_answers_and_seeds,
            bodies::penalties_and_biases_change_answers,
            bodies::log_probabilities_are_natural_and_ranked,
            bodies::log_probabilities_of_the_prompt,
            bodies::embeddings_or_a_refusal,
            bodies::what_nobody_knows_is_refused_by_name,
            bodies::limits_of_a_key_hold,
            bodies::an_adapter_answers_in_its_own_words,
            bodies::metrics_say_who_answered,
            bodies::answers_are_kept_where_that_is_promised,
            bodies::a_deployment_has_arms,
            forms::an_answer_keeps_to_its_schema,
            forms::a_function_that_must_be_called_is_called,
            forms::a_function_that_may_be_called_need_not_be
        }
    };
}

#[cfg(not(feature = "mistralrs"))]
over!(native, upstream);
#[cfg(feature = "mistralrs")]
over!(native, upstream, mistral);
