"""Settings come from four places, each overriding the one before, and every mistake says where it was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenworks.contract.config import DEFAULT_STORE_BYTES, KVSettings, Settings
from tokenworks.contract.errors import ConfigError
from tokenworks.contract.loader import load_settings, read_settings, write_settings
from tokenworks.contract.setting import Setting, all_settings, bytes_text, parse_bytes


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    file = folder / "tokenworks.toml"
    file.write_text(text)
    return file


def message_of(**arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(**{"environment": {}, **arguments})  # type: ignore[arg-type]
    return caught.value.message


def test_without_anything_the_defaults_hold() -> None:
    assert load_settings(environment={"PATH": "/bin"}) == Settings()


def test_each_place_overrides_the_one_before(folder: Path) -> None:
    write(folder, '[gateway]\nport = 1\nhost = "file"\nlease_s = 5\n')
    environment = {"TOKENWORKS_GATEWAY_PORT": "2", "TOKENWORKS_GATEWAY_HOST": "environment"}
    settings = load_settings(environment=environment, flags={"gateway.port": "3", "gateway.host": None})
    assert (settings.gateway.port, settings.gateway.host, settings.gateway.lease_s) == (3, "environment", 5.0)


def test_a_named_file_is_read_instead_of_the_current_folders(folder: Path) -> None:
    write(folder, 'model = "here"')
    other = folder / "other.toml"
    other.write_text('model = "there"')
    assert load_settings(config=other, environment={}).model == "there"


def middle(setting: Setting) -> float:
    """A number that the setting allows, if it is one."""
    lowest, highest = (
        next((bound for name in names if (bound := getattr(setting.type, name, None)) is not None), None)
        for names in (("ge", "gt"), ("le", "lt"))
    )
    low = lowest or 0
    return (low + (low + 1.5 if highest is None else highest)) / 2


def test_every_setting_can_be_set_in_every_place(folder: Path) -> None:
    for setting in all_settings():
        base = (
            {} if setting.key == "kv.disk_path" else {"TOKENWORKS_KV_DISK_PATH": "kv"}
        )  # what some mean nothing without
        plain = {str: "x", int: 1024, float: middle(setting), bool: "true"}[type(setting.default)]
        value = setting.choices[-1] if setting.choices else plain
        quoted = f'"{value}"' if isinstance(value, str) and value != "true" else value
        section = f"[{setting.section}]\n" if setting.section else ""
        file = write(folder, f"{section}{setting.name} = {quoted}")
        from_file = load_settings(config=file, environment=base)
        file.unlink()
        from_environment = load_settings(environment={**base, setting.environment: str(value)})
        from_flag = load_settings(environment=base, flags={setting.key: str(value)})
        assert from_file == from_environment == from_flag != load_settings(environment=base), setting.key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GiB", 4 << 30),
        ("512MB", 512_000_000),
        ("1.5 kb", 1500),
        ("2Ki", 2048),
        ("1073741825", 1073741825),
        ("3T", 3 * 10**12),
        (" 7b ", 7),
    ],
)
def test_sizes_are_understood(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected
    assert load_settings(environment={"TOKENWORKS_ENGINE_KV_BYTES": text}).engine.kv_bytes == expected


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0"), (1000, "1000"), (1 << 10, "1KiB"), (20 << 30, "20GiB"), ((1 << 40) + 1024, "1073741825KiB")],
)
def test_sizes_are_written_as_they_are_read(num_bytes: int, text: str) -> None:
    assert bytes_text(num_bytes) == text
    assert parse_bytes(text) == num_bytes


def test_defaults_are_written_as_a_person_would() -> None:
    texts = {setting.key: setting.default_text for setting in all_settings()}
    assert texts["kv.disk_bytes"] == "20GiB"
    assert texts["kv.tenant_sharing"] == "false"
    assert texts["gateway.port"] == "8000"


@pytest.mark.parametrize("text", ["", "GiB", "-1", "4 gigabytes", "1e9", "4GiBs", "٤GiB"])
def test_what_is_no_size_is_an_error_that_shows_one(text: str) -> None:
    message = message_of(environment={"TOKENWORKS_ENGINE_KV_BYTES": text})
    assert message.startswith(f"TOKENWORKS_ENGINE_KV_BYTES: {text!r} is not allowed")
    assert "4GiB" in message


@pytest.mark.parametrize(
    ("environment", "flags", "origin"),
    [
        ({"TOKENWORKS_KV_DISK_BYTES": "1GiB"}, {}, "TOKENWORKS_KV_DISK_BYTES"),
        ({}, {"kv.disk_bytes": "1GiB"}, "--kv-disk-bytes"),
        ({}, {"kv.sync_s": "1", "kv.host_bytes": "1GiB"}, "--kv-sync-s"),
    ],
    ids=["environment", "flag", "sync"],
)
def test_a_disk_tier_without_a_folder_is_an_error(
    folder: Path, environment: dict[str, str], flags: dict[str, str], origin: str
) -> None:
    assert message_of(environment=environment, flags=flags) == (
        f"{origin} means nothing without kv.disk_path; set that too, or leave it out"
    )


def test_a_disk_tier_of_no_size_is_an_error(folder: Path) -> None:
    message = message_of(environment={}, flags={"kv.disk_path": "kv", "kv.disk_bytes": "0"})
    assert message.startswith("kv.disk_path means nothing with kv.disk_bytes = 0; give it a size")


def test_the_disk_tier_of_a_file_can_be_turned_off(folder: Path) -> None:
    (folder / "tokenworks.toml").write_text('[kv]\ndisk_path = "kv"\ndisk_bytes = "1GiB"\n')
    settings = load_settings(environment={}, flags={"kv.disk_path": ""})
    assert not settings.kv.is_on


def test_sizes_work_in_the_file_too(folder: Path) -> None:
    write(folder, '[engine]\nkv_bytes = "2GiB"')
    assert load_settings(environment={}).engine.kv_bytes == 2 << 30


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("modle = 'x'", "model"),
        ("[gateway]\nprot = 1", "gateway.port"),
        ("[gatewy]\nport = 1", "gateway"),
        ("port = 1", "gateway.port"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(folder: Path, text: str, nearest: str) -> None:
    write(folder, text)
    message = message_of()
    assert message.startswith("tokenworks.toml: unknown key")
    assert f"nearest known one is `{nearest}`" in message


def test_an_unknown_environment_name_names_the_nearest_known_one() -> None:
    message = message_of(environment={"TOKENWORKS_GATEWAY_PROT": "1"})
    assert message == (
        "unknown environment variable `TOKENWORKS_GATEWAY_PROT`; the nearest known one is `TOKENWORKS_GATEWAY_PORT`"
    )


def test_the_load_clients_key_is_no_mistake() -> None:
    assert load_settings(environment={"TOKENWORKS_API_KEY": "secret"}) == Settings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[gateway]\nport = 70000", "gateway.port: 70000 is not allowed; give an integer at least 0 and at most 65535"),
        ("[gateway]\nport = '80'", "gateway.port: '80' is not allowed; give an integer"),
        ("[gateway]\nlease_s = 0", "gateway.lease_s: 0 is not allowed; give a number above 0"),
        ("[gateway]\nlease_s = inf", "gateway.lease_s: inf is not allowed; give a number above 0"),
        ("[engine]\ndtype = 'int8'", "engine.dtype: 'int8' is not allowed; give one of auto, bfloat16, float32"),
        ("model = 3", "model: 3 is not allowed; give a string"),
        ("gateway = 3", "`gateway` is a table"),
        ("not toml", "is not valid TOML"),
    ],
)
def test_a_wrong_value_in_the_file_names_file_key_and_what_is_allowed(folder: Path, text: str, expected: str) -> None:
    write(folder, text)
    message = message_of()
    assert message.startswith("tokenworks.toml")
    assert expected in message


def test_a_wrong_value_elsewhere_names_the_environment_or_the_option() -> None:
    assert message_of(environment={"TOKENWORKS_FLEET_WORKERS": "two"}).startswith("TOKENWORKS_FLEET_WORKERS: 'two' is")
    assert message_of(flags={"fleet.workers": "0"}).startswith("--workers: '0' is not allowed; give an integer at")


def test_a_file_that_was_named_must_be_readable(folder: Path) -> None:
    assert "No such file" in message_of(config=folder / "none.toml")
    (folder / "latin.toml").write_bytes(b"model = '\xff'")
    assert "not valid TOML" in message_of(config=folder / "latin.toml")


def test_settings_handed_on_arrive_unchanged(folder: Path) -> None:
    settings = load_settings(environment={"TOKENWORKS_MODEL": "ü", "TOKENWORKS_FLEET_DRAIN_S": "1.25"})
    write_settings(settings, folder / "s.json")
    assert read_settings(folder / "s.json") == settings


@pytest.mark.parametrize("content", [b"", b"{", b'{"gateway": {"port": -1}}', b'{"gatway": {}}', b'{"model": "\xff"}'])
def test_settings_handed_on_badly_are_an_error(folder: Path, content: bytes) -> None:
    (folder / "s.json").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot read the settings"):
        read_settings(folder / "s.json")


def test_a_store_that_is_given_no_memory_has_enough_for_blocks_to_pass_through() -> None:
    assert KVSettings(disk_path="blocks").memory_bytes == DEFAULT_STORE_BYTES
    assert KVSettings(disk_path="blocks", host_bytes=5).memory_bytes == 5
