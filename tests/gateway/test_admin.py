"""`/admin` and `tokenworks role`: workers shown and changed, from this machine alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from tokenworks.cli.main import main
from tokenworks.contract.wire import Role

if TYPE_CHECKING:
    from tests.gateway.conftest import Rig


def role(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["role", *arguments])
    return result.exit_code, result.output


def test_workers_are_shown_with_what_they_can_do(bare_rig: Rig) -> None:
    bare_rig.add_worker("w0", role=Role.DECODE, has_store=True, prefill_s=0.01)
    bare_rig.add_worker("foreign", is_foreign=True)
    own, foreign = bare_rig.http.get("/admin/workers").json()["workers"]
    assert (own["id"], own["role"], own["configured_role"], own["has_store"]) == ("w0", "decode", "decode", True)
    assert own["card"]["device"] == "cpu: scripted"
    assert own["card"]["prefill_s_of_1000_tokens"] == pytest.approx(10.0)
    assert own["kv"]["block_tokens"] == 4
    assert own["load"]["total_blocks"] == 100
    assert (foreign["id"], foreign["kv"]) == ("foreign", None)


def test_a_role_that_was_given_outlives_the_worker(bare_rig: Rig) -> None:
    worker = bare_rig.add_worker("w0")
    answer = bare_rig.http.put("/admin/workers/w0", json={"role": "prefill"}).json()
    assert (answer["role"], answer["configured_role"]) == ("prefill", "both")
    worker.die()
    bare_rig.add_worker("w0")
    assert bare_rig.http.get("/admin/workers").json()["workers"][0]["role"] == "prefill"


@pytest.mark.parametrize("body", [{}, {"role": "chief"}, {"rol": "both"}, [], {"role": "both", "more": 1}])
def test_a_wrong_role_is_told(bare_rig: Rig, body: Any) -> None:
    bare_rig.add_worker("w0")
    response = bare_rig.http.put("/admin/workers/w0", json=body)
    assert response.status_code == 400
    assert bare_rig.http.get("/admin/workers").json()["workers"][0]["role"] == "both"


def test_an_unknown_worker_is_told(bare_rig: Rig) -> None:
    bare_rig.add_worker("w0")
    response = bare_rig.http.put("/admin/workers/w9", json={"role": "both"})
    assert response.status_code == 404
    assert "there are: w0" in response.json()["error"]["message"]


@pytest.mark.parametrize("client", ["203.0.113.7", "2001:db8::1", "not an address"])
def test_other_machines_are_refused(bare_rig: Rig, client: str) -> None:
    """A proxy on this machine names the client that it speaks for."""
    bare_rig.add_worker("w0")
    headers = {"x-forwarded-for": client}
    for response in (
        bare_rig.http.get("/admin/workers", headers=headers),
        bare_rig.http.put("/admin/workers/w0", json={"role": "decode"}, headers=headers),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
    assert bare_rig.http.get("/admin/workers").json()["workers"][0]["role"] == "both"


def test_the_command_changes_a_role(bare_rig: Rig) -> None:
    bare_rig.add_worker("w/0")
    code, said = role("w/0", "decode", "--url", bare_rig.gateway.url + "/")
    assert (code, said) == (0, "w/0 is now for: decode (configured: both)\n")
    assert bare_rig.http.get("/admin/workers").json()["workers"][0]["role"] == "decode"


def test_without_an_address_the_command_asks_where_the_settings_say(
    bare_rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare_rig.add_worker("w0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenworks.toml").write_text(f"[gateway]\nport = {urlsplit(bare_rig.gateway.url).port}\n")
    assert role("w0", "prefill") == (0, "w0 is now for: prefill (configured: both)\n")


def test_the_command_says_what_is_wrong(bare_rig: Rig) -> None:
    code, said = role("w9", "decode", "--url", bare_rig.gateway.url)
    assert (code, "there is no worker `w9`" in said) == (1, True)
    code, said = role("w0", "decode", "--url", "http://127.0.0.1:9")
    assert (code, "give its address with --url" in said) == (1, True)
    code, said = role("w0", "decode", "--url", "nonsense")
    assert (code, "give its address with --url" in said) == (1, True)
    code, said = role("w0", "decode", "--url", bare_rig.gateway.url + "/v1")
    assert (code, "/v1/admin/workers/w0" in said) == (1, True)
    assert role("w0", "chief")[0] == 2
