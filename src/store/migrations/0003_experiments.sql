-- Deployments and what is measured on them. Times are seconds since 1970 unless the name says micros or millis; numbers that are not
-- whole are TEXT (shortest form that reads back the same); lists and objects are JSON.

-- Deployments. ---------------------------------------------------------------------------------------------------------------------

-- A name that was deleted keeps its row: the numbers of its revisions are not used twice.
CREATE TABLE deployments (
    id TEXT NOT NULL PRIMARY KEY,       -- dep_...
    owner TEXT NOT NULL,                -- a project's id; empty: shared
    name TEXT NOT NULL,
    revision BIGINT NOT NULL,           -- the one in force
    epoch BIGINT NOT NULL,              -- revision of the last rollback: conversations keep no arm from before it; 0: none
    salt TEXT NOT NULL,                 -- what makes its assignment independent of other deployments'
    deleted BIGINT NOT NULL,            -- 0, 1
    counter BIGINT NOT NULL,            -- revisions.value of 'deployments' at its last change
    created_at BIGINT NOT NULL,
    UNIQUE (owner, name)
);
CREATE INDEX deployments_changed ON deployments (counter);

-- Never changed, never removed.
CREATE TABLE deployment_revisions (
    deployment_id TEXT NOT NULL REFERENCES deployments (id),
    revision BIGINT NOT NULL,
    action TEXT NOT NULL,               -- created, changed, rolled_back, deleted
    restores BIGINT,                    -- the revision whose spec a rollback brought back
    spec TEXT NOT NULL,
    experiment TEXT NOT NULL,           -- exp_...: changes with the set of arms and models
    actor TEXT NOT NULL,
    reason TEXT,
    at_micros BIGINT NOT NULL,
    PRIMARY KEY (deployment_id, revision)
);

INSERT INTO revisions (name, value) VALUES ('deployments', 0);

-- What experiments measure. --------------------------------------------------------------------------------------------------------

-- Each process adds its own up; a reader adds all of them up.
CREATE TABLE experiment_sums (
    experiment TEXT NOT NULL,           -- exp_...
    revision BIGINT NOT NULL,           -- of the deployment
    arm TEXT NOT NULL,
    metric TEXT NOT NULL,
    node TEXT NOT NULL,                 -- the process's data directory
    n BIGINT NOT NULL,
    total TEXT NOT NULL,                -- as compared: of ratios, sum of logarithms
    squares TEXT NOT NULL,
    plain TEXT NOT NULL,                -- sum of the values as they came
    PRIMARY KEY (experiment, revision, arm, metric, node)
);

-- Whether units come to arms as they should: a check by every start of every process.
CREATE TABLE experiment_splits (
    experiment TEXT NOT NULL,
    node TEXT NOT NULL,
    start BIGINT NOT NULL,              -- when the process began
    state TEXT NOT NULL,                -- JSON
    PRIMARY KEY (experiment, node, start)
);

CREATE TABLE feedback (
    project_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    metric TEXT NOT NULL,               -- thumbs, score, corrections, feedback:NAME
    value TEXT NOT NULL,
    text TEXT,                          -- the correction
    key_id TEXT NOT NULL,
    experiment TEXT,
    revision BIGINT,
    arm TEXT,
    at BIGINT NOT NULL,
    PRIMARY KEY (project_id, request_id, metric)
);
CREATE INDEX feedback_of_experiment ON feedback (experiment, revision, arm, metric);
-- Feedback names requests.
CREATE INDEX ledger_of_arms ON ledger (request_id, project_id, at_micros) WHERE arm IS NOT NULL;

-- Rollouts. ------------------------------------------------------------------------------------------------------------------------

CREATE TABLE rollouts (
    id TEXT NOT NULL PRIMARY KEY,       -- rollout_...
    owner TEXT NOT NULL,                -- of the deployment: a project's id; empty: shared
    deployment TEXT NOT NULL,           -- its name
    state TEXT NOT NULL,                -- pending, shadow, progressing, paused, inconclusive, promoted, rolled_back, aborted
    open BIGINT NOT NULL,               -- 1: something is still to be done about it
    body TEXT NOT NULL,                 -- the rollout
    created_at BIGINT NOT NULL,
    ended_at BIGINT,
    version BIGINT NOT NULL
);
-- One at a time.
CREATE UNIQUE INDEX rollouts_under_way ON rollouts (owner, deployment) WHERE open = 1;
CREATE INDEX rollouts_open ON rollouts (open, created_at);
CREATE INDEX rollouts_of_deployment ON rollouts (owner, deployment, created_at, id);

-- What came of jobs that ask for a rollout; without an id it was refused, and the job's events say why.
CREATE TABLE job_rollouts (
    job_id TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id),
    rollout_id TEXT,
    looked_at BIGINT NOT NULL
);

-- Shadow traffic: what was said, and what a silent model would have said.
CREATE TABLE shadows (
    id TEXT NOT NULL PRIMARY KEY,       -- shadow_...
    at_micros BIGINT NOT NULL,
    owner TEXT NOT NULL,                -- of the deployment: a project's id; empty: shared
    deployment TEXT NOT NULL,
    model TEXT NOT NULL,                -- the silent one, as the deployment names it
    request_id TEXT NOT NULL,
    project_id TEXT NOT NULL,           -- the tenant that asked
    prompt_digest TEXT NOT NULL,
    arm TEXT NOT NULL,
    version TEXT NOT NULL,
    shadow_version TEXT NOT NULL,
    text TEXT NOT NULL,
    shadow_text TEXT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    shadow_tokens BIGINT NOT NULL,
    millis BIGINT NOT NULL,
    shadow_millis BIGINT NOT NULL,
    error TEXT
);
CREATE INDEX shadows_of_deployment ON shadows (owner, deployment, at_micros, id);
CREATE INDEX shadows_by_age ON shadows (at_micros);

-- /convert. ------------------------------------------------------------------------------------------------------------------------

-- What a project's own texts can mean.
CREATE TABLE convert_schemas (
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    spec TEXT NOT NULL,                 -- model, entities, intents
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (project_id, name)
);

-- Corrections of /convert. ----------------------------------------------------------------------------------------------------------

-- What was said, kept for a while so that it can be corrected.
CREATE TABLE convert_texts (
    project_id TEXT NOT NULL REFERENCES projects (id),
    id TEXT NOT NULL,                   -- of the answer
    text TEXT NOT NULL,                 -- as the model read it
    answer TEXT NOT NULL,               -- JSON, as the model wrote it
    model TEXT NOT NULL,                -- as it was named
    schema_name TEXT NOT NULL,          -- the project's own; empty: the built-in one
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, id)
);
CREATE INDEX convert_texts_to_expire ON convert_texts (expires_at);

-- What would have been right; kept until it is deleted. One for each answer: the last counts.
CREATE TABLE convert_corrections (
    id TEXT NOT NULL PRIMARY KEY,       -- corr_...
    project_id TEXT NOT NULL REFERENCES projects (id),
    answer_id TEXT NOT NULL,
    model TEXT NOT NULL,
    schema_name TEXT NOT NULL,          -- the project's own; empty: the built-in one
    text TEXT NOT NULL,
    answer TEXT NOT NULL,               -- JSON
    was_right BIGINT NOT NULL,          -- 0, 1
    created_at BIGINT NOT NULL,
    claimed_at BIGINT,                  -- micros; a job that is to learn from it was about to be made then
    job_id TEXT,                        -- which has learnt from it first
    UNIQUE (project_id, answer_id)
);
CREATE INDEX convert_corrections_of_project ON convert_corrections (project_id, schema_name, created_at, id);

-- When a job starts by itself.
CREATE TABLE convert_correction_policies (
    project_id TEXT NOT NULL REFERENCES projects (id),
    schema_name TEXT NOT NULL,
    after BIGINT NOT NULL,              -- so many new corrections
    job TEXT NOT NULL,                  -- JSON, as in a request for a job
    key_id TEXT NOT NULL,               -- who asked
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, schema_name)
);
