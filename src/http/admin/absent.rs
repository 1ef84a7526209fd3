//! What OpenAI's organization API has and this one has not. Refused by its name, so that nobody takes a 404 for a missing object.

/// After `/v1/organization/`.
const OF_ORGANIZATION: [&str; 9] = [
    "certificates",
    "data_retention",
    "external_keys",
    "external_storage",
    "groups",
    "invites",
    "roles",
    "users",
    "workload_identity_providers",
];
/// After `/v1/organization/projects/{id}/`.
const OF_PROJECT: [&str; 7] =
    ["certificates", "data_retention", "groups", "hosted_tool_permissions", "roles", "service_tier_settings", "users"];
/// After `/v1/organization/usage/`.
const USAGE: [&str; 10] = [
    "audio_speeches",
    "audio_transcriptions",
    "code_interpreter_sessions",
    "decisions",
    "embeddings",
    "file_search_calls",
    "images",
    "moderations",
    "vector_stores",
    "web_search_calls",
];

/// The name of the feature that a path belongs to, where it is one that is not here.
pub fn feature(path: &str) -> Option<&'static str> {
    let mut parts = path.strip_prefix("/v1/")?.split('/');
    let known = |list: &[&'static str], part: Option<&str>| list.iter().copied().find(|name| Some(*name) == part);
    match parts.next()? {
        "organization" => match parts.next()? {
            "projects" => known(&OF_PROJECT, parts.nth(1)),
            "usage" => known(&USAGE, parts.next()),
            other => known(&OF_ORGANIZATION, Some(other)),
        },
        // Roles are beside the organization in OpenAI's paths.
        "projects" => known(&["groups", "roles", "users"], parts.nth(1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_names_are_called_unsupported() {
        assert_eq!(feature("/v1/organization/users"), Some("users"));
        assert_eq!(feature("/v1/organization/groups/g/roles/r"), Some("groups"));
        assert_eq!(feature("/v1/organization/projects/proj_1/users/u"), Some("users"));
        assert_eq!(feature("/v1/organization/usage/embeddings"), Some("embeddings"));
        assert_eq!(feature("/v1/projects/proj_1/roles"), Some("roles"));
        for path in [
            "/v1/organization",
            "/v1/organization/x",
            "/v1/organization/projects/users",
            "/v1/users",
            "/users",
            "/v1/organization/projects/p/nothing",
        ] {
            assert_eq!(feature(path), None, "{path}");
        }
    }
}
