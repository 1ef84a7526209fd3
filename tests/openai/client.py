"""Checks a running Switchyard with the official `openai` package: what its users rely on, whatever model is behind it.

    python tests/openai/client.py --base-url http://127.0.0.1:8080/v1 --api-key KEY --base NAME [--adapter NAME]

The values may also come from OPENAI_BASE_URL, OPENAI_API_KEY, SWITCHYARD_BASE and SWITCHYARD_ADAPTER.
"""

import argparse
import asyncio
import json
import os
import sys
from typing import Literal, Optional

import openai
import pydantic

MESSAGES = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Say something."}]
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Setting:
    def __init__(self):
        env = os.environ.get
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--base-url", default=env("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"))
        parser.add_argument("--api-key", default=env("OPENAI_API_KEY", ""))
        parser.add_argument("--base", default=env("SWITCHYARD_BASE"), help="name of the base; default: the first model listed")
        parser.add_argument("--adapter", default=env("SWITCHYARD_ADAPTER"), help="name of an adapter, where one is loaded")
        arguments = parser.parse_args()
        self.url, self.key, self.adapter = arguments.base_url, arguments.api_key, arguments.adapter
        self.client = self.sync_client(self.key)
        self.base = arguments.base or self.client.models.list().data[0].id

    def sync_client(self, key):
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=120)

    def async_client(self):
        return openai.AsyncOpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=120)

    def chat(self, **more):
        fields = {"model": self.base, "messages": MESSAGES, "max_tokens": 16, "temperature": 0, **more}
        return self.client.chat.completions.create(**fields)

    def complete(self, **more):
        fields = {"model": self.base, "prompt": "Once upon a time", "max_tokens": 16, "temperature": 0, **more}
        return self.client.completions.create(**fields)


@check
def chat_whole(s):
    answer = s.chat()
    assert answer.object == "chat.completion" and answer.model == s.base, answer
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and isinstance(choice.message.content, str), choice
    assert choice.finish_reason in ("stop", "length"), choice
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 16, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    assert usage.prompt_tokens_details.cached_tokens >= 0, usage


@check
def chat_streamed(s):
    whole = s.chat()
    text, reasons, usages, roles = "", [], [], []
    for chunk in s.chat(stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "chat.completion.chunk", chunk
        if chunk.usage is not None:
            usages.append(chunk.usage)
        for choice in chunk.choices:
            text += choice.delta.content or ""
            roles += [choice.delta.role] if choice.delta.role else []
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == whole.choices[0].message.content, (text, whole)
    assert reasons == [whole.choices[0].finish_reason] and roles == ["assistant"], (reasons, roles)
    assert [usage.total_tokens for usage in usages] == [whole.usage.total_tokens], usages


@check
def chat_stream_helper(s):
    with s.client.chat.completions.stream(model=s.base, messages=MESSAGES, max_tokens=8, temperature=0) as stream:
        deltas = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.current_completion_snapshot
    expected = s.chat(max_tokens=8).choices[0].message.content
    assert deltas == expected == (final.choices[0].message.content or ""), (deltas, expected, final)


@check
def completion_whole_and_streamed(s):
    whole = s.complete()
    assert whole.object == "text_completion" and whole.choices[0].finish_reason in ("stop", "length"), whole
    chunks = list(s.complete(stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].text, (text, whole)
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens, chunks[-1]


@check
def asynchronous(s):
    async def run():
        async with s.async_client() as client:
            fields = {"model": s.base, "messages": MESSAGES, "max_tokens": 16, "temperature": 0}
            whole, stream, completion = await asyncio.gather(
                client.chat.completions.create(**fields),
                client.chat.completions.create(**fields, stream=True),
                client.completions.create(model=s.base, prompt="Once upon a time", max_tokens=16, temperature=0),
            )
            text = ""
            async for chunk in stream:
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
            parts = ""
            stream = await client.completions.create(
                model=s.base, prompt="Once upon a time", max_tokens=16, temperature=0, stream=True
            )
            async for chunk in stream:
                parts += chunk.choices[0].text
            return whole, text, completion, parts

    whole, text, completion, parts = asyncio.run(run())
    assert text == whole.choices[0].message.content == s.chat().choices[0].message.content, (text, whole)
    assert parts == completion.choices[0].text == s.complete().choices[0].text, (parts, completion)


@check
def stop(s):
    whole = s.complete(extra_body={"ignore_eos": True}).choices[0].text
    assert len(whole) >= 4, f"the model says too little to try stop strings on: {whole!r}"
    middle = whole[len(whole) // 2 :][:2]
    cut = s.complete(stop=[middle], extra_body={"ignore_eos": True}).choices[0]
    assert cut.text == whole[: whole.index(middle)] and cut.finish_reason == "stop", (whole, middle, cut)
    kept = s.complete(stop=middle, extra_body={"ignore_eos": True, "include_stop_str_in_output": True}).choices[0]
    assert kept.text == whole[: whole.index(middle) + len(middle)], (whole, middle, kept)


@check
def seed(s):
    fields = {"temperature": 1.0, "max_tokens": 24, "extra_body": {"ignore_eos": True}}
    answers = [s.chat(seed=seed, **fields).choices[0].message.content for seed in (11, 11, 12, 13, 14)]
    assert answers[0] == answers[1], answers
    assert len(set(answers)) > 1, answers


@check
def several(s):
    fields = {"temperature": 1.0, "seed": 5, "max_tokens": 12}
    whole = s.chat(n=3, **fields)
    assert [choice.index for choice in whole.choices] == [0, 1, 2], whole
    texts = ["", "", ""]
    for chunk in s.chat(n=3, stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices], (texts, whole)
    assert s.chat(**{**fields, "seed": 6}).choices[0].message.content == texts[1], texts


@check
def logprobs(s):
    answer = s.chat(logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    data = b"".join(bytes(token.bytes) for token in content)
    text = answer.choices[0].message.content
    assert data.decode("utf-8", "replace").strip() == text.strip(), (data, text)
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3, token
        assert abs(token.top_logprobs[0].logprob - token.logprob) < 1e-6, token
    old = s.complete(logprobs=2).choices[0].logprobs
    assert len(old.tokens) == len(old.token_logprobs) == len(old.top_logprobs) == len(old.text_offset), old


@check
def echo(s):
    scored = s.complete(prompt="the cat sat on the mat", echo=True, max_tokens=0, logprobs=1)
    choice = scored.choices[0]
    assert choice.text == "the cat sat on the mat" and choice.logprobs.token_logprobs[0] is None, choice
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:]), choice
    assert scored.usage.completion_tokens == 0, scored


@check
def models(s):
    listed = {model.id: model for model in s.client.models.list().data}
    assert s.base in listed and s.client.models.retrieve(s.base).id == s.base, listed
    if s.adapter:
        assert listed[s.adapter].parent == s.base, listed[s.adapter]
        answer = s.client.chat.completions.with_raw_response.create(
            model=s.adapter, messages=MESSAGES, max_tokens=16, temperature=0
        )
        assert answer.headers["x-adapter-version"].startswith(s.adapter + "@"), answer.headers
        assert answer.headers["x-request-id"], answer.headers
        assert answer.parse().model == s.adapter, answer.parse()
        assert answer.parse().choices[0].message.content != s.chat().choices[0].message.content, "the adapter changes nothing"


@check
def wrong_key(s):
    error = fails(openai.AuthenticationError, s.sync_client("sk-not-the-right-key").models.list)
    assert error.code == "invalid_api_key" and error.status_code == 401, error


@check
def unknown_model(s):
    error = fails(openai.NotFoundError, lambda: s.chat(model="no-such-model"))
    assert error.code == "model_not_found" and error.param == "model", error
    fails(openai.NotFoundError, lambda: s.client.models.retrieve("no-such-model"))


@check
def too_long(s):
    error = fails(openai.BadRequestError, lambda: s.chat(max_tokens=10_000_000))
    assert error.code == "context_length_exceeded", error
    error = fails(openai.BadRequestError, lambda: s.complete(prompt="a b c d " * 100_000))
    assert error.code == "context_length_exceeded", error


@check
def wrong_fields(s):
    error = fails(openai.BadRequestError, lambda: s.chat(temperature=3))
    assert error.param == "temperature", error
    error = fails(openai.BadRequestError, lambda: s.chat(messages=[]))
    assert error.param == "messages", error
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}
    error = fails(openai.BadRequestError, lambda: s.chat(tools=[tool]))
    assert error.param == "tools[0].function.parameters" and error.code == "invalid_schema", error
    assert "'not'" in error.message and "#/not" in error.message, error
    error = fails(openai.BadRequestError, lambda: s.chat(extra_body={"colour": "red"}))
    assert error.param == "colour" and error.code == "unknown_parameter", error


class Step(pydantic.BaseModel):
    what: str
    minutes: int = pydantic.Field(ge=1, le=90)


class Plan(pydantic.BaseModel):
    name: str
    kind: Literal["short", "long"]
    steps: list[Step]
    note: Optional[str]


class Forecast(pydantic.BaseModel):
    """The weather of some days."""

    city: str
    days: int = pydantic.Field(ge=1, le=9)


FORM = {"max_tokens": 400, "temperature": 1, "seed": 3}


@check
def parsed(s):
    answer = s.client.chat.completions.parse(model=s.base, messages=MESSAGES, response_format=Plan, **FORM)
    plan = answer.choices[0].message.parsed
    assert isinstance(plan, Plan) and all(1 <= step.minutes <= 90 for step in plan.steps), answer


@check
def parsed_from_a_stream(s):
    with s.client.chat.completions.stream(model=s.base, messages=MESSAGES, response_format=Plan, **FORM) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        answer = stream.get_final_completion()
    message = answer.choices[0].message
    assert isinstance(message.parsed, Plan) and "".join(deltas) == message.content and len(deltas) > 1, answer


@check
def tools_are_called(s):
    tools = [openai.pydantic_function_tool(Forecast)]
    answer = s.client.chat.completions.parse(model=s.base, messages=MESSAGES, tools=tools, tool_choice="required", **FORM)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
    calls = choice.message.tool_calls
    assert calls and all(isinstance(call.function.parsed_arguments, Forecast) for call in calls), calls
    with s.client.chat.completions.stream(
        model=s.base, messages=MESSAGES, tools=tools, tool_choice="required", **FORM
    ) as stream:
        deltas = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert len(deltas) > 1
    assert [call.function.arguments for call in streamed] == [call.function.arguments for call in calls], streamed
    told = [*MESSAGES, choice.message.model_dump(exclude_none=True, exclude={"parsed"})]
    for call in told[-1]["tool_calls"]:
        call["function"].pop("parsed_arguments", None)
    told += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    s.chat(messages=told, tools=tools, max_tokens=8)


@check
def embeddings(s):
    # The package asks for base 64 by itself.
    answer = s.client.embeddings.create(model=s.base, input=["one text", "another"])
    numbers = s.client.embeddings.create(model=s.base, input=["one text", "another"], encoding_format="float")
    assert [item.index for item in answer.data] == [0, 1] and answer.usage.prompt_tokens > 0, answer
    for one, other in zip(answer.data, numbers.data):
        assert abs(sum(value * value for value in one.embedding) - 1) < 1e-5, one
        assert max(abs(a - b) for a, b in zip(one.embedding, other.embedding)) < 1e-6, (one, other)
    hashed = s.client.embeddings.create(model="hash-embedding-256", input="one text", dimensions=64, user="me")
    assert len(hashed.data[0].embedding) == 64 and hashed.model == "hash-embedding-256", hashed
    error = fails(openai.BadRequestError, lambda: s.client.embeddings.create(model=s.base, input=""))
    assert error.param == "input", error


@check
def responses(s):
    ask = dict(model=s.base, input="hello", temperature=0, max_output_tokens=16)
    whole = s.client.responses.create(instructions="Be kind.", metadata={"a": "b"}, **ask)
    assert whole.object == "response" and whole.output_text and whole.status in ("completed", "incomplete"), whole
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens, whole.usage
    kinds, text = [], ""
    with s.client.responses.stream(instructions="Be kind.", **ask) as stream:
        for event in stream:
            kinds.append(event.type)
            text += event.delta if event.type == "response.output_text.delta" else ""
        final = stream.get_final_response() if "response.completed" in kinds else None
    assert kinds[0] == "response.created" and text == whole.output_text, kinds
    assert final is None or final.output_text == text, final
    events = list(s.client.responses.create(stream=True, **ask))
    assert [event.sequence_number for event in events] == list(range(len(events))), events
    assert events[-1].type in ("response.completed", "response.incomplete"), events[-1]
    again = s.client.responses.retrieve(whole.id)
    assert again.output_text == whole.output_text and again.metadata == {"a": "b"}, again
    more = s.client.responses.create(**{**ask, "input": "and then?"}, previous_response_id=whole.id)
    items = list(s.client.responses.input_items.list(more.id, order="asc"))
    assert [item.role for item in items] == ["user", "assistant", "user"], items
    # What was answered can be sent back.
    s.client.responses.create(**{**ask, "input": [{"role": "user", "content": "hello"}, *whole.output, {"role": "user", "content": "x"}]})
    s.client.responses.delete(whole.id)
    fails(openai.NotFoundError, lambda: s.client.responses.retrieve(whole.id))
    error = fails(openai.BadRequestError, lambda: s.client.responses.create(previous_response_id=whole.id, **ask))
    assert error.param == "previous_response_id", error
    error = fails(openai.BadRequestError, lambda: s.client.responses.create(background=True, **ask))
    assert error.param == "background", error


@check
def responses_in_form(s):
    ask = dict(model=s.base, input="hello", temperature=1, max_output_tokens=400, extra_body={"seed": 3})
    parsed = s.client.responses.parse(text_format=Forecast, **ask)
    assert isinstance(parsed.output_parsed, Forecast), parsed
    tool = {
        "type": "function", "name": "save", "strict": True, "description": "Save a person.",
        "parameters": {
            "type": "object", "additionalProperties": False, "required": ["name"], "properties": {"name": {"type": "string"}},
        },
    }
    called = s.client.responses.create(tools=[tool], tool_choice="required", parallel_tool_calls=False, **ask)
    call = called.output[-1]
    assert call.type == "function_call" and call.name == "save" and "name" in json.loads(call.arguments), called
    given = {"type": "function_call_output", "call_id": call.call_id, "output": "saved"}
    s.client.responses.create(**{**ask, "input": [given]}, tools=[tool], previous_response_id=called.id)
    s.client.responses.create(**{**ask, "input": [{"role": "user", "content": "hello"}, *called.output, given]}, tools=[tool])
    with s.client.responses.stream(tools=[tool], tool_choice="required", parallel_tool_calls=False, **ask) as stream:
        deltas = "".join(event.delta for event in stream if event.type == "response.function_call_arguments.delta")
        final = stream.get_final_response()
    assert deltas == call.arguments == final.output[-1].arguments, (deltas, final)


@check
def leaving_early(s):
    stream = s.chat(stream=True, max_tokens=64)
    next(iter(stream))
    stream.close()
    s.chat()


def fails(kind, call):
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}, got {answer!r}")


def main():
    setting, failed = Setting(), 0
    for function in CHECKS:
        try:
            function(setting)
            print(f"ok      {function.__name__}")
        except Exception as error:  # every check is tried, whatever the others do
            failed += 1
            print(f"FAILED  {function.__name__}: {type(error).__name__}: {error}")
    print(f"openai {openai.__version__}: " + (f"{failed} checks failed" if failed else "all checks passed"))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
