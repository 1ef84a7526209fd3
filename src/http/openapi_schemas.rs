//! The schemas of `/openapi.json`: a table of what is read in `openai/` and `adapters.rs` and written in `wire.rs`.

use serde_json::{Value, json};

use super::openai::{MAX_BIASES, MAX_STOP_TOKENS, REPETITION_PENALTY};

/// All schemas by name.
pub fn schemas() -> Value {
    let mut all = json!({});
    for part in [
        requests(),
        answers(),
        others(),
        super::admin::openapi::schemas(),
        super::openapi_training::schemas(),
        super::openapi_convert::schemas(),
        super::openapi_corrections::schemas(),
        super::openapi_embeddings::schemas(),
        super::openapi_responses::schemas(),
        super::openapi_experiments::schemas(),
    ] {
        for (name, schema) in part.as_object().into_iter().flatten() {
            all[name] = schema.clone();
        }
    }
    all
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The fields that chat and completions share.
fn generation_fields() -> Value {
    json!({
        "model": {"type": "string", "description": "The base, an adapter, or `adapter@version`."},
        "n": {"type": "integer", "minimum": 1, "default": 1, "description": "Answers to each prompt; seeds count up. Not more in all than the queue holds."},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2, "default": 1, "description": "0 is greedy."},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 1},
        "top_k": {"type": "integer", "minimum": -1, "default": 0, "description": "0 or -1 is all."},
        "min_p": {"type": "number", "minimum": 0, "maximum": 1, "default": 0},
        "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2, "default": 0},
        "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2, "default": 0},
        "repetition_penalty": {
            "type": "number", "minimum": REPETITION_PENALTY.start(), "maximum": REPETITION_PENALTY.end(), "default": 1,
        },
        "logit_bias": {
            "type": "object", "maxProperties": MAX_BIASES,
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        },
        "seed": {"type": "integer", "format": "int64", "description": "The same seed and request give the same answer."},
        "stop": {"oneOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "maxItems": 4, "items": {"type": "string", "minLength": 1}},
        ]},
        "stop_token_ids": {"type": "array", "maxItems": MAX_STOP_TOKENS, "items": {"type": "integer", "minimum": 0}},
        "include_stop_str_in_output": {"type": "boolean", "default": false},
        "ignore_eos": {"type": "boolean", "default": false},
        "stream": {"type": "boolean", "default": false},
        "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}, "additionalProperties": false},
        "user": {"type": "string", "description": "Has no effect."},
        "response_format": {"oneOf": [
            {"type": "object", "required": ["type"], "properties": {"type": {"enum": ["text", "json_object"]}}},
            {"type": "object", "required": ["type", "json_schema"], "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {"type": "object", "required": ["name", "schema"], "properties": {
                    "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
                    "description": {"type": "string"},
                    "schema": {"type": "object", "description": "Keywords that are not supported are refused by name and place."},
                    "strict": {"type": "boolean", "default": false},
                }},
            }},
        ]},
        "guided_json": {"oneOf": [{"type": "object"}, {"type": "string"}], "description": "A schema that answers are valid under."},
        "guided_regex": {"type": "string", "minLength": 1, "description": "What matches an answer as a whole."},
        "guided_choice": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        "guided_grammar": {"type": "string", "minLength": 1, "description": "A grammar in llguidance's dialect of Lark."},
    })
}

fn with_shared(own: Value, required: &[&str]) -> Value {
    let mut properties = generation_fields();
    for (name, schema) in own.as_object().into_iter().flatten() {
        properties[name] = schema.clone();
    }
    json!({
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": false,
        "description": "Fields of OpenAI's schema that are not listed are refused by name, unless their value changes nothing.",
    })
}

fn requests() -> Value {
    let messages = json!({"type": "array", "minItems": 1, "items": reference("Message")});
    let tenant = json!({"type": ["string", "null"], "description": "The project that owns the adapter; without it the adapter is shared."});
    let version = json!({
        "oneOf": [{"type": "string"}, {"type": "integer", "minimum": 0}],
        "description": "Compare-and-set: number or digest that the name must point at now; 0 for a name that is not loaded.",
    });
    json!({
        "ChatCompletionRequest": with_shared(json!({
            "messages": messages,
            "max_completion_tokens": {"type": "integer", "minimum": 1, "description": "The default is the rest of the context."},
            "max_tokens": {"type": "integer", "minimum": 1, "deprecated": true},
            "logprobs": {"type": "boolean", "default": false},
            "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
            "add_generation_prompt": {"type": "boolean", "default": true},
            "add_special_tokens": {"type": "boolean", "default": false},
            "metadata": {"type": "object", "description": "Has no effect."},
            "tools": {"type": "array", "items": reference("Tool")},
            "tool_choice": {"oneOf": [
                {"enum": ["none", "auto", "required"]},
                {"type": "object", "required": ["type", "function"], "properties": {
                    "type": {"const": "function"},
                    "function": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
                }},
            ]},
            "parallel_tool_calls": {"type": "boolean", "default": true},
        }), &["model", "messages"]),
        "Tool": {"type": "object", "required": ["type", "function"], "properties": {
            "type": {"const": "function"},
            "function": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"},
                "description": {"type": "string"},
                "parameters": {"type": "object", "description": "The schema of its arguments; without one it has none."},
                "strict": {"type": "boolean", "default": false},
            }},
        }},
        "ToolCall": {"type": "object", "required": ["id", "type", "function"], "properties": {
            "id": {"type": "string"},
            "type": {"const": "function"},
            "function": {"type": "object", "required": ["name", "arguments"], "properties": {
                "name": {"type": "string"}, "arguments": {"type": "string", "description": "A JSON object."},
            }},
        }},
        "Message": {
            "type": "object",
            "required": ["role"],
            "properties": {
                "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
                "tool_calls": {"type": "array", "items": reference("ToolCall"), "description": "Of an assistant; 'content' may then be absent."},
                "tool_call_id": {"type": "string", "description": "Of a tool: the call that it answers."},
                "content": {"oneOf": [
                    {"type": "string"},
                    {"type": "array", "minItems": 1, "items": {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                    }},
                ]},
            },
        },
        "CompletionRequest": with_shared(json!({
            "prompt": {"oneOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}},
                {"type": "array", "items": {"type": "integer", "minimum": 0}},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
            ]},
            "max_tokens": {"type": "integer", "minimum": 0, "default": 16, "description": "0 only together with `echo`."},
            "logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
            "echo": {"type": "boolean", "default": false},
            "add_special_tokens": {"type": "boolean", "default": true},
        }), &["model", "prompt"]),
        "TokenizeRequest": {
            "type": "object",
            "properties": {
                "model": {"type": "string"},
                "prompt": {"type": "string"},
                "messages": messages,
                "add_special_tokens": {"type": "boolean", "description": "Default: true for `prompt`, false for `messages`."},
                "add_generation_prompt": {"type": "boolean", "default": true},
                "return_token_strs": {"type": "boolean", "default": false},
            },
            "oneOf": [{"required": ["prompt"]}, {"required": ["messages"]}],
        },
        "DetokenizeRequest": {
            "type": "object",
            "required": ["tokens"],
            "properties": {
                "model": {"type": "string"},
                "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}},
            },
        },
        "LoadLoraAdapterRequest": {
            "type": "object",
            "required": ["lora_name", "lora_path"],
            "properties": {
                "lora_name": {"type": "string"},
                "lora_path": {"type": "string", "description": "A PEFT directory inside an adapter root."},
                "load_inplace": {"type": "boolean", "default": false, "description": "Replace the version that is served."},
                "expected_version": version,
                "tenant": tenant,
            },
        },
        "AdapterUpload": {
            "type": "object",
            "required": ["adapter_config.json", "adapter_model.safetensors"],
            "properties": {
                "adapter_config.json": {"type": "string", "contentMediaType": "application/octet-stream"},
                "adapter_model.safetensors": {"type": "string", "contentMediaType": "application/octet-stream"},
                "tenant": tenant,
                "expected_version": version,
            },
        },
        "UnloadLoraAdapterRequest": {
            "type": "object",
            "required": ["lora_name"],
            "properties": {"lora_name": {"type": "string"}, "expected_version": version, "tenant": tenant},
        },
    })
}

fn answers() -> Value {
    let answer = |object: &str, choice: Value| {
        json!({
            "type": "object",
            "required": ["id", "object", "created", "model", "choices"],
            "properties": {
                "id": {"type": "string"},
                "object": {"const": object},
                "created": {"type": "integer", "description": "Seconds since 1970."},
                "model": {"type": "string", "description": "As the request named it; `x-adapter-version` says what answered."},
                "choices": {"type": "array", "items": choice},
                "usage": {"oneOf": [reference("Usage"), {"type": "null"}]},
            },
        })
    };
    let choice = |name: &str, content: Value, logprobs: &str| {
        json!({
            "type": "object",
            "required": ["index", name, "finish_reason"],
            "properties": {
                "index": {"type": "integer"},
                name: content,
                "logprobs": {"oneOf": [reference(logprobs), {"type": "null"}]},
                "finish_reason": {"enum": ["stop", "length", "tool_calls", null]},
            },
        })
    };
    let text = json!({"type": "string"});
    let message = json!({"type": "object", "properties": {
        "role": {"const": "assistant"}, "content": {"type": ["string", "null"]}, "refusal": {"type": "null"},
        "tool_calls": {"type": "array", "items": reference("ToolCall"), "description": "In streams: pieces with an 'index'."},
    }});
    let token = json!({"token": text, "logprob": {"type": "number"}, "bytes": {"type": "array", "items": {"type": "integer"}}});
    json!({
        "ChatCompletion": answer("chat.completion", choice("message", message.clone(), "ChatLogprobs")),
        "ChatCompletionChunk": answer("chat.completion.chunk", choice("delta", message, "ChatLogprobs")),
        "Completion": answer("text_completion", choice("text", text, "CompletionLogprobs")),
        "Usage": {"type": "object", "properties": {
            "prompt_tokens": {"type": "integer"},
            "completion_tokens": {"type": "integer"},
            "total_tokens": {"type": "integer"},
            "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": {"type": "integer"}}},
        }},
        "ChatLogprobs": {"type": "object", "properties": {
            "content": {"type": "array", "items": {"type": "object", "properties": {
                "token": token["token"], "logprob": token["logprob"], "bytes": token["bytes"],
                "top_logprobs": {"type": "array", "items": {"type": "object", "properties": token}},
            }}},
            "refusal": {"type": "null"},
        }},
        "CompletionLogprobs": {"type": "object", "properties": {
            "tokens": {"type": "array", "items": {"type": "string"}},
            "token_logprobs": {"type": "array", "items": {"type": ["number", "null"]}},
            "top_logprobs": {"type": "array", "items": {"type": ["object", "null"]}},
            "text_offset": {"type": "array", "items": {"type": "integer"}},
        }},
    })
}

fn others() -> Value {
    let list = |item: &str| {
        json!({"type": "object", "properties": {
            "object": {"const": "list"}, "data": {"type": "array", "items": reference(item)},
        }})
    };
    let owner = json!({"type": ["string", "null"], "description": "The project that owns it; null for a shared one."});
    let mut adapters = list("LoraAdapter");
    adapters["properties"]["unavailable"] = json!({
        "type": "array",
        "description": "Adapters on record that do not fit the base that runs now.",
        "items": {"type": "object", "properties": {"name": {"type": "string"}, "owner": owner, "reason": {"type": "string"}}},
    });
    json!({
        "Model": {"type": "object", "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"type": "string", "description": "A project's id, or switchyard for what is shared."},
            "root": {"type": "string"},
            "parent": {"type": ["string", "null"], "description": "An adapter's base."},
            "max_model_len": {"type": "integer", "description": "Tokens of prompt and answer together."},
        }},
        "ModelList": list("Model"),
        "ModelCard": {"type": "object", "required": ["object", "id", "kind", "owned_by", "limits", "endpoints"], "properties": {
            "object": {"const": "model.card"},
            "id": {"type": "string"},
            "kind": {"enum": ["base", "adapter", "deployment", "upstream", "failover", "capability", "embedder"]},
            "owned_by": {"type": "string"},
            "made_of": {"type": "object", "description": "By kind; only what the caller may name by itself."},
            "limits": {"type": "object"},
            "endpoints": {"type": "array", "items": {"type": "string"}},
            "usd_per_million_tokens": {"type": ["object", "null"]},
        }},
        "ModelCardList": list("ModelCard"),
        "LoraAdapter": {"type": "object", "properties": {
            "name": {"type": "string"},
            "owner": owner,
            "version": {"type": "integer"},
            "digest": {"type": "string"},
            "rank": {"type": "integer"},
            "bytes": {"type": "integer"},
            "loaded_at": {"type": "integer", "description": "Seconds since 1970."},
            "loaded_by": {"enum": ["operator", "api"]},
            "leases": {"type": "integer", "description": "Running requests on this version. Of shared adapters only operators see it."},
            "draining": {"type": "array", "description": "Replaced versions that running requests still hold.", "items": {
                "type": "object", "properties": {"version": {"type": "integer"}, "leases": {"type": "integer"}},
            }},
        }},
        "LoraAdapterList": adapters,
        "AdapterVersion": {"type": "object", "properties": {
            "object": {"const": "adapter.version"},
            "name": {"type": "string"},
            "owner": owner,
            "version": {"type": "integer"},
            "digest": {"type": "string"},
            "current": {"type": "boolean", "description": "In lists: whether the name alone means it."},
            "replaced": {"type": ["integer", "null"], "description": "After an upload: the version that was current before."},
            "rank": {"type": "integer"},
            "file_bytes": {"type": "integer"},
            "loaded_at": {"type": "integer", "description": "Seconds since 1970."},
            "loaded_by": {"enum": ["operator", "api"]},
        }},
        "AdapterVersionList": list("AdapterVersion"),
        "TokenizeResponse": {"type": "object", "properties": {
            "count": {"type": "integer"},
            "max_model_len": {"type": "integer"},
            "tokens": {"type": "array", "items": {"type": "integer"}},
            "token_strs": {"type": ["array", "null"], "items": {"type": "string"}},
        }},
        "DetokenizeResponse": {"type": "object", "properties": {"prompt": {"type": "string"}}},
        "Health": {"type": "object", "properties": {
            "status": {"enum": ["healthy", "stopping", "stopped", "unhealthy"]}, "model": {"type": "string"},
        }},
        "Ready": {"type": "object", "properties": {
            "status": {"enum": ["ready", "not ready"]}, "waiting_for": {"type": "array", "items": {"type": "string"}},
        }},
        "Error": {"type": "object", "required": ["error"], "properties": {"error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"], "description": "A number on the adapter routes, as vLLM sends it."},
            },
        }}},
    })
}
