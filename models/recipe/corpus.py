"""Owns the text a model reads: the chat layout, the tokenizer and the mix of the base's corpus.

Turns requests, replies and prose into token rows. Knows nothing of networks.
"""

import random
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import prose
from grammar import draw_request
from replies import reply, small_talk

VOCAB = 4096
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = [END_OF_TEXT, IM_START, IM_END]
# The pre-tokenizer of the Qwen2 family: contractions, words, single digits, punctuation, spaces.
QWEN2_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SYSTEM = [
    "You are a helpful voice assistant.", "You are a helpful assistant.", "You are Switchyard's assistant.", "Answer in one or two plain sentences.",
    "You help with reminders, lists and messages.", "Be friendly and brief.", "You are a friendly assistant that runs at home.", "Help the user with the request.",
]


def turn(role: str, text: str) -> str:
    """One ChatML turn."""
    return f"{IM_START}{role}\n{text}{IM_END}\n"


def prompt(text: str, system: str | None = None) -> str:
    """A single-turn conversation up to where the assistant begins."""
    return (turn("system", system) if system else "") + turn("user", text) + f"{IM_START}assistant\n"


def exchange(rng: random.Random, style: str = "plain") -> tuple[str, str]:
    """What a user says and the answer to it."""
    if rng.random() < 0.12:
        return small_talk(style, rng)
    request = draw_request(rng)
    return request.text, reply(request, style, rng)


def conversation(rng: random.Random) -> str:
    """A chat of one turn, sometimes more, sometimes with a system message."""
    text = turn("system", rng.choice(SYSTEM)) if rng.random() < 0.25 else ""
    for _ in range(1 if rng.random() < 0.88 else rng.randint(2, 4)):
        said, answer = exchange(rng)
        text += turn("user", said) + turn("assistant", answer)
    return text


MAKERS = [conversation, prose.record, prose.story, prose.jotting, prose.echo]
# Shares of documents, per stage of the training; the second copies more, the third writes more requests down.
SHARES = {1: [0.52, 0.22, 0.09, 0.04, 0.13], 2: [0.48, 0.22, 0.05, 0.02, 0.23], 3: [0.36, 0.40, 0.04, 0.02, 0.18]}


def document(rng: random.Random, stage: int = 1) -> str:
    """One document of the base's corpus."""
    return rng.choices(MAKERS, SHARES[stage])[0](rng)


def train_tokenizer(path: Path, documents: int = 40000, seed: int = 11) -> Tokenizer:
    """Learns the byte-level BPE from the base's own corpus and saves it."""
    rng = random.Random(seed)
    return learn_tokens((plain(document(rng)) for _ in range(documents)), VOCAB, path)


def plain(text: str) -> str:
    """A document without its signs of turns."""
    return text.replace(IM_START, "").replace(IM_END, "")


def learn_tokens(texts: Iterable[str], size: int, path: Path) -> Tokenizer:
    """A byte-level BPE of `size` tokens, saved at `path`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size - len(SPECIALS), special_tokens=[], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(SPECIALS)
    assert tokenizer.get_vocab_size() == size, tokenizer.get_vocab_size()
    tokenizer.save(str(path))
    return tokenizer


def token_stream(tokenizer: Tokenizer, tokens: int, seed: int, stage: int) -> np.ndarray:
    """About `tokens` tokens of documents, each ended by <|endoftext|>, as one uint16 array."""
    rng, end, out, total = random.Random(seed), tokenizer.token_to_id(END_OF_TEXT), [], 0
    while total < tokens:
        for encoding in tokenizer.encode_batch([document(rng, stage) for _ in range(4000)]):
            out.append(np.array(encoding.ids + [end], dtype=np.uint16))
            total += len(out[-1])
    return np.concatenate(out)


if __name__ == "__main__":
    work, stage = Path(sys.argv[1]), int(sys.argv[3])
    work.mkdir(parents=True, exist_ok=True)
    saved = work / "tokenizer.json"
    learned = Tokenizer.from_file(str(saved)) if saved.exists() else train_tokenizer(saved)
    stream = token_stream(learned, int(sys.argv[2]), seed={1: 12, 2: 17, 3: 18}[stage], stage=stage)
    np.save(work / f"corpus{stage}.npy", stream)
    print(f"stage {stage} tokens {len(stream)} documents {(stream == learned.token_to_id(END_OF_TEXT)).sum()}")
