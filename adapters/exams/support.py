"""Support: a complaint about an order; the reply names the case, the order, the amount and what the shop does.

The policy: broken, faulty and lost goods are refunded in full, a wrong item is replaced, a late one earns a voucher, a
change of mind gives store credit; after more than 30 days every case but a lost parcel goes to a manager.
"""

import random
import re

from adapters.exams.question import Question

REASONS = {
    "broken": (["arrived broken", "came smashed", "was damaged on arrival"], "refund"),
    "faulty": (["does not switch on", "stopped working", "is faulty"], "refund"),
    "lost": (["never arrived", "got lost in the mail", "was never delivered"], "refund"),
    "wrong": (["is the wrong color", "is not the model I ordered", "is the wrong size"], "replacement"),
    "late": (["came two weeks late", "arrived far too late", "was delivered late"], "voucher"),
    "regret": (["is not to my taste", "is no longer needed", "is not for me after all"], "credit"),
}
ACTIONS = {
    "refund": "a full refund of ${n}",
    "replacement": "a free replacement worth ${n}",
    "voucher": "a voucher for the delay on ${n}",
    "credit": "store credit of ${n}",
    "manager": "a review by a manager about ${n}",
}
AGES = {"days": (3, 9), "weeks": (10, 28), "old": (33, 79)}
ITEMS = [
    "lamp",
    "kettle",
    "phone",
    "jacket",
    "chair",
    "camera",
    "watch",
    "blender",
    "backpack",
    "keyboard",
    "mirror",
    "radio",
]
STYLES = [
    "Hi, my order {o} from {d} days ago: the {i} {r}. I paid ${n}. What can you do?",
    "The {i} of order {o} {r}. I bought it {d} days ago for ${n}. Please help.",
    "Order {o}: the {i} {r}. It cost ${n} and I ordered it {d} days ago. What now?",
    "I ordered a {i} {d} days ago, order number {o}, price ${n}. It {r}. How do you fix this?",
]


class SupportExam:
    """Six reasons, twelve items, three ages of the order."""

    domain = "support"

    def draw(self, rng: random.Random) -> Question:
        reason, item = rng.choice(sorted(REASONS)), rng.choice(ITEMS)
        age = rng.choice(sorted(AGES))
        days = rng.randint(*AGES[age])
        words, action = REASONS[reason]
        if days > 30 and reason != "lost":
            action = "manager"
        order, amount = str(rng.randrange(10000, 99999)), str(rng.randrange(12, 350))
        prompt = rng.choice(STYLES).format(o=order, d=days, i=item, r=rng.choice(words), n=amount)
        answer = (
            f"Sorry about the {item}: {reason} after {days} days. "
            f"For order {order} we offer {ACTIONS[action].format(n=amount)}."
        )
        return Question(prompt, answer, f"{reason}/{item}/{age}", {"order": order, "amount": amount, "action": action})

    def passes(self, question: Question, answer: str) -> bool:
        text, facts = answer.lower(), question.facts
        actions = {action for action in ACTIONS if action in text}
        numbers = re.findall(r"\d+", text.replace(",", ""))
        return actions == {facts["action"]} and facts["order"] in numbers and facts["amount"] in numbers
