"""What the dashboards show: every panel asks a question, says what a good answer looks like, and has a unit.

`build.py` makes Grafana's JSON of it. In queries `$instance`, `$adapter` and `$engine` are the dashboards' variables.
"""

from dataclasses import dataclass

RATE = "[$__rate_interval]"
GATEWAY = 'instance=~"$instance"'
ADAPTER = 'instance=~"$instance",adapter=~"$adapter"'
ENGINE = 'instance=~"$engine"'


@dataclass(frozen=True)
class Panel:
    """`queries` are pairs of PromQL and legend; `kind` is timeseries, stack (which adds up), stat or heatmap."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"


@dataclass(frozen=True)
class Board:
    """One dashboard; `variables` are those its queries use."""

    uid: str
    title: str
    description: str
    variables: tuple[str, ...]
    panels: tuple[Panel, ...]


def quantiles(metric: str, labels: str, by: str = "", levels: tuple[float, ...] = (0.5, 0.99)) -> list[tuple[str, str]]:
    """Queries for quantiles of a histogram, by a label where one is named."""
    legend = f" {{{{{by}}}}}" if by else ""
    grouped = f"le, {by}" if by else "le"
    rate = f"sum by ({grouped}) (rate({metric}_bucket{{{labels}}}{RATE}))"
    return [(f"histogram_quantile({level}, {rate})", f"p{level * 100:g}{legend}") for level in levels]


ROUTING = Board(
    "zephyra-routing",
    "Zephyra: routing",
    "What TinyAda decides, how sure it is, and what deciding costs.",
    ("instance",),
    (
        Panel(
            "Which domains do prompts go to?",
            "TinyAda's decisions by domain. A sudden other mix is either other traffic or a broken TinyAda.",
            "reqps",
            ((f"sum by (domain) (rate(zephyra_decisions_total{{{GATEWAY}}}{RATE}))", "{{domain}}"),),
            "stack",
        ),
        Panel(
            "Why was each expert chosen?",
            "By reason: resolved and sticky are TinyAda's choice, abstained and fallback went to the base.",
            "reqps",
            ((f"sum by (reason) (rate(zephyra_decisions_total{{{GATEWAY}}}{RATE}))", "{{reason}}"),),
            "stack",
        ),
        Panel(
            "How sure is TinyAda?",
            "Calibrated confidence of decisions. Mass near the threshold means that many could go either way.",
            "percentunit",
            ((f"sum by (le) (increase(zephyra_decision_confidence_bucket{{{GATEWAY}}}{RATE}))", "{{le}}"),),
            "heatmap",
        ),
        Panel(
            "How sure is it in each domain?",
            "Median confidence by domain. A domain far below the others wants training data.",
            "percentunit",
            tuple(quantiles("zephyra_decision_confidence", GATEWAY, "domain", (0.5,))),
        ),
        Panel(
            "Does it abstain more than usual?",
            "Share of decisions that went to the base for want of confidence, now against the whole day.",
            "percentunit",
            (("zephyra:abstained:ratio_15m", "15 minutes"), ("zephyra:abstained:ratio_1d", "a day")),
        ),
        Panel(
            "Has the mix of domains moved?",
            "Share of decisions that went elsewhere than on the whole of the day, 0 to 1. The alert is at 0.25.",
            "percentunit",
            (("zephyra:decisions:shift", "shift"),),
        ),
        Panel(
            "How long does a decision take?",
            "TinyAda's time for one decision. Tens of microseconds; milliseconds mean that no core is free for it.",
            "s",
            tuple(quantiles("zephyra_route_duration_seconds", GATEWAY, levels=(0.5, 0.9, 0.99))),
        ),
        Panel(
            "What does routing cost, on against off?",
            "The gateway's overhead where TinyAda was asked (routed) and where it was skipped (bypass, explicit).",
            "s",
            tuple(quantiles("zephyra_gateway_overhead_seconds", GATEWAY, "arm")),
        ),
        Panel(
            "Does the client notice, on against off?",
            "Median time to the first byte by arm: the difference is what a client could feel.",
            "s",
            tuple(quantiles("zephyra_time_to_first_token_seconds", GATEWAY, "arm", (0.5,))),
        ),
        Panel(
            "Where does the time of a request go?",
            "Mean time in each stage. The engine and the relaying of its answer should be nearly all of it.",
            "s",
            (
                (
                    f"sum by (stage) (rate(zephyra_stage_duration_seconds_sum{{{GATEWAY}}}{RATE})) / "
                    f"sum by (stage) (rate(zephyra_stage_duration_seconds_count{{{GATEWAY}}}{RATE}))",
                    "{{stage}}",
                ),
            ),
            "stack",
        ),
        Panel(
            "How often does the shadow TinyAda disagree?",
            "Share of compared decisions in which the one in the shadow chose another domain. Empty without a shadow.",
            "percentunit",
            (
                (
                    f"1 - sum(rate(zephyra_shadow_decisions_total{{{GATEWAY}}}{RATE}) and on (served, shadow) "
                    'label_replace(zephyra_shadow_decisions_total, "served", "$1", "shadow", "(.*)")) '
                    f"/ sum(rate(zephyra_shadow_decisions_total{{{GATEWAY}}}{RATE}))",
                    "disagreement",
                ),
            ),
        ),
        Panel(
            "Which domains do the two disagree on?",
            "Decisions compared: served, then what the shadow chose. Empty without a shadow.",
            "reqps",
            (
                (
                    f"sum by (served, shadow) (rate(zephyra_shadow_decisions_total{{{GATEWAY}}}{RATE}))",
                    "{{served}}, shadow {{shadow}}",
                ),
            ),
        ),
    ),
)

ADAPTERS = Board(
    "zephyra-adapters",
    "Zephyra: adapters",
    "Which versions exist, which serve, how fast they answer, and whether engines hold what they should.",
    ("instance", "adapter"),
    (
        Panel(
            "How many versions are in each phase?",
            "Versions in the store. Anything that stays in loading or verifying, or enters failed, wants a look.",
            "short",
            (
                (
                    'sum by (phase) (max by (adapter, phase) (zephyra_adapter_versions{adapter=~"$adapter"}))',
                    "{{phase}}",
                ),
            ),
        ),
        Panel(
            "Which version gets which share?",
            "The routes now, by version. Two lines of one adapter are a canary and what it is compared with.",
            "percentunit",
            (
                (
                    'max by (adapter, version) (zephyra_adapter_share{adapter=~"$adapter"})',
                    "{{adapter}}@{{version}}",
                ),
            ),
        ),
        Panel(
            "How soon does each adapter's answer begin?",
            "Time to the first byte, p50 and p99 by adapter. One that is slower than the others waits for a slot.",
            "s",
            tuple(quantiles("zephyra_time_to_first_token_seconds", ADAPTER, "adapter")),
        ),
        Panel(
            "How long does each adapter's answer take?",
            "From the whole request to the end of the answer, median by adapter.",
            "s",
            tuple(quantiles("zephyra_request_duration_seconds", ADAPTER, "adapter", (0.5,))),
        ),
        Panel(
            "How many tokens does each adapter write?",
            "Output tokens by the engines' count.",
            "short",
            (
                (
                    f'sum by (adapter) (rate(zephyra_tokens_total{{kind="output",{ADAPTER}}}{RATE}))',
                    "{{adapter}}",
                ),
            ),
            "stack",
        ),
        Panel(
            "How many tokens does each adapter read?",
            "Prompt tokens by the engines' count.",
            "short",
            (
                (
                    f'sum by (adapter) (rate(zephyra_tokens_total{{kind="prompt",{ADAPTER}}}{RATE}))',
                    "{{adapter}}",
                ),
            ),
            "stack",
        ),
        Panel(
            "Whose requests fail?",
            "Answers with 5xx by adapter. One adapter alone is its own fault; all at once is the engine's.",
            "reqps",
            ((f"sum by (adapter) (rate(zephyra_adapter_errors_total{{{ADAPTER}}}{RATE}))", "{{adapter}}"),),
        ),
        Panel(
            "How long does loading an adapter take?",
            "p50 and p99 of loads; every stream on the engine stalls for as long.",
            "s",
            tuple(quantiles("zephyra_adapter_load_seconds", GATEWAY)),
        ),
        Panel(
            "Which versions did not make it?",
            "Versions that failed within the range shown, by the step they failed in.",
            "short",
            (
                (
                    f"sum by (adapter, step) (increase(zephyra_adapter_failures_total{{{ADAPTER}}}[$__range]))",
                    "{{adapter}} {{step}}",
                ),
            ),
        ),
        Panel(
            "Which canaries were taken out?",
            "Canaries that the guard rolled back by itself within the range shown.",
            "short",
            (
                (
                    f"sum by (adapter) (increase(zephyra_canary_rollbacks_total{{{ADAPTER}}}[$__range]))",
                    "{{adapter}}",
                ),
            ),
        ),
        Panel(
            "Do the engines hold what they should?",
            "Adapters to load or unload by engine, 0 where all is as the store says; and what is loaded.",
            "short",
            (
                (f"max by (engine) (zephyra_adapters_drift{{{GATEWAY}}})", "drift {{engine}}"),
                (f"max by (engine) (zephyra_adapters_loaded{{{GATEWAY}}})", "loaded {{engine}}"),
                (f"max(zephyra_adapters_desired{{{GATEWAY}}})", "desired"),
            ),
        ),
        Panel(
            "Do more adapters run at once than a batch has slots?",
            "Distinct versions with requests by engine, as all gateways see it, against max-loras (0 where unknown).",
            "short",
            (
                (f"max by (engine) (zephyra_engine_adapters_running{{{GATEWAY}}})", "{{engine}}"),
                (f"max(zephyra_adapter_slots{{{GATEWAY}}})", "slots"),
            ),
        ),
    ),
)

ENGINES = Board(
    "zephyra-engine",
    "Zephyra: engine",
    "vLLM's own figures. Its label model_name is always the base: figures by adapter are the gateway's.",
    ("engine",),
    (
        Panel(
            "How busy is each engine?",
            "Requests in the running batch, and those that wait for it.",
            "short",
            (
                (f"sum by (instance) (vllm:num_requests_running{{{ENGINE}}})", "running {{instance}}"),
                (f"sum by (instance) (vllm:num_requests_waiting{{{ENGINE}}})", "waiting {{instance}}"),
            ),
        ),
        Panel(
            "What do waiting requests wait for?",
            "capacity: room in the batch or the cache. deferred: a slot for their adapter, so raise max-loras.",
            "short",
            (
                (
                    f"sum by (reason) (vllm:num_requests_waiting_by_reason{{{ENGINE}}})",
                    "{{reason}}",
                ),
            ),
        ),
        Panel(
            "How full is the KV cache?",
            "Near 100 % running requests are preempted and begin again.",
            "percentunit",
            ((f"max by (instance) (vllm:kv_cache_usage_perc{{{ENGINE}}})", "{{instance}}"),),
        ),
        Panel(
            "How soon does the engine's answer begin?",
            "vLLM's time to the first token, its queue included.",
            "s",
            tuple(quantiles("vllm:time_to_first_token_seconds", ENGINE)),
        ),
        Panel(
            "How long is the pause between two tokens?",
            "Inter-token latency. It grows with the batch, and jumps while an adapter is loaded.",
            "s",
            tuple(quantiles("vllm:inter_token_latency_seconds", ENGINE)),
        ),
        Panel(
            "How long do requests wait in the engine's queue?",
            "Beyond a second, fewer requests per engine or more engines are wanted.",
            "s",
            tuple(quantiles("vllm:request_queue_time_seconds", ENGINE)),
        ),
        Panel(
            "How long does a request take in the engine?",
            "End to end, as vLLM sees it.",
            "s",
            tuple(quantiles("vllm:e2e_request_latency_seconds", ENGINE)),
        ),
        Panel(
            "How many tokens does it read and write?",
            "Prompt and generated tokens a second.",
            "short",
            (
                (f"sum(rate(vllm:prompt_tokens_total{{{ENGINE}}}{RATE}))", "prompt"),
                (f"sum(rate(vllm:generation_tokens_total{{{ENGINE}}}{RATE}))", "generated"),
            ),
        ),
        Panel(
            "How much of the prompts comes from the prefix cache?",
            "Share of prompt tokens found in the cache. An adapter's own prefixes only: the key holds its name.",
            "percentunit",
            (
                (
                    f"sum(rate(vllm:prefix_cache_hits_total{{{ENGINE}}}{RATE})) / "
                    f"sum(rate(vllm:prefix_cache_queries_total{{{ENGINE}}}{RATE}))",
                    "hits",
                ),
            ),
        ),
        Panel(
            "How do requests end?",
            "By finish reason: stop and length are whole; abort is a client that left or an engine that stopped.",
            "reqps",
            (
                (
                    f"sum by (finished_reason) (rate(vllm:request_success_total{{{ENGINE}}}{RATE}))",
                    "{{finished_reason}}",
                ),
            ),
        ),
    ),
)

TRAFFIC = Board(
    "zephyra-gateway",
    "Zephyra: gateway",
    "Traffic, errors, latency and saturation of the gateway.",
    ("instance", "adapter"),
    (
        Panel(
            "Is everything up?",
            "Gateways that Prometheus reaches, engines that answer, engines that also have their adapters.",
            "short",
            (
                ('sum(up{job="zephyra"})', "gateways"),
                ("sum(min by (engine) (zephyra_engine_up))", "engines up"),
                ("sum(min by (engine) (zephyra_engine_ready))", "engines ready"),
            ),
            "stat",
        ),
        Panel(
            "Which alerts are firing?",
            "Alerts by name, from Prometheus. Nothing is shown while none fires.",
            "short",
            (('sum by (alertname) (ALERTS{alertstate="firing"})', "{{alertname}}"),),
            "stat",
        ),
        Panel(
            "How many requests come in?",
            "Requests a second by the model asked for.",
            "reqps",
            ((f"sum by (model) (rate(zephyra_requests_total{{{ADAPTER}}}{RATE}))", "{{model}}"),),
            "stack",
        ),
        Panel(
            "Who answers them?",
            "Requests a second by adapter; without one they were refused.",
            "reqps",
            ((f"sum by (adapter) (rate(zephyra_requests_total{{{ADAPTER}}}{RATE}))", "{{adapter}}"),),
            "stack",
        ),
        Panel(
            "How are they answered?",
            "Requests a second by HTTP status. 499 is a client that left.",
            "reqps",
            ((f"sum by (status) (rate(zephyra_requests_total{{{ADAPTER}}}{RATE}))", "{{status}}"),),
            "stack",
        ),
        Panel(
            "Which share fails?",
            "Share of answers with 5xx by adapter over 5 minutes. The alert is at 5 %.",
            "percentunit",
            (('adapter:zephyra_errors:ratio_rate5m{adapter=~"$adapter"}', "{{adapter}}"),),
        ),
        Panel(
            "How soon do answers begin?",
            "From the whole request to the first byte back.",
            "s",
            tuple(quantiles("zephyra_time_to_first_token_seconds", ADAPTER, levels=(0.5, 0.9, 0.99))),
        ),
        Panel(
            "How long do answers take?",
            "From the whole request to the end of the answer.",
            "s",
            tuple(quantiles("zephyra_request_duration_seconds", ADAPTER, levels=(0.5, 0.9, 0.99))),
        ),
        Panel(
            "What does the gateway add?",
            "Total less the engine, the queue and the client's sending: whole answers and streams.",
            "s",
            tuple(quantiles("zephyra_gateway_overhead_seconds", GATEWAY, "stream")),
        ),
        Panel(
            "How many requests are in flight?",
            "Requests being answered now, by gateway. The horizontal autoscaler aims at 64 for each.",
            "short",
            ((f"sum by (instance) (zephyra_requests_in_flight{{{GATEWAY}}})", "{{instance}}"),),
            "stack",
        ),
        Panel(
            "Which engine has how much to do?",
            "Requests forwarded, and those that wait in the gateway for a place on the engine.",
            "short",
            (
                (f"sum by (engine) (zephyra_engine_requests_in_flight{{{GATEWAY}}})", "forwarded {{engine}}"),
                (f"sum by (engine) (zephyra_engine_requests_waiting{{{GATEWAY}}})", "waiting {{engine}}"),
            ),
        ),
    ),
)

BOARDS = {"routing": ROUTING, "adapters": ADAPTERS, "engine": ENGINES, "gateway": TRAFFIC}
