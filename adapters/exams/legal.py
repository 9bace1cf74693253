"""Legal: a contract clause; the answer names its type, the party that it binds and the period that it sets."""

import random

from adapters.exams.question import Question

# Type -> ways to write it; the type's own name is in none of them.
CLAUSES = {
    "termination": [
        "{p} may end this Agreement on {t} written notice",
        "{p} is entitled to cancel this contract by giving notice of {t}",
    ],
    "confidentiality": [
        "{p} shall keep all disclosed information secret for {t}",
        "{p} must not reveal any trade secret to others for {t}",
    ],
    "payment": [
        "{p} shall settle each invoice within {t} of receipt",
        "All fees due from {p} must be transferred within {t}",
    ],
    "warranty": [
        "{p} guarantees that the goods stay free of defects for {t}",
        "{p} shall repair any fault of the goods without charge for {t}",
    ],
    "non-compete": [
        "{p} shall not work for a rival business for {t} after the end of this contract",
        "{p} may not open a similar business for {t} after leaving",
    ],
    "renewal": [
        "The term extends by {t} unless {p} objects in writing",
        "{p} may prolong this Agreement by a further {t}",
    ],
    "audit": [
        "{p} shall open its books for inspection on {t} notice",
        "{p} must let an accountant examine its records within {t}",
    ],
    "delivery": [
        "{p} shall hand over the goods within {t} of the order",
        "{p} must ship every order within {t}",
    ],
    "insurance": [
        "{p} shall hold a liability policy with cover for {t}",
        "{p} must keep cover against loss and damage in force for {t}",
    ],
    "indemnity": [
        "{p} shall hold the other side harmless from third party claims for {t}",
        "{p} shall make good any loss from claims of others raised within {t}",
    ],
}
PARTIES = [
    "the Tenant", "the Landlord", "the Supplier", "the Customer", "the Licensee", "the Licensor", "the Employee",
    "the Employer", "the Contractor", "the Lender", "the Borrower", "the Distributor",
]  # fmt: skip
UNITS = {"days": (5, 90), "weeks": (2, 12), "months": (2, 24), "years": (2, 9)}
STYLES = [
    "Clause: {c}. What kind of clause is this, whom does it bind and for which period?",
    'Our contract says: "{c}." Which type of clause is it, which party does it concern, and what is the period?',
    "Classify this contract clause and give its party and period: {c}.",
    "{c}. Name the type of this provision, the party and the time.",
]


class LegalExam:
    """Ten types of clause, twelve parties, four units of time."""

    domain = "legal"

    def draw(self, rng: random.Random) -> Question:
        kind, party, unit = rng.choice(sorted(CLAUSES)), rng.choice(PARTIES), rng.choice(sorted(UNITS))
        period = f"{rng.randint(*UNITS[unit])} {unit}"
        clause = rng.choice(CLAUSES[kind]).format(p=party, t=period)
        prompt = rng.choice(STYLES).format(c=clause[0].upper() + clause[1:])
        name = party.removeprefix("the ")
        answer = f"Type: {kind}. Party: {name}. Period: {period}."
        return Question(prompt, answer, f"{kind}/{party}/{unit}", {"kind": kind, "party": name, "period": period})

    def passes(self, question: Question, answer: str) -> bool:
        text, facts = answer.lower(), question.facts
        kinds = {kind for kind in CLAUSES if kind in text}
        parties = {party[4:] for party in PARTIES if party[4:].lower() in text}
        # The period must stand alone: "14 days" does not answer "4 days".
        period = f" {facts['period']}" in f" {text}".replace("(", " ").replace(":", " ")
        return kinds == {facts["kind"]} and parties == {facts["party"]} and period
