"""The exams through a running server, and TinyAda's decisions on their prompts."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import aiohttp

from adapters.evaluation import BASE, Ask, exam_matrix, exam_questions
from adapters.exams import EXAMS
from router import TinyAda

IN_FLIGHT = 8
TIMEOUT = aiohttp.ClientTimeout(total=300)


def examine_server(url: str, count: int, seed: int = 0, key: str | None = None) -> dict[str, Any]:
    """The matrix of the base, every domain's adapter and `zephyra-resolve`, asked at `url` as a client would.

    Raises `aiohttp.ClientError` when the server refuses or is not there.
    """
    names = (BASE, *EXAMS, "resolve")
    return {
        "questions": count,
        "seed": seed,
        "matrix": exam_matrix(ask_server(url, key), names, count=count, seed=seed),
    }


def ask_server(url: str, key: str | None = None, max_tokens: int = 96) -> Ask:
    """`ask` of `exam_matrix` on the server at `url`; `base` and `resolve` stand for its two names of those."""
    models = {BASE: "zephyra", "resolve": "zephyra-resolve"}

    async def ask_all(name: str, prompts: Sequence[str]) -> list[str]:
        places = asyncio.Semaphore(IN_FLIGHT)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        async with aiohttp.ClientSession(headers=headers, timeout=TIMEOUT, raise_for_status=True) as session:

            async def answer(prompt: str) -> str:
                body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": max_tokens}
                async with places, session.post(f"{url}/v1/chat/completions", json={**body, "model": model}) as reply:
                    return str((await reply.json())["choices"][0]["message"]["content"])

            model = models.get(name, name)
            return await asyncio.gather(*(answer(prompt) for prompt in prompts))

    return lambda name, prompts: asyncio.run(ask_all(name, prompts))


def exam_decisions(count: int, seeds: int, weights: TinyAda) -> dict[str, str]:
    """Prompt -> the domain that TinyAda serves it with (`general` where it abstains), over `seeds` exams of each."""
    chosen = {}
    for domain, seed in itertools.product(EXAMS, range(seeds)):
        for question in exam_questions(domain, count, seed):
            decision = weights.route(question.prompt)
            chosen[question.prompt] = "general" if decision.abstained else decision.domain
    return chosen
