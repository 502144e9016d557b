"""Rules as data: a user's file adds, replaces and turns off; every mistake in it is told with its place."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from tests.observe.diagnose.test_diagnosis import SETTINGS
from tests.observe.scenes import BEFORE, NOW, Scene
from tokenworks.cli.main import COMMANDS, main
from tokenworks.contract.errors import ConfigError
from tokenworks.observe.diagnose.diagnosis import diagnose
from tokenworks.observe.diagnose.rules import Rule, all_names, load_rules, own_rules
from tokenworks.observe.tables.columns import COLUMNS
from tokenworks.observe.units import UNITS

OURS = """
[define]
is_long = "prompt_tokens_mean > 150"

[[rule]]
name = "long_prompts"
over = "tenant"
severity = "notice"
when = "is_long and requests >= 3"
signal = "Tenant {subject} sends {prompt_tokens_mean}."
cause = "It sends whole documents {and braces}."
action = "Ask."
evidence = ["prompt_tokens_mean"]
gain = "prompt_tokens_mean - 150"
gain_unit = "tokens"
gain_text = "{gain} less"
min_requests = 3
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "ours.toml"
    file.write_text(text)
    return file


def test_a_rule_of_ones_own_is_found(tmp_path: Path) -> None:
    rules = load_rules([write(tmp_path, OURS.replace(" {and braces}", ""))])
    assert len(rules.rules) == len(own_rules().rules) + 1
    scene = Scene().usual(BEFORE, 30).usual(NOW, 30, prompt=200)
    [finding] = diagnose(scene.ledger(), NOW, SETTINGS, rules)
    assert finding.rule == "long_prompts"
    assert finding.signal == "Tenant anna sends 200 tokens."
    assert finding.gain == "50 tokens less"
    assert finding.arithmetic == "prompt_tokens_mean - 150 = 200 tokens - 150 = 50 tokens"


def test_a_gain_may_be_made_of_a_definition(tmp_path: Path) -> None:
    text = OURS.replace(" {and braces}", "").replace('gain = "prompt_tokens_mean - 150"', 'gain = "2 * is_long"')
    rules = load_rules([write(tmp_path, text)])
    [finding] = diagnose(Scene().usual(NOW, 30, prompt=200).ledger(), NOW, SETTINGS, rules)
    assert finding.gain == "2 tokens less"
    assert finding.arithmetic.startswith("2 * is_long = 2 * 1")


def test_a_rule_of_the_same_name_replaces_and_can_be_turned_off(tmp_path: Path) -> None:
    text = '[[rule]]\nname = "slow_client"\nwhen = "0 > 1"\nsignal = ""\ncause = ""\naction = ""\n'
    rules = load_rules([write(tmp_path, text)])
    assert [rule.name for rule in rules.rules] == [rule.name for rule in own_rules().rules]
    assert [rule.when for rule in rules.rules if rule.name == "slow_client"] == ["0 > 1"]


def test_a_definition_of_the_same_name_replaces_it_everywhere(tmp_path: Path) -> None:
    rules = load_rules([write(tmp_path, '[define]\nlate_start = "ttft_p99_s > 0.01"\n')])
    scene = Scene().requests(NOW, 60)
    assert {finding.rule for finding in diagnose(scene.ledger(), NOW, SETTINGS, rules)} & {
        "late_by_prompt",
        "late_by_queue",
    }


def test_a_gain_that_would_be_a_loss_is_not_told(tmp_path: Path) -> None:
    text = OURS.replace(" {and braces}", "").replace("prompt_tokens_mean - 150", "prompt_tokens_mean - 250")
    scene = Scene().usual(BEFORE, 30).usual(NOW, 30, prompt=200)
    [finding] = diagnose(scene.ledger(), NOW, SETTINGS, load_rules([write(tmp_path, text)]))
    assert (finding.gain, finding.gain_value, finding.arithmetic) == ("", None, "")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[define]", "[define", "not valid TOML"),
        ('over = "tenant"', 'over = "tennant"', "`over` is one of window, scenario, tenant"),
        ('severity = "notice"', 'severity = "bad"', "Invalid enum value 'bad'"),
        ("min_requests = 3", 'min_requests = "3"', "Expected `int`"),
        ("min_requests = 3", "min_request = 3", "unknown field `min_request`"),
        ("is_long and requests", "is_log and requests", "unknown name `is_log`; the nearest known one is `is_long`"),
        ('evidence = ["prompt_tokens_mean"]', 'evidence = ["prompt_token"]', "`prompt_tokens`"),
        ("sends {prompt_tokens_mean}", "sends {prompts}", "unknown name `prompts`"),
        (" {and braces}", " {}", "unknown name ``"),
        ("requests >= 3", "requests.__class__", "Attribute is not allowed"),
        ('gain = "prompt_tokens_mean - 150"', "", "give both `gain` and `gain_text`"),
        ("min_requests = 3", 'unless = ["nobody"]', "`unless` names rules further up; unknown name `nobody`"),
        ("min_requests = 3", 'peak = "cores_per_busy_s"', "`peak` is of requests; unknown name `cores_per_busy_s`"),
        ("is_long =", "requests =", "[define] requests: give it a name that is not taken"),
        ("prompt_tokens_mean > 150", "is_long > 150", "[define] is_long; unknown name `is_long`"),
        ('cause = "It', 'cuase = "It', "cuase"),
        ('gain_unit = "tokens"', 'gain_unit = "miles"', "Invalid enum value 'miles'"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    good = OURS.replace(" {and braces}", "") if "{and" not in old else OURS
    assert old in good
    with pytest.raises(ConfigError) as caught:
        load_rules([write(tmp_path, good.replace(old, new))])
    assert said in caught.value.message
    assert "ours.toml" in caught.value.message


def test_a_file_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the rules in .*none.toml: No such file"):
        load_rules([tmp_path / "none.toml"])
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_rules([file])


def test_every_signal_has_a_known_unit_and_a_meaning() -> None:
    for name, signal in all_names().items():
        assert signal.unit in UNITS, name
        assert signal.meaning, name


RUN = re.compile(r"`tokenworks ([^`]+)`")
FLAG = re.compile(r"(--[a-z][a-z-]*)")


@pytest.mark.parametrize("rule", own_rules().rules, ids=lambda rule: rule.name)
def test_what_a_rule_tells_to_do_can_be_done(rule: Rule) -> None:
    """Its commands are parsed by the commands themselves, columns included, and its flags are some command's."""
    told = " ".join(f"{rule.cause} {rule.action}".split())
    for line in RUN.findall(told):
        name, *arguments = line.split()
        command = main.get_command(click.Context(main), name)
        assert command is not None
        context = command.make_context(name, [*arguments])
        assert {*(context.params.get("columns") or "").split(",")} - {""} <= {*COLUMNS}
    known_flags = {flag for name in COMMANDS for flag in flags_of(name)}
    assert {*FLAG.findall(told)} <= known_flags
    assert not re.search(r"--\S*- ", told), "a flag that is broken at a line's end"


def flags_of(name: str) -> list[str]:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return [flag for option in command.params for flag in option.opts]


def test_text_from_outside_in_a_finding_is_text(tmp_path: Path) -> None:
    rules = load_rules([write(tmp_path, OURS.replace(" {and braces}", ""))])
    scene = Scene().usual(NOW, 30, tenant="{requests}'; DROP TABLE records; --")
    [finding] = [each for each in diagnose(scene.ledger(), NOW, SETTINGS, rules) if each.rule == "long_prompts"]
    assert finding.subject == "{requests}'; DROP TABLE records; --"
    assert "{requests}';" in finding.signal
