-- Answers of /v1/responses that are kept for their tenant: to be read again, and to go on from. Times are seconds since 1970.

CREATE TABLE responses (
    id TEXT NOT NULL PRIMARY KEY,       -- resp_...
    project_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    sealed TEXT NOT NULL                -- JSON, encrypted for the row: the answer, and what it answered
);
CREATE INDEX responses_created ON responses (created_at);
