//! The bytes of requests: a chat whose words differ each time, so that no two prompts are the same.

use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value};

use crate::plan::Kind;

/// Words of every day: tokenizers that were trained on English have a token for each, or two.
const WORDS: &[&str] = &[
    "about",
    "after",
    "again",
    "air",
    "all",
    "along",
    "also",
    "another",
    "any",
    "around",
    "away",
    "back",
    "because",
    "before",
    "below",
    "between",
    "book",
    "both",
    "boy",
    "came",
    "can",
    "change",
    "close",
    "come",
    "could",
    "country",
    "day",
    "did",
    "different",
    "does",
    "down",
    "each",
    "earth",
    "eat",
    "end",
    "enough",
    "even",
    "every",
    "example",
    "eye",
    "face",
    "family",
    "far",
    "father",
    "feet",
    "few",
    "find",
    "first",
    "follow",
    "food",
    "form",
    "found",
    "four",
    "from",
    "get",
    "girl",
    "give",
    "good",
    "great",
    "group",
    "grow",
    "hand",
    "hard",
    "head",
    "hear",
    "help",
    "here",
    "high",
    "home",
    "house",
    "idea",
    "just",
    "keep",
    "kind",
    "know",
    "land",
    "large",
    "last",
    "late",
    "learn",
    "leave",
    "left",
    "letter",
    "life",
    "light",
    "line",
    "list",
    "little",
    "live",
    "long",
    "look",
    "made",
    "make",
    "many",
    "men",
    "might",
    "mile",
    "more",
    "most",
    "mother",
    "mountain",
    "move",
    "much",
    "must",
    "name",
    "near",
    "need",
    "never",
    "new",
    "next",
    "night",
    "number",
    "often",
    "old",
    "only",
    "open",
    "other",
    "over",
    "own",
    "page",
    "paper",
    "part",
    "people",
    "place",
    "plant",
    "play",
    "point",
    "put",
    "question",
    "quick",
    "read",
    "really",
    "right",
    "river",
    "run",
    "same",
    "saw",
    "say",
    "school",
    "sea",
    "second",
    "see",
    "seem",
    "sentence",
    "set",
    "should",
    "show",
    "side",
    "small",
    "some",
    "something",
    "sometimes",
    "song",
    "soon",
    "sound",
    "spell",
    "start",
    "state",
    "still",
    "stop",
    "story",
    "study",
    "such",
    "take",
    "talk",
    "tell",
    "than",
    "their",
    "them",
    "then",
    "there",
    "these",
    "thing",
    "think",
    "this",
    "those",
    "thought",
    "three",
    "through",
    "time",
    "together",
    "took",
    "tree",
    "try",
    "turn",
    "two",
    "under",
    "until",
    "use",
    "very",
    "walk",
    "want",
    "watch",
    "water",
    "way",
    "well",
    "went",
    "were",
    "what",
    "when",
    "where",
    "which",
    "while",
    "white",
    "why",
    "will",
    "with",
    "without",
    "word",
    "work",
    "world",
    "would",
    "write",
    "year",
    "young",
];

/// What all requests share.
pub struct Writer {
    /// Everything of the head but the key and the length.
    head: String,
    /// `Authorization` headers, one for each key.
    keys: Vec<String>,
    /// Models, as JSON strings.
    models: Vec<String>,
    /// Words of the message.
    words: usize,
    /// The rest of the body, by kind: begins with a comma.
    rests: [String; 3],
}

/// Whom and what to ask.
pub struct Asked<'a> {
    /// `host:port`
    pub host: &'a str,
    /// Path of the endpoint.
    pub path: &'a str,
    /// Further header lines.
    pub headers: &'a [String],
    /// API keys; each request draws one.
    pub keys: &'a [String],
    /// Models; each request draws one.
    pub models: &'a [String],
    /// Words of the message.
    pub words: usize,
    /// `max_tokens`
    pub max_tokens: usize,
    /// `max_tokens` of those who read slowly.
    pub slow_max_tokens: usize,
    /// Further fields of the body.
    pub extra: &'a Map<String, Value>,
}

impl Writer {
    /// Prepares what does not change.
    pub fn new(asked: &Asked<'_>) -> Self {
        let further: String = asked.headers.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{further}Authorization: Bearer ",
            asked.path, asked.host
        );
        let extra: String = asked.extra.iter().map(|(name, value)| format!(",{}:{value}", Value::from(name.as_str()))).collect();
        let rest = |kind| {
            let (max_tokens, stream) = match kind {
                Kind::Whole => (asked.max_tokens, ""),
                Kind::Stream => (asked.max_tokens, ",\"stream\":true"),
                Kind::Slow => (asked.slow_max_tokens, ",\"stream\":true"),
            };
            format!("\"}}],\"max_tokens\":{max_tokens}{stream}{extra}}}")
        };
        Self {
            head,
            keys: asked.keys.to_vec(),
            models: asked.models.iter().map(|model| Value::from(model.as_str()).to_string()).collect(),
            words: asked.words,
            rests: [rest(Kind::Whole), rest(Kind::Stream), rest(Kind::Slow)],
        }
    }

    /// Writes one request.
    pub fn write(&self, kind: Kind, random: &mut impl Rng, out: &mut Vec<u8>) {
        out.clear();
        let mut body = String::with_capacity(512);
        body.push_str("{\"model\":");
        body.push_str(self.models.choose(random).map_or("\"\"", String::as_str));
        body.push_str(",\"messages\":[{\"role\":\"user\",\"content\":\"");
        for index in 0..self.words {
            if index > 0 {
                body.push(' ');
            }
            body.push_str(WORDS.choose(random).unwrap_or(&"word"));
        }
        body.push_str(&self.rests[kind as usize]);
        out.extend_from_slice(self.head.as_bytes());
        out.extend_from_slice(self.keys.choose(random).map_or("", String::as_str).as_bytes());
        out.extend_from_slice(format!("\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
        out.extend_from_slice(body.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_json_of_their_length_and_differ() {
        let extra = json!({"temperature": 0, "a\"b": [1]});
        let (keys, models) = (["k".to_owned()], ["m\"x".to_owned()]);
        let writer = Writer::new(&Asked {
            host: "h:1",
            path: "/p",
            headers: &["X-A: b".to_owned()],
            keys: &keys,
            models: &models,
            words: 9,
            max_tokens: 16,
            slow_max_tokens: 99,
            extra: extra.as_object().unwrap(),
        });
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut seen = Vec::new();
        for kind in [Kind::Whole, Kind::Stream, Kind::Slow] {
            let mut out = Vec::new();
            writer.write(kind, &mut random, &mut out);
            let text = String::from_utf8(out).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with("POST /p HTTP/1.1\r\nHost: h:1\r\n")
                    && head.contains("\r\nX-A: b\r\nAuthorization: Bearer k\r\n")
            );
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
            let body: Value = serde_json::from_str(body).unwrap();
            assert_eq!((&body["model"], &body["temperature"], &body["a\"b"]), (&json!("m\"x"), &json!(0), &json!([1])));
            assert_eq!(body["max_tokens"], if kind == Kind::Slow { 99 } else { 16 });
            assert_eq!(body["stream"] == json!(true), kind != Kind::Whole);
            let content = body["messages"][0]["content"].as_str().unwrap().to_owned();
            assert_eq!(content.split(' ').count(), 9);
            seen.push(content);
        }
        seen.dedup();
        assert_eq!(seen.len(), 3);
    }
}
