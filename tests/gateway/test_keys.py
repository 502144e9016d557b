"""API keys: who is let in by them, whose tenant a request is, and what a change of the file changes."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from openai import AuthenticationError, OpenAI

from tokenworks.contract.config import GatewaySettings, LedgerSettings
from tokenworks.contract.errors import ConfigError, Unauthorized
from tokenworks.contract.request import Scenario
from tokenworks.gateway.keys import keys
from tokenworks.gateway.keys.key_file import MAX_NAME_CHARS, MAX_NOTE_CHARS, KeyFile
from tokenworks.gateway.keys.keys import Keys
from tokenworks.gateway.keys.tenants import UNKNOWN, Caller, caller_of

if TYPE_CHECKING:
    from tests.gateway.conftest import MakeRig, Rig, WaitUntil

BODY = {"prompt": [100, 110], "max_tokens": 1}
LOCAL, PUBLIC = GatewaySettings(), GatewaySettings(host="0.0.0.0")
REQUIRED, OPEN = GatewaySettings(auth="required"), GatewaySettings(host="0.0.0.0", auth="off")
HOSTILE = [
    "'; DROP TABLE records; --",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "租户 🙂",
    "a" * MAX_NAME_CHARS,
]


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "state")


def bearer(secret: str) -> bytes:
    return f"Bearer {secret}".encode()


def test_a_key_names_its_tenant_and_is_nowhere(file: KeyFile) -> None:
    key, secret = file.add("team-a", Scenario.OFFLINE, "nightly")
    assert secret.startswith("tw-")
    assert len(bytes.fromhex(secret.removeprefix("tw-"))) == 32
    assert secret.removeprefix("tw-") not in file.path.read_text()
    assert Keys(file, REQUIRED).caller(bearer(secret)) == Caller("team-a", key.id, Scenario.OFFLINE)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("tenant", HOSTILE)
def test_a_tenants_name_is_data(file: KeyFile, tenant: str) -> None:
    _, secret = file.add(tenant, Scenario.ONLINE, tenant)
    assert Keys(file, PUBLIC).caller(bearer(secret)).tenant == tenant
    assert [key.tenant for key in file.read()] == [tenant]


@pytest.mark.parametrize("tenant", ["", "  ", "a\nb", "a\x00", "\x1b[31m", "a" * (MAX_NAME_CHARS + 1), "anonymous"])
def test_a_name_that_cannot_be_one_is_refused(file: KeyFile, tenant: str) -> None:
    with pytest.raises(ConfigError):
        file.add(tenant, Scenario.ONLINE, "")
    with pytest.raises(ConfigError, match="note"):
        file.add("fine", Scenario.ONLINE, "n" * (MAX_NOTE_CHARS + 1))
    assert not file.path.exists()


def test_a_revoked_key_stays_known_as_revoked(file: KeyFile) -> None:
    key, secret = file.add("a", Scenario.ONLINE, "")
    revoked = file.revoke(key.id)
    assert revoked.revoked_s is not None
    assert file.revoke(key.id) == revoked
    assert file.read() == [revoked]
    for settings in (LOCAL, PUBLIC, REQUIRED):
        with pytest.raises(Unauthorized):
            Keys(file, settings).caller(bearer(secret))
    with pytest.raises(ConfigError, match="key list"):
        file.revoke("nobody")


def test_writers_take_turns_and_lose_no_key(file: KeyFile) -> None:
    threads = [threading.Thread(target=lambda: file.add("a", Scenario.ONLINE, "")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.id for key in file.read()}) == 20


@pytest.mark.parametrize("content", [b"", b"{", b'{"keys": 5}', b'{"keys": [], "more": 1}', b"\xff"])
def test_a_damaged_file_says_what_to_do_and_is_left_alone(file: KeyFile, content: bytes) -> None:
    file.add("a", Scenario.ONLINE, "")
    file.path.write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged"):
        file.add("b", Scenario.ONLINE, "")
    with pytest.raises(ConfigError, match="is damaged"):
        Keys(file, LOCAL)
    assert file.path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        KeyFile(tmp_path / "file" / "state").add("a", Scenario.ONLINE, "")
    with pytest.raises(ConfigError, match="cannot read"):
        KeyFile(tmp_path / "file").read()


AUTH = [
    # settings, whether keys exist: without a key, with an unknown one
    (LOCAL, False, "anonymous", "digest"),
    (LOCAL, True, "anonymous", "refused"),
    (PUBLIC, False, "refused", "refused"),
    (PUBLIC, True, "refused", "refused"),
    (REQUIRED, False, "refused", "refused"),
    (REQUIRED, True, "refused", "refused"),
    (OPEN, False, "anonymous", "digest"),
    (OPEN, True, "anonymous", "digest"),
]


@pytest.mark.parametrize(("settings", "has_keys", "without", "unknown"), AUTH)
def test_who_needs_a_key(file: KeyFile, settings: GatewaySettings, has_keys: bool, without: str, unknown: str) -> None:
    secret = file.add("a", Scenario.ONLINE, "")[1] if has_keys else None
    gate = Keys(file, settings)
    for header, expected in ((None, without), (b"Bearer none", without), (b"Bearer junk", unknown)):
        if expected == "refused":
            with pytest.raises(Unauthorized, match="tokenworks key add"):
                gate.caller(header)
        else:
            assert gate.caller(header) == (UNKNOWN if expected == "anonymous" else caller_of("junk"))
    if secret is not None:
        assert gate.caller(bearer(secret)).tenant == "a"


def test_without_a_folder_nobody_has_a_managed_key() -> None:
    assert Keys(None, LOCAL).caller(None) == UNKNOWN
    assert Keys(None, OPEN).caller(b"Bearer x") == caller_of("x")


def test_a_change_counts_from_the_next_look_on(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Keys(file, REQUIRED)
    assert "no API key exists" in caplog.text
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 0.0)
    key, secret = file.add("a", Scenario.ONLINE, "")
    assert gate.caller(bearer(secret)).tenant == "a"
    whole = file.path.read_bytes()
    file.path.write_bytes(b"{")
    assert gate.caller(bearer(secret)).tenant == "a"
    assert gate.caller(bearer(secret)).tenant == "a"
    assert caplog.text.count("is damaged") == 1
    file.path.write_bytes(whole)
    file.revoke(key.id)
    with pytest.raises(Unauthorized):
        gate.caller(bearer(secret))


def test_a_look_is_taken_now_and_then(file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LOOK_EVERY_S", 1000.0)  # so that a second is none of a busy machine
    gate = Keys(file, LOCAL)
    looks: list[object] = []
    monkeypatch.setattr(file, "version", lambda: looks.append(None) or ())
    for _ in range(100):
        gate.caller(None)
    assert len(looks) <= 1


@pytest.fixture
def keyed(running_rig: MakeRig, tmp_path: Path) -> tuple[Rig, KeyFile]:
    with running_rig(auth="required", ledger=LedgerSettings(path=str(tmp_path))) as rig:
        rig.add_worker()
        yield rig, KeyFile(tmp_path)


def test_a_wrong_key_is_refused_in_openais_words_and_recorded(keyed: tuple[Rig, KeyFile]) -> None:
    rig, _ = keyed
    with pytest.raises(AuthenticationError) as caught:
        rig.openai.completions.create(model="tiny-echo", prompt="x")
    assert caught.value.code == "invalid_api_key"
    assert caught.value.response.headers["www-authenticate"] == "Bearer"
    [record] = rig.records(1)
    assert (record.outcome, record.status, record.tenant) == ("invalid_api_key", 401, "anonymous")
    assert record.is_rejected
    assert sum(record.stages_ns.values()) == record.e2e_ns


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/completions", 401),
        ("POST", "/v1/chat/completions", 401),
        ("POST", "/v1/embeddings", 401),
        ("GET", "/v1/models", 401),
        ("GET", "/v1/models/tiny-echo", 401),
        ("POST", "/tokenize", 401),
        ("POST", "/detokenize", 401),
        ("GET", "/health", 200),
        ("GET", "/metrics", 200),
        ("GET", "/admin/workers", 200),
    ],
)
def test_what_needs_a_key(keyed: tuple[Rig, KeyFile], method: str, path: str, status: int) -> None:
    rig, _ = keyed
    assert rig.http.request(method, path, content=b"{" if method == "POST" else None).status_code == status


def test_a_key_gives_tenant_and_scenario_which_a_request_may_override(
    keyed: tuple[Rig, KeyFile], wait_until: WaitUntil
) -> None:
    rig, file = keyed
    key, secret = file.add("team-a", Scenario.OFFLINE, "")
    with OpenAI(base_url=f"{rig.gateway.url}/v1", api_key=secret, max_retries=0, http_client=httpx.Client()) as client:
        wait_until(lambda: rig.http.get("/v1/models", headers={"authorization": f"Bearer {secret}"}).status_code == 200)
        for tier in (None, "auto", "default", "priority"):
            extra = {} if tier is None else {"service_tier": tier}
            client.completions.create(model="tiny-echo", prompt="x", max_tokens=1, extra_body=extra)
    records = rig.records(4)
    assert {(record.tenant, record.key) for record in records} == {("team-a", key.id)}
    assert [record.scenario for record in records] == ["offline", "offline", "online", "realtime"]
    assert {request.tenant for request in rig.worker.submitted} == {"team-a"}
    assert secret not in json.dumps([str(request) for request in rig.worker.submitted])


def test_two_keys_of_one_tenant_share_its_cache(keyed: tuple[Rig, KeyFile], wait_until: WaitUntil) -> None:
    rig, file = keyed
    secrets = [file.add("team-a", Scenario.ONLINE, str(number))[1] for number in range(2)]
    for secret in secrets:
        headers = {"authorization": f"Bearer {secret}"}
        wait_until(
            lambda headers=headers: rig.http.post("/v1/completions", json=BODY, headers=headers).status_code == 200
        )
    assert len({request.salt for request in rig.worker.submitted}) == 1
