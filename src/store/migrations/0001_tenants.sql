-- Tenants, keys, limits, money, the ledger. TEXT and BIGINT only, so that SQLite and PostgreSQL run the same text.
-- Times are seconds since 1970 unless the name says micros; money is nano-dollars; lists and objects are JSON.
-- `version` counts changes of a row, for If-Match.

-- Counts changes of what servers keep in memory: each process compares it with what it has read.
CREATE TABLE revisions (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO revisions (name, value) VALUES ('policy', 1);

-- Facts about this database: `secret_check` tells a process with another secret key from one with the right one.
CREATE TABLE facts (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- Tenants.
CREATE TABLE projects (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    status TEXT NOT NULL,               -- active, archived
    created_at BIGINT NOT NULL,
    archived_at BIGINT,
    version BIGINT NOT NULL
);
INSERT INTO projects (id, name, status, created_at, archived_at, version)
    VALUES ('proj_default', 'Default project', 'active', 0, NULL, 1);

CREATE TABLE service_accounts (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    role TEXT NOT NULL,                 -- member, owner, none
    created_at BIGINT NOT NULL,
    deleted_at BIGINT,
    version BIGINT NOT NULL
);
CREATE INDEX service_accounts_of_project ON service_accounts (project_id, created_at);

CREATE TABLE keys (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT REFERENCES projects (id),            -- NULL: a key of the organization
    service_account_id TEXT REFERENCES service_accounts (id),
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,          -- HMAC-SHA-256 under the secret key, hexadecimal
    redacted TEXT NOT NULL,             -- what may be shown
    scopes TEXT NOT NULL,               -- names between commas
    models TEXT,                        -- JSON array of names; NULL: all
    labels TEXT NOT NULL,               -- JSON object
    priority TEXT NOT NULL,             -- batch, standard, high
    caching TEXT NOT NULL,              -- per_request, always
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT,
    replaces TEXT,                      -- id of the key that this one was rotated from
    version BIGINT NOT NULL
);
CREATE INDEX keys_of_project ON keys (project_id, created_at);

-- Limits; NULL is none. model '*' is over all models together. scope 'default', subject '*': of projects without limits of their own.
CREATE TABLE limits (
    scope TEXT NOT NULL,                -- default, project, key
    subject TEXT NOT NULL,
    model TEXT NOT NULL,
    requests_per_minute BIGINT,
    burst BIGINT,                       -- requests at once; NULL: requests_per_minute
    tokens_per_minute BIGINT,
    concurrent_requests BIGINT,
    version BIGINT NOT NULL,
    PRIMARY KEY (scope, subject, model)
);

CREATE TABLE model_permissions (
    project_id TEXT NOT NULL PRIMARY KEY REFERENCES projects (id),
    mode TEXT NOT NULL,                 -- allow_list, deny_list
    models TEXT NOT NULL,               -- JSON array
    version BIGINT NOT NULL
);

CREATE TABLE budgets (
    id TEXT NOT NULL PRIMARY KEY,
    scope TEXT NOT NULL,                -- organization, project, key
    subject TEXT NOT NULL,              -- '*' for the organization
    period TEXT NOT NULL,               -- day, month, total (UTC)
    limit_nanos BIGINT NOT NULL,
    enforcement TEXT NOT NULL,          -- hard, soft
    thresholds TEXT NOT NULL,           -- per cent between commas, at which webhooks are called
    notification TEXT,                  -- JSON: sent along with webhooks
    created_at BIGINT NOT NULL,
    version BIGINT NOT NULL
);
CREATE INDEX budgets_of_subject ON budgets (scope, subject);
-- One hard limit at most for a period.
CREATE UNIQUE INDEX budgets_hard ON budgets (scope, subject, period) WHERE enforcement = 'hard';

CREATE TABLE webhooks (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT REFERENCES projects (id),            -- NULL: everything in the organization
    url TEXT NOT NULL,
    sealed_secret TEXT NOT NULL,        -- encrypted under the secret key
    created_at BIGINT NOT NULL,
    version BIGINT NOT NULL
);

-- What is sent to webhooks, once per event and webhook.
CREATE TABLE deliveries (
    event_id TEXT NOT NULL,
    webhook_id TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_attempt_at BIGINT,             -- NULL: done or given up
    delivered_at BIGINT,
    last_error TEXT,
    PRIMARY KEY (event_id, webhook_id)
);
CREATE INDEX deliveries_due ON deliveries (next_attempt_at);

-- The price book, nano-dollars per million tokens. The most specific row that holds at a request's time counts:
-- project and model, project, model, neither ('*').
CREATE TABLE prices (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL,           -- '*': all
    model TEXT NOT NULL,                -- '*': all
    valid_from BIGINT NOT NULL,
    input_nanos BIGINT NOT NULL,
    cached_input_nanos BIGINT NOT NULL,
    output_nanos BIGINT NOT NULL,
    training_nanos BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (project_id, model, valid_from)
);

-- One row per answered request.
CREATE TABLE ledger (
    id TEXT NOT NULL PRIMARY KEY,
    node TEXT NOT NULL,                 -- the process's data directory
    at_micros BIGINT NOT NULL,          -- when it was admitted
    request_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    end_user TEXT,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,                -- as asked
    version TEXT NOT NULL,              -- as served: base, name@number+digest
    arm TEXT,
    input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    queue_micros BIGINT NOT NULL,
    first_token_micros BIGINT NOT NULL,
    total_micros BIGINT NOT NULL,
    engine_micros BIGINT NOT NULL,
    kv_block_micros BIGINT NOT NULL,
    price_id TEXT,
    cost_nanos BIGINT NOT NULL,
    cache TEXT NOT NULL,                -- hit, miss, bypass
    outcome TEXT NOT NULL               -- stop, length, cancelled, failed
);
CREATE INDEX ledger_at ON ledger (at_micros);
-- A tenant that looks at its minutes must not read everybody's.
CREATE INDEX ledger_of_project ON ledger (project_id, at_micros);

-- Sums of the ledger by hour: what usage and budgets are read from.
CREATE TABLE usage_hours (
    node TEXT NOT NULL,
    hour BIGINT NOT NULL,               -- hours since 1970
    project_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    model TEXT NOT NULL,
    requests BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cost_nanos BIGINT NOT NULL,
    PRIMARY KEY (hour, project_id, key_id, model, node)
);

-- Answers kept for a repeated Idempotency-Key. A row without a status is a request in progress.
CREATE TABLE idempotency (
    owner TEXT NOT NULL,                -- tenant for inference, key for the admin API
    idempotency_key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    status BIGINT,
    headers TEXT,
    body TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (owner, idempotency_key)
);
CREATE INDEX idempotency_age ON idempotency (created_at);

CREATE TABLE audit (
    id TEXT NOT NULL PRIMARY KEY,
    at_micros BIGINT NOT NULL,
    actor TEXT NOT NULL,                -- key id, or cli
    action TEXT NOT NULL,               -- project.created ...
    object_id TEXT NOT NULL,
    project_id TEXT,
    before TEXT,                        -- JSON, without secrets
    after TEXT,
    request_id TEXT
);
CREATE INDEX audit_at ON audit (at_micros);
