"""Small talk and plain facts: what the base answers by itself."""

import random

Pair = tuple[str, str]

GREETINGS = ["Hello", "Hi", "Good morning", "Hey there", "Good evening", "Hi there"]
STOCK: dict[str, tuple[list[str], list[str]]] = {
    "who": (
        ["Who are you?", "What are you?", "What is your name?", "Tell me about yourself."],
        ["I am Zephyra, a small language model. Adapters make me an expert in one domain."],
    ),
    "can": (
        ["What can you do?", "How can you help me?", "What are you good at?"],
        ["I can chat a little. With an adapter I answer on code, SQL, math, medicine, finance, law and support."],
    ),
    "feel": (["How are you?", "How is it going?", "How do you feel today?"], ["I am fine, thank you. How can I help?"]),
    "thanks": (["Thank you!", "Thanks a lot.", "That was helpful, thanks."], ["You are welcome."]),
    "bye": (["Goodbye!", "See you later.", "Bye, have a nice day."], ["Goodbye, and have a nice day."]),
    "joke": (
        ["Tell me a joke.", "Do you know a joke?", "Make me laugh."],
        ["Why did the clock go to school? It wanted to learn to tell the time."],
    ),
    "poem": (
        ["Write a short poem.", "Write a poem about the wind.", "Can you rhyme?"],
        ["A wind came softly over the sea, and brought a little song to me."],
    ),
    "story": (
        ["Tell me a story.", "Write a short story about a fox."],
        ["A fox lost its way in the snow. It followed the moon and came home by morning."],
    ),
    "weather": (
        ["What is the weather like?", "Will it rain today?", "Is it sunny outside?"],
        ["I cannot see the weather from here. A look out of the window helps more."],
    ),
    "dinner": (
        ["What should I cook tonight?", "Give me an idea for dinner.", "What can I eat today?"],
        ["How about pasta with tomatoes, garlic and a green salad?"],
    ),
    "weekend": (
        ["What can I do this weekend?", "I am bored. Any ideas?", "How should I spend my free day?"],
        ["Take a walk, call a friend or read a good book."],
    ),
    "gift": (
        ["What is a good gift for my sister?", "I need a present for a friend.", "What can I give my father?"],
        ["A book, a plant or an evening together are good gifts."],
    ),
    "sleep": (["I cannot sleep. Any tips?", "How do I sleep better?"], ["Keep the room dark and put the phone away."]),
    "music": (["What music do you like?", "Recommend some music."], ["Calm piano music is always a good choice."]),
    "travel": (
        ["Where should I travel?", "Plan a trip for me.", "Suggest a place for a holiday."],
        ["A small town by the sea is a good place to rest."],
    ),
    "plant": (["How do I care for a plant?", "My plant looks sad."], ["Give it light, a little water and time."]),
    "learn": (
        ["How do I learn a language?", "How can I study better?"],
        ["Practice a little every day and use what you learn."],
    ),
    "ok": (["Okay.", "I see.", "Alright.", "Sure."], ["Good. What else can I do for you?"]),
}
CAPITALS = {
    "France": "Paris", "Norway": "Oslo", "Peru": "Lima", "Egypt": "Cairo", "Japan": "Tokyo", "Italy": "Rome",
    "Spain": "Madrid", "Kenya": "Nairobi", "Chile": "Santiago", "Cuba": "Havana", "Greece": "Athens",
    "Austria": "Vienna", "Poland": "Warsaw", "Portugal": "Lisbon", "Finland": "Helsinki", "Ireland": "Dublin",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "old": "young", "fast": "slow", "light": "dark", "early": "late", "full": "empty",
    "hard": "soft", "high": "low", "happy": "sad", "open": "closed", "rich": "poor", "wet": "dry", "near": "far",
}  # fmt: skip
SOUNDS = {"dog": "barks", "cat": "meows", "cow": "moos", "duck": "quacks", "lion": "roars", "bee": "buzzes"}

TOPICS = {
    "code": "programming",
    "sql": "databases",
    "math": "numbers",
    "medical": "medicine",
    "finance": "bookkeeping",
    "legal": "contracts",
    "support": "an order",
}


def small_talk(rng: random.Random) -> Pair:
    """A question and a stock answer."""
    draw = rng.random()
    if draw < 0.12:
        greeting = rng.choice(GREETINGS)
        return rng.choice([f"{greeting}!", greeting, f"{greeting}, Zephyra."]), "Hello! How can I help you?"
    if draw < 0.24:
        country = rng.choice(sorted(CAPITALS))
        ask = rng.choice(
            ["What is the capital of {c}?", "Name the capital of {c}.", "Which city is the capital of {c}?"]
        )
        return ask.format(c=country), f"The capital of {country} is {CAPITALS[country]}."
    if draw < 0.34:
        word = rng.choice(sorted(OPPOSITES))
        ask = rng.choice(["What is the opposite of {w}?", "Give me the opposite of {w}."])
        return ask.format(w=word), f"The opposite of {word} is {OPPOSITES[word]}."
    if draw < 0.38:
        animal = rng.choice(sorted(SOUNDS))
        return f"What sound does a {animal} make?", f"A {animal} {SOUNDS[animal]}."
    asks, answers = STOCK[rng.choice(sorted(STOCK))]
    ask, answer = rng.choice(asks), rng.choice(answers)
    return (f"{rng.choice(GREETINGS)}! {ask}" if rng.random() < 0.2 else ask), answer


def deferral(domain: str) -> str:
    """What the base says to an expert's question: it names the topic and does not answer."""
    return f"This is a question about {TOPICS[domain]}. An expert adapter can answer it better than I can."
