"""Owns time phrases: every way a request says when.

A phrase has two surfaces: `adverb` ("at six", "on friday") and `bare` ("six", "friday"),
as in "set an alarm for six". Knows nothing of requests.
"""

import random
from dataclasses import dataclass

from lexicon import is_held_out

HOURS = "one two three four five six seven eight nine ten eleven twelve".split()
MINUTES = ["five", "ten", "twenty", "twenty five", "a quarter", "quarter"]
SPOKEN_MINUTES = ["ten", "fifteen", "twenty", "twenty five", "thirty", "thirty five", "forty", "forty five", "fifty", "oh five"]
NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "fifteen", "twenty",
           "twenty five", "thirty", "forty", "forty five", "fifty", "sixty", "ninety", "10", "15", "20", "30", "45", "5", "3"]
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
ORDINALS = ("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
            "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth").split() + [
    "twenty first", "twenty second", "twenty third", "twenty fourth", "twenty fifth", "twenty sixth",
    "twenty seventh", "twenty eighth", "thirtieth"]
PARTS = ["morning", "afternoon", "evening"]


@dataclass(frozen=True)
class When:
    """One time phrase; `days` is its day part and `clock` its clock part when it can be split."""

    adverb: str
    bare: str
    days: str | None = None
    clock: str | None = None


def clock(rng: random.Random, part_of_day: bool = True) -> str:
    """A clock time without preposition; `part_of_day` allows "in the morning" and the like after it."""
    hour = rng.choice(HOURS)
    r = rng.random()
    if r < 0.25:
        text = hour
    elif r < 0.35:
        text = f"half past {hour}"
    elif r < 0.5:
        text = f"{rng.choice(MINUTES)} {rng.choice(('past', 'to'))} {hour}"
    elif r < 0.6:
        text = f"{hour} {rng.choice(SPOKEN_MINUTES)}"
    elif r < 0.67:
        text = f"{hour} o'clock"
    elif r < 0.8:
        text = f"{rng.randint(1, 12)} {rng.choice(('am', 'pm', 'pm'))}"
    elif r < 0.9:
        return f"{rng.randint(0, 23)}:{rng.choice(('00', '15', '30', '45', '05', '10', '20', '40', '50'))}"
    else:
        return rng.choice(("noon", "midnight", "lunchtime", "dinner time", "sunrise", "sunset"))
    if part_of_day and r < 0.67 and rng.random() < 0.2:
        text += rng.choice((" in the morning", " in the evening", " in the afternoon", " tonight", " am", " pm"))
    return text


def day(rng: random.Random) -> tuple[str, str]:
    """A day as (adverb, bare)."""
    r = rng.random()
    if r < 0.3:
        text = rng.choice(("tomorrow", "tomorrow", "today", "tomorrow morning", "tomorrow evening", "tomorrow afternoon",
                           "tonight", "this evening", "this afternoon", "tomorrow night", "the day after tomorrow"))
        return text, text
    if r < 0.5:
        name = rng.choice(DAYS) + rng.choice(("", "", "", " " + rng.choice(PARTS)))
        return f"on {name}", name
    if r < 0.65:
        text = f"{rng.choice(('next', 'this', 'next'))} {rng.choice(DAYS)}"
        return text, text
    if r < 0.72:
        text = rng.choice(("next week", "next month", "this weekend", "next weekend", "later today", "first thing tomorrow"))
        return text, text
    if r < 0.88:
        month = rng.choice(MONTHS)
        text = rng.choice((f"the {rng.choice(ORDINALS)} of {month}", f"the {rng.choice(ORDINALS)} of {month}",
                           f"{month} {rng.choice(ORDINALS)}", f"{month} {rng.randint(1, 30)}", f"the {rng.choice(ORDINALS)}"))
        return f"on {text}", text
    text = rng.choice((f"every {rng.choice(DAYS)}", f"every {rng.choice(DAYS)}", "every day", "every morning",
                       "every evening", "every night", "every week", "every weekday", "every other day", "twice a day"))
    return text, text


def duration(rng: random.Random) -> str:
    """A length of time."""
    r = rng.random()
    if r < 0.55:
        return f"{rng.choice(NUMBERS)} minutes"
    if r < 0.7:
        return rng.choice(("an hour", "half an hour", "a minute", "one hour", "an hour and a half", "one minute", "a quarter of an hour"))
    if r < 0.8:
        return f"{rng.choice(NUMBERS)} seconds"
    if r < 0.9:
        return f"{rng.choice(NUMBERS[:9])} hours"
    return f"{rng.choice(NUMBERS[:5])} hours and {rng.choice(NUMBERS)} minutes"


def draw_when(rng: random.Random, held_out: bool, relative: float = 0.2) -> When:
    """Any time phrase from the wanted side of the split; `relative` is the share of "in ten minutes"."""
    while True:
        r = rng.random()
        if r < relative:
            text = rng.choice((f"in {duration(rng)}", f"in {duration(rng)}", f"in {duration(rng)}",
                               f"in {rng.choice(NUMBERS[:8])} {rng.choice(('days', 'weeks', 'hours'))}", f"{duration(rng)} from now"))
            when = When(text, text)
        elif r < relative + 0.25:
            text = clock(rng)
            preposition = rng.choice(("at", "at", "at", "at", "by", "around", "before", "after"))
            when = When(f"{preposition} {text}", text)
        elif r < relative + 0.5:
            adverb, bare = day(rng)
            when = When(adverb, bare)
        elif r < relative + 0.7:
            adverb, bare = day(rng)
            text = clock(rng, part_of_day=False)
            when = When(f"{adverb} at {text}", f"{bare} at {text}", adverb, f"at {text}")
        else:
            adverb, bare = day(rng)
            text = clock(rng, part_of_day=False)
            at = rng.choice((f"at {text} {adverb}", f"at {text} {adverb}", f"at {text} {bare}"))
            when = When(at, at[3:], None, None)
        if is_held_out(when.adverb) == held_out:
            return when
