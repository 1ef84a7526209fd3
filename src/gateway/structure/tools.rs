//! Functions that a model may call: what is offered, the rules of answers that call, and how calls are told to a model whose chat
//! template has no place for them. What families of models differ in is in `tool_families.toml`. Pure.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::schema::json_value;
use super::{Form, Rules};
use crate::backends::grammar::{Begins, Cue, CuePlace};
use crate::gateway::types::{Message, Role};

/// A function on offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// The schema of its arguments, checked.
    pub parameters: Value,
    /// As templates describe it: `{"type": "function", "function": ...}`.
    pub described: Value,
}

/// Whether functions are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    Auto,
    /// At least one.
    Required,
    /// This one, once.
    Named(String),
}

/// How many calls an answer may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// One.
    One,
    /// Any number, where the family of the model can write several.
    Many,
}

/// What a request says about functions.
#[derive(Debug, Clone, PartialEq)]
pub struct Tools {
    /// On offer, at least one.
    pub offered: Arc<[Tool]>,
    /// Whether they are called.
    pub choice: ToolChoice,
    /// How many calls.
    pub calls: Calls,
}

/// A call in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its id.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments, an object.
    pub arguments: Value,
}

/// Which family a base's answers are read as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolFamily {
    /// What its chat template says.
    #[default]
    Detected,
    /// The one of this name.
    Named(String),
}

impl ToolFamily {
    /// `auto`, or the name of a family; the names, where it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names: Vec<String> = families().family.into_iter().map(|family| family.name).collect();
        match text {
            "auto" => Ok(Self::Detected),
            name if names.iter().any(|known| known == name) => Ok(Self::Named(name.to_owned())),
            _ => Err(format!("auto, {} are right", names.join(", "))),
        }
    }
}

impl std::fmt::Display for ToolFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Detected => "auto",
            Self::Named(name) => name,
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Families {
    instructions: String,
    result: String,
    family: Vec<Family>,
}

/// How a family writes calls.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Family {
    name: String,
    detect: Vec<String>,
    pub(super) cue: String,
    place: Place,
    pub(super) first: String,
    pub(super) call: [String; 3],
    pub(super) between: Option<String>,
    last: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    Anywhere,
    Start,
}

/// How a base's calls are written and read.
#[derive(Debug, Clone)]
pub struct Syntax {
    pub(super) family: Family,
    instructions: String,
    result: String,
    /// Whether the chat template has a place for functions.
    in_template: bool,
    /// Where it has none: who tells them.
    teller: Teller,
    /// The token of the cue, where that is a special one, which stands for no text.
    cue_token: Option<u32>,
}

/// Whose message tells functions to a template that has no place for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Teller {
    /// The system's.
    #[default]
    System,
    /// The first one of the user: the template has no system either.
    User,
}

/// The file is a part of the program; a test reads it.
fn families() -> Families {
    toml::from_str(include_str!("tool_families.toml")).unwrap_or_default()
}

impl Syntax {
    /// The syntax of a base with this chat template.
    pub fn of(template: &str, wanted: &ToolFamily) -> Option<Self> {
        let Families { instructions, result, family } = families();
        let fits = |family: &Family| match wanted {
            ToolFamily::Named(name) => family.name == *name,
            ToolFamily::Detected => family.detect.iter().all(|text| template.contains(text.as_str())),
        };
        let family = family.into_iter().find(fits)?;
        let in_template = template.contains("tools");
        let (instructions, result) = (instructions.trim().to_owned(), result.trim().to_owned());
        Some(Self { family, instructions, result, in_template, teller: Teller::default(), cue_token: None })
    }

    /// What calls begin with.
    pub fn cue(&self) -> &str {
        &self.family.cue
    }

    /// The same for a base of which this is known; `cue_token` is the token of its cue, if that is a special one.
    pub fn over(self, teller: Teller, cue_token: Option<u32>) -> Self {
        Self { teller, cue_token, ..self }
    }

    /// The form of answers that may call; `form` is that of those that do not.
    pub fn form(&self, tools: &Tools, form: Form) -> Form {
        let Family { cue, place, first, between, last, call: [before, middle, after], .. } = &self.family;
        let offered: Vec<&Tool> = match &tools.choice {
            ToolChoice::Named(name) => tools.offered.iter().filter(|tool| tool.name == *name).collect(),
            _ => tools.offered.iter().collect(),
        };
        let mut lines = Vec::new();
        for (index, tool) in offered.iter().enumerate() {
            lines.push(format!("arguments{index}: {}", json_value(&tool.parameters)));
            let head = literal(&format!("{before}{}{middle}", tool.name));
            lines.push(join(&[&format!("call{index}:"), &head, &format!("arguments{index}"), &literal(after)]));
        }
        let calls: Vec<String> = (0..offered.len()).map(|index| format!("call{index}")).collect();
        lines.push(format!("call: {}", calls.join(" | ")));
        let more = match (between, tools.calls) {
            (Some(between), Calls::Many) if !matches!(tools.choice, ToolChoice::Named(_)) => {
                format!("({} call)*", literal(between))
            }
            _ => String::new(),
        };
        lines.push(join(&["calls:", &literal(first), "call", &more, &literal(last)]));
        let begins = match (&tools.choice, form) {
            (ToolChoice::Auto, Form::Written(rules)) => {
                // Either the form, or calls: which it is shows at the beginning.
                lines.push(format!("form: {}", rules.text.trim_start_matches("start: ")));
                let cue = self.cue_token.map_or_else(|| literal(cue), |id| format!("<[{id}]>"));
                lines.push(format!("start: form | {cue} calls"));
                Begins::AtOnce
            }
            (ToolChoice::Auto, _) => {
                lines.push("start: calls".to_owned());
                let place = match place {
                    Place::Anywhere => CuePlace::Anywhere,
                    Place::Start => CuePlace::Start,
                };
                Begins::At(Cue { text: cue.clone(), place })
            }
            (ToolChoice::Required | ToolChoice::Named(_), _) => {
                lines.push("start: calls".to_owned());
                Begins::After(cue.clone())
            }
        };
        Form::Written(Rules { text: lines.join("\n").into(), begins, field: "tools" })
    }

    /// Whether the cue counts only at an answer's beginning.
    pub(super) fn only_at_start(&self) -> bool {
        self.family.place == Place::Start
    }

    /// A conversation as the base's template takes it, and the tools for the template.
    pub fn told(&self, messages: &[Message], tools: &[Value]) -> (Vec<Value>, Vec<Value>) {
        if self.in_template {
            return (messages.iter().map(native).collect(), tools.to_vec());
        }
        let mut told: Vec<Value> = Vec::with_capacity(messages.len() + 1);
        let mut last = None;
        for message in messages {
            let said = self.in_words(message);
            // What a function gave is told as the user's words; many templates want those and the model's by turns.
            let goes_on = matches!(
                (last.replace(message.role), message.role),
                (Some(Role::Tool), Role::Tool | Role::User) | (Some(Role::User), Role::Tool)
            );
            match told.last_mut().filter(|_| goes_on) {
                Some(before) => append(before, "\n", said["content"].as_str().unwrap_or_default()),
                None => told.push(said),
            }
        }
        if !tools.is_empty() {
            let lines: Vec<String> = tools.iter().map(Value::to_string).collect();
            let call = self.write(&json!("NAME"), "{...}");
            let text = self.instructions.replace("{tools}", &lines.join("\n")).replace("{call}", &call);
            let first = match self.teller {
                Teller::System => told.first_mut().filter(|first| first["role"] == "system"),
                Teller::User => told.iter_mut().find(|said| said["role"] == "user"),
            };
            match (first, self.teller) {
                (Some(system), Teller::System) => append(system, "\n\n", &text),
                (Some(user), Teller::User) => {
                    let said = user["content"].take();
                    user["content"] = text.into();
                    append(user, "\n\n", said.as_str().unwrap_or_default());
                }
                (None, Teller::System) => told.insert(0, json!({"role": "system", "content": text})),
                (None, Teller::User) => told.insert(0, json!({"role": "user", "content": text})),
            }
        }
        (told, Vec::new())
    }

    /// A message for a template that knows texts only.
    fn in_words(&self, message: &Message) -> Value {
        if message.role == Role::Tool {
            return json!({"role": "user", "content": self.result.replace("{content}", &message.content)});
        }
        let mut content = message.content.clone();
        if !message.calls.is_empty() {
            let calls: Vec<String> =
                message.calls.iter().map(|call| self.write(&json!(call.name), &call.arguments.to_string())).collect();
            if !content.is_empty() {
                content.push('\n');
            }
            content.push_str(&calls.join("\n"));
        }
        json!({"role": message.role.name(), "content": content})
    }

    /// An answer with one call.
    fn write(&self, name: &Value, arguments: &str) -> String {
        let Family { cue, first, last, call: [before, middle, after], .. } = &self.family;
        let name = name.as_str().unwrap_or_default();
        format!("{cue}{first}{before}{name}{middle}{arguments}{after}{last}")
    }
}

/// Says more in a message.
fn append(message: &mut Value, between: &str, more: &str) {
    if let Value::String(content) = &mut message["content"] {
        content.extend([between, more]);
    }
}

/// A message for a template that knows functions, as `transformers` hands it over.
fn native(message: &Message) -> Value {
    let mut told = json!({"role": message.role.name(), "content": message.content});
    if !message.calls.is_empty() {
        let call = |call: &Call| json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}});
        told["tool_calls"] = message.calls.iter().map(call).collect();
    }
    if let Some(id) = &message.answers {
        told["tool_call_id"] = id.as_str().into();
    }
    told
}

/// A text as rules write it; nothing for none.
fn literal(text: &str) -> String {
    if text.is_empty() { String::new() } else { Value::from(text).to_string() }
}

fn join(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use crate::model::chat_template::{ChatTemplate, Conversation, Ending};

    fn tool(name: &str) -> Tool {
        let described = json!({"type": "function", "function": {"name": name}});
        Tool { name: name.to_owned(), parameters: json!({"type": "object"}), described }
    }

    #[test]
    fn families_are_told_by_their_templates_or_chosen() {
        let named = |template: &str| Syntax::of(template, &ToolFamily::Detected).unwrap().family.name;
        let template = |file: &str| {
            std::fs::read_to_string(format!("{}/tests/golden/templates/{file}.jinja", env!("CARGO_MANIFEST_DIR"))).unwrap()
        };
        assert_eq!(named(&template("qwen2.5")), "hermes");
        assert_eq!(named(&template("llama3.1")), "llama3");
        assert_eq!(named("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]"), "mistral");
        assert_eq!(named(&template("chatml")), "plain");
        let chosen = ToolFamily::parse("mistral").unwrap();
        assert_eq!(Syntax::of("", &chosen).unwrap().family.name, "mistral");
        assert_eq!(ToolFamily::parse("auto"), Ok(ToolFamily::Detected));
        assert!(ToolFamily::parse("gpt").unwrap_err().contains("hermes"));
    }

    #[test]
    fn what_a_template_has_no_place_for_is_said_in_words() {
        let syntax = Syntax::of("{{ messages }}", &ToolFamily::Detected).unwrap();
        let call = Call { id: "1".to_owned(), name: "f".to_owned(), arguments: json!({"a": 1}) };
        let mut asked = Message::new(Role::Assistant, "Wait.");
        asked.calls = vec![call];
        let mut answer = Message::new(Role::Tool, "42");
        answer.answers = Some("1".to_owned());
        let (told, tools) = syntax.told(&[Message::new(Role::System, "Be brief."), asked, answer], &[tool("f").described]);
        assert!(tools.is_empty());
        let system = told[0]["content"].as_str().unwrap();
        assert!(system.starts_with("Be brief.\n\nYou can call") && system.contains(r#"{"name":"f"}"#), "{system}");
        assert!(system.ends_with("<tool_call>\n{\"name\": \"NAME\", \"arguments\": {...}}\n</tool_call>"), "{system}");
        assert_eq!(told[1]["content"], "Wait.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":1}}\n</tool_call>");
        assert_eq!(told[2], json!({"role": "user", "content": "<tool_response>\n42\n</tool_response>"}));
    }

    /// Several results, and what the user says then, are one turn: templates that want turns to alternate refuse more.
    #[test]
    fn results_and_what_the_user_says_after_them_are_one_turn_of_templates_without_functions() {
        let mut asked = Message::new(Role::Assistant, "");
        asked.calls =
            ["1", "2"].map(|id| Call { id: id.to_owned(), name: "f".to_owned(), arguments: json!({}) }).into_iter().collect();
        let messages = [
            Message::new(Role::User, "a"),
            asked,
            Message::new(Role::Tool, "1"),
            Message::new(Role::Tool, "2"),
            Message::new(Role::User, "b"),
        ];
        for name in ["mistral", "llama2"] {
            let file = format!("{}/tests/golden/templates/{name}.jinja", env!("CARGO_MANIFEST_DIR"));
            let source = std::fs::read_to_string(file).unwrap();
            let template = ChatTemplate::new(&source, Some("<s>".to_owned()), Some("</s>".to_owned())).unwrap();
            let syntax = Syntax::of(&source, &ToolFamily::Detected).unwrap();
            for teller in [Teller::System, Teller::User] {
                let (told, _) = syntax.clone().over(teller, None).told(&messages, &[tool("f").described]);
                let conversation = Conversation {
                    messages: &told,
                    tools: None,
                    ending: Ending::AnswerBegins,
                    variables: None,
                    now: time::OffsetDateTime::UNIX_EPOCH,
                };
                let text = template.render(&conversation).unwrap();
                let results = "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>\nb [/INST]";
                assert!(text.contains(results) && text.contains("You can call"), "{text}");
                let roles: Vec<&str> = told.iter().map(|said| said["role"].as_str().unwrap()).collect();
                assert_eq!(roles.contains(&"system"), teller == Teller::System);
            }
        }
        // Nobody else's messages are joined.
        let syntax = Syntax::of("", &ToolFamily::Detected).unwrap();
        let (told, _) = syntax.told(&[Message::new(Role::User, "a"), Message::new(Role::User, "b")], &[]);
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn rules_name_the_functions_that_may_be_called() {
        let syntax = Syntax::of("<tool_call>", &ToolFamily::Detected).unwrap();
        let tools = |choice, calls| Tools { offered: [tool("f"), tool("g")].into(), choice, calls };
        let Form::Written(rules) = syntax.form(&tools(ToolChoice::Named("g".to_owned()), Calls::Many), Form::Free) else {
            panic!("no rules")
        };
        assert!(!rules.text.contains(r#""{\"name\": \"f"#) && !rules.text.contains("call)*"), "{}", rules.text);
        assert_eq!(rules.begins, Begins::After("<tool_call>".to_owned()));
        let Form::Written(rules) = syntax.form(&tools(ToolChoice::Auto, Calls::Many), Form::Free) else { panic!("no rules") };
        assert!(rules.text.contains(r#"("\n<tool_call>\n" call)*"#), "{}", rules.text);
        assert!(matches!(rules.begins, Begins::At(_)));
        let form = || Form::Written(Rules { text: "start: \"a\"".into(), begins: Begins::AtOnce, field: "guided_grammar" });
        for (token, cue) in [(None, r#"start: form | "<tool_call>" calls"#), (Some(7), "start: form | <[7]> calls")] {
            let syntax = syntax.clone().over(Teller::System, token);
            let Form::Written(rules) = syntax.form(&tools(ToolChoice::Auto, Calls::One), form()) else { panic!("no rules") };
            assert!(rules.text.ends_with(cue), "{}", rules.text);
        }
        let Form::Written(rules) = syntax.form(&tools(ToolChoice::Required, Calls::One), Form::Free) else { panic!("no rules") };
        assert!(!rules.text.contains("call)*"), "{}", rules.text);
    }
}
