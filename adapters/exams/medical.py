"""Medical: vital signs of an adult; the answer reads each, names every abnormal finding and the triage level.

Fixed rules (a teaching table, no medical advice): fever from 38.0, hypothermia below 35.0; tachycardia above 100,
bradycardia below 60; hypotension below 90 systolic, hypertension from 140; tachypnea above 20; hypoxia below 94 %.
Triage: one finding green, two yellow, three or more red.
"""

import random

from adapters.exams.question import Question

FINDINGS = {
    "temperature": {"normal": (360, 375), "fever": (380, 405), "hypothermia": (330, 349)},
    "pulse": {"normal": (62, 98), "tachycardia": (104, 148), "bradycardia": (38, 58)},
    "pressure": {"normal": (100, 134), "hypotension": (70, 88), "hypertension": (142, 188)},
    "breathing": {"normal": (12, 18), "tachypnea": (22, 36)},
    "oxygen": {"normal": (95, 99), "hypoxia": (82, 92)},
}
LEVELS = ("", "green", "yellow", "red", "red", "red")
PEOPLE = ["man", "woman", "patient", "male patient", "female patient"]
COMPLAINTS = [
    "chest pain", "cough", "headache", "belly pain", "dizziness", "a fall", "weakness", "vomiting", "back pain",
    "shortness of breath", "a rash", "palpitations",
]  # fmt: skip
STYLES = [
    "A {age} year old {who} has {why}. Temperature {t}, pulse {p}, blood pressure {s}/{d}, breathing rate {r}, "
    "oxygen {o}%. {ask}",
    "{age} y/o {who} with {why}: temp {t} C, heart rate {p}, BP {s}/{d}, resp {r}, SpO2 {o}%. {ask}",
    "Vitals of a {who}, {age}, with {why}: temp {t}, pulse {p}, BP {s}/{d}, resp {r}, SpO2 {o}%. {ask}",
]
ASKS = [
    "Which findings are abnormal and what is the triage level?",
    "List the abnormal findings and the triage color.",
    "What is abnormal, and how urgent is the triage?",
]


class MedicalExam:
    """Five vital signs, 107 patterns of findings."""

    domain = "medical"

    def draw(self, rng: random.Random) -> Question:
        found = [rng.choice(sorted(ranges)) for ranges in FINDINGS.values()]
        if set(found) == {"normal"}:
            return self.draw(rng)
        values = {
            vital: rng.randint(*ranges[kind]) for (vital, ranges), kind in zip(FINDINGS.items(), found, strict=True)
        }
        names = [kind for kind in found if kind != "normal"]
        level = LEVELS[len(names)]
        systolic, temperature = values["pressure"], values["temperature"]
        readings = {**values, "temperature": f"{temperature // 10}.{temperature % 10}"}
        prompt = rng.choice(STYLES).format(
            age=rng.randrange(21, 90), who=rng.choice(PEOPLE), why=rng.choice(COMPLAINTS), ask=rng.choice(ASKS),
            t=readings["temperature"], p=readings["pulse"], s=systolic, d=systolic * 6 // 10 + rng.randrange(6),
            r=readings["breathing"], o=readings["oxygen"],
        )  # fmt: skip
        worked = ", ".join(
            f"{vital} {value} {kind}" for (vital, value), kind in zip(readings.items(), found, strict=True)
        )
        answer = f"{worked.capitalize()}. Triage: {level}."
        return Question(prompt, answer, "/".join(found), {"findings": ",".join(names), "level": level})

    def passes(self, question: Question, answer: str) -> bool:
        text = answer.lower()
        vocabulary = {kind for ranges in FINDINGS.values() for kind in ranges if kind != "normal"}
        named = {kind for kind in vocabulary if kind in text}
        levels = {level for level in LEVELS if level and level in text}
        expected = set(question.facts["findings"].split(","))
        return named == expected and levels == {question.facts["level"]}
