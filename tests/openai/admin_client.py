"""Administers a running Switchyard with the official `openai` package: what `client.admin.organization` can do on our tenants.

    python tests/openai/admin_client.py --base-url http://127.0.0.1:8080/v1 --admin-key KEY --base NAME
"""

import argparse
import base64
import hashlib
import hmac
import time

import openai

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def strict(value):
    """Clients are lenient when they read; what is sent must be of the declared types all the same."""
    type(value).model_validate(value.to_dict())
    return value


def refused(status, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except openai.APIStatusError as error:
        assert error.status_code == status, error
        return error
    raise AssertionError(f"not refused: {call} {arguments} {more}")


class Setting:
    def __init__(self):
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
        parser.add_argument("--admin-key", required=True)
        parser.add_argument("--base", required=True, help="name of the base")
        arguments = parser.parse_args()
        self.url, self.base, self.admin_key = arguments.base_url, arguments.base, arguments.admin_key
        self.client = self.with_key(None)
        self.organization = self.client.admin.organization

    def with_key(self, key):
        return openai.OpenAI(base_url=self.url, api_key=key or "unused", admin_api_key=self.admin_key, max_retries=0, timeout=60)

    def project(self, name):
        return self.organization.projects.create(name=name)

    def chat(self, key, **more):
        fields = {"model": self.base, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}
        return self.with_key(key).chat.completions.create(**{**fields, **more})


@check
def a_project_a_key_its_limit_usage_and_costs(s):
    """The whole way of a new customer."""
    price = s.client.post(
        "/../admin/prices",
        cast_to=object,
        body={"usd_per_million_tokens": {"input": "2", "output": "8"}},
        options={"headers": {"Authorization": f"Bearer {s.admin_key}"}},
    )
    assert price["object"] == "price", price
    project = strict(s.project("Acme"))
    account = strict(s.organization.projects.service_accounts.create(project.id, name="worker"))
    key = account.api_key.value
    assert account.role == "member" and key.startswith("sk-"), account
    answer = s.chat(key)
    spent = 2_000 * answer.usage.prompt_tokens + 8_000 * answer.usage.completion_tokens

    limits = list(s.organization.projects.rate_limits.list_rate_limits(project.id))
    mine = next(strict(limit) for limit in limits if limit.model == s.base)
    limit = s.organization.projects.rate_limits.update_rate_limit(mine.id, project_id=project.id, max_requests_per_1_minute=1)
    assert strict(limit).max_requests_per_1_minute == 1, limit
    assert s.chat(key).usage.total_tokens == answer.usage.total_tokens
    error = refused(429, s.chat, key)
    assert error.code == "rate_limit_exceeded" and error.response.headers["x-ratelimit-limit-requests"] == "1", error
    s.organization.projects.rate_limits.update_rate_limit(mine.id, project_id=project.id, max_requests_per_1_minute=1_000)
    s.chat(key)

    start = int(time.time()) - 60
    usage = strict(s.organization.usage.completions(start_time=start, bucket_width="1d", group_by=["project_id", "api_key_id", "model"], project_ids=[project.id]))
    [used] = [result for bucket in usage.data for result in bucket.results]
    assert (used.project_id, used.api_key_id, used.model) == (project.id, account.api_key.id, s.base), used
    assert used.num_model_requests == 3 and used.input_tokens == 3 * answer.usage.prompt_tokens, used
    assert used.output_tokens == 3 * answer.usage.completion_tokens, used
    costs = strict(s.organization.usage.costs(start_time=start, group_by=["project_id", "line_item"], project_ids=[project.id]))
    [cost] = [result for bucket in costs.data for result in bucket.results]
    assert cost.amount.currency == "usd" and round(cost.amount.value * 1e9) == 3 * spent, (cost, spent)
    assert cost.line_item == s.base, cost


@check
def projects(s):
    made = [s.project(f"p{index}") for index in range(5)]
    listed = [strict(project).id for project in s.organization.projects.list(limit=2)]
    assert {project.id for project in made} <= set(listed) and len(listed) == len(set(listed)), listed
    one = made[0]
    assert s.organization.projects.update(one.id, name="renamed").name == "renamed"
    archived = strict(s.organization.projects.archive(one.id))
    assert archived.status == "archived" and archived.archived_at, archived
    assert one.id not in [project.id for project in s.organization.projects.list()]
    assert one.id in [project.id for project in s.organization.projects.list(include_archived=True)]
    assert strict(s.organization.projects.retrieve(one.id)).name == "renamed"
    assert refused(404, s.organization.projects.retrieve, "proj_nobody").code == "not_found"
    assert refused(400, s.organization.projects.create, name="x", geography="EU").param == "geography"


@check
def service_accounts_and_keys(s):
    project = s.project("keys").id
    accounts, keys = s.organization.projects.service_accounts, s.organization.projects.api_keys
    bare = strict(accounts.create(project, name="bare", create_service_account_only=True))
    assert bare.api_key is None and bare.role == "none", bare
    made = strict(accounts.api_keys.create(bare.id, project_id=project, name="k", expires_in_seconds=600))
    assert made.expires_at - made.created_at == 600, made
    s.chat(made.value)
    [listed] = list(keys.list(project))
    assert strict(listed).owner.service_account.id == bare.id and made.value not in listed.to_json(), listed
    assert strict(keys.retrieve(made.id, project_id=project)).redacted_value == listed.redacted_value
    strict(keys.update(made.id, project_id=project, scopes=["api.all.read"]))
    refused(403, s.chat, made.value)
    s.with_key(made.value).models.list()
    strict(keys.update(made.id, project_id=project, scopes=[], expires_in_seconds=60))
    s.chat(made.value)
    assert strict(keys.delete(made.id, project_id=project)).deleted
    refused(401, s.chat, made.value)
    assert strict(accounts.update(bare.id, project_id=project, role="owner")).role == "owner"
    assert [strict(account).id for account in accounts.list(project)] == [bare.id]
    assert strict(accounts.retrieve(bare.id, project_id=project)).name == "bare"
    assert strict(accounts.delete(bare.id, project_id=project)).deleted
    refused(404, accounts.retrieve, bare.id, project_id=project)


@check
def admin_keys(s):
    made = strict(s.organization.admin_api_keys.create(name="second", expires_in_seconds=600))
    other = openai.OpenAI(base_url=s.url, admin_api_key=made.value, max_retries=0)
    assert strict(other.admin.organization.admin_api_keys.retrieve(made.id)).name == "second"
    assert made.id in [strict(key).id for key in other.admin.organization.admin_api_keys.list(order="desc")]
    assert strict(s.organization.admin_api_keys.delete(made.id)).deleted
    refused(401, other.admin.organization.admin_api_keys.retrieve, made.id)


@check
def model_permissions(s):
    project = s.project("permissions").id
    key = s.organization.projects.service_accounts.create(project, name="w").api_key.value
    permissions = s.organization.projects.model_permissions
    strict(permissions.update(project, mode="deny_list", model_ids=[s.base]))
    assert permissions.retrieve(project).to_dict()["model_ids"] == [s.base]
    assert refused(404, s.chat, key).code == "model_not_found"
    assert strict(permissions.delete(project)).deleted
    s.chat(key)


@check
def spend_limits_and_alerts(s):
    project = s.project("money").id
    key = s.organization.projects.service_accounts.create(project, name="w").api_key.value
    month = {"currency": "USD", "interval": "month"}
    limit = s.organization.projects.spend_limit
    assert strict(limit.update(project, threshold_amount=0, **month)).threshold_amount == 0
    error = refused(429, s.chat, key)
    assert error.code == "insufficient_quota" and error.response.headers["x-should-retry"] == "false", error
    assert strict(limit.retrieve(project)).enforcement.status == "enforcing"
    assert strict(limit.delete(project)).deleted
    s.chat(key)
    refused(404, limit.retrieve, project)
    channel = {"type": "email", "recipients": ["ops@example.com"], "subject_prefix": "[x]"}
    alerts = s.organization.projects.spend_alerts
    alert = strict(alerts.create(project, threshold_amount=500, notification_channel=channel, **month))
    alert = strict(alerts.update(alert.id, project_id=project, threshold_amount=600, notification_channel=channel, **month))
    assert [strict(one).threshold_amount for one in alerts.list(project)] == [600]
    assert strict(alerts.retrieve(alert.id, project_id=project)).notification_channel.recipients == ["ops@example.com"]
    assert strict(alerts.delete(alert.id, project_id=project)).deleted
    whole = s.organization.spend_alerts
    alert = strict(whole.create(threshold_amount=500, notification_channel=channel, **month))
    assert alert.id in [one.id for one in whole.list(order="desc")] and strict(whole.delete(alert.id)).deleted
    assert strict(s.organization.spend_limit.update(threshold_amount=100_000, **month)).object == "organization.spend_limit"
    assert strict(s.organization.spend_limit.retrieve()).threshold_amount == 100_000
    assert strict(s.organization.spend_limit.delete()).deleted


@check
def audit_logs(s):
    project = s.project("audited")
    s.organization.projects.update(project.id, name="again")
    events = list(s.organization.audit_logs.list(resource_ids=[project.id], limit=1, effective_at={"gte": int(time.time()) - 600}))
    assert [event.type for event in events] == ["project.updated", "project.created"], events
    assert events[0].project_updated.id == project.id and events[0].actor.api_key.id, events[0]


@check
def a_change_is_made_once_and_on_the_version_that_was_seen(s):
    headers = {"Idempotency-Key": f"once-{time.time()}"}
    first, again = [s.organization.projects.create(name="once", extra_headers=headers) for _ in range(2)]
    assert first.id == again.id
    raw = s.organization.projects.with_raw_response.retrieve(first.id)
    seen = {"If-Match": raw.headers["etag"]}
    s.organization.projects.update(first.id, name="two", extra_headers=seen)
    assert refused(412, s.organization.projects.update, first.id, name="three", extra_headers=seen).code == "precondition_failed"
    assert refused(409, s.organization.projects.create, name="other", extra_headers=headers).code == "idempotency_key_reused"


@check
def what_is_not_here_says_so(s):
    for call in (s.organization.users.list, s.organization.invites.list, s.organization.certificates.list):
        assert refused(501, call).code == "not_supported"
    assert refused(501, s.organization.usage.embeddings, start_time=0).code == "not_supported"


@check
def webhooks_are_signed_as_the_client_expects(s):
    made = s.client.post(
        "/../admin/webhooks",
        cast_to=object,
        body={"url": "https://example.com/hook"},
        options={"headers": {"Authorization": f"Bearer {s.admin_key}"}},
    )
    secret, body, now = made["secret"], '{"type": "budget.threshold_reached"}', str(int(time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = base64.b64encode(hmac.new(key, f"e1.{now}.{body}".encode(), hashlib.sha256).digest()).decode()
    headers = {"webhook-id": "e1", "webhook-timestamp": now, "webhook-signature": f"v1,{signature}"}
    s.client.webhooks.verify_signature(body, headers, secret=secret)


if __name__ == "__main__":
    setting = Setting()
    for function in CHECKS:
        function(setting)
        print("ok", function.__name__)
    print("all checks passed")
