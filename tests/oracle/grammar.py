#!/usr/bin/env python3
"""Print seeded, English-like text made by a small grammar: one passage a line.

    grammar.py --seed 1 --sentences 1000

The random numbers are splitmix64 written out below, so the text depends on the
seed and on this file only, never on the version of Python.  There is something
to learn (agreement, gender, counting, sums, facts, where a thing was put,
repeating a list), and little of it, so a tiny model reaches a low perplexity.
"""
import argparse
import sys

MASK = (1 << 64) - 1

GIRLS = "Anna Mia Lily Sara Nora Ella".split()
BOYS = "Tom Ben Max Sam Leo Jack".split()
COLOURS = "red blue green yellow black white".split()
SIZES = "big small old new".split()
THINGS = "ball kite book hat box cup drum key lamp coin".split()
HOLDERS = "box bag basket drawer cupboard".split()
PLACES = "park garden forest river market school beach hill".split()
FRUIT = "apple pear plum fig cherry".split()
FEELINGS = "happy sad tired proud scared".split()
WORDS = ("zero one two three four five six seven eight nine ten eleven twelve "
         "thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty").split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = ("January February March April May June July August September "
          "October November December").split()
OPPOSITES = [("hot", "cold"), ("big", "small"), ("up", "down"), ("day", "night"),
             ("old", "new"), ("fast", "slow"), ("open", "closed"), ("wet", "dry")]
# animal, plural, sound, food, legs, home
ANIMALS = [
    ("cow", "cows", "moo", "grass", 4, "farm"),
    ("dog", "dogs", "woof", "meat", 4, "house"),
    ("cat", "cats", "meow", "fish", 4, "house"),
    ("duck", "ducks", "quack", "bread", 2, "pond"),
    ("hen", "hens", "cluck", "corn", 2, "farm"),
    ("owl", "owls", "hoot", "mice", 2, "forest"),
    ("frog", "frogs", "croak", "flies", 4, "pond"),
    ("sheep", "sheep", "baa", "grass", 4, "farm"),
    ("bee", "bees", "buzz", "honey", 6, "garden"),
    ("wolf", "wolves", "howl", "meat", 4, "forest"),
]
COLOUR_OF = [("grass", "green"), ("snow", "white"), ("the sky", "blue"),
             ("the sun", "yellow"), ("coal", "black"), ("a tomato", "red")]
ACTS = [("run", "runs"), ("sleep", "sleeps"), ("jump", "jumps"),
        ("sing", "sings"), ("swim", "swims"), ("play", "plays")]


class Dice:
    """splitmix64: a counter through a mixing function."""

    def __init__(self, seed):
        self.state = seed & MASK

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return (self.next() * n) >> 64

    def pick(self, items):
        return items[self.below(len(items))]

    def sample(self, items, k):
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(k)]


def cap(s):
    return s[0].upper() + s[1:]


def an(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def many(n, noun):
    """A number in words and its noun, agreeing."""
    if n == 1:
        return "one " + noun
    if noun.endswith("y"):
        return f"{WORDS[n]} {noun[:-1]}ies"
    return f"{WORDS[n]} {noun}s"


def person(d):
    """name, he/she, his/her, him/her"""
    if d.below(2):
        return d.pick(GIRLS), "she", "her", "her"
    return d.pick(BOYS), "he", "his", "him"


def lost_story(d):
    name, he, his, him = person(d)
    thing, colour, (first, second) = d.pick(THINGS), d.pick(COLOURS), d.sample(PLACES, 2)
    friend = d.pick([n for n in GIRLS + BOYS if n != name])
    return [
        f"One day {name} went to the {first} with {his} {colour} {thing}.",
        f"{cap(he)} played with the {colour} {thing} until the sun went down.",
        f"On the way home {he} could not find it and {he} was very sad.",
        f"\"Where is my {thing}?\" said {name}.",
        f"{friend} heard {him} and went to look near the {second}.",
        f"There was the {colour} {thing}!",
        f"{name} said thank you to {friend}, and they were happy.",
    ]


def animal_story(d):
    name, he, his, him = person(d)
    kind, _, sound, food, _, home = d.pick(ANIMALS)
    size = d.pick(SIZES)
    return [
        f"Once there was {an(size)} {kind} that lived near the {home}.",
        f"{name} gave the {kind} some {food}.",
        f"\"{cap(sound)}!\" said the {kind}, and it ate all the {food}.",
        f"After that the {kind} was not hungry, and {name} was {d.pick(['happy', 'proud'])}.",
        f"{cap(he)} told {his} mother about the {size} {kind}.",
    ]


def moves(d):
    """Where is it now?  The last place counts."""
    name, he, _, _ = person(d)
    thing, other = d.sample(THINGS[:2] + THINGS[5:], 2)
    a, b, c = d.sample(HOLDERS, 3)
    out = [f"The {thing} is in the {a}.", f"The {other} is in the {b}."]
    at = {thing: a, other: b}
    moved = d.pick([thing, other])
    out.append(f"{name} takes the {moved} out of the {at[moved]} and puts it in the {c}.")
    at[moved] = c
    asked = d.pick([thing, other])
    out += [f"Where is the {asked}?", f"It is in the {at[asked]}."]
    return out


def counting(d):
    start, n = d.below(9) + 1, d.below(5) + 4
    noun = d.pick(FRUIT + THINGS[:4])
    if d.below(2):
        last = start + n - 1
        return ["Count with me: " + ", ".join(str(i) for i in range(start, last + 1)) + ".",
                f"The next number is {last + 1}."]
    n = d.below(4) + 3
    return [cap(", ".join(many(i, noun) for i in range(1, n + 1))) + ".",
            f"There are {many(n, noun)}."]


def sums(d):
    name, he, _, _ = person(d)
    noun = d.pick(FRUIT)
    a, b = d.below(9) + 1, d.below(9) + 1
    kind = d.below(3)
    if kind == 0:
        return [f"{cap(WORDS[a])} plus {WORDS[b]} is {WORDS[a + b]}.",
                f"{cap(WORDS[a + b])} minus {WORDS[b]} is {WORDS[a]}."]
    if kind == 1:
        return [f"{name} has {many(a, noun)}.", f"{cap(he)} finds {WORDS[b]} more.",
                f"Now {he} has {many(a + b, noun)}."]
    if a == b:
        return [f"{WORDS[a].capitalize()} is the same as {WORDS[b]}."]
    more = "more" if a > b else "less"
    return [f"{cap(WORDS[a])} is {more} than {WORDS[b]}."]


def animal_facts(d):
    one, more, sound, food, legs, home = d.pick(ANIMALS)
    facts = [f"{cap(an(one))} says {sound}.", f"{cap(more)} eat {food}.",
             f"{cap(an(one))} has {WORDS[legs]} legs.", f"{cap(more)} live near the {home}.",
             f"What does {an(one)} say? {cap(sound)}.", f"What do {more} eat? {cap(food)}."]
    return d.sample(facts, 3)


def order_facts(d):
    ring = d.pick([DAYS, MONTHS])
    i = d.below(len(ring))
    a, b, c = (ring[(i + k) % len(ring)] for k in range(3))
    return [f"After {a} comes {b}.", f"After {b} comes {c}.", f"Before {b} comes {a}."]


def small_facts(d):
    out = []
    for _ in range(2):
        if d.below(2):
            pair = d.pick(OPPOSITES)
            a, b = pair if d.below(2) else pair[::-1]
            out.append(f"The opposite of {a} is {b}.")
        else:
            thing, colour = d.pick(COLOUR_OF)
            out.append(f"{cap(thing)} is {colour}.")
    return out


def agreement(d):
    """The verb agrees with the first noun, not with the nearest."""
    out = []
    for _ in range(2):
        one, more, *_ = d.pick(ANIMALS)
        plural, singular = d.pick(ACTS)
        near = d.pick([f"the {d.pick(THINGS)}", f"the {d.pick(THINGS[:5])}s".replace("boxs", "boxes")])
        if d.below(2):
            out.append(f"The {d.pick(COLOURS)} {one} near {near} {singular}."
                       if one != "sheep" else f"One sheep near {near} {singular}.")
        else:
            out.append(f"{cap(d.pick(WORDS[2:7]))} {more} near {near} {plural}.")
    return out


def repeat(d):
    words = d.sample(COLOURS, d.below(3) + 3)
    if d.below(2):
        return [f"Say it again: {' '.join(words)}.", f"{cap(' '.join(words))}."]
    return [f"Say it backwards: {' '.join(words)}.", f"{cap(' '.join(words[::-1]))}."]


def feeling(d):
    name, he, his, _ = person(d)
    how = d.pick(FEELINGS)
    why = {"happy": f"it was {his} birthday", "sad": f"{he} lost {his} {d.pick(THINGS)}",
           "tired": f"{he} walked to the {d.pick(PLACES)}",
           "proud": f"{he} could count to {d.pick(WORDS[5:])}",
           "scared": f"{he} saw {an(d.pick(['wolf', 'owl', 'bee']))}"}[how]
    return [f"{name} was {how} because {why}.", f"\"I am {how},\" said {name}."]


KINDS = [lost_story, lost_story, animal_story, animal_story, moves, moves, counting, sums, sums,
         animal_facts, animal_facts, order_facts, small_facts, agreement, repeat, feeling]


def passages(seed, sentences):
    """Yield passages (strings without newline) until there are enough sentences."""
    d, made = Dice(seed), 0
    while made < sentences:
        lines = d.pick(KINDS)(d)
        made += len(lines)
        yield " ".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--sentences", type=int, default=100)
    a = p.parse_args()
    for text in passages(a.seed, a.sentences):
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
