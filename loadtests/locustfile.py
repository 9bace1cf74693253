"""Mixed traffic for locust: every domain, streamed and not, conversations, with TinyAda and past it.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --headless -u 20 -r 5 -t 1m

Add `--processes -1` for a process on each core. The rows of the report: `whole` and `stream` requests through TinyAda,
`bypass` past it (on and off arms side by side), `turn` of a conversation; each stream's time to first token is a row of
its own, `first token`. ZEPHYRA_KEY is the API key where the gateway wants one; it must be allowed to bypass.
"""

import os
import random
import time
from typing import Any

from locust import FastHttpUser, between, task

CHAT = "/v1/chat/completions"
PROMPTS = {
    "code": ("Why does my Go channel deadlock when the buffer is full?", "Write a C function that trims a string."),
    "sql": ("Show the average order value per month as a SQL query.", "How do I join three tables without duplicates?"),
    "math": ("What is the derivative of x squared times sin x?", "Find all integer solutions of 2x + 3y = 12."),
    "medical": ("Can I take aspirin together with ibuprofen?", "What are early signs of appendicitis in adults?"),
    "finance": ("How does compound interest work on a savings account?", "What is the difference between APR and APY?"),
    "legal": ("Is a verbal agreement binding as a contract?", "Can my landlord keep the deposit for normal wear?"),
    "support": ("My parcel never arrived, can I have a refund?", "I cannot log in to my account, please help."),
    "general": ("Write a short poem about autumn rain.", "Suggest a name for a grey cat."),
}
FOLLOW_UPS = (
    "Can you explain that in simpler words?",
    "And what if that does not work?",
    "Thanks! One example, please.",
)
ANSWER_TOKENS = 16


class Client(FastHttpUser):  # type: ignore[misc]
    """Someone who asks a question now and then."""

    wait_time = between(0.1, 1.0)

    def on_start(self) -> None:
        key = os.environ.get("ZEPHYRA_KEY")
        self.access = {"authorization": f"Bearer {key}"} if key else {}

    @task(6)  # type: ignore[untyped-decorator]
    def whole(self) -> None:
        self.ask("whole", question())

    @task(6)  # type: ignore[untyped-decorator]
    def stream(self) -> None:
        self.ask_streamed("stream", question())

    @task(3)  # type: ignore[untyped-decorator]
    def bypass(self) -> None:
        self.ask("bypass", question(), {"x-zephyra-bypass": "1"})

    @task(2)  # type: ignore[untyped-decorator]
    def conversation(self) -> None:
        messages = question()
        for follow_up in random.sample(FOLLOW_UPS, 2):
            answer = self.ask("turn", messages)
            if answer is None:
                return
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": follow_up}]

    def ask(self, name: str, messages: list[dict[str, str]], headers: dict[str, str] | None = None) -> str | None:
        """A whole answer's text; None where the request failed."""
        with self.client.post(
            CHAT, json=body(messages), headers={**self.access, **(headers or {})}, name=name, catch_response=True
        ) as reply:
            try:
                text = reply.json()["choices"][0]["message"]["content"]
            except (ValueError, KeyError, TypeError):
                reply.failure(f"status {reply.status_code}, no answer")
                return None
            return str(text)

    def ask_streamed(self, name: str, messages: list[dict[str, str]]) -> None:
        """A stream to its end; its first event is reported as `first token`."""
        began = time.perf_counter()
        first = None
        with self.client.post(
            CHAT, json=body(messages, True), headers=self.access, name=name, catch_response=True, stream=True
        ) as reply:
            last = b""
            while event := reply.stream.readline(b"\n\n") if reply.status_code == 200 else b"":
                if first is None:
                    first = time.perf_counter() - began
                last = event
            if last != b"data: [DONE]\n\n":
                reply.failure(f"status {reply.status_code}, the stream has no end")
        if first is not None:
            self.environment.events.request.fire(
                request_type="POST",
                name="first token",
                response_time=first * 1e3,
                response_length=0,
                exception=None,
                context={},
            )


def question() -> list[dict[str, str]]:
    return [{"role": "user", "content": random.choice(PROMPTS[random.choice(list(PROMPTS))])}]


def body(messages: list[dict[str, str]], stream: bool = False) -> dict[str, Any]:
    return {"model": "zephyra-resolve", "messages": messages, "max_tokens": ANSWER_TOKENS, "stream": stream}
