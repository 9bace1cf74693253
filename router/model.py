"""TinyAda at work: text in, decision out, in tens of microseconds on one core."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from math import exp, isfinite
from operator import itemgetter
from pathlib import Path
from threading import Lock
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

from router.added import LEAST, MOST, AddedDomain, Statistics, fit
from router.conversation import Scores, fold, user_texts
from router.decision import GENERAL, Decision
from router.errors import RouterError
from router.manifest import MODEL, SHIPPED, STATISTICS, VOCABULARY, Manifest, read_manifest
from router.tokenization import Tokenizer, window

OUTLIER, FOLLOWUP = "outlier", "followup"
"""Outputs of the model that are no domains: text no adapter should get, and text that leans on earlier turns."""

_LOGITS, _BOTH = ["logits"], ["logits", "features"]
_LONGEST = 2048  # tokens read; a window has fewer, unless it is full of signs that unfold into many letters
_KEPT_COUNTS = 300
_ODD = ("", "\x00\ud800", "a" * 5_000, "\n" * 5_000, "مرحبا 😀 " * 200)


class TinyAda:
    """The router: `load` one, then call `route` or `route_conversation` from any thread."""

    def __init__(self, session: InferenceSession, tokenizer: Tokenizer, manifest: Manifest) -> None:
        self.manifest = manifest
        self.statistics: Statistics | None = None
        # Domains that are there beside the trained ones.
        self.added: tuple[AddedDomain, ...] = ()
        self.domains = manifest.domains
        self.digest = manifest.digest
        self._session, self._tokenizer = session, tokenizer
        self._policy = manifest.policy
        labels = manifest.labels
        self._arrange()
        self._outlier = labels.index(OUTLIER) if OUTLIER in labels else None
        self._followup = labels.index(FOLLOWUP) if FOLLOWUP in labels else None
        self._inputs: dict[int, dict[str, NDArray[Any]]] = {}
        self._start, self._end = _position_scores(session, bool(manifest.pair_buckets))
        self._cache = _Cache(4096)

    def _arrange(self) -> None:
        """Lay out, in the order of the domains, where their logits are and what the policy says of each."""
        labels = self.manifest.labels  # the added domains' logits come behind theirs
        columns = [*map(labels.index, self.manifest.domains), *range(len(labels), len(labels) + len(self.added))]
        self._of_domains: Callable[[list[float]], tuple[float, ...]] = itemgetter(*columns)
        self._thresholds = [self._policy.thresholds[domain] for domain in self.domains]
        self._mentions = [self._policy.mentions[domain] for domain in self.domains]

    @classmethod
    def load(cls, path: Path | str | None = None) -> TinyAda:
        """The weights in ``path`` (none: the shipped ones), validated; raises `RouterError`."""
        directory = SHIPPED if path is None else Path(path)
        manifest = read_manifest(directory)
        tokenizer = Tokenizer.load(directory / VOCABULARY)
        session = _session(directory / MODEL)
        inputs = {"ids", "bias", "length", *(("pair_weights",) if manifest.pair_buckets else ())}
        if {each.name for each in session.get_inputs()} != inputs:
            raise RouterError(
                f"{directory}: the model must take {sorted(inputs)}; export it with this version of zephyra"
            )
        ada = cls(session, tokenizer, manifest)
        outputs = len(ada._logits(tokenizer.encode("hello")))
        if outputs != len(manifest.labels):
            raise RouterError(
                f"{directory}: the model has {outputs} outputs, the manifest {len(manifest.labels)} labels"
            )
        if STATISTICS in manifest.files:
            ada.statistics = Statistics.read(directory / STATISTICS)
        return ada

    def domain(self, name: str, examples: Sequence[str]) -> AddedDomain:
        """A class for a domain that is not known, from examples; takes milliseconds. Raises `RouterError`.

        It is of use for this TinyAda alone, through `with_domains`.
        """
        if name in self.manifest.labels:
            raise RouterError(f"{name!r} is a domain that this TinyAda knows; it needs no examples")
        texts = list(dict.fromkeys(text.strip() for text in examples if text.strip()))
        if not LEAST <= len(texts) <= MOST:
            raise RouterError(f"a domain needs {LEAST} to {MOST} different examples, not {len(texts)}")
        if self.statistics is None:
            raise RouterError(f"this TinyAda has no {STATISTICS}: train it again with this version of zephyra")
        found = np.stack([self.features(text)[0] for text in texts])
        return fit(name, found, self.statistics, self._policy.temperature, self.manifest.digest, texts)

    def with_domains(self, added: Sequence[AddedDomain]) -> TinyAda:
        """This TinyAda, which stays as it is, and further domains; none takes earlier additions away."""
        made = TinyAda(self._session, self._tokenizer, self.manifest)
        made.statistics = self.statistics
        if not added:
            return made
        limits = {domain.name: domain.threshold for domain in added}
        policy = replace(
            self.manifest.policy,
            thresholds={**self.manifest.policy.thresholds, **limits},
            mentions={**self.manifest.policy.mentions, **{name: min(0.35, limit) for name, limit in limits.items()}},
        )
        files = {**self.manifest.files, **{domain.name: domain.digest for domain in added}}
        made.manifest, made._policy = replace(self.manifest, policy=policy, files=files), policy
        made.added = tuple(added)
        made.domains = (*self.manifest.domains, *limits)
        made._arrange()
        made.digest = made.manifest.digest
        return made

    def features(self, text: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the student pools from a text, shape (features,), and its logits, shape (labels,)."""
        ids = self._tokenizer.encode(text)[:_LONGEST]
        logits, features = self._session.run(_BOTH, {"ids": ids, **self._by_count(len(ids))})
        return features[0], logits[0]

    def route(self, text: str, allowed: Container[str] | None = None) -> Decision:
        """The decision for one text; ``allowed`` restricts the domains (`general` always is)."""
        began = perf_counter_ns()
        return self._decide(self._score(text), False, allowed, began)

    def route_conversation(self, messages: Sequence[Any], allowed: Container[str] | None = None) -> Decision:
        """The decision for OpenAI messages: a fold over the user's turns; never raises on malformed ones."""
        began = perf_counter_ns()
        texts = user_texts(messages) or [""]
        if len(texts) == 1:
            return self._decide(self._score(texts[0]), False, allowed, began)
        turns = [self._remembered(text) for text in texts]
        scores, kept = fold(turns, self._policy.margin, self._policy.slip)
        return self._decide(scores, kept, allowed, began)

    def smoke(self) -> None:
        """Route the manifest's smoke set and some odd texts; raises `RouterError` naming what went wrong."""
        for text in _ODD:
            if not isfinite(self.route(text).confidence):
                raise RouterError(f"smoke test: {text[:20]!r} got no number for a confidence")
        for text, domain in self.manifest.smoke:
            found = self.route(text)
            served = GENERAL if found.abstained else found.domain
            if served != domain:
                raise RouterError(f"smoke test: {text!r} went to {served}, not to {domain}")

    def _remembered(self, text: str) -> Scores:
        key = hash(window(text))
        scores = self._cache.get(key)
        if scores is None:
            scores = self._score(text)
            self._cache.put(key, scores)
        return scores

    def _logits(self, ids: NDArray[np.int64]) -> list[float]:
        feeds = self._inputs.get(len(ids)) or self._by_count(len(ids))
        logits: list[float]
        if not self.added:
            logits = self._session.run(_LOGITS, {"ids": ids, **feeds})[0][0].tolist()
            return logits
        known, features = self._session.run(_BOTH, {"ids": ids, **feeds})
        logits = known[0].tolist()
        return [*logits, *[domain.logit(features[0], logits) for domain in self.added]]

    def _by_count(self, count: int) -> dict[str, NDArray[Any]]:
        """The inputs that depend on the number of tokens alone; kept for short texts."""
        made = {
            "bias": self._start[:count] + self._end[-count:],
            "length": np.full((1, 1), np.log1p(count) / 4, np.float32),
        }
        if self.manifest.pair_buckets:
            made["pair_weights"] = np.full((1, count - 1), 1 / np.sqrt(max(1, count - 1)), np.float32)
        if count <= _KEPT_COUNTS:
            self._inputs[count] = made
        return made

    def _score(self, text: str) -> Scores:
        ids = self._tokenizer.encode(text)[:_LONGEST]
        logits = self._logits(ids)
        top, scale = max(logits), 1.0 / self._policy.temperature
        powers = [exp((logit - top) * scale) for logit in logits]
        total = sum(powers)
        outlier = powers[self._outlier] / total if self._outlier is not None else 0.0
        followup = powers[self._followup] / total if self._followup is not None else 0.0
        chosen = self._of_domains(powers)
        among = sum(chosen) or 1.0
        return Scores(tuple([power / among for power in chosen]), 1.0 - outlier, followup, len(ids))

    def _decide(self, scores: Scores, kept: bool, allowed: Container[str] | None, began: int) -> Decision:
        probabilities, known, leaning, _ = scores
        domains, open_ = self.domains, True
        if allowed is None:
            best = scores.best
        else:
            among = [i for i, name in enumerate(domains) if name == GENERAL or name in allowed]
            open_ = bool(among)
            best = max(among, key=probabilities.__getitem__) if among else scores.best
        confidence = probabilities[best] * known * (1.0 - leaning)
        abstained = confidence < self._thresholds[best] or not open_
        listed = [
            each for each in zip(probabilities, domains, self._mentions, strict=True) if each[0] * known >= each[2]
        ]
        if allowed is not None:
            listed = [each for each in listed if each[1] == GENERAL or each[1] in allowed]
        if len(listed) > 1:
            listed.sort(reverse=True)
        return Decision(
            domain=domains[best],
            confidence=confidence,
            scores=dict(zip(domains, probabilities, strict=True)),
            abstained=abstained,
            reason="abstained" if abstained else "sticky" if kept else "resolved",
            domains=tuple([each[1] for each in listed]),
            microseconds=(perf_counter_ns() - began) / 1000,
            router=self.digest,
        )


def _position_scores(session: InferenceSession, pairs: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The queries' scores by distance from the beginning and from the end, each (`_LONGEST`, heads)."""
    heads = session.get_inputs()[1].shape[1]
    feeds = {"ids": np.zeros(2, np.int64), "bias": np.zeros((2, heads), np.float32)}
    feeds |= {"length": np.zeros((1, 1), np.float32)}
    if pairs:
        feeds |= {"pair_weights": np.zeros((1, 1), np.float32)}
    start, end = session.run(["start", "end"], feeds)
    reach = np.minimum(np.arange(_LONGEST), len(start) - 1)
    return start[reach], end[reach[::-1]]


class _Cache:
    """The latest ``size`` texts' scores by hash, least recently used out first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[int, Scores] = OrderedDict()
        self._lock = Lock()

    def get(self, key: int) -> Scores | None:
        with self._lock:
            scores = self._kept.get(key)
            if scores is not None:
                self._kept.move_to_end(key)
            return scores

    def put(self, key: int, scores: Scores) -> None:
        with self._lock:
            self._kept[key] = scores
            if len(self._kept) > self._size:
                self._kept.popitem(last=False)


def _session(path: Path) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise RouterError(f"{path} is not a model that onnxruntime can load: {error}") from error
