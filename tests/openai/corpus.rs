//! Schemas of mixed features, always the same: leaves of every kind, alone and in objects, arrays, tuples, unions, definitions.

use serde_json::{Value, json};

/// Schemas of single values, of every feature.
fn leaves() -> Vec<Value> {
    vec![
        json!({"type": "string"}),
        json!({"type": "string", "minLength": 3, "maxLength": 8}),
        json!({"type": "string", "maxLength": 0}),
        json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"}),
        json!({"type": "string", "pattern": "^(foo|ba[rz])+$"}),
        json!({"type": "string", "pattern": "[0-9]{3}"}),
        json!({"type": "string", "pattern": "^\\w+@\\w+\\.(com|org)$"}),
        json!({"type": "string", "format": "date"}),
        json!({"type": "string", "format": "time"}),
        json!({"type": "string", "format": "date-time"}),
        json!({"type": "string", "format": "uuid"}),
        json!({"type": "string", "format": "email"}),
        json!({"type": "string", "format": "ipv4"}),
        json!({"type": "string", "format": "ipv6"}),
        json!({"type": "string", "format": "hostname"}),
        json!({"type": "string", "format": "duration"}),
        json!({"type": "string", "format": "uri"}),
        json!({"enum": ["red", "green", "b\"l\\ue", "größe", ""]}),
        json!({"enum": [1, "one", null, true, 2.5, [1, 2], {"a": 1}]}),
        json!({"const": "only"}),
        json!({"const": {"deep": [1, {"x": null}]}}),
        json!({"type": "integer"}),
        json!({"type": "integer", "minimum": -5, "maximum": 117}),
        json!({"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 12}),
        json!({"type": "integer", "minimum": 1000}),
        json!({"type": "integer", "maximum": -17}),
        json!({"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 9999}),
        json!({"type": "number"}),
        json!({"type": "number", "minimum": 0, "maximum": 1}),
        json!({"type": "number", "exclusiveMinimum": -1.5, "exclusiveMaximum": 2.25}),
        json!({"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.25}),
        json!({"type": "boolean"}),
        json!({"type": "null"}),
        json!({"type": ["string", "null"]}),
        json!({"type": ["integer", "boolean", "null"], "minimum": 3, "maximum": 5}),
        json!({"type": "array"}),
        json!({"type": "object"}),
        json!({}),
    ]
}

fn object(properties: &[(&str, &Value)], required: &[&str], further: Value) -> Value {
    let map: serde_json::Map<String, Value> =
        properties.iter().map(|(name, schema)| ((*name).to_owned(), (*schema).clone())).collect();
    json!({"type": "object", "properties": map, "required": required, "additionalProperties": further})
}

/// All schemas, each for an object.
pub fn schemas() -> Vec<Value> {
    let leaves = leaves();
    let at = |index: usize| &leaves[index % leaves.len()];
    let mut all = Vec::new();
    for (index, leaf) in leaves.iter().enumerate() {
        // Required, optional, beside others.
        all.push(object(&[("value", leaf)], &["value"], json!(false)));
        all.push(object(&[("a", leaf), ("b", at(index * 7 + 3)), ("c d\"e", at(index * 5 + 1))], &["b"], json!(false)));
        // In arrays, tuples and unions.
        let list = json!({"type": "array", "items": leaf, "minItems": index % 3, "maxItems": index % 3 + 3});
        all.push(object(&[("list", &list), ("last", at(index + 11))], &["list", "last"], json!(false)));
        let tuple =
            json!({"type": "array", "prefixItems": [leaf, at(index + 5)], "items": at(index + 9), "minItems": 2, "maxItems": 4});
        all.push(object(&[("tuple", &tuple)], &["tuple"], json!(false)));
        let union = json!({"anyOf": [leaf, at(index + 2), {"type": "array", "items": at(index + 4), "maxItems": 2}]});
        all.push(object(&[("union", &union), ("x", &json!({"$ref": "#/properties/union"}))], &["union"], json!(false)));
    }
    for index in 0..12 {
        let (one, other) = (at(index * 3), at(index * 3 + 1));
        // Definitions, also of themselves.
        let mut linked = object(
            &[("value", one), ("next", &json!({"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}))],
            &["value", "next"],
            json!(false),
        );
        linked = json!({"$defs": {"node": linked}, "type": "object", "properties": {"head": {"$ref": "#/$defs/node"}}, "required": ["head"], "additionalProperties": false});
        all.push(linked);
        let tree = json!({
            "$defs": {"tree": {"type": "object", "properties": {"leaf": other, "trees": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
                "required": ["leaf", "trees"], "additionalProperties": false}},
            "type": "object", "properties": {"root": {"$ref": "#/$defs/tree"}}, "required": ["root"], "additionalProperties": false,
        });
        all.push(tree);
        // Unions that are told apart by a constant.
        let branch = |kind: &str, schema: &Value| {
            object(&[("kind", &json!({"const": kind})), ("value", schema)], &["kind", "value"], json!(false))
        };
        all.push(object(&[("either", &json!({"oneOf": [branch("a", one), branch("b", other)]}))], &["either"], json!(false)));
        // Properties of any name.
        all.push(json!({"type": "object", "properties": {"known": one}, "required": ["known"], "additionalProperties": other}));
        all.push(json!({"type": "object", "patternProperties": {"^n_[a-z]{1,4}$": one}, "additionalProperties": false}));
        // Parts that hold at the same time.
        all.push(json!({
            "type": "object", "required": ["n", "s"],
            "properties": {
                "n": {"allOf": [{"type": "integer", "minimum": index}, {"maximum": index + 40}]},
                "s": {"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 2 + index}]},
            },
            "additionalProperties": false,
        }));
        // Deep ones, as pydantic writes them.
        let inner = object(&[("x", one), ("y", other)], &["x", "y"], json!(false));
        let middle = object(
            &[("inner", &inner), ("more", &json!({"type": "array", "items": inner, "maxItems": 2}))],
            &["inner", "more"],
            json!(false),
        );
        let mut outer = object(
            &[
                ("middle", &middle),
                ("note", &json!({"type": ["string", "null"], "description": "free", "default": null, "title": "Note"})),
            ],
            &["middle", "note"],
            json!(false),
        );
        outer["title"] = "Outer".into();
        outer["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
        all.push(outer);
    }
    all
}
