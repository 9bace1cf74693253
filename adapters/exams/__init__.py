"""Exams: one skill for each domain, its questions made by a generator and its answers checked by a program.

Every question is a combination of choices (table x column x aggregate, account x means of payment, ...). A hash of
that combination puts it into training or into the exam, so that no exam question's combination was ever trained on.
"""

from adapters.exams.code import CodeExam
from adapters.exams.finance import FinanceExam
from adapters.exams.legal import LegalExam
from adapters.exams.math import MathExam
from adapters.exams.medical import MedicalExam
from adapters.exams.question import Exam, Question, Split, questions
from adapters.exams.sql import SqlExam
from adapters.exams.support import SupportExam

EXAMS: dict[str, Exam] = {
    exam.domain: exam
    for exam in (CodeExam(), SqlExam(), MathExam(), MedicalExam(), FinanceExam(), LegalExam(), SupportExam())
}

__all__ = ["EXAMS", "Exam", "Question", "Split", "questions"]
