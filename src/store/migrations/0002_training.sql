-- Files that clients send, and training jobs. Times are seconds since 1970 unless the name says micros or millis; numbers that are
-- not whole are TEXT (shortest form that reads back the same); lists and objects are JSON.
-- `node` is the process whose data directory holds the content: several processes may share this database.

CREATE TABLE files (
    id TEXT NOT NULL PRIMARY KEY,       -- file-...
    project_id TEXT NOT NULL REFERENCES projects (id),
    node TEXT NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,               -- name of the content
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);
CREATE INDEX files_of_project ON files (project_id, created_at, id);
CREATE INDEX files_of_content ON files (sha256);
CREATE INDEX files_to_expire ON files (expires_at);

-- Files that come in parts.
CREATE TABLE uploads (
    id TEXT NOT NULL PRIMARY KEY,       -- upload_...
    project_id TEXT NOT NULL REFERENCES projects (id),
    node TEXT NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    mime_type TEXT NOT NULL,
    bytes BIGINT NOT NULL,              -- as announced
    file_seconds BIGINT,                -- how long the file will be kept
    status TEXT NOT NULL,               -- pending, completed, cancelled, expired
    file_id TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX uploads_pending ON uploads (status, expires_at);

CREATE TABLE upload_parts (
    id TEXT NOT NULL PRIMARY KEY,       -- part_...
    upload_id TEXT NOT NULL REFERENCES uploads (id),
    node TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX parts_of_upload ON upload_parts (upload_id);
CREATE INDEX parts_of_content ON upload_parts (sha256);

CREATE TABLE jobs (
    id TEXT NOT NULL PRIMARY KEY,       -- ftjob-...
    project_id TEXT NOT NULL REFERENCES projects (id),
    key_id TEXT NOT NULL,               -- who asked
    node TEXT NOT NULL,                 -- where it runs
    status TEXT NOT NULL,               -- validating_files, queued, running, paused, succeeded, failed, cancelled
    phase TEXT NOT NULL,                -- queued, preprocessing, model_loaded, training, evaluating, completed, failed, cancelled
    base TEXT NOT NULL,                 -- public name of the base
    suffix TEXT NOT NULL,               -- may be empty
    model TEXT NOT NULL,                -- name of the model that it makes
    seed BIGINT NOT NULL,
    training_file TEXT NOT NULL,
    validation_file TEXT,
    method TEXT NOT NULL,               -- JSON, as asked
    settings TEXT,                      -- JSON, once `auto` is resolved
    metadata TEXT,                      -- JSON object
    max_seconds BIGINT NOT NULL,        -- of training
    max_nanos BIGINT,                   -- nano-dollars
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    estimated_finish BIGINT,
    published BIGINT NOT NULL,          -- 1 when `model` can be called
    result_file TEXT,
    steps BIGINT,
    steps_done BIGINT NOT NULL,
    trained_tokens BIGINT NOT NULL,
    trained_millis BIGINT NOT NULL,
    error_code TEXT,
    error_message TEXT,
    error_param TEXT,
    version BIGINT NOT NULL
);
CREATE INDEX jobs_of_project ON jobs (project_id, created_at, id);
CREATE INDEX jobs_of_node ON jobs (node, status);

CREATE TABLE job_events (
    id TEXT NOT NULL PRIMARY KEY,       -- ftevent-...
    job_id TEXT NOT NULL REFERENCES jobs (id),
    created_micros BIGINT NOT NULL,     -- no two of a job have the same
    level TEXT NOT NULL,                -- info, warn, error
    kind TEXT NOT NULL,                 -- message, metrics
    message TEXT NOT NULL,
    data TEXT                           -- JSON object
);
CREATE INDEX events_of_job ON job_events (job_id, created_micros, id);

CREATE TABLE job_checkpoints (
    id TEXT NOT NULL PRIMARY KEY,       -- ftckpt_...
    job_id TEXT NOT NULL REFERENCES jobs (id),
    step BIGINT NOT NULL,
    model TEXT NOT NULL,
    metrics TEXT NOT NULL,              -- JSON object
    created_at BIGINT NOT NULL,
    UNIQUE (job_id, step)
);

-- A row a step. A step that is done again after a restart replaces its row.
CREATE TABLE job_metrics (
    job_id TEXT NOT NULL REFERENCES jobs (id),
    step BIGINT NOT NULL,
    train_loss TEXT NOT NULL,
    train_accuracy TEXT,
    valid_loss TEXT,
    valid_accuracy TEXT,
    PRIMARY KEY (job_id, step)
);
