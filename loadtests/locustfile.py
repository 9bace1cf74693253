"""Mixed traffic for locust: every domain, streamed and not, conversations, with TinyAda and past it.

    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --headless -u 20 -r 5 -t 1m

Add `--processes -1` for a process on each core. The rows of the report: `whole` and `stream` requests through TinyAda,
`bypass` past it, `turn` of a conversation; each stream's time to first token is a row of its own, `first token`. The
gateway's own time, as its Server-Timing says, has a row for each arm, `gateway, on` and `gateway, off`, which are
compared at the end. ZEPHYRA_KEY is the API key where the gateway wants one; it must be allowed to bypass.
ZEPHYRA_SWAP=DIRECTORY publishes that version of `legal` during the run and rolls it back, again and again; the key of
/admin is ZEPHYRA_ADMIN_KEY.
"""

import os
import random
import time
from typing import Any

import gevent
from locust import FastHttpUser, between, constant, events, task

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
ON, OFF = "gateway, on", "gateway, off"
SWAP = os.environ.get("ZEPHYRA_SWAP")
ADMIN_KEY = os.environ.get("ZEPHYRA_ADMIN_KEY")
SWAP_SECONDS = 5.0


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
            self.note_gateway(reply.headers, OFF if headers else ON)
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
            self.note("first token", first * 1e3)

    def note_gateway(self, headers: Any, name: str) -> None:
        """The gateway's own time of a whole answer, as a row of the report."""
        for stage in (headers or {}).get("server-timing", "").split(", "):
            if stage.startswith("gateway;dur="):
                self.note(name, float(stage.removeprefix("gateway;dur=")))

    def note(self, name: str, milliseconds: float) -> None:
        self.environment.events.request.fire(
            request_type="POST", name=name, response_time=milliseconds, response_length=0, exception=None, context={}
        )


class Operator(FastHttpUser):  # type: ignore[misc]
    """Swaps an adapter's version while the others ask."""

    abstract = SWAP is None
    fixed_count = 1
    wait_time = constant(SWAP_SECONDS)

    @task  # type: ignore[untyped-decorator]
    def swap(self) -> None:
        access = {"authorization": f"Bearer {ADMIN_KEY}"} if ADMIN_KEY else {}
        path = "/admin/adapters/legal"
        self.client.post(f"{path}/versions", json={"path": SWAP}, headers=access, name="swap: publish")
        time.sleep(SWAP_SECONDS)
        self.client.post(f"{path}/rollback", headers=access, name="swap: roll back")


@events.init.add_listener  # type: ignore[untyped-decorator]
def begin_now(**_: Any) -> None:
    """The loop's clock stands still while the imports run: without this a slow start would eat into the run time."""
    gevent.get_hub().loop.update_now()


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def compare_arms(environment: Any, **_: Any) -> None:
    """Say what TinyAda costs: the gateway's own time with it less that without."""
    on, off = (environment.stats.entries.get((name, "POST")) for name in (ON, OFF))
    if on and off:
        with_, without = on.avg_response_time, off.avg_response_time
        print(f"gateway's own time: {with_:.3f} ms with TinyAda, {without:.3f} past it: {with_ - without:+.3f} ms")


def question() -> list[dict[str, str]]:
    return [{"role": "user", "content": random.choice(PROMPTS[random.choice(list(PROMPTS))])}]


def body(messages: list[dict[str, str]], stream: bool = False) -> dict[str, Any]:
    return {"model": "zephyra-resolve", "messages": messages, "max_tokens": ANSWER_TOKENS, "stream": stream}
