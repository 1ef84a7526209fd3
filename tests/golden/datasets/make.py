"""Writes one small dataset in every format that is read, and beside each the rows that have to come out of it.

    python -m venv .venv && .venv/bin/pip install pyarrow==26.0.1 && .venv/bin/python make.py

Each NAME has a NAME.expected.jsonl with a line for each row: its line in the file (for Parquet its number) and either the row as
OpenAI's fine-tuning files have it, or the kind of problem and, where it can be repaired, the repaired row.
"""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent

# Question, answer; with what breaks naive readers: quotes, line breaks, separators, other scripts.
PAIRS = [
    ("What is the capital of Austria?", "Vienna."),
    ("Quote \"this\", please; and that.", "It said: \"this, and that\"."),
    ("Two\nlines, or more?", "First\nsecond\tthird"),
    ("Wie groß ist der Großglockner?", "3798 m über der Adria."),
    ("日本の首都はどこですか。", "東京です。"),
]


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def chat(question, answer, system=None):
    before = [message("system", system)] if system else []
    return {"messages": before + [message("user", question), message("assistant", answer)]}


def good(line, row):
    return {"line": line, "row": row}


def bad(line, kind, repaired=None):
    return {"line": line, "problem": kind, **({"repaired": repaired} if repaired else {})}


def dumps(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write(name, content, expected):
    data = content if isinstance(content, bytes) else content.encode()
    (HERE / name).write_bytes(data)
    (HERE / f"{name}.expected.jsonl").write_text("".join(dumps(row) + "\n" for row in expected))


def lines(rows):
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


def openai_chat():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Graz\"}"}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    weighted = {"messages": [message("user", "1"), message("assistant", "one", weight=0), message("user", "2"), message("assistant", "two", weight=1)]}
    with_tools = {
        "messages": [
            message("user", "Weather in Graz?"),
            message("assistant", None, tool_calls=[call]),
            message("tool", "21", tool_call_id="c1"),
            message("assistant", "21 degrees."),
        ],
        "tools": [tool],
        "parallel_tool_calls": False,
    }
    parts = {"messages": [message("developer", "Be brief."), message("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), message("assistant", "c")]}
    rows = [
        chat(*PAIRS[0], system="Be brief."),
        chat(*PAIRS[4]),
        weighted,
        "",
        with_tools,
        parts,
        {"messages": [message("human", "hi"), message("assistant", "hello")]},
        {"messages": [message("narrator", "hi"), message("assistant", "hello")]},
        {"messages": [message("user", "hi"), message("assistant", "hello"), message("user", "bye")]},
        {"messages": [message("user", "hi")]},
        {"messages": [message("user", "hi"), message("assistant", "")]},
        {"messages": [message("user", "hi"), message("assistant", "hello", weight=2)]},
        {"prompt": "hi", "completion": "hello"},
        "{\"messages\": [",
        "[]",
        {"messages": [message("user", [{"type": "image_url", "image_url": {"url": "x"}}]), message("assistant", "a cat")]},
        {"text": "something else"},
    ]
    hello = chat("hi", "hello")
    expected = [
        good(1, rows[0]),
        good(2, rows[1]),
        good(3, {"messages": [message("user", "1"), message("assistant", "one", weight=0.0), message("user", "2"), message("assistant", "two")]}),
        good(5, {
            "messages": [
                message("user", "Weather in Graz?"),
                {"role": "assistant", "tool_calls": [call]},
                message("tool", "21", tool_call_id="c1"),
                message("assistant", "21 degrees."),
            ],
            "tools": [tool],
        }),
        good(6, {"messages": [message("system", "Be brief."), message("user", "ab"), message("assistant", "c")]}),
        bad(7, "role", hello),
        bad(8, "role"),
        bad(9, "missing", hello),
        bad(10, "missing"),
        bad(11, "missing"),
        bad(12, "field"),
        bad(13, "format", hello),
        bad(14, "syntax"),
        bad(15, "syntax"),
        bad(16, "field"),
        bad(17, "format"),
    ]
    write("chat.jsonl", lines(rows), expected)


def openai_preference():
    def row(question, chosen, rejected):
        return {
            "input": {"messages": [message("user", question)], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [message("assistant", chosen)],
            "non_preferred_output": [message("assistant", rejected)],
        }

    def expected(question, chosen, rejected):
        return {**row(question, chosen, rejected), "input": {"messages": [message("user", question)]}}

    rows = [row("hi", "Hello!", "What?"), row("bye", "Goodbye!", "No."), row("x", "same", "same"), {"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}]
    write("preference.jsonl", lines(rows), [
        good(1, expected("hi", "Hello!", "What?")),
        good(2, expected("bye", "Goodbye!", "No.")),
        bad(3, "field"),
        bad(4, "missing"),
    ])
    # The layout of TRL: whole conversations, and a prompt beside texts.
    whole = [{"chosen": chat("hi", "Hello!")["messages"], "rejected": chat("hi", "What?")["messages"]}]
    write("preference-conversations.jsonl", lines(whole), [good(1, expected("hi", "Hello!", "What?"))])
    texts = [{"prompt": "hi", "chosen": "Hello!", "rejected": "What?"}]
    write("preference-texts.json", json.dumps(texts), [good(1, expected("hi", "Hello!", "What?"))])


def completion():
    rows = [{"prompt": q, "completion": a} for q, a in PAIRS] + [{"prompt": "no answer", "completion": ""}, {"prompt": "no answer"}]
    write("completion.jsonl", lines(rows), [good(n + 1, chat(*pair)) for n, pair in enumerate(PAIRS)] + [bad(6, "missing"), bad(7, "missing")])


def alpaca():
    rows = [{"instruction": q, "input": "", "output": a} for q, a in PAIRS]
    rows[0] = {"instruction": "Add.", "input": "1 and 2", "output": "3", "system": "You add."}
    rows[1] = {**rows[1], "history": [["before", "that"]]}
    expected = [chat(*pair) for pair in PAIRS]
    expected[0] = chat("Add.\n\n1 and 2", "3", system="You add.")
    expected[1] = {"messages": [message("user", "before"), message("assistant", "that", weight=0.0)] + expected[1]["messages"]}
    text = json.dumps(rows, ensure_ascii=False, indent=2)
    starts = [number for number, line in enumerate(text.split("\n"), 1) if line == "  {"]
    write("alpaca.json", text, [good(line, row) for line, row in zip(starts, expected)])


def sharegpt():
    rows = [{"id": f"r{n}", "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for n, (q, a) in enumerate(PAIRS)]
    rows[0]["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    rows.append({"conversations": [{"from": "human", "value": "hi"}, {"from": "alien", "value": "zzz"}]})
    expected = [good(n + 1, chat(*pair)) for n, pair in enumerate(PAIRS)] + [bad(6, "role")]
    expected[0] = good(1, chat(*PAIRS[0], system="Be brief."))
    write("sharegpt.jsonl", lines(rows), expected)


def tables():
    for name, delimiter in (("table.csv", ","), ("table-semicolon.csv", ";"), ("table.tsv", "\t")):
        with open(HERE / name, "w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(["id", "question", "answer"])
            writer.writerows([number, q, a] for number, (q, a) in enumerate(PAIRS))
            writer.writerow([9, "no answer", ""])
            file.write(delimiter.join(["9", "a record that is too short"]) + "\r\n")
        # The third question takes two lines, and so does its answer.
        starts = [2, 3, 4, 7, 8, 9, 10]
        content = (HERE / name).read_bytes()
        write(name, content, [good(line, chat(*pair)) for line, pair in zip(starts, PAIRS)] + [bad(9, "missing"), bad(10, "syntax")])


def parquet():
    table = pa.table({
        "id": list(range(6)),
        "question": [q for q, _ in PAIRS] + ["no answer"],
        "answer": [a for _, a in PAIRS] + [None],
    })
    expected = [good(n + 1, chat(*pair)) for n, pair in enumerate(PAIRS)] + [bad(6, "missing")]
    for codec in ("snappy", "zstd", "gzip", "none"):
        name = f"table-{codec}.parquet"
        pq.write_table(table, HERE / name, compression=codec, row_group_size=4)
        write(name, (HERE / name).read_bytes(), expected)
    messages = pa.table({"messages": [chat(*pair, system="Be brief.")["messages"] for pair in PAIRS], "score": [0.5] * len(PAIRS)})
    pq.write_table(messages, HERE / "messages.parquet")
    write("messages.parquet", (HERE / "messages.parquet").read_bytes(), [good(n + 1, chat(*pair, system="Be brief.")) for n, pair in enumerate(PAIRS)])


def brightrun():
    system = "You are a patient adviser."

    def pair(conversation, turn, history, said, target, score=4):
        return {
            "id": f"{conversation}_turn{turn}",
            "conversation_id": conversation,
            "turn_number": turn,
            "conversation_metadata": {"client_persona": "a planner", "training_topic": "pensions"},
            "system_prompt": system,
            "conversation_history": [{"turn": n + 1, "role": role, "content": content, "emotional_state": {"primary": "worry"}} for n, (role, content) in enumerate(history)],
            "current_user_input": said,
            "emotional_context": {"detected_emotions": {"primary": "worry", "intensity": 0.7}},
            "target_response": target,
            "training_metadata": {"difficulty_level": f"turn_{turn}", "quality_score": score, "human_reviewed": False},
        }

    conversations = []
    expected = []
    for conversation, score in (("c-1", 4), ("c-2", 2)):
        first, second = ("user", f"I worry about {conversation}."), ("assistant", f"Tell me about {conversation}.")
        pairs = [
            # A turn of the user: nothing to learn.
            pair(conversation, 1, [], first[1], None, score),
            # The turn that is answered is the last of the history as well.
            pair(conversation, 2, [first], first[1], second[1], score),
            pair(conversation, 3, [first, second], "It is my pension.", None, score),
            pair(conversation, 4, [first, second], "It is my pension.", "Let us look at it.", score),
        ]
        conversations.append({
            "conversation_metadata": {"conversation_id": conversation, "total_turns": 4},
            "training_pairs": pairs,
        })
        begin = [message("system", system), message("user", first[1])]
        expected.append({"messages": begin + [message("assistant", second[1])]})
        expected.append({"messages": begin + [message("assistant", second[1], weight=0.0), message("user", "It is my pension."), message("assistant", "Let us look at it.")]})
    document = {
        "training_file_metadata": {"file_name": "advice", "version": "4.0.0", "format_spec": "brightrun-lora-v4", "total_training_pairs": 8},
        "consultant_profile": {"name": "E. Example", "core_philosophy": ["patience"]},
        "conversations": conversations,
    }
    text = json.dumps(document, indent=2)
    targets = [number for number, line in enumerate(text.split("\n"), 1) if line == "        {"]
    write("brightrun.json", text, [good(targets[place], row) for place, row in zip((1, 3, 5, 7), expected)])
    write("brightrun-one-line.json", dumps(document), [good(1, row) for row in expected])
    rows = [{"_meta": {"file_name": "advice", "version": "brightrun-lora-v4"}}] + [pair for conversation in conversations for pair in conversation["training_pairs"]]
    write("brightrun.jsonl", lines(rows), [good(line, row) for line, row in zip((3, 5, 7, 9), expected)])


def encodings():
    rows = [
        lines([chat("hi", "hello")]).encode("utf-8-sig"),
        lines([chat("Größe?", "groß")]).encode("cp1252"),
        lines([chat("NUL", "x")]).encode().replace(b"NUL", b"N\0L"),
        lines([chat("escaped", "a\0b")]).encode(),
    ]
    expected = [
        good(1, chat("hi", "hello")),
        bad(2, "encoding", chat("Größe?", "groß")),
        bad(3, "encoding", chat("NL", "x")),
        bad(4, "encoding", chat("escaped", "ab")),
    ]
    write("encodings.jsonl", b"".join(rows), expected)


if __name__ == "__main__":
    openai_chat()
    openai_preference()
    completion()
    alpaca()
    sharegpt()
    tables()
    parquet()
    brightrun()
    encodings()
