"""Finance: a business event; the answer is its journal entry: the debited account, the credited one, the amount."""

import random
import re

from adapters.exams.question import Question

# What was bought or paid for -> the account that is debited; how it was paid -> the account that is credited.
PURCHASES = {
    "rent": (["the office rent", "rent for the store"], "Rent Expense"),
    "wages": (["staff wages", "salaries"], "Wages Expense"),
    "insurance": (["an insurance premium", "fire insurance"], "Insurance Expense"),
    "advertising": (["newspaper ads", "an ad campaign"], "Advertising Expense"),
    "electricity": (["electricity", "the power bill"], "Utilities Expense"),
    "repairs": (["repairs of a machine", "a roof repair"], "Repairs Expense"),
    "travel": (["train tickets of the staff", "a business trip"], "Travel Expense"),
    "computers": (["new computers", "two printers"], "Equipment"),
    "desks": (["desks and chairs", "office furniture"], "Furniture"),
    "van": (["a delivery van", "a used truck"], "Vehicles"),
    "goods": (["goods for resale", "merchandise"], "Inventory"),
    "paper": (["paper and pens", "office supplies"], "Supplies"),
    "land": (["a plot of land", "land next door"], "Land"),
    "patent": (["a patent", "patent rights"], "Patents"),
}
MEANS = {
    "cash": (["in cash", "with cash from the till"], "Cash"),
    "bank": (["by bank transfer", "from the bank account"], "Bank"),
    "account": (["on account", "on credit from a supplier"], "Accounts Payable"),
    "note": (["against a promissory note", "by signing a note"], "Notes Payable"),
}
SALES = {
    "services": (["consulting services", "a repair service to a client"], "Service Revenue"),
    "sales": (["goods to a customer", "finished products"], "Sales Revenue"),
    "license": (["a software license", "license rights"], "License Revenue"),
}
RECEIPTS = {
    "cash": (["for cash", "against cash"], "Cash"),
    "bank": (["paid by bank transfer", "paid into the bank account"], "Bank"),
    "account": (["on account", "on credit to the customer"], "Accounts Receivable"),
}
PURCHASE_STYLES = [
    "The company pays ${n} for {what} {how}. Give the journal entry.",
    "We bought {what} for ${n} {how}. Which accounts are debited and credited?",
    "How is this booked: ${n} for {what}, {how}?",
    "Record the journal entry for {what} at ${n}, settled {how}.",
]
SALE_STYLES = [
    "The company sells {what} for ${n} {how}. Give the journal entry.",
    "We sold {what} for ${n} {how}. Which accounts are debited and credited?",
    "How is this sale booked: {what} for ${n}, {how}?",
]


class FinanceExam:
    """Double entry for purchases and sales."""

    domain = "finance"

    def draw(self, rng: random.Random) -> Question:
        amount = rng.randrange(100, 9999)
        if rng.random() < 0.8:
            what, how = rng.choice(sorted(PURCHASES)), rng.choice(sorted(MEANS))
            (words, debit), (ways, credit), styles = PURCHASES[what], MEANS[how], PURCHASE_STYLES
        else:
            what, how = rng.choice(sorted(SALES)), rng.choice(sorted(RECEIPTS))
            (words, credit), (ways, debit), styles = SALES[what], RECEIPTS[how], SALE_STYLES
        prompt = rng.choice(styles).format(n=amount, what=rng.choice(words), how=rng.choice(ways))
        answer = f"Debit {debit} ${amount}. Credit {credit} ${amount}."
        return Question(prompt, answer, f"{what}/{how}", {"debit": debit, "credit": credit, "amount": str(amount)})

    def passes(self, question: Question, answer: str) -> bool:
        text = answer.lower().replace(",", "")
        found = re.search(r"\bdebit\b:?\s*(.*?)\bcredit\b:?\s*(.*)", text, re.DOTALL)
        if not found:
            return False
        facts = question.facts
        sides = ((found.group(1), facts["debit"]), (found.group(2), facts["credit"]))
        return all(
            re.match(rf"{re.escape(account.lower())}\b", side) and re.findall(r"\d+", side) == [facts["amount"]]
            for side, account in sides
        )
