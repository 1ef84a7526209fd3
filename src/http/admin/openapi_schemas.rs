//! The schemas of the admin API: a table of what its handlers read and write.

use serde_json::{Map, Value, json};

/// All schemas by name.
pub fn schemas() -> Value {
    let mut all = Map::new();
    let parts =
        [organization(), spend(), usage(), own(), super::openapi_deployments::schemas(), super::openapi_rollouts::schemas()];
    for (name, schema) in parts.iter().flat_map(|part| part.as_object().into_iter().flatten()) {
        all.insert(name.clone(), schema.clone());
    }
    for item in [
        "Project",
        "ServiceAccount",
        "ProjectKey",
        "AdminKey",
        "RateLimit",
        "SpendAlert",
        "AuditLog",
        "Key",
        "Limit",
        "Budget",
        "Price",
        "Webhook",
        "Delivery",
    ] {
        all.insert(format!("{item}List"), list(item));
    }
    Value::Object(all)
}

fn list(item: &str) -> Value {
    json!({"type": "object", "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": format!("#/components/schemas/{item}")}},
        "first_id": {"type": ["string", "null"]},
        "last_id": {"type": ["string", "null"]},
        "has_more": {"type": "boolean"},
    }})
}

/// A body: other fields are refused by name.
fn body(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false})
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

/// The properties of an object and some more.
fn with(object: &Value, more: Value) -> Value {
    let mut object = object.clone();
    for (name, schema) in more.as_object().into_iter().flatten() {
        object["properties"][name] = schema.clone();
    }
    object
}

fn text() -> Value {
    json!({"type": "string"})
}

fn maybe_text() -> Value {
    json!({"type": ["string", "null"]})
}

fn name() -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": 200})
}

fn time() -> Value {
    json!({"type": "integer", "description": "Seconds since 1970."})
}

fn maybe_time() -> Value {
    json!({"type": ["integer", "null"], "description": "Seconds since 1970."})
}

fn life() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": 3_162_240_000_i64})
}

fn scopes() -> Value {
    json!({"type": "array", "items": {"enum": ["inference", "fine_tuning", "read_only", "admin", "api.all.read"]}})
}

fn organization() -> Value {
    let account = object(json!({
        "id": text(), "object": {"const": "organization.project.service_account"}, "name": text(),
        "role": {"enum": ["member", "owner", "none"]}, "created_at": time(),
    }));
    let account_key = object(json!({
        "id": text(), "object": {"const": "organization.project.service_account.api_key"}, "name": text(),
        "created_at": time(), "expires_at": maybe_time(), "value": text(),
    }));
    let admin_key = object(json!({
        "id": text(), "object": {"const": "organization.admin_api_key"}, "name": text(), "redacted_value": text(),
        "created_at": time(), "expires_at": maybe_time(), "last_used_at": maybe_time(), "owner": {"type": "object"},
    }));
    let amount = json!({"type": "integer", "minimum": 0, "maximum": (1i64 << 53) - 1, "description": "2^53 - 1 is no limit."});
    json!({
        "Deleted": object(json!({"id": text(), "object": text(), "deleted": {"const": true}})),
        "Project": object(json!({
            "id": text(), "object": {"const": "organization.project"}, "name": text(), "created_at": time(),
            "archived_at": maybe_time(), "status": {"enum": ["active", "archived"]},
        })),
        "ProjectCreate": body(&["name"], json!({"name": name()})),
        "ProjectUpdate": body(&[], json!({"name": name()})),
        "ServiceAccount": account,
        "ServiceAccountCreated": with(&account, json!({"api_key": {"oneOf": [account_key, {"type": "null"}]}})),
        "ServiceAccountCreate": body(&["name"], json!({
            "name": name(), "create_service_account_only": {"type": ["boolean", "null"]},
            "expires_in_seconds": {"type": ["integer", "null"], "minimum": 1, "maximum": 3_162_240_000_i64},
        })),
        "ServiceAccountUpdate": body(&[], json!({"name": name(), "role": {"enum": ["member", "owner"]}})),
        "ServiceAccountKey": account_key,
        "ServiceAccountKeyCreate": body(&[], json!({
            "name": name(), "scopes": scopes(),
            "expires_in_seconds": {"type": ["integer", "null"], "minimum": 1, "maximum": 3_162_240_000_i64},
        })),
        "ProjectKey": object(json!({
            "id": text(), "object": {"const": "organization.project.api_key"}, "name": text(), "redacted_value": text(),
            "created_at": time(), "expires_at": maybe_time(), "last_used_at": maybe_time(), "owner": {"type": "object"},
            "owner_project_access": {"const": "active"},
        })),
        "ProjectKeyUpdate": body(&[], json!({"scopes": scopes(), "expires_in_seconds": life()})),
        "AdminKey": admin_key,
        "AdminKeyCreated": with(&admin_key, json!({"value": text()})),
        "AdminKeyCreate": body(&["name"], json!({"name": name(), "expires_in_seconds": life()})),
        "RateLimit": object(json!({
            "id": text(), "object": {"const": "project.rate_limit"}, "model": text(),
            "max_requests_per_1_minute": amount, "max_tokens_per_1_minute": amount,
        })),
        "RateLimitUpdate": body(&[], json!({"max_requests_per_1_minute": amount, "max_tokens_per_1_minute": amount})),
        "ModelPermissions": object(json!({
            "object": {"const": "project.model_permissions"}, "mode": {"enum": ["allow_list", "deny_list"]},
            "model_ids": {"type": "array", "items": text()},
        })),
        "ModelPermissionsUpdate": body(&["mode", "model_ids"], json!({
            "mode": {"enum": ["allow_list", "deny_list"]},
            "model_ids": {"type": "array", "maxItems": 1_000, "items": {"type": "string", "minLength": 1, "maxLength": 200}},
        })),
    })
}

fn spend() -> Value {
    let cents = json!({"type": "integer", "minimum": 0, "maximum": i64::MAX / 10_000_000, "description": "Cents."});
    let channel = body(
        &["type", "recipients"],
        json!({
            "type": {"const": "email"},
            "recipients": {"type": "array", "maxItems": 50, "items": {"type": "string", "minLength": 1}},
            "subject_prefix": maybe_text(),
        }),
    );
    json!({
        "SpendLimit": object(json!({
            "object": {"enum": ["organization.spend_limit", "project.spend_limit"]}, "currency": {"const": "USD"},
            "interval": {"const": "month"}, "threshold_amount": cents,
            "enforcement": object(json!({"status": {"enum": ["inactive", "enforcing"]}})),
        })),
        "SpendLimitUpdate": body(&["currency", "interval", "threshold_amount"], json!({
            "currency": {"const": "USD"}, "interval": {"const": "month"}, "threshold_amount": cents,
        })),
        "SpendAlert": object(json!({
            "id": text(), "object": {"enum": ["organization.spend_alert", "project.spend_alert"]}, "currency": {"const": "USD"},
            "interval": {"const": "month"}, "threshold_amount": cents, "notification_channel": {"type": "object"},
        })),
        "SpendAlertUpdate": body(&["currency", "interval", "threshold_amount", "notification_channel"], json!({
            "currency": {"const": "USD"}, "interval": {"const": "month"}, "threshold_amount": cents,
            "notification_channel": channel,
        })),
    })
}

fn usage() -> Value {
    let count = json!({"type": "integer"});
    let page = |result: Value| {
        object(json!({
            "object": {"const": "page"},
            "data": {"type": "array", "items": object(json!({
                "object": {"const": "bucket"}, "start_time": time(), "end_time": time(),
                "results": {"type": "array", "items": result},
            }))},
            "has_more": {"type": "boolean"},
            "next_page": maybe_text(),
        }))
    };
    json!({
        "UsagePage": page(object(json!({
            "object": {"const": "organization.usage.completions.result"}, "input_tokens": count, "input_cached_tokens": count,
            "input_uncached_tokens": count, "output_tokens": count, "num_model_requests": count, "project_id": maybe_text(),
            "api_key_id": maybe_text(), "model": maybe_text(), "user_id": maybe_text(), "batch": {"type": "null"},
            "service_tier": {"type": "null"},
        }))),
        "CostsPage": page(object(json!({
            "object": {"const": "organization.costs.result"},
            "amount": object(json!({
                "value": {"type": "number"}, "currency": {"const": "usd"},
                "nanos": {"type": "integer", "description": "The same in nano-dollars, exactly."},
            })),
            "line_item": maybe_text(), "quantity": {"type": ["integer", "null"]}, "quantity_unit": maybe_text(),
            "project_id": maybe_text(), "api_key_id": maybe_text(), "user_id": maybe_text(),
        }))),
        "AuditLog": object(json!({
            "id": text(), "type": text(), "effective_at": time(), "actor": {"type": "object"},
            "project": {"type": ["object", "null"]}, "request_id": maybe_text(), "before": {"type": ["object", "null"]},
            "after": {"type": ["object", "null"]},
        })),
    })
}

fn own() -> Value {
    let dollars = json!({
        "type": ["string", "number"], "description": "Dollars, such as \"12.50\"; not finer than a nano-dollar.", "pattern": "^[0-9]+(\\.[0-9]{1,9})?$",
        "minimum": 0,
    });
    let amount = json!({"type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX, "description": "null is no limit."});
    let amounts = json!({
        "requests_per_minute": amount, "burst": amount, "tokens_per_minute": amount, "concurrent_requests": amount,
    });
    let key = object(json!({
        "id": text(), "object": {"const": "key"}, "project_id": maybe_text(), "service_account_id": maybe_text(), "name": text(),
        "redacted_value": text(), "scopes": scopes(), "models": {"type": ["array", "null"], "items": text()},
        "labels": {"type": "object"}, "priority": text(), "caching": text(), "created_at": time(), "expires_at": maybe_time(),
        "last_used_at": maybe_time(), "replaces": maybe_text(),
    }));
    let of_key = json!({
        "scopes": scopes(),
        "models": {"type": ["array", "null"], "minItems": 1, "items": {"type": "string", "minLength": 1, "maxLength": 200}},
        "labels": {"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 512}},
        "priority": {"enum": ["batch", "standard", "high"]},
        "caching": {"enum": ["per_request", "always"]},
        "expires_at": maybe_time(),
        "expires_in_seconds": life(),
    });
    let thresholds = json!({"type": "array", "maxItems": 20, "items": {"type": "integer", "minimum": 1, "maximum": 1_000}});
    let budget = json!({"limit_usd": dollars, "thresholds": thresholds, "notification": {"type": ["object", "null"]}});
    let webhook = object(json!({
        "id": text(), "object": {"const": "webhook"}, "project_id": maybe_text(), "url": text(), "created_at": time(),
    }));
    let usd = json!({"input": dollars, "cached_input": dollars, "output": dollars, "training": dollars});
    let url = json!({"type": "string", "description": "https, or http to this machine itself."});
    let merged = |required: &[&str], parts: [&Value; 2]| {
        let empty = body(required, json!({}));
        parts.into_iter().fold(empty, |body, part| with(&body, part.clone()))
    };
    json!({
        "Key": key,
        "KeyCreated": with(&key, json!({"value": text()})),
        "KeyCreate": merged(&["name"], [
            &json!({"name": name(), "project_id": maybe_text(), "service_account_id": maybe_text()}), &of_key,
        ]),
        "KeyUpdate": merged(&[], [&json!({"name": name()}), &of_key]),
        "KeyRotate": body(&[], json!({"overlap_seconds": {"type": "integer", "minimum": 0, "maximum": 7_776_000}})),
        "Limit": with(&object(json!({
            "id": text(), "object": {"const": "limit"}, "scope": {"enum": ["default", "project", "key"]}, "subject": text(),
            "model": text(),
        })), amounts.clone()),
        "LimitSet": body(&[], amounts),
        "Budget": with(&object(json!({
            "id": text(), "object": {"const": "budget"}, "scope": {"enum": ["organization", "project", "key"]}, "subject": text(),
            "period": {"enum": ["day", "month", "total"]}, "enforcement": {"enum": ["hard", "soft"]}, "created_at": time(),
            "spent_usd": text(),
        })), budget.clone()),
        "BudgetCreate": merged(&["scope", "period", "enforcement", "limit_usd"], [
            &json!({
                "scope": {"enum": ["organization", "project", "key"]}, "subject": text(),
                "period": {"enum": ["day", "month", "total"]}, "enforcement": {"enum": ["hard", "soft"]},
            }),
            &budget,
        ]),
        "BudgetUpdate": body(&[], budget),
        "Price": object(json!({
            "id": text(), "object": {"const": "price"}, "project_id": text(), "model": text(), "valid_from": time(),
            "usd_per_million_tokens": object(usd.clone()), "created_at": time(),
        })),
        "PriceCreate": body(&["usd_per_million_tokens"], json!({
            "project_id": text(), "model": {"type": "string", "minLength": 1, "maxLength": 200}, "valid_from": time(),
            "usd_per_million_tokens": body(&["input", "output"], usd),
        })),
        "Webhook": webhook,
        "WebhookCreated": with(&webhook, json!({"secret": text()})),
        "VersionCard": object(json!({
            "name": text(), "digest": text(), "provider": text(), "owner": maybe_text(), "base": {"type": "object"},
            "adapter": {"type": "object"}, "license": maybe_text(), "hardware": {"type": "object"},
            "cost": {"type": ["object", "null"]}, "training": {"type": ["object", "null"]},
            "evaluation": {"type": ["object", "null"]}, "gate": {"type": ["object", "null"]},
            "known_limits": {"type": "array", "items": text()},
        })),
        "CachePurge": body(&[], json!({"project_id": maybe_text(), "model": maybe_text()})),
        "CachePurged": object(json!({"purged": {"const": true}})),
        "WebhookCreate": body(&["url"], json!({"url": url, "project_id": maybe_text()})),
        "WebhookUpdate": body(&[], json!({"url": url})),
        "Delivery": object(json!({
            "id": text(), "object": {"const": "webhook.delivery"}, "event": {"type": ["object", "null"]}, "created_at": time(),
            "attempts": {"type": "integer"}, "next_attempt_at": maybe_time(), "delivered_at": maybe_time(),
            "last_error": maybe_text(),
        })),
    })
}
