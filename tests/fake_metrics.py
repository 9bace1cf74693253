"""The part of vLLM's /metrics that dashboards and alerts read, with vLLM's names and labels.

tests/engine/test_metrics.py holds these names against the real engine.
"""

from collections.abc import Iterator

LABELS = 'model_name="base",engine="0"'
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
COUNTERS = ("prompt_tokens_total", "generation_tokens_total", "prefix_cache_queries_total", "prefix_cache_hits_total")
HISTOGRAMS = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_queue_time_seconds",
    "e2e_request_latency_seconds",
)
BOUNDS = ("0.001", "0.01", "0.1", "+Inf")


def render(answered: int, running: int = 0, deferred: int = 0) -> bytes:
    """The exposition of an engine that gave so many answers, `deferred` requests waiting for a slot."""
    return "\n".join([*_lines(answered, running, deferred), ""]).encode()


def _lines(answered: int, running: int, deferred: int) -> Iterator[str]:
    gauges = (running, deferred, min(1.0, running / 100))
    for name, value in zip(GAUGES, gauges, strict=True):
        yield f"# TYPE vllm:{name} gauge"
        yield f"vllm:{name}{{{LABELS}}} {value}"
    yield "# TYPE vllm:num_requests_waiting_by_reason gauge"
    for reason, value in (("capacity", 0), ("deferred", deferred)):
        yield f'vllm:num_requests_waiting_by_reason{{{LABELS},reason="{reason}"}} {value}'
    for name, factor in zip(COUNTERS, (20, 7, 20, 5), strict=True):
        yield f"# TYPE vllm:{name} counter"
        yield f"vllm:{name}{{{LABELS}}} {answered * factor}"
    yield "# TYPE vllm:request_success_total counter"
    for reason in ("stop", "length", "abort"):
        yield f'vllm:request_success_total{{{LABELS},finished_reason="{reason}"}} {answered if reason == "stop" else 0}'
    for name in HISTOGRAMS:
        yield f"# TYPE vllm:{name} histogram"
        for index, bound in enumerate(BOUNDS):
            yield f'vllm:{name}_bucket{{{LABELS},le="{bound}"}} {answered * (index + 1) // len(BOUNDS)}'
        yield f"vllm:{name}_sum{{{LABELS}}} {answered * 0.01}"
        yield f"vllm:{name}_count{{{LABELS}}} {answered}"
