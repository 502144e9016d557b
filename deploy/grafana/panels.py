"""What the Grafana dashboard asks: each panel's question, its unit and its PromQL."""

from __future__ import annotations

from typing import Final, NamedTuple

SCENARIO: Final = 'scenario=~"$scenario"'
GEN_AI: Final = 'tokenworks_scenario=~"$scenario"'
RATE: Final = "[$__rate_interval]"


class Query(NamedTuple):
    """A line of a panel, or a column of a table."""

    expr: str
    legend: str = ""
    has_exemplars: bool = False


class Panel(NamedTuple):
    """One question."""

    title: str
    text: str
    unit: str
    queries: list[Query]
    width: int = 8
    kind: str = "timeseries"
    is_stacked: bool = False


def quantile(share: float, name: str) -> str:
    """Of one of the conventions' histograms, by scenario."""
    series = f"sum by (le, tokenworks_scenario) (rate({name}_bucket{{{GEN_AI}}}{RATE}))"
    return f"histogram_quantile({share}, {series})"


def latency(title: str, text: str, name: str) -> Panel:
    """P50 and P99 of a histogram; dots are requests, by trace."""
    lines = [
        Query(quantile(share, name), f"{{{{tokenworks_scenario}}}} P{share * 100:g}", share > 0.9)
        for share in (0.5, 0.99)
    ]
    return Panel(title, text, "s", lines)


def column(expr: str, label: str = "scenario") -> Query:
    """A column of the table: one value a scenario."""
    if label == "scenario":
        return Query(expr)
    return Query(f'sum by (scenario) (label_replace({expr}, "scenario", "$1", "{label}", "(.+)"))')


def per_scenario(name: str, labels: str = "") -> str:
    """A counter's rate, by scenario."""
    inside = ",".join(part for part in (SCENARIO, labels) if part)
    return f"sum by (scenario) (rate({name}{{{inside}}}{RATE}))"


def of_gen_ai(share: float, name: str) -> Query:
    """A quantile as a column."""
    return column(quantile(share, name), "tokenworks_scenario")


KEPT: Final = 'result="kept"'
PROMPT: Final = 'kind="prompt"'
PROMISED: Final = 'result=~"kept|broken"'
TTFT: Final = "gen_ai_server_time_to_first_token_seconds"
TPOT: Final = "gen_ai_server_time_per_output_token_seconds"
E2E: Final = "gen_ai_server_request_duration_seconds"
TABLE: Final = {
    "requests/s": (column(per_scenario("tokenworks_records_total")), "reqps"),
    "kept": (
        column(
            f"{per_scenario('tokenworks_objective_requests_total', KEPT)}"
            f" / {per_scenario('tokenworks_objective_requests_total', PROMISED)}"
        ),
        "percentunit",
    ),
    "TTFT P50": (of_gen_ai(0.5, TTFT), "s"),
    "TTFT P99": (of_gen_ai(0.99, TTFT), "s"),
    "TPOT P50": (of_gen_ai(0.5, TPOT), "s"),
    "TPOT P99": (of_gen_ai(0.99, TPOT), "s"),
    "tokens out/s": (column(per_scenario("tokenworks_tokens_total", 'kind="output"')), "short"),
    "cached": (
        column(
            f"{per_scenario('tokenworks_cached_tokens_by_tier_total')}"
            f" / {per_scenario('tokenworks_tokens_total', PROMPT)}"
        ),
        "percentunit",
    ),
    "cost per M tokens": (
        column(f"1e6 * {per_scenario('tokenworks_cost_total')} / {per_scenario('tokenworks_tokens_total')}"),
        "short",
    ),
}
ROWS: Final = {
    "Promises": [
        Panel(
            "Error budget burn",
            "How many times as fast as it may the error budget is used up; above 14.4 for an hour somebody is paged.",
            "none",
            [Query("tokenworks:broken_ratio:rate1h / scalar(tokenworks:error_budget)", "{{scenario}} 1 h")],
        ),
        Panel(
            "Goodput",
            "Requests per second that ended well and kept every objective.",
            "reqps",
            [Query(per_scenario("tokenworks_objective_requests_total", 'result="kept"'), "{{scenario}}")],
        ),
        Panel(
            "How requests ended",
            "By outcome: ok, or the code of the error; docs/reference/errors.md has them.",
            "reqps",
            [Query(f"sum by (outcome) (rate(tokenworks_records_total{{{SCENARIO}}}{RATE}))", "{{outcome}}")],
            is_stacked=True,
        ),
        Panel(
            "Alerts",
            "Those of rules.yml that fire, and those that the observer found by itself.",
            "none",
            [Query('ALERTS{alertstate="firing"}'), Query("tokenworks_alerts_firing")],
            width=24,
            kind="table",
        ),
    ],
    "The table": [
        Panel(
            "By scenario",
            "The same columns as `tokenworks table`, over the dashboard's step.",
            "short",
            [query for query, _ in TABLE.values()],
            width=24,
            kind="table",
        ),
        latency("Time to first token", "Request received to first token sent.", TTFT),
        latency("Time per token", "Mean per token after the first.", TPOT),
        latency("End to end", "Request received to last byte sent, whatever became of it.", E2E),
    ],
    "Where the time goes": [
        Panel(
            "Waterfall",
            "Seconds per request in each stage; they sum to the mean E2E.",
            "s",
            [
                Query(
                    f"sum by (stage) (rate(tokenworks_stage_seconds_total{{{SCENARIO}}}{RATE}))"
                    f" / scalar(sum(rate(tokenworks_records_total{{{SCENARIO}}}{RATE})))",
                    "{{stage}}",
                )
            ],
            width=16,
            is_stacked=True,
        ),
        Panel(
            "Gap between tokens",
            "P50 and P99 of the gaps between two token events of one sequence.",
            "s",
            [
                Query(f"histogram_quantile({share}, sum by (le) (rate(tokenworks_itl_seconds_bucket{RATE})))", legend)
                for share, legend in ((0.5, "P50"), (0.99, "P99"))
            ],
        ),
    ],
    "Workers": [
        Panel(
            "What their time went to",
            "Share of wall time in steps, by what they computed, between steps, and idle.",
            "percentunit",
            [
                Query(f"rate(tokenworks_worker_step_seconds_total{RATE})", "{{worker}} {{work}}"),
                Query(f"rate(tokenworks_worker_between_seconds_total{RATE})", "{{worker}} between"),
                Query(f"rate(tokenworks_worker_idle_seconds_total{RATE})", "{{worker}} idle"),
            ],
            is_stacked=True,
        ),
        Panel(
            "MFU and MBU",
            "Operations and bytes per second over the peaks that the worker measured at its start.",
            "percentunit",
            [
                Query(
                    f"rate(tokenworks_worker_flops_total{RATE}) / tokenworks_worker_peak_flops_per_second",
                    "{{worker}} MFU",
                ),
                Query(
                    f"rate(tokenworks_worker_read_bytes_total{RATE}) / tokenworks_worker_peak_read_bytes_per_second",
                    "{{worker}} MBU",
                ),
            ],
        ),
        Panel(
            "Running and waiting",
            "Sequences.",
            "short",
            [
                Query("tokenworks_worker_running", "{{worker}} running"),
                Query("tokenworks_worker_waiting", "{{worker}} waiting"),
            ],
        ),
        Panel(
            "KV in use",
            "Share of the worker's KV blocks.",
            "percentunit",
            [Query("tokenworks_worker_kv_blocks_used / tokenworks_worker_kv_blocks", "{{worker}}")],
        ),
        Panel(
            "Preempted, sent again, lost",
            "Sequences preempted, legs refused or lost, workers lost; per second.",
            "cps",
            [
                Query(f"rate(tokenworks_worker_preemptions_total{RATE})", "{{worker}} preempted"),
                Query(f"sum by (reason) (rate(tokenworks_leg_failures_total{RATE}))", "leg {{reason}}"),
                Query(f"rate(tokenworks_workers_lost_total{RATE})", "workers lost"),
                Query(f"rate(tokenworks_worker_failed_starts_total{RATE})", "failed starts"),
            ],
        ),
        Panel("Ready", "Workers that take requests.", "short", [Query("tokenworks_workers_ready", "{{instance}}")]),
    ],
    "Caches": [
        Panel(
            "Prompt tokens found",
            "Share of prompt tokens that were not computed, by the tier that had them.",
            "percentunit",
            [
                Query(
                    f"sum by (tier) (rate(tokenworks_cached_tokens_by_tier_total{{{SCENARIO}}}{RATE}))"
                    f' / scalar(sum(rate(tokenworks_tokens_total{{kind="prompt",{SCENARIO}}}{RATE})))',
                    "{{tier}}",
                )
            ],
            is_stacked=True,
        ),
        Panel(
            "Tiers",
            "Share of each tier that is full.",
            "percentunit",
            [Query("tokenworks_kv_tier_used_bytes / tokenworks_kv_tier_limit_bytes", "{{store}} {{tier}}")],
        ),
        Panel(
            "Hits, misses, evictions",
            "Blocks per second.",
            "cps",
            [
                Query(f"rate(tokenworks_kv_tier_hits_total{RATE})", "{{store}} {{tier}} hits"),
                Query(f"rate(tokenworks_kv_store_misses_total{RATE})", "{{store}} misses"),
                Query(f"rate(tokenworks_kv_tier_evictions_total{RATE})", "{{store}} {{tier}} evicted"),
            ],
        ),
    ],
    "Cost": [
        Panel(
            "Cost per hour by stage",
            "What requests cost, by stage, and what the workers' idle time costs besides.",
            "short",
            [
                Query(f"3600 * sum by (stage) (rate(tokenworks_cost_total{RATE}))", "{{stage}}"),
                Query(
                    f"sum(rate(tokenworks_worker_idle_seconds_total{RATE}) * tokenworks_worker_price_per_hour)", "idle"
                ),
                Query(
                    f"sum(rate(tokenworks_worker_between_seconds_total{RATE}) * tokenworks_worker_price_per_hour)",
                    "between steps",
                ),
            ],
            is_stacked=True,
        ),
        Panel(
            "Cost per hour by tenant",
            "Of those with the most tokens; all others together are (other).",
            "short",
            [Query(f"3600 * sum by (tenant) (rate(tokenworks_tenant_cost_total{RATE}))", "{{tenant}}")],
            is_stacked=True,
        ),
        Panel(
            "Saved and wasted per hour",
            "What cached tokens would have cost; what went to requests that did not end well.",
            "short",
            [
                Query(f"3600 * sum(rate(tokenworks_cost_saved_total{RATE}))", "saved by caches"),
                Query(f"3600 * sum(rate(tokenworks_cost_wasted_total{RATE}))", "wasted"),
            ],
        ),
    ],
    "Drift and ledger": [
        Panel(
            "Drift",
            "Population stability index by feature: 0.1 is a small shift, 0.25 a large one.",
            "none",
            [Query("tokenworks_drift_psi", "{{feature}}")],
            width=12,
        ),
        Panel(
            "Features that moved",
            "1 where a feature is above chance and above what is tolerated.",
            "none",
            [Query("tokenworks_drift_moved", "{{feature}}")],
            width=6,
        ),
        Panel(
            "Ledger",
            "Records that are missing, of the last hour, that wait to be written, that are lost; is the observer up.",
            "none",
            [
                Query("tokenworks_ledger_missing_frames", "missing"),
                Query("tokenworks_observer_up", "observer up"),
                Query("sum(tokenworks_journal_waiting_frames)", "waiting to be written"),
                Query(f"rate(tokenworks_journal_dropped_frames_total{RATE})", "dropped per second"),
            ],
            width=6,
        ),
    ],
}
