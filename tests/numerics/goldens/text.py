"""Text of our own: what the small tokenizers are trained on, what prompts are made of, what tokenization is compared on."""

TRAINING = """
Remind me to water the plants tomorrow at six, and call the workshop about the blue bicycle.
The harbour was quiet in the morning; three boats waited for wind, and the fourth had lost its rudder.
When a request arrives, the server reads the key, finds the tenant and hands the tokens to the engine.
She counted 12 apples, 7 pears and 1 very small lemon, then wrote "20 pieces of fruit" on the list.
Bread needs flour, water, salt and time. Most of all it needs time, and a warm place by the window.
Which train goes to the coast on Sunday? The one at 9:45 stops everywhere; the one at 10:10 does not.
def area(width, height):
    return width * height  # square metres
{"intent": "reminder", "task": "call mum", "when": "tomorrow 18:00"}
It's not that we don't know; it's that they're asking the wrong people, and we've said so before.
The adapter changes a few numbers in every layer, and the same base answers in another voice.
"""

PROMPTS = {
    "harbour": (
        "The harbour master wrote the names of the boats in a book, one line for every boat that came in before the tide "
        "turned. On Monday there were twelve; on Tuesday only seven, because of the fog. He liked the fog. It made the "
        "men on the quay talk less and listen more, and when the fourth boat lost its rudder again they heard it long "
        "before they saw it. 'Call the workshop,' he said, 'and tell them to bring the blue paint as well.' Nobody asked why."
    ),
    "list": (
        "Shopping for Sunday:\n- 12 apples, 7 pears, 1 lemon\n- flour (2 kg), salt, butter\n- a new rudder?? no: ask the workshop first\n"
        '{"intent": "reminder", "task": "water the plants", "when": "tomorrow 6:00"}\n'
        "def total(prices):\n    return sum(prices)  # in euros, €\n\nThe train at 9:45 stops everywhere; the one at 10:10 does "
        "not, so take the second one, and don't forget the list this time. Größe 43, naïve café, 東京 ☕.\n"
    ),
    "short": "Remind me to call",
}

CORPUS = [
    "",
    " ",
    "Hello, world!",
    "  leading and trailing spaces   ",
    "tabs\tand\nnew lines\r\n\r\nand   runs      of spaces",
    "It's we've I'LL don'T they're YOU'RE",
    "numbers 1 12 123 1234 12345678 3.14159 1,000,000 ²½ ٣٤",
    "def f(x):\n    return x ** 2  # comment\n\n\nprint(f(3))\n",
    "Größe, naïve café, Ångström; e\u0301 composed or not",
    "東京の夜は静かだ。 한국어도 조금. Привет, мир! שלום مرحبا",
    "emoji ☕ 👩‍👩‍👧‍👦 🇳🇴 👍🏽 and \U0001f9ff\U0010fffd",
    "<|im_start|>user\nspecial tokens in text<|im_end|>\n<|endoftext|>",
    "<s>[INST] older specials [/INST]</s>",
    "a" * 70 + "!" * 40,
    "mixed\u00a0spaces\u2003of\u200bmany\u3000kinds",
    "\x00\x01control\x7f and \ufffd replacement",
    "https://example.org/a_b-c?d=e%20f#g {\"k\": [1, 2, {\"n\": null}]}",
]
