"""Whether a prompt goes to another worker first: by example, with seconds that can be added up by hand, and properties.

A card here takes 10 ms a prompt token and nothing else; a token of KV is 1,000 bytes; blocks are of 10 tokens.
"""

from __future__ import annotations

import random

import pytest
from msgspec.structs import replace

from tokenworks.contract.card import Card
from tokenworks.contract.kv import KVSpec
from tokenworks.contract.request import Scenario
from tokenworks.contract.wire import Role
from tokenworks.policy.placement import Candidate
from tokenworks.policy.split import (
    HANDOFF_S,
    MARGIN,
    MIN_GAIN_S,
    Cost,
    Decision,
    Option,
    Prompt,
    Reason,
    decide,
    second_half,
)

FAST = 1e9  # bytes a second: 101 tokens take 0.1 ms
KV = KVSpec("model", num_layers=5, num_kv_heads=1, head_dim=50, block_tokens=10, dtype="bfloat16")
LONG = Prompt(101)  # 1.01 s; a first half takes 100 tokens, 1 s


def card(per_token_s: float = 0.01) -> Card:
    return Card("cpu", 1, "float32", "float32", 1, 1, "float32", 1, 100, (), (), 0, per_token_s, 0, 0, 0, 0)


def option(
    worker_id: str,
    role: Role = Role.BOTH,
    *,
    held: int = 0,
    load: int = 0,
    queued: int = 0,
    decoding: int = 0,
    per_token_s: float = 0.01,
    kv: KVSpec | None = KV,
    is_ready: bool = True,
) -> Option:
    candidate = Candidate(worker_id, is_ready, load, 0, 0, held, role)
    return Option(candidate, card(per_token_s), queued, decoding, kv)


def one(*options: Option, prompt: Prompt = LONG, speed: float = FAST, may_split: bool = True) -> Decision:
    decision = decide(options, prompt, speed, may_split=may_split)
    assert decision is not None
    return decision


def test_the_bytes_of_a_token_are_those_of_the_example() -> None:
    assert KV.bytes_per_token == 1000


def test_nobody_ready_means_no_answer() -> None:
    assert decide([], LONG, FAST) is None
    assert decide([option("a", is_ready=False)], LONG, FAST) is None


def test_the_default_is_not_to_split() -> None:
    decision = one(option("a"), option("b"))
    assert (decision.worker_id, decision.prefill_id, decision.way) == ("a", None, "direct")
    assert decision.reason is Reason.NO_GAIN
    assert decision.predicted_s == decision.direct_s == pytest.approx(1.01)
    assert decision.split_s == pytest.approx(1.0 + HANDOFF_S + 100 * 1000 / FAST + 0.01)


def test_a_short_prompt_is_never_sent_around() -> None:
    held = option("b", held=90, decoding=9)
    for prompt, busy in ((Prompt(20), option("b", decoding=9)), (LONG, held)):
        decision = one(option("p", Role.PREFILL), busy, prompt=prompt)
        assert (decision.worker_id, decision.prefill_id, decision.reason) == ("b", None, Reason.SHORT)


def test_choices_of_one_prompt_go_side_by_side() -> None:
    decision = one(option("p", Role.PREFILL), option("b", decoding=9), may_split=False)
    assert (decision.worker_id, decision.prefill_id, decision.reason) == ("b", None, Reason.SHARED)


def test_running_decoders_are_spared() -> None:
    """Direct: 1.01 s and 1.01 s for each of three. Split: 1.02 s, and 0.02 s for each."""
    decision = one(option("p", Role.PREFILL), option("b", decoding=3, load=3))
    assert (decision.prefill_id, decision.worker_id, decision.way) == ("p", "b", "split")
    assert decision.reason is Reason.SPARES
    assert decision.predicted_s == decision.split_s == pytest.approx(1.0201)
    assert decision.direct_s == pytest.approx(1.01)


def test_a_faster_card_or_an_empty_queue_gives_the_first_token_sooner() -> None:
    fast = one(option("p", Role.PREFILL, per_token_s=0.001), option("b"))
    assert (fast.prefill_id, fast.worker_id, fast.reason) == ("p", "b", Reason.SOONER)
    assert fast.split_s == pytest.approx(0.1 + HANDOFF_S + 0.0001 + 0.01)


def test_a_queue_at_the_second_worker_must_be_waited_for_either_way() -> None:
    decision = one(option("p", Role.PREFILL), option("b", queued=200))
    assert decision.direct_s == pytest.approx(2 + 1.01)
    assert decision.split_s == pytest.approx(2 + HANDOFF_S + 0.0001 + 0.01)
    assert decision.reason is Reason.SOONER


def test_a_decode_worker_is_kept_free_of_long_prompts() -> None:
    prefill, decode, both = option("p", Role.PREFILL), option("d", Role.DECODE), option("z")
    assert one(prefill, decode).prefill_id == "p"
    assert one(prefill, decode, prompt=Prompt(20)).worker_id == "d"
    assert one(decode, both).worker_id == "z"
    assert one(decode, option("e", Role.DECODE)).worker_id == "d"


def test_a_decode_worker_computes_no_prompt_for_others() -> None:
    assert one(option("d", Role.DECODE, decoding=5), option("e", Role.DECODE)).reason is Reason.ALONE


def test_only_prefill_workers_left_serve() -> None:
    decision = one(option("p", Role.PREFILL), option("q", Role.PREFILL))
    assert (decision.worker_id, decision.prefill_id, decision.reason) == ("p", None, Reason.ALONE)


@pytest.mark.parametrize(
    "partner",
    [
        option("p", Role.PREFILL, kv=None),
        option("p", Role.PREFILL, kv=replace(KV, fingerprint="other")),
        option("p", Role.PREFILL, kv=replace(KV, block_tokens=20)),
        option("p", Role.PREFILL, is_ready=False),
    ],
)
def test_a_pair_must_be_able_to_exchange_blocks(partner: Option) -> None:
    assert one(partner, option("b", decoding=9)).reason is Reason.ALONE


def test_nothing_is_handed_over_that_the_second_worker_has() -> None:
    """The direct worker is full, so that the other one takes it, which holds all but the tail."""
    prompt = Prompt(10 * 100)
    first, second = option("a", held=0, load=0, decoding=5), option("b", Role.DECODE, held=990, load=20)
    decision = one(first, second, prompt=prompt)
    assert (decision.worker_id, decision.prefill_id) == ("a", None)
    assert decision.reason is Reason.ALONE


def test_a_slow_link_is_not_used() -> None:
    prefill, busy = option("p", Role.PREFILL), option("b", decoding=3)
    assert one(prefill, busy, speed=1e4).reason is Reason.NO_GAIN  # ten seconds for 100,000 bytes
    assert one(prefill, busy, speed=1e6).reason is Reason.SPARES


def test_an_offline_request_is_split_for_others_and_not_for_itself() -> None:
    fast = (option("p", Role.PREFILL, per_token_s=0.006), option("b"))
    offline = Prompt(101, Scenario.OFFLINE)
    assert one(*fast).reason is Reason.SOONER
    assert one(*fast, prompt=offline).reason is Reason.NO_GAIN
    assert one(option("p", Role.PREFILL), option("b", decoding=3), prompt=offline).reason is Reason.SPARES


@pytest.mark.parametrize(("per_token_s", "reason"), [(0.0078, Reason.SOONER), (0.0080, Reason.NO_GAIN)])
def test_a_gain_must_reach_the_margin(per_token_s: float, reason: Reason) -> None:
    """A fifth of 1.01 s: the first half's 100 tokens may take 0.788 s."""
    assert MARGIN == 0.2
    assert one(option("p", Role.PREFILL, per_token_s=per_token_s), option("b")).reason is reason


@pytest.mark.parametrize(("per_token_s", "reason"), [(0.0046, Reason.SOONER), (0.0050, Reason.NO_GAIN)])
def test_a_gain_must_be_worth_the_trouble(per_token_s: float, reason: Reason) -> None:
    """A tenth of the seconds counts: of 0.101 s half would be saved, but 0.05 s must be."""
    assert MIN_GAIN_S == 0.05
    offline = Prompt(101, Scenario.OFFLINE)
    assert one(option("p", Role.PREFILL, per_token_s=per_token_s), option("b"), prompt=offline).reason is reason


def test_what_a_cost_is() -> None:
    assert Cost(1.0, 0.5).total(Scenario.ONLINE) == 1.5
    assert Cost(1.0, 0.5).total(Scenario.OFFLINE) == pytest.approx(0.6)


def test_a_card_that_says_nothing_is_never_split_for() -> None:
    assert one(option("p", Role.PREFILL), option("b", decoding=9, per_token_s=0)).reason is Reason.SHORT


def test_a_first_half_is_the_full_blocks_short_of_the_last_token() -> None:
    handed = [option("p").handed_tokens(Prompt(count)) for count in (1, 10, 11, 20, 21)]
    assert handed == [0, 0, 10, 10, 20]
    assert one(option("p", Role.PREFILL), option("b", decoding=3)).prefill_tokens == 100
    assert one(option("p", Role.PREFILL), option("b")).prefill_tokens == 0


def test_the_second_half_goes_to_anybody_else_rather() -> None:
    first, other = option("a", held=100).candidate, option("b", load=3).candidate
    prefill = option("p", Role.PREFILL).candidate
    assert second_half([first, other, prefill], "a") == "b"
    assert second_half([first, prefill], "a") == "a"
    assert second_half([prefill], "p") == "p"
    assert second_half([], "a") is None


def random_options(random_: random.Random) -> list[Option]:
    return [
        option(
            f"w{number}",
            random_.choice(list(Role)),
            held=10 * random_.randrange(12),
            load=random_.randrange(12),
            queued=random_.choice([0, 0, 50, 300]),
            decoding=random_.randrange(5),
            per_token_s=random_.choice([0.001, 0.01, 0.03]),
            kv=random_.choice([KV, KV, KV, None]),
            is_ready=random_.random() < 0.9,
        )
        for number in range(random_.randrange(1, 6))
    ]


@pytest.mark.parametrize("seed", range(300))
def test_more_load_on_the_prefill_workers_never_makes_splitting_likelier(seed: int) -> None:
    random_ = random.Random(seed)
    options = random_options(random_)
    prompt = Prompt(random_.randrange(1, 400), random_.choice(list(Scenario)))
    speed = random_.choice([1e4, 1e5, 1e6, 1e9])
    if all(each.role is Role.PREFILL for each in options if each.candidate.is_ready):
        return  # they are all there is, and load decides among them as among any others
    before = decide(options, prompt, speed)
    busier = [
        replace(
            each,
            queued_tokens=each.queued_tokens + random_.randrange(200),
            decoding=each.decoding + random_.randrange(4),
            candidate=replace(each.candidate, running=each.candidate.running + random_.randrange(9)),
        )
        if each.role is Role.PREFILL
        else each
        for each in options
    ]
    after = decide(busier, prompt, speed)
    assert before is not None
    assert after is not None
    assert not (before.way == "direct" and after.way == "split" and prefill_roles(options)[after.prefill_id or ""])


def prefill_roles(options: list[Option]) -> dict[str, bool]:
    return {each.id: each.role is Role.PREFILL for each in options}


@pytest.mark.parametrize("seed", range(300))
def test_a_decision_names_ready_workers_and_a_split_is_a_predicted_gain(seed: int) -> None:
    random_ = random.Random(1000 + seed)
    options = random_options(random_)
    prompt = Prompt(random_.randrange(1, 400), random_.choice(list(Scenario)))
    decision = decide(options, prompt, 1e6)
    ready = {each.id: each for each in options if each.candidate.is_ready}
    if decision is None:
        assert not ready
        return
    assert decision.worker_id in ready
    faster = decide(options, prompt, 1e7)
    assert faster is not None
    if decision.prefill_id is None:
        return
    assert faster.way == "split", "a faster link made a split less likely"
    first, second = ready[decision.prefill_id], ready[decision.worker_id]
    assert first.id != second.id
    assert first.role is not Role.DECODE
    assert second.role is not Role.PREFILL
    assert first.kv == second.kv == KV
