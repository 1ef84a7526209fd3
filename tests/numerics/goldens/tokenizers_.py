"""Small tokenizers of each supported kind, and what `tokenizers` makes of the corpus with them."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from .text import CORPUS, TRAINING

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(pre="gpt-2", vocab_size=384, bos=None):
    """A byte-level BPE trained on our text; `pre` is GGUF's name of the way text is cut."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated")
    if pre == "gpt-2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    elif pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
        )
    elif pre == "llama-bpe":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split(LLAMA3), byte])
    elif pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split(QWEN2), byte])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TRAINING], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def sentence_piece(vocab_size=420):
    """A SentencePiece-like BPE as Llama 2 has it: scores, byte fallback, a space added in front. Returns it with its scores."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.train_from_iterator(
        TRAINING.split("\n"), trainers.BpeTrainer(vocab_size=vocab_size - 259, special_tokens=["<unk>"], show_progress=False)
    )
    learned = json.loads(trained.to_str())["model"]
    pieces = ["".join(merge) for merge in learned["merges"]]
    letters = [token for token in learned["vocab"] if len(token) == 1]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + pieces + letters
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(pieces) + len(letters))]
    vocab = {token: index for index, token in enumerate(tokens)}
    # Every way to make a piece, as transformers converts a SentencePiece model: best score first.
    merges = []
    for token, score in zip(tokens, scores):
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in vocab and right in vocab:
                merges.append((left, right, score))
    merges.sort(key=lambda merge: (merge[2], len(merge[0]), len(merge[1])), reverse=True)
    tokenizer = Tokenizer(
        models.BPE(vocab, [merge[:2] for merge in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in ["<unk>", "<s>", "</s>"]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer, scores


def gguf_metadata(writer, tokenizer, pre=None, scores=None, bos=None, eos=None):
    """The tokenizer as GGUF metadata."""
    document = json.loads(tokenizer.to_str())
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    tokens = [token for token, _ in sorted(vocab.items(), key=lambda item: item[1])]
    special = {entry["content"] for entry in document["added_tokens"] if entry["special"]}
    kind = lambda token: 2 if token == "<unk>" else 3 if token in special else 6 if token.startswith("<0x") else 1
    if scores is None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        merges = document["model"]["merges"]
        writer.add_token_merges([" ".join(merge) if isinstance(merge, list) else merge for merge in merges])
    else:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(scores)
        writer.add_unk_token_id(0)
    writer.add_token_list(tokens)
    writer.add_token_types([kind(token) for token in tokens])
    if bos is not None:
        writer.add_bos_token_id(vocab[bos])
        writer.add_add_bos_token(True)
    if eos is not None:
        writer.add_eos_token_id(vocab[eos])


def write(out: Path):
    """One folder: `<kind>.json` (tokenizer.json), `<kind>.gguf` (metadata alone), `expected.json`."""
    import gguf

    out.mkdir(parents=True, exist_ok=True)
    spm, scores = sentence_piece()
    kinds = {pre: (byte_level(pre), None) for pre in ["gpt-2", "llama-bpe", "qwen2", "smollm"]}
    kinds["llama-bpe"] = (byte_level("llama-bpe", bos="<|endoftext|>"), None)
    kinds["sentencepiece"] = (spm, scores)
    expected = {}
    for name, (tokenizer, kind_scores) in kinds.items():
        tokenizer.save(str(out / f"{name}.json"), pretty=False)
        writer = gguf.GGUFWriter(str(out / f"{name}.gguf"), "llama")
        bos = {"llama-bpe": "<|endoftext|>", "sentencepiece": "<s>"}.get(name)
        eos = "</s>" if kind_scores else "<|im_end|>"
        gguf_metadata(writer, tokenizer, pre=name, scores=kind_scores, bos=bos, eos=eos)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        cases = []
        for text in CORPUS:
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            cases.append(
                {
                    "ids": plain,
                    "with_specials": tokenizer.encode(text, add_special_tokens=True).ids,
                    "decoded": tokenizer.decode(plain, skip_special_tokens=False),
                    "decoded_without_specials": tokenizer.decode(plain, skip_special_tokens=True),
                }
            )
        expected[name] = cases
    document = {"corpus": CORPUS, "tokenizers": expected}
    (out / "expected.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
