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
