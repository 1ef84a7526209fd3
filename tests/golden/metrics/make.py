"""Owns expected.json: what sacrebleu and rouge-score say of pairs of answer and target, and of sets of them.

Usage: pip install -r requirements.txt; python make.py. Same output each time. The word measures, which have no reference of their
own, are written here a second time, in the shortest way.
"""

import json
import random
import re
from collections import Counter
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

HAND = [
    ("", ""),
    ("", "a target"),
    ("an answer", ""),
    ("the cat sat on the mat", "the cat sat on the mat"),
    ("The cat sat on the mat.", "the cat sat on a mat"),
    ("the the the the the the the", "the cat is on the mat"),
    ("cat", "cat"),
    ("cat", "dog"),
    ("a b c", "a b c d e f g h"),
    ("a b c d e f g h", "a b c"),
    ("It costs $3.50, or 1,000 yen; that's 5-10% off.", "It costs 3.50 dollars, or 1,000 yen, 5 - 10 % off!"),
    ("x.5 5.x .5 5. , 5,5 a,b a.b 1.2.3 1,2,3", "x .5 5 .x .5 5. , 5,5 a , b a . b 1.2.3 1,2,3"),
    ("wait... what?! (really) [sic] {x} <y> a/b a\\b a|b ~c `d` ^e @f #g *h* +i =j _k_ \"l\" 'm' &n",
     "wait … what?! really sic x y a / b a \\ b a | b"),
    ("Tom &amp; Jerry &lt;3 &quot;cheese&quot; &amp;lt;", "Tom & Jerry <3 \"cheese\" <"),
    ("a line\nbreak and hyphen-\nation <skipped> here", "a line break and hyphenation here"),
    ("2020-05-06 to 7-8 and co-op 9-", "2020 - 05 - 06 to 7-8 and co-op"),
    ("Grüße aus Österreich, schöne Straße", "grüsse aus Österreich; schöne STRASSE"),
    ("東京は日本の首都です。", "東京は日本の首都である。"),
    ("İstanbul \u212aelvin ΟΔΥΣΣΕΥΣ", "istanbul kelvin οδυσσευς"),
    ("tabs\tand\u00a0hard\u2003spaces\u001cand\u001fseparators\u0085here", "tabs and hard spaces and separators here"),
    ("trailing spaces   \n\n", "trailing spaces"),
    ("emoji 😀😀 and ✓", "emoji 😀 and ✓"),
    ("!!! ???", "!!! ???"),
    ("!!!", "???"),
    ("naïve café résumé", "naive cafe resume"),
    ('{"intent": "reminder", "task": "call mum", "when": null}', '{"intent":"reminder","task":"call mum","when":"at six"}'),
    ("one two three four five six seven", "seven six five four three two one"),
    ("deleted-\r\nline and \r return", "deleted line and return"),
    ("don't can't won't it's", "do not cannot will not it is"),
    ("e.g. i.e. U.S.A. 3.14. Mr. X", "eg ie USA 3.14 Mr X"),
]

WORDS = ["the", "a", "red", "call", "mum", "at", "six", "Tomorrow", "3.5", "1,000", "ok.", "(so)", "x-ray", "7-up", "end!", "\"q\"", "naïve", "é", "日本", "a.b", "it's", "%", "A&B", "&amp;"]


def drawn() -> list[tuple[str, str]]:
    """Targets of random words, and answers with words left out, replaced and exchanged."""
    rng = random.Random(4)
    pairs = []
    for _ in range(60):
        target = [rng.choice(WORDS) for _ in range(rng.randint(1, 25))]
        answer = [rng.choice(WORDS) if rng.random() < 0.2 else word for word in target if rng.random() > 0.15]
        if rng.random() < 0.3 and len(answer) > 3:
            at = rng.randrange(len(answer) - 2)
            answer[at], answer[at + 1] = answer[at + 1], answer[at]
        pairs.append((" ".join(answer), " ".join(target)))
    return pairs


IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


def words(text: str) -> list[str]:
    """Runs of letters and digits in lower case, each Chinese or Japanese character by itself; where there are none, all characters."""
    found = re.findall(rf"[{IDEOGRAPH}]|(?:(?![{IDEOGRAPH}_])\w)+", text.lower())
    return found or [c for c in text if not c.isspace()]


def overlap(answer: str, target: str) -> list[float]:
    """Precision, recall and F1 of the words, as in SQuAD."""
    said, wanted = words(answer), words(target)
    if not said or not wanted:
        return [float(said == wanted)] * 3
    same = sum((Counter(said) & Counter(wanted)).values())
    precision, recall = same / len(said), same / len(wanted)
    return [precision, recall, 2 * precision * recall / (precision + recall) if same else 0.0]


def main() -> None:
    """Writes the file beside this one."""
    pairs = HAND + drawn()
    rouge, sentence, corpus = RougeScorer(["rougeL"]), BLEU(effective_order=True), BLEU()
    rows = []
    for answer, target in pairs:
        longest = rouge.score(target, answer)["rougeL"]
        rows.append({
            "answer": answer,
            "target": target,
            "bleu": sentence.sentence_score(answer, [target]).score,
            "rouge_l": [longest.precision, longest.recall, longest.fmeasure],
            "words": overlap(answer, target),
        })
    sets = []
    for first, last in [(0, 1), (0, 3), (3, 5), (6, 8), (7, 8), (8, 9), (9, 10), (10, 20), (0, len(HAND)), (len(HAND), len(pairs)), (0, len(pairs))]:
        answers, targets = [a for a, _ in pairs[first:last]], [t for _, t in pairs[first:last]]
        score = corpus.corpus_score(answers, [targets])
        sets.append({"first": first, "last": last, "bleu": score.score, "answer_tokens": score.sys_len, "target_tokens": score.ref_len})
    out = {"rows": rows, "sets": sets}
    Path(__file__).with_name("expected.json").write_text(json.dumps(out, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main()
