/*
 * grammar: English-like text made by a small grammar, one passage a line.
 *
 *     grammar SEED SENTENCES
 *
 * The text is that of tests/oracle/grammar.py, which says what there is to be
 * learned of it, for each seed: the same choices are made in the same order.
 * The random numbers are splitmix64; one below n is the high word of n times
 * the next.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(list) (sizeof(list) / sizeof *(list))
#define PICK(list)  (list)[below(COUNT(list))]

static const char *const girls[] = {"Anna", "Mia",  "Lily",
                                    "Sara", "Nora", "Ella"};
static const char *const boys[] = {"Tom", "Ben", "Max", "Sam", "Leo", "Jack"};
static const char *const colours[] = {"red",    "blue",  "green",
                                      "yellow", "black", "white"};
static const char *const sizes[] = {"big", "small", "old", "new"};
static const char *const things[] = {"ball", "kite", "book", "hat",  "box",
                                     "cup",  "drum", "key",  "lamp", "coin"};
static const char *const holders[] = {"box", "bag", "basket", "drawer",
                                      "cupboard"};
static const char *const places[] = {"park",   "garden", "forest", "river",
                                     "market", "school", "beach",  "hill"};
static const char *const fruit[] = {"apple", "pear", "plum", "fig", "cherry"};
static const char *const feelings[] = {"happy", "sad", "tired", "proud",
                                       "scared"};
static const char *const numbers[] = {
    "zero",     "one",      "two",      "three",   "four",    "five",
    "six",      "seven",    "eight",    "nine",    "ten",     "eleven",
    "twelve",   "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen", "twenty"};
static const char *const days[] = {"Monday",   "Tuesday", "Wednesday",
                                   "Thursday", "Friday",  "Saturday",
                                   "Sunday"};
static const char *const months[] = {
    "January", "February", "March",     "April",   "May",      "June",
    "July",    "August",   "September", "October", "November", "December"};
static const char *const opposites[][2] = {
    {"hot", "cold"}, {"big", "small"}, {"up", "down"},     {"day", "night"},
    {"old", "new"},  {"fast", "slow"}, {"open", "closed"}, {"wet", "dry"}};
static const char *const colour_of[][2] = {
    {"grass", "green"},    {"snow", "white"}, {"the sky", "blue"},
    {"the sun", "yellow"}, {"coal", "black"}, {"a tomato", "red"}};
static const char *const acts[][2] = {{"run", "runs"},   {"sleep", "sleeps"},
                                      {"jump", "jumps"}, {"sing", "sings"},
                                      {"swim", "swims"}, {"play", "plays"}};
static const struct animal {
    const char *one, *more, *sound, *food;
    unsigned legs;
    const char *home;
} animals[] = {
    {"cow", "cows", "moo", "grass", 4, "farm"},
    {"dog", "dogs", "woof", "meat", 4, "house"},
    {"cat", "cats", "meow", "fish", 4, "house"},
    {"duck", "ducks", "quack", "bread", 2, "pond"},
    {"hen", "hens", "cluck", "corn", 2, "farm"},
    {"owl", "owls", "hoot", "mice", 2, "forest"},
    {"frog", "frogs", "croak", "flies", 4, "pond"},
    {"sheep", "sheep", "baa", "grass", 4, "farm"},
    {"bee", "bees", "buzz", "honey", 6, "garden"},
    {"wolf", "wolves", "howl", "meat", 4, "forest"},
};

/* ---- dice --------------------------------------------------------------- */

static uint64_t state;

static uint64_t next(void)
{
    uint64_t z = state += 0x9E3779B97F4A7C15u;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* n < 2^32 */
static size_t below(uint64_t n)
{
    const uint64_t z = next();

    return (size_t)(((z >> 32) * n + ((z & 0xffffffffu) * n >> 32)) >> 32);
}

/* k of the n <= 16 items, in the order in which they are drawn. */
static void sample(const char *const *items, size_t n, size_t k,
                   const char **out)
{
    const char *left[16];

    memcpy(left, items, n * sizeof *left);
    for (size_t i = 0; i < k; i++, n--) {
        const size_t at = below(n);
        out[i] = left[at];
        memmove(left + at, left + at + 1, (n - at - 1) * sizeof *left);
    }
}

/* ---- words -------------------------------------------------------------- */

/* A text that lives until 16 more were made. */
static const char *word(const char *fmt, ...)
{
    static char texts[16][128];
    static size_t at;
    va_list ap;

    at = (at + 1) % COUNT(texts);
    va_start(ap, fmt);
    vsnprintf(texts[at], sizeof texts[at], fmt, ap);
    va_end(ap);
    return texts[at];
}

static const char *cap(const char *s)
{
    return word("%c%s", toupper((unsigned char)*s), s + 1);
}

static const char *an(const char *noun)
{
    return word("%s %s", strchr("aeiou", *noun) ? "an" : "a", noun);
}

/* A number in words and its noun, agreeing. */
static const char *many(size_t n, const char *noun)
{
    const size_t last = strlen(noun) - 1;

    if (n == 1)
        return word("one %s", noun);
    if (noun[last] == 'y')
        return word("%s %.*sies", numbers[n], (int)last, noun);
    return word("%s %ss", numbers[n], noun);
}

static const char *join(const char *const *items, size_t n)
{
    const char *text = *items;

    for (size_t i = 1; i < n; i++)
        text = word("%s %s", text, items[i]);
    return text;
}

struct person {
    const char *name, *he, *his, *him;
};

static struct person person(void)
{
    if (below(2))
        return (struct person){PICK(girls), "she", "her", "her"};
    return (struct person){PICK(boys), "he", "his", "him"};
}

/* ---- a passage ---------------------------------------------------------- */

static unsigned long long said;  /* sentences of all passages */
static unsigned long long begun; /* those before this passage */

/* A sentence, which begins with a capital letter. */
static void say(const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    *text = (char)toupper((unsigned char)*text);
    printf("%s%s", said++ == begun ? "" : " ", text);
}

static void lost_story(void)
{
    const struct person p = person();
    const char *thing = PICK(things), *colour = PICK(colours), *where[2];
    const char *others[12];
    size_t n = 0;

    sample(places, COUNT(places), 2, where);
    for (size_t i = 0; i < COUNT(girls) + COUNT(boys); i++) {
        const char *other =
            i < COUNT(girls) ? girls[i] : boys[i - COUNT(girls)];
        if (strcmp(other, p.name) != 0)
            others[n++] = other;
    }
    const char *friend = others[below(n)];
    say("One day %s went to the %s with %s %s %s.", p.name, where[0], p.his,
        colour, thing);
    say("%s played with the %s %s until the sun went down.", p.he, colour,
        thing);
    say("On the way home %s could not find it and %s was very sad.", p.he,
        p.he);
    say("\"Where is my %s?\" said %s.", thing, p.name);
    say("%s heard %s and went to look near the %s.", friend, p.him, where[1]);
    say("There was the %s %s!", colour, thing);
    say("%s said thank you to %s, and they were happy.", p.name, friend);
}

static void animal_story(void)
{
    static const char *const ends[] = {"happy", "proud"};
    const struct person p = person();
    const struct animal *a = &PICK(animals);
    const char *size = PICK(sizes);

    say("Once there was %s %s that lived near the %s.", an(size), a->one,
        a->home);
    say("%s gave the %s some %s.", p.name, a->one, a->food);
    say("\"%s!\" said the %s, and it ate all the %s.", cap(a->sound), a->one,
        a->food);
    say("After that the %s was not hungry, and %s was %s.", a->one, p.name,
        PICK(ends));
    say("%s told %s mother about the %s %s.", p.he, p.his, size, a->one);
}

/* Where is it now?  The last place counts. */
static void moves(void)
{
    static const char *const movable[] = {"ball", "kite", "cup", "drum",
                                          "key",  "lamp", "coin"};
    const struct person p = person();
    const char *what[2], *in[3];

    sample(movable, COUNT(movable), 2, what);
    sample(holders, COUNT(holders), 3, in);
    say("The %s is in the %s.", what[0], in[0]);
    say("The %s is in the %s.", what[1], in[1]);
    const size_t moved = below(2);
    say("%s takes the %s out of the %s and puts it in the %s.", p.name,
        what[moved], in[moved], in[2]);
    in[moved] = in[2];
    const size_t asked = below(2);
    say("Where is the %s?", what[asked]);
    say("It is in the %s.", in[asked]);
}

static void counting(void)
{
    static const char *const nouns[] = {"apple", "pear",   "plum",
                                        "fig",   "cherry", "ball",
                                        "kite",  "book",   "hat"};
    const size_t first = below(9) + 1, last = first + below(5) + 3;
    const char *noun = PICK(nouns), *text;

    if (below(2)) {
        text = word("Count with me: %zu", first);
        for (size_t i = first + 1; i <= last; i++)
            text = word("%s, %zu", text, i);
        say("%s.", text);
        say("The next number is %zu.", last + 1);
        return;
    }
    const size_t n = below(4) + 3;
    text = many(1, noun);
    for (size_t i = 2; i <= n; i++)
        text = word("%s, %s", text, many(i, noun));
    say("%s.", text);
    say("There are %s.", many(n, noun));
}

static void sums(void)
{
    const struct person p = person();
    const char *noun = PICK(fruit);
    const size_t a = below(9) + 1, b = below(9) + 1, kind = below(3);

    if (kind == 0) {
        say("%s plus %s is %s.", numbers[a], numbers[b], numbers[a + b]);
        say("%s minus %s is %s.", numbers[a + b], numbers[b], numbers[a]);
    } else if (kind == 1) {
        say("%s has %s.", p.name, many(a, noun));
        say("%s finds %s more.", p.he, numbers[b]);
        say("Now %s has %s.", p.he, many(a + b, noun));
    } else {
        say("%s is %s %s.", numbers[a],
            a == b  ? "the same as"
            : a > b ? "more than"
                    : "less than",
            numbers[b]);
    }
}

static void animal_facts(void)
{
    const struct animal *a = &PICK(animals);
    const char *one = an(a->one), *chosen[3];
    const char *const facts[] = {
        word("%s says %s.", one, a->sound),
        word("%s eat %s.", a->more, a->food),
        word("%s has %s legs.", one, numbers[a->legs]),
        word("%s live near the %s.", a->more, a->home),
        word("What does %s say? %s.", one, cap(a->sound)),
        word("What do %s eat? %s.", a->more, cap(a->food))};

    sample(facts, COUNT(facts), 3, chosen);
    for (size_t i = 0; i < 3; i++)
        say("%s", chosen[i]);
}

static void order_facts(void)
{
    const size_t year = below(2), n = year ? COUNT(months) : COUNT(days);
    const char *const *ring = year ? months : days;
    const size_t i = below(n);
    const char *a = ring[i], *b = ring[(i + 1) % n], *c = ring[(i + 2) % n];

    say("After %s comes %s.", a, b);
    say("After %s comes %s.", b, c);
    say("Before %s comes %s.", b, a);
}

static void small_facts(void)
{
    for (int i = 0; i < 2; i++) {
        if (below(2)) {
            const char *const *pair = PICK(opposites);
            const size_t first = !below(2);
            say("The opposite of %s is %s.", pair[first], pair[!first]);
        } else {
            const char *const *fact = PICK(colour_of);
            say("%s is %s.", fact[0], fact[1]);
        }
    }
}

/* The verb agrees with the first noun, not with the nearest. */
static void agreement(void)
{
    for (int i = 0; i < 2; i++) {
        const struct animal *a = &PICK(animals);
        const char *const *act = PICK(acts);
        const char *one = PICK(things), *more = things[below(5)];
        more = word("%s%s", more, strcmp(more, "box") == 0 ? "es" : "s");
        const char *near = below(2) ? more : one;
        if (!below(2))
            say("%s %s near the %s %s.", numbers[2 + below(5)], a->more, near,
                act[0]);
        else if (strcmp(a->one, "sheep") == 0)
            say("One sheep near the %s %s.", near, act[1]);
        else
            say("The %s %s near the %s %s.", PICK(colours), a->one, near,
                act[1]);
    }
}

static void repeat(void)
{
    const size_t n = below(3) + 3;
    const char *words[5] = {NULL}, *turned[5];

    sample(colours, COUNT(colours), n, words);
    for (size_t i = 0; i < n; i++)
        turned[i] = words[n - 1 - i];
    const size_t again = below(2);
    say("Say it %s: %s.", again ? "again" : "backwards", join(words, n));
    say("%s.", join(again ? words : turned, n));
}

static void feeling(void)
{
    static const char *const terrors[] = {"wolf", "owl", "bee"};
    const struct person p = person();
    const size_t how = below(COUNT(feelings));
    const char *thing = PICK(things), *place = PICK(places);
    const char *number = numbers[5 + below(16)], *terror = PICK(terrors);
    const char *const why[] = {word("it was %s birthday", p.his),
                               word("%s lost %s %s", p.he, p.his, thing),
                               word("%s walked to the %s", p.he, place),
                               word("%s could count to %s", p.he, number),
                               word("%s saw %s", p.he, an(terror))};

    say("%s was %s because %s.", p.name, feelings[how], why[how]);
    say("\"I am %s,\" said %s.", feelings[how], p.name);
}

typedef void passage(void);

int main(int argc, char **argv)
{
    static passage *const kinds[] = {
        lost_story,  lost_story,   animal_story, animal_story,
        moves,       moves,        counting,     sums,
        sums,        animal_facts, animal_facts, order_facts,
        small_facts, agreement,    repeat,       feeling};

    if (argc != 3) {
        fprintf(stderr, "usage: grammar SEED SENTENCES\n");
        return 2;
    }
    state = strtoull(argv[1], NULL, 10);
    const unsigned long long enough = strtoull(argv[2], NULL, 10);
    while (said < enough) {
        begun = said;
        PICK(kinds)();
        putchar('\n');
    }
    return fflush(stdout) || ferror(stdout) ? 2 : 0;
}
