"""Every flag of every command, frozen: a new one, or one less, is a visible line in a diff."""

from __future__ import annotations

from collections import Counter

import click
import pytest

from tokenworks.cli.main import main
from tokenworks.contract.setting import ENVIRONMENT_PREFIX, NOT_SETTINGS, all_settings

GATEWAY = "--host --port --model-name --worker-address --max-body-bytes --lease-s --auth"
ENGINE = """
    --dtype --quantize --max-context-tokens --kv-bytes --kv-dtype --block-tokens --max-running --max-step-tokens
    --kernels
    --speculation --threads
    --price-per-hour --watts
"""
KV = """
    --kv-host-bytes --kv-disk-path --kv-disk-bytes --kv-remote --kv-sync-s --kv-store-address --kv-exchange
    --kv-tenant-sharing
"""
LEDGER = """
    --ledger-path --ledger-database --ledger-flush-s --ledger-sample-s --ledger-detail-days --ledger-address
    --ledger-record-days
    --cost-currency --cost-energy-per-kwh --cost-host-per-gb-hour --cost-disk-per-gb-hour --cost-remote-per-gb-hour
    --cost-transfer-per-gb
    --slo-online-ttft-s --slo-online-tpot-s --slo-online-e2e-s --slo-offline-ttft-s --slo-offline-tpot-s
    --slo-offline-e2e-s --slo-realtime-ttft-s --slo-realtime-itl-s --slo-realtime-e2e-s --slo-success-ratio
"""
EXPORT = "--otlp-endpoint --zone"
LOG = "--log-level --log-format"
ALERTS = """
    --alerts-kind --alerts-url --alerts-secret-variable --alerts-interval-s --alerts-drift-psi --alerts-drift-hours
    --alerts-drift-reference-hours
"""
OBJECTIVES = """
    --slo-online-ttft-s --slo-online-tpot-s --slo-online-e2e-s --slo-offline-ttft-s --slo-offline-tpot-s
    --slo-offline-e2e-s --slo-realtime-ttft-s --slo-realtime-itl-s --slo-realtime-e2e-s --slo-success-ratio
"""
SERVE = f"MODEL {GATEWAY} {ENGINE} {KV} {LEDGER} {EXPORT} {ALERTS} --workers --drain-s {LOG} --config --settings"
FROZEN = {
    "serve": SERVE,
    "gateway": f"MODEL {GATEWAY} {LEDGER} --kv-tenant-sharing --drain-s {LOG} --config --settings --parent",
    "worker": f"""MODEL {ENGINE} --kv-store-address --kv-exchange --id --gateway --group --drain-s {LOG} --config
        --settings --parent""",
    "kvstore": f"{KV} --id --gateway {LOG} --config --settings --parent",
    "observer": f"{LEDGER} {EXPORT} {ALERTS} {LOG} --config --settings --parent",
    "table": """
        --by --since --until --where --every --preset --columns --rows --against --json --csv --watch --ledger-path
        --ledger-database --cost-currency --cost-energy-per-kwh --cost-host-per-gb-hour --cost-disk-per-gb-hour
        --cost-remote-per-gb-hour --cost-transfer-per-gb --slo-online-ttft-s --slo-online-tpot-s --slo-online-e2e-s
        --slo-offline-ttft-s --slo-offline-tpot-s --slo-offline-e2e-s --slo-realtime-ttft-s --slo-realtime-itl-s
        --slo-realtime-e2e-s --slo-success-ratio --config --settings
    """,
    "chains": """
        TRACE --since --until --traces --json --ledger-path --ledger-database --zone --config --settings
    """,
    "explain": """REQUEST_ID --last --slowest --outcome --since --json --ledger-path --ledger-database --cost-currency
        --config --settings""",
    "diagnose": f"""--since --until --baseline --rules --json --ledger-path --ledger-database --cost-currency
        {OBJECTIVES} --config --settings""",
    "doctor": SERVE,
    "drift": """
        --since --until --reference --json --ledger-path --ledger-database --alerts-drift-psi --config --settings
    """,
    "alerts list": f"--json --ledger-path --ledger-database {OBJECTIVES} {ALERTS} --config --settings",
    "alerts test": f"{ALERTS} --config --settings",
    "role": "WORKER ROLE --url",
    "key add": "TENANT --scenario --note --ledger-path --config --settings",
    "key list": "--json --ledger-path --config --settings",
    "key revoke": "ID --ledger-path --config --settings",
    "model inspect": "FOLDER",
    "model random": "OUT --like --seed",
    "bench": """
        URL --rate --concurrency --requests --max-requests --duration --seed --input-tokens --output-tokens
        --ignore-eos --no-ignore-eos --prompts --token-ids --temperature --extra-body --trace --trace-speed
        --length-scale --rate-scale --slo-ttft-ms --slo-tpot-ms --slo-itl-ms --slo-e2e-ms --model --endpoint --api-key
        --timeout --json --records
    """,
}


def commands(group: click.Group, path: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= commands(command, f"{path}{name} ")
        else:
            found[path + name] = command
    return found


def flags(command: click.Command) -> list[str]:
    options = [name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]]
    options = [name for name in options if name not in ("-h", "--help")]  # click adds these when help was shown
    return sorted(name if name.startswith("-") else name.upper() for name in options)


def test_the_commands_are_these() -> None:
    assert set(commands(main)) == set(FROZEN)


@pytest.mark.parametrize("name", FROZEN)
def test_the_flags_are_these(name: str) -> None:
    assert flags(commands(main)[name]) == sorted(FROZEN[name].split())


def test_no_two_settings_share_a_flag_or_an_environment_name() -> None:
    for names in ([s.flag for s in all_settings()], [s.environment for s in all_settings()]):
        assert [name for name, times in Counter(names).items() if times > 1] == []


def test_every_setting_is_a_flag_of_serve_and_says_what_it_is_for() -> None:
    serve = commands(main)["serve"]
    for setting in all_settings():
        assert setting.section == "" or setting.flag in flags(serve)
        assert setting.description.endswith("."), setting.key


def test_environment_names_that_are_no_settings_are_known_to_the_loader() -> None:
    others = {
        str(option.envvar)
        for command in commands(main).values()
        for option in command.params
        if option.envvar and str(option.envvar).startswith(ENVIRONMENT_PREFIX)
    }
    assert others <= NOT_SETTINGS
