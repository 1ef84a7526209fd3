"""Chat templates of the common formats, and what transformers renders with them. The templates are written here from the
formats' descriptions; what they produce is the format's own text."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

# <|im_start|>role\ncontent<|im_end|>\n
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

LLAMA2 = """\
{%- if messages and messages[0]['role'] == 'system' -%}
    {%- set system = '<<SYS>>\\n' ~ messages[0]['content'] ~ '\\n<</SYS>>\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
    {%- endif -%}
    {%- if turn['role'] == 'user' -%}
        {{- bos_token ~ '[INST] ' ~ (system if loop.first else '') ~ turn['content'].strip() ~ ' [/INST]' -}}
    {%- elif turn['role'] == 'assistant' -%}
        {%- generation -%}
        {{- ' ' ~ turn['content'].strip() ~ ' ' ~ eos_token -}}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
"""

LLAMA3 = """\
{%- set start = '<|start_header_id|>' %}
{%- for message in messages %}
    {%- set text = start + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}
    {%- if loop.first %}
        {%- set text = bos_token + text %}
    {%- endif %}
    {{- text }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- start + 'assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

LLAMA31 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You may call these functions; answer with JSON.\\n\\n" }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- set ns = namespace(system='', turns=0) %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {%- if not loop.first %}
            {{- raise_exception('The system message must come first') }}
        {%- endif %}
        {%- set ns.system = message['content'] + '\\n\\n' %}
        {%- continue %}
    {%- endif %}
    {%- if (message['role'] == 'user') != (ns.turns % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set ns.turns = ns.turns + 1 %}
    {%- if message['role'] == 'user' %}
        {{- ' [INST] ' + (ns.system if loop.last else '') + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""

QWEN2 = """\
{% for message in messages %}
    {% if loop.first and messages[0]['role'] != 'system' %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {% endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{% endif %}
"""

QWEN25 = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- else %}{{- 'You are a helpful assistant.' }}{%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}{{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

PHI3 = """\
{% for message in messages %}
{% if message['role'] == 'system' and message['content'] %}
{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}
{% elif message['role'] == 'user' %}
{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}
{% elif message['role'] == 'assistant' %}
{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}
"""

TEMPLATES = {
    "chatml": (CHATML, "<|endoftext|>", "<|im_end|>"),
    "llama2": (LLAMA2, "<s>", "</s>"),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
    "llama3.1": (LLAMA31, "<|begin_of_text|>", "<|eot_id|>"),
    "mistral": (MISTRAL, "<s>", "</s>"),
    "qwen2": (QWEN2, None, "<|im_end|>"),
    "qwen2.5": (QWEN25, None, "<|im_end|>"),
    "phi3": (PHI3, "<s>", "<|end|>"),
}

say = lambda role, content, **more: {"role": role, "content": content, **more}
TALK = [say("user", "Hello, who are you?"), say("assistant", "  A small model. "), say("user", "Größe?\n\n  {{ not_a_tag }} <b>&amp;")]
CONVERSATIONS = {
    "one turn": TALK[:1],
    "three turns": TALK,
    "system": [say("system", "Answer in one word."), *TALK],
    "ends with an answer": TALK[:2],
    "roles out of order": [say("user", "a"), say("user", "b")],
    "late system": [*TALK, say("system", "too late")],
}
TOOLS = [
    {"type": "function", "function": {"name": "remind", "description": "Sets a <reminder> & 'more' – ünïcode",
     "parameters": {"type": "object", "properties": {"when": {"type": "string"}, "n": {"type": "integer", "default": 1.5}}, "required": []}}}
]
CALL = {"type": "function", "function": {"name": "remind", "arguments": {"when": "18:00", "n": 2, "deep": {"list": [1, True, None, "ß"]}, "empty": []}}}
# As clients send it beside tool calls: transformers leaves the field out.
NULL_TALK = [say("user", "Remind me"), {"role": "assistant", "content": None, "tool_calls": [CALL]}, say("user", "Thanks")]
TOOL_TALK = [say("user", "Remind me"), {"role": "assistant", "content": "", "tool_calls": [CALL]}, say("tool", "{\"ok\": true}"), say("user", "Thanks")]


def render(name, messages, ending, tools=None, **variables):
    source, bos, eos = TEMPLATES[name]
    case = {"template": name, "bos": bos, "eos": eos, "messages": messages, "add_generation_prompt": ending, "tools": tools, "variables": variables}
    holder = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=bos, eos_token=eos)
    try:
        case["text"] = holder.apply_chat_template(
            messages, chat_template=source, tools=tools, tokenize=False, add_generation_prompt=ending, **variables
        )
    except Exception as error:  # jinja2.TemplateError of raise_exception: the message is what counts
        case["error"] = str(error)
    return case


def write(out: Path):
    """`<name>.jinja` and `cases.json`."""
    out.mkdir(parents=True, exist_ok=True)
    cases = []
    for name, (source, _, _) in TEMPLATES.items():
        (out / f"{name}.jinja").write_text(source)
        variables = {"date_string": "01 Feb 2025"} if name == "llama3.1" else {}
        for messages in CONVERSATIONS.values():
            for ending in [True, False]:
                cases.append(render(name, messages, ending, **variables))
    for name in ["llama3.1", "qwen2.5"]:
        variables = {"date_string": "01 Feb 2025"} if name == "llama3.1" else {}
        cases.append(render(name, TALK[:1], True, tools=TOOLS, **variables))
        cases.append(render(name, TOOL_TALK, True, tools=TOOLS, **variables))
    for name in ["llama3", "llama3.1", "qwen2.5"]:
        variables = {"date_string": "01 Feb 2025"} if name == "llama3.1" else {}
        cases.append(render(name, NULL_TALK, True, **variables))
    (out / "cases.json").write_text(json.dumps(cases, ensure_ascii=False, separators=(",", ":")) + "\n")
