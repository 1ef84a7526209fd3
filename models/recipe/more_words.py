"""Owns the change from the corpus's vocabulary to one that also knows the words of the hand-written sentences: the new tokenizer, the
base with its embeddings, and the corpus in its tokens. A token that is new begins as the mean of those that it was written with before.
"""

import argparse
import copy
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

import convert_rows
from corpus import END_OF_TEXT, IM_END, document, learn_tokens, plain, token_stream
from evaluate import load

SIZE = 6144
DOCUMENTS, SENTENCES = 40_000, 80_000


def grown(base: LlamaForCausalLM, old: Tokenizer, new: Tokenizer) -> LlamaForCausalLM:
    """The base with an embedding for each of the new tokens."""
    config, state = copy.deepcopy(base.config), base.state_dict()
    config.vocab_size = new.get_vocab_size()
    config.bos_token_id = config.pad_token_id = new.token_to_id(END_OF_TEXT)
    config.eos_token_id = new.token_to_id(IM_END)
    before = state.pop("model.embed_tokens.weight")
    state.pop("lm_head.weight", None)
    after = torch.zeros(config.vocab_size, before.shape[1])
    for token in range(config.vocab_size):
        known = old.token_to_id(new.id_to_token(token))
        parts = old.encode(new.decode([token], skip_special_tokens=False)).ids if known is None else [known]
        after[token] = before[parts].mean(0)
    out = LlamaForCausalLM(config)
    out.load_state_dict({**state, "model.embed_tokens.weight": after}, strict=False)
    out.tie_weights()
    return out


def main() -> None:
    """Writes tokenizer, base and corpus."""
    args = argparse.ArgumentParser()
    args.add_argument("tokenizer", type=Path, help="the old one")
    args.add_argument("base", type=Path, help="checkpoint or GGUF file")
    args.add_argument("out", type=Path)
    args.add_argument("--tokens", type=int, default=3_500_000)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(11)
    sentences = convert_rows.Sentences(False, rng)
    texts = [plain(document(rng, 3)) for _ in range(DOCUMENTS)]
    texts += [convert_rows.twice(sentences.draw(convert_rows.WEIGHTS)["text"]) for _ in range(SENTENCES)]
    new = learn_tokens(texts, SIZE, args.out / "tokenizer.json")
    grown(load(args.base, None), Tokenizer.from_file(str(args.tokenizer)), new).save_pretrained(args.out / "base")
    np.save(args.out / "corpus3.npy", token_stream(new, args.tokens, 18, 3))


if __name__ == "__main__":
    main()
