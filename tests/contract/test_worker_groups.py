"""`[[workers]]`: each entry's own settings over everybody's, and every contradiction refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenworks.contract.config import EngineSettings, FleetSettings, Settings, WorkerGroup
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.loader import load_settings, read_settings, write_settings
from tokenworks.contract.setting import group_settings
from tokenworks.contract.worker_groups import groups_of, own_group

STORE = "[kv]\nhost_bytes = 1024\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("tokenworks.toml")


def load(file: Path, text: str, **flags: str) -> Settings:
    file.write_text(text)
    return load_settings(environment={}, flags={name.replace("__", "."): value for name, value in flags.items()})


def message_of(file: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    return caught.value.message


def test_an_entry_holds_its_own_keys_and_those_of_the_engine(file: Path) -> None:
    text = """
        [[workers]]
        count = 2
        role = "decode"
        quantize = "int8"
        kv_bytes = "2GiB"
        price_per_hour = 0.5
        [[workers]]
        runs = "openvino"
        device = "GPU.0"
        """
    assert load(file, text).workers == (
        WorkerGroup(
            count=2, role="decode", engine=EngineSettings(quantize="int8", kv_bytes=2 << 30, price_per_hour=0.5)
        ),
        WorkerGroup(runs="openvino", device="GPU.0"),
    )


def test_every_key_of_the_engine_can_be_an_entrys(file: Path) -> None:
    for setting in group_settings():
        if setting.section == "engine" and setting.name != "block_tokens":
            value = setting.choices[-1] if setting.choices else 7
            quoted = f'"{value}"' if isinstance(value, str) else value
            [group] = load(file, f"[[workers]]\n{setting.name} = {quoted}").workers
            assert getattr(group.engine, setting.name) == value
            assert group.engine != EngineSettings()


def test_no_key_of_an_entry_means_two_things() -> None:
    names = [setting.name for setting in group_settings()]
    assert len(names) == len(set(names))


def test_an_entrys_own_key_wins_over_file_environment_and_command_line(file: Path) -> None:
    file.write_text('[engine]\ndtype = "bfloat16"\nmax_running = 1\n[[workers]]\nthreads = 4\n[[workers]]\n')
    environment = {"TOKENWORKS_ENGINE_THREADS": "2", "TOKENWORKS_ENGINE_MAX_RUNNING": "8"}
    settings = load_settings(environment=environment, flags={"engine.threads": "3"})
    assert [group.engine.threads for group in settings.workers] == [4, 3]
    assert [group.engine.max_running for group in settings.workers] == [8, 8]
    assert {group.engine.dtype for group in settings.workers} == {"bfloat16"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[[workers]]\n[[workers]]\nrol = 1",
            "unknown key `workers[1].rol`; the nearest known one is `workers[1].role`",
        ),
        ("[[workers]]\ntreads = 1", "unknown key `workers[0].treads`; the nearest known one is `workers[0].threads`"),
        ("[[wrokers]]\ncount = 1", "unknown key `wrokers`; the nearest known one is `workers`"),
        ("[[workers]]\nrole = 'prefil'", "workers[0].role: 'prefil' is not allowed; give one of both, prefill, decode"),
        (
            "[[workers]]\nruns = 'vllm'",
            "workers[0].runs: 'vllm' is not allowed; give one of tokenworks, openvino, openai",
        ),
        ("[[workers]]\ncount = 0", "workers[0].count: 0 is not allowed; give an integer at least 1 and at most 1024"),
        ("[[workers]]\ncount = '2'", "workers[0].count: '2' is not allowed; give an integer"),
        ("[[workers]]\nengine = {}", "unknown key `workers[0].engine`"),
        ("[[workers]]\nkv_bytes = 'much'", "workers[0].kv_bytes: 'much' is not allowed; give a number of bytes"),
        ("workers = 2", "`workers` is a list; write [[workers]] and its keys below"),
        ("workers = [2]", "`workers` is a list; write [[workers]]"),
        ("[workers]\ncount = 2", "`workers` is a list; write [[workers]]"),
    ],
)
def test_a_wrong_key_or_value_names_file_entry_and_what_is_allowed(file: Path, text: str, expected: str) -> None:
    message = message_of(file, text)
    assert message.startswith(f"{file}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs = 'openai'", 'workers[0]: runs = "openai" needs `url`; give the server\'s base URL, such as http'),
        ("runs = 'openai'\nurl = 'x:8000'", "workers[0].url: 'x:8000' is not allowed; give the server's base URL"),
        ("runs = 'openai'\nurl = 'http://x::8000'", "workers[0].url: 'http://x::8000' is not allowed; give the server"),
        ("url = 'http://x/v1'", 'workers[0].url is only for runs = "openai"; leave it out, or set that'),
        ("runs = 'openvino'\nurl = 'http://x/v1'", 'workers[0].url is only for runs = "openai"'),
        ("upstream_model = 'm'", 'workers[0].upstream_model is only for runs = "openai"'),
        ("device = 'CPU'", 'workers[0].device is only for runs = "openvino"'),
        ("runs = 'openai'\nurl = 'http://x'\ndtype = 'float32'", "workers[0].dtype is decided by the server at `url`"),
        ("runs = 'openai'\nurl = 'http://x'\nrole = 'prefill'", "workers[0].role: a server at a `url` hands no KV on"),
        (
            "block_tokens = 64",
            "workers[0].block_tokens: 64 is not allowed: all workers of a pool share one size, here 32",
        ),
        ("role = 'prefill'", 'workers[0].role: "prefill" hands its KV on through the store, and there is none'),
    ],
)
def test_what_an_entry_has_no_use_for_or_lacks_is_refused(file: Path, text: str, expected: str) -> None:
    message = message_of(file, f"[[workers]]\n{text}")
    assert message.startswith(f"{file}: ")
    assert expected in message


def test_a_server_elsewhere_has_a_price_and_a_window(file: Path) -> None:
    text = '[[workers]]\nruns = "openai"\nurl = "https://x:1/v1"\nprice_per_hour = 2\nmax_context_tokens = 4096'
    [group] = load(file, text).workers
    assert (group.url, group.engine.price_per_hour, group.engine.max_context_tokens) == ("https://x:1/v1", 2.0, 4096)


def test_a_block_size_that_says_the_same_is_no_difference(file: Path) -> None:
    [group] = load(file, "[engine]\nblock_tokens = 64\n[[workers]]\nblock_tokens = 64").workers
    assert group.engine.block_tokens == 64


def test_a_pool_in_which_nobody_would_answer_is_refused(file: Path) -> None:
    prefill = '[[workers]]\nrole = "prefill"\n'
    assert "nobody would answer" in message_of(file, STORE + prefill * 2)
    assert len(load(file, STORE + prefill + "[[workers]]\n").workers) == 2


def test_a_store_that_was_started_by_hand_is_one_too(file: Path) -> None:
    text = '[kv]\nstore_address = "ipc:///run/store"\n[[workers]]\nrole = "prefill"\n[[workers]]\n'
    assert load(file, text).workers[0].role == "prefill"


@pytest.mark.parametrize(
    ("start", "environment", "flags", "origin"),
    [
        ("[fleet]\nworkers = 2\n", {}, {}, "tokenworks.toml: fleet.workers"),
        ("", {"TOKENWORKS_FLEET_WORKERS": "2"}, {}, "TOKENWORKS_FLEET_WORKERS"),
        ("", {}, {"fleet.drain_s": "2", "fleet.workers": "2"}, "--workers"),
    ],
)
def test_how_many_workers_there_are_is_said_once(
    file: Path, start: str, environment: dict[str, str], flags: dict[str, str], origin: str
) -> None:
    file.write_text(f"{start}[[workers]]\ncount = 2\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(environment=environment, flags=flags)
    assert caught.value.message.startswith(f"{origin} and [[workers]] in {file} both say how many workers there are")
    assert "set `count`" in caught.value.message


def test_without_entries_there_is_one_kind(file: Path) -> None:
    settings = Settings(engine=EngineSettings(threads=3), fleet=FleetSettings(workers=2))
    assert groups_of(settings) == (WorkerGroup(count=2, engine=settings.engine),)
    assert load(file, "workers = []", fleet__workers="2").workers == ()


def test_a_worker_has_its_entry_alone_and_that_entrys_engine() -> None:
    groups = (WorkerGroup(engine=EngineSettings(threads=1)), WorkerGroup(engine=EngineSettings(threads=2)))
    own = own_group(Settings(workers=groups), 1)
    assert (own.workers, own.engine.threads) == (groups[1:], 2)
    only = own_group(Settings(workers=groups[:1]), None)
    assert (only.workers, only.engine.threads) == (groups[:1], 1)


@pytest.mark.parametrize(("index", "expected"), [(None, "say which one"), (2, "are 0, 1"), (-1, "are 0, 1")])
def test_a_worker_that_is_of_no_entry_is_refused(index: int | None, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        own_group(Settings(workers=(WorkerGroup(), WorkerGroup())), index)


def test_a_worker_of_an_entry_where_there_are_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave --group out"):
        own_group(Settings(), 0)


def test_entries_handed_on_arrive_unchanged(file: Path) -> None:
    settings = load(file, STORE + '[[workers]]\nrole = "prefill"\nwatts = 3.5\n[[workers]]\nruns = "openvino"\n')
    write_settings(settings, file.with_suffix(".json"))
    assert read_settings(file.with_suffix(".json")) == settings
