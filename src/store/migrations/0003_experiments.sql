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
