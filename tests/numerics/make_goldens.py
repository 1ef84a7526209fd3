"""Makes the golden files under tests/golden from the reference implementations.

    python tests/numerics/make_goldens.py [quants] [tokenizers] [templates] [models]
        [architectures[:NAME,...]] [training[:NAME,...]] [embeddings]

Needs torch, transformers, peft, gguf, tokenizers and safetensors (versions: tests/numerics/requirements.txt). The tests run
from the files; this runs again only when a format, an architecture or a prompt is added. Seeds are fixed.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
GOLDEN = HERE.parent / "golden"


def main(parts):
    wanted = parts or ["quants", "tokenizers", "templates", "models", "architectures", "training", "embeddings"]
    if "quants" in wanted:
        from goldens import quants

        quants.write(GOLDEN / "quants")
    if "tokenizers" in wanted:
        from goldens import tokenizers_

        tokenizers_.write(GOLDEN / "tokenizers")
    if "templates" in wanted:
        from goldens import templates

        templates.write(GOLDEN / "templates")
    if "models" in wanted:
        from goldens import gguf_model, models

        models.write(GOLDEN / "models")
        gguf_model.write(GOLDEN / "gguf")
    for part in wanted:
        part, _, names = part.partition(":")
        only = names.split(",") if names else ()
        if part == "architectures":
            from goldens import architectures

            architectures.write(GOLDEN / "models", GOLDEN / "gguf", only)
        if part == "training":
            from goldens import training

            training.write(GOLDEN / "training", GOLDEN / "models", only)
        if part == "embeddings":
            from goldens import embeddings

            embeddings.write(GOLDEN / "embeddings", GOLDEN / "models")


if __name__ == "__main__":
    main(sys.argv[1:])
