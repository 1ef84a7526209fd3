-- What replicas share beside tenants and deployments: adapters, and who works on which training job.

CREATE TABLE adapters (
    owner TEXT NOT NULL,                -- a project; empty is shared
    name TEXT NOT NULL,
    record TEXT NOT NULL,               -- JSON: versions, and which one the name means; empty where nothing is remembered
    counter BIGINT NOT NULL,            -- of revisions.adapters, at its last change
    PRIMARY KEY (owner, name)
);
CREATE INDEX adapters_changed ON adapters (counter);
INSERT INTO revisions (name, value) VALUES ('adapters', 0);

ALTER TABLE jobs ADD COLUMN holder TEXT NOT NULL DEFAULT '';    -- the process that works on it; empty is none
ALTER TABLE jobs ADD COLUMN beat BIGINT NOT NULL DEFAULT 0;     -- counts the holder's signs of life
ALTER TABLE jobs ADD COLUMN state TEXT;                         -- SHA-256 of the object that it goes on from

-- What was spent on a server that bills us is asked for again and again.
CREATE INDEX ledger_of_upstreams ON ledger (version, at_micros) WHERE version LIKE 'upstream/%';
