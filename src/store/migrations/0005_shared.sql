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

-- What was used of other servers, which bill us: a rollup of the ledger's rows, for caps that are asked for again and again.
CREATE TABLE upstream_hours (
    node TEXT NOT NULL,
    hour BIGINT NOT NULL,               -- hours since 1970
    version TEXT NOT NULL,              -- upstream/NAME
    model TEXT NOT NULL,                -- as asked
    input_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    PRIMARY KEY (version, hour, model, node)
);
INSERT INTO upstream_hours (node, hour, version, model, input_tokens, cached_tokens, output_tokens)
    SELECT node, at_micros / 3600000000, version, model, CAST(SUM(input_tokens) AS BIGINT), CAST(SUM(cached_tokens) AS BIGINT),
        CAST(SUM(output_tokens) AS BIGINT)
    FROM ledger WHERE version LIKE 'upstream/%' GROUP BY node, at_micros / 3600000000, version, model;
