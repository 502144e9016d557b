"""The command line as a person meets it: help that teaches, errors without tracebacks, exit codes, model and doctor."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import tokenworks
from tokenworks.cli.main import COMMANDS, exit_code, main
from tokenworks.contract.config import LedgerSettings
from tokenworks.contract.errors import CheckpointError, ConfigError, InvalidRequest, LedgerError, NotFound, StartupError
from tokenworks.observe.store import open_ledger

EMBEDDED = Path(tokenworks.__file__).parent / "embedded"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    "command", [[name] for name in COMMANDS] + [["model", "inspect"], ["model", "random"], ["key", "add"], []]
)
def test_help_says_what_it_does_and_shows_examples(command: list[str]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    if command not in (["model"], ["key"], ["alerts"]):
        assert "tokenworks " in result.output.partition("\n\n")[2]


def test_help_groups_settings_by_section_and_shows_defaults_and_choices() -> None:
    text = invoke("serve", "--help").output
    assert text.index("Gateway options:") < text.index("--port INTEGER") < text.index("Engine options:")
    assert "[default: 8000]" in text
    assert "--dtype [auto|bfloat16|float32]" in text
    assert "--settings" not in text


@pytest.mark.parametrize("columns", ["50", "80", "200"])
@pytest.mark.parametrize("group", [[], ["alerts"], ["key"], ["model"]])
def test_the_list_of_commands_cuts_no_sentence_short(
    group: list[str], columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    text = invoke(*group, "--help").output.partition("Commands:")[2]
    assert "..." not in text
    assert text.count(".\n") >= 2


def test_help_says_what_a_section_is_and_writes_sizes_as_a_person_would() -> None:
    text = invoke("serve", "--help").output
    assert "KV options:\n  The host's KV store" in text
    assert "0: no promise." in text
    assert "[default: 20GiB]" in text


def test_the_version_is_the_packages() -> None:
    assert invoke("--version").output == f"tokenworks, version {tokenworks.__version__}\n"


SERVING = {"torch", "numba", "uvicorn", "starlette", "aiohttp", "transformers", "zmq", "openvino", "redis", "alembic"}
DRAWING = {"rich", "numpy", "sqlalchemy", "asyncio", "urllib.request", "importlib.metadata"}


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], SERVING | DRAWING),
        (["serve", "--help"], SERVING | DRAWING),
        (["table", "--help"], SERVING | DRAWING),
        (["table", "--every", "1m"], SERVING | {"sqlalchemy.dialects.postgresql"}),
    ],
    ids=["help", "serve help", "table help", "table"],
)
def test_a_command_loads_nothing_that_it_has_no_use_for(
    arguments: list[str], unwanted: set[str], tmp_path: Path
) -> None:
    """In a process of its own, since the tests around this one have loaded them; loading is most of its time."""
    if "--help" not in arguments:
        ledger = LedgerSettings(path=str(tmp_path))
        open_ledger(ledger, is_writing=True).close()
        arguments = [*arguments, "--ledger-path", str(tmp_path)]
    code = f"import sys; from tokenworks.cli import main; main({arguments!r}, standalone_mode=False); "
    code += f"sys.exit(' '.join({unwanted!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (StartupError("x"), 3),
        (CheckpointError("x"), 3),
        (InvalidRequest("x"), 2),
        (NotFound("x"), 1),
        (LedgerError("x"), 1),
    ],
)
def test_errors_have_exit_codes(error: ConfigError, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "nowhere"], "nowhere: a checkpoint is a folder with config.json"),
        (["serve", "."], "is not a checkpoint folder: it has no config.json"),
        (["serve", "--port", "x"], "--port: 'x' is not allowed; give an integer at least 0 and at most 65535"),
        (["serve", "--kv-bytes", "4 floppies"], "--kv-bytes: '4 floppies' is not allowed"),
        (["serve", "--prot", "1"], "No such option '--prot'"),
        (["serve", "--config", "none.toml"], "cannot read none.toml: No such file"),
        (["srve"], "No such command 'srve'"),
        (["gateway", str(EMBEDDED)], "--worker-address tcp://0.0.0.0:7000"),
        (["gateway", str(EMBEDDED), "--worker-address", "tcp://*:0"], "'tcp://*:0' is no worker address"),
        (["worker", str(EMBEDDED), "--id", "w", "--gateway", "host:7000"], "'host:7000' is no worker address"),
        (["serve", "--port", "0", "--worker-address", "7000"], "'7000' is no worker address"),
        (["worker", str(EMBEDDED), "--id", "w"], "Missing option '--gateway'"),
        (["worker", str(EMBEDDED), "--id", "w", "--gateway", "tcp://x:1", "--group", "1"], "leave --group out"),
        (["serve", "--kv-host-bytes", "1MiB", "--kv-store-address", "tcp://*:1", "--port", "0"], "is no store address"),
        (["kvstore", "--id", "s", "--gateway", "tcp://x:1", "--kv-store-address", "tcp://*:1"], "is no store address"),
        (["kvstore", "--id", "s", "--gateway", "tcp://x:1"], "--kv-store-address tcp://127.0.0.1:"),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(arguments: list[str], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_where_lines_are_json_the_last_word_is_too() -> None:
    result = CliRunner().invoke(main, ["serve", "nowhere", "--log-format", "json"])
    line = json.loads(result.stderr)
    assert (result.exit_code, line["level"]) == (2, "error")
    assert "error: no model at" in line["message"]


def test_workers_in_the_file_and_on_the_command_line_are_one_too_many(folder: Path) -> None:
    (folder / "tokenworks.toml").write_text("[[workers]]\n[[workers]]\n")
    result = invoke("serve", "--workers", "2")
    assert result.exit_code == 2
    assert "--workers and [[workers]] in tokenworks.toml both say how many workers there are" in result.output
    assert (
        "say which one this worker is, with --group" in invoke("worker", "--id", "w", "--gateway", "tcp://x:1").output
    )


def test_an_unknown_environment_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENWORKS_PORT", "1")
    result = invoke("serve")
    assert result.exit_code == 2
    assert "TOKENWORKS_GATEWAY_PORT" in result.output


def write_safetensors(file: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """Zeros in BF16, by the format's definition."""
    header, offset = {}, 0
    for name, shape in tensors.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(offset))


@pytest.fixture
def checkpoint(folder: Path) -> Path:
    """A folder that looks like a Qwen3 checkpoint of 1,060 parameters in two files."""
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 100,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 2,
        "max_position_embeddings": 4096,
        "dtype": "bfloat16",
    }
    weight_map = {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    write_safetensors(folder / "one.safetensors", {"a": (100, 8)})
    write_safetensors(folder / "two.safetensors", {"b": (16, 16), "c": (4,)})
    return folder


def test_inspect_says_what_a_checkpoint_is(checkpoint: Path) -> None:
    result = invoke("model", "inspect", str(checkpoint))
    assert result.exit_code == 0
    facts = ["Qwen3ForCausalLM", "1,060", "2,120 bytes", "BF16", "4,096 tokens", "none: completions only"]
    assert all(fact in result.output for fact in facts)
    assert f"{2 * 3 * 2 * 2 * 2} bytes in bfloat16, {2 * 3 * 2 * 2 * 4} bytes in float32" in result.output


def test_inspect_says_what_a_token_uses_of_a_mixture_of_experts(checkpoint: Path) -> None:
    experts = {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 2, "mlp_only_layers": [1]}
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"architectures": ["Qwen3MoeForCausalLM"], **experts}
    (checkpoint / "config.json").write_text(json.dumps(config))
    output = invoke("model", "inspect", str(checkpoint)).output
    assert "4, 1 a token, in 2 of 3 layers" in output
    assert f"1,060, of which a token uses {1060 - 2 * 3 * (3 * 8 * 2)}" in output


def test_inspect_sees_a_chat_template(checkpoint: Path) -> None:
    (checkpoint / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert "none: completions only" not in invoke("model", "inspect", str(checkpoint)).output


def test_inspect_finds_a_truncated_file(checkpoint: Path) -> None:
    file = checkpoint / "two.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    result = invoke("model", "inspect", str(checkpoint))
    assert result.exit_code == 3
    assert "two.safetensors has" in result.output
    assert "fetch it again" in result.output


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff" * 8, b"\x05" + bytes(7) + b"nojso", b"\x02" + bytes(7) + b"[]"),
        (50_000).to_bytes(8, "little") + b'{"a":' * 10_000,
    ],
)
def test_inspect_finds_a_file_that_is_no_safetensors_file(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "one.safetensors").write_bytes(content)
    result = invoke("model", "inspect", str(checkpoint))
    assert result.exit_code == 3
    assert "one.safetensors" in result.output


def test_inspect_tells_everything_that_is_wrong_at_once(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"architectures": ["MambaForCausalLM"]}')
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "one.safetensors").unlink()
    result = invoke("model", "inspect", str(checkpoint))
    assert result.exit_code == 3
    for problem in ("MambaForCausalLM is not supported", "no tokenizer.json", "one.safetensors is damaged or missing"):
        assert problem in result.output


@pytest.mark.parametrize("content", ["[]", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "{"])
def test_inspect_finds_an_index_that_is_none(checkpoint: Path, content: str) -> None:
    (checkpoint / "model.safetensors.index.json").write_text(content)
    result = invoke("model", "inspect", str(checkpoint))
    assert result.exit_code == 3
    assert "model.safetensors.index.json" in result.output


def test_the_embedded_model_can_be_served() -> None:
    result = invoke("model", "inspect", str(EMBEDDED))
    assert result.exit_code == 0, result.output


def test_doctor_fails_for_settings_that_are_wrong_and_says_so(folder: Path) -> None:
    (folder / "tokenworks.toml").write_text("[gateway]\nprot = 1\n")
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "gateway.prot" in result.output


def test_doctor_takes_what_serve_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # no cell is folded
    (folder / "other.toml").write_text("[gateway]\nport = 0\n")
    assert f"no model at {folder / 'nowhere'}" in invoke("doctor", "nowhere").output
    assert "127.0.0.1:0" in invoke("doctor", "--config", "other.toml").output
    assert "cannot read none.toml" in invoke("doctor", "--config", "none.toml").output


def test_doctor_tells_of_a_window_that_the_model_does_not_have(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    result = invoke("doctor", "--port", "0", "--max-context-tokens", "99999")
    assert result.exit_code == 0
    assert re.search(
        r"window +│ warn │ max_context_tokens is 99,999, and the model's window 2,048 tokens", result.output
    )
    fitting = invoke("doctor", "--port", "0", "--max-context-tokens", "2048").output
    assert re.search(r"window +│ ok +│ 2,048 tokens, of the model's 2,048", fitting)
    assert "│ window" not in invoke("doctor", "--port", "0").output
    assert "│ window" not in invoke("doctor", "nowhere", "--max-context-tokens", "9").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0", "--ledger-path", "off"], "no folder for keys"),
        (["--kv-remote", "nonsense"], "redis://"),
        (["--otlp-endpoint", "nonsense"], "is no address to send spans to"),
        (["--alerts-kind", "webhook"], "alerts.url is empty"),
    ],
)
def test_what_serve_refuses_before_it_starts_doctor_says_too(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    for command, code in (("doctor", 1), ("serve", 2)):
        result = invoke(command, "--port", "0", *arguments)
        assert (result.exit_code, said in result.output) == (code, True), result.output
    assert "these settings can be served" in invoke("doctor", "--port", "0").output


def test_a_key_is_made_shown_once_listed_and_revoked(folder: Path) -> None:
    made = CliRunner().invoke(
        main, ["key", "add", "team-a", "--scenario", "offline", "--note", "x", "--ledger-path", "s"]
    )
    assert (made.exit_code, made.stdout[:3], len(made.stdout.strip())) == (0, "tw-", 67)
    [key] = json.loads(invoke("key", "list", "--json", "--ledger-path", "s").output)
    assert (key["tenant"], key["scenario"], key["note"], key["revoked"]) == ("team-a", "offline", "x", None)
    assert made.stdout.strip() not in invoke("key", "list", "--ledger-path", "s").output
    assert "revoked" in invoke("key", "revoke", key["id"], "--ledger-path", "s").output
    listed = invoke("key", "list", "--ledger-path", "s").output
    assert key["id"] in listed
    assert re.search(r"^id +tenant +scenario +made +revoked +note$", listed, re.MULTILINE)
    assert re.search(rf"^{key['id']} +team-a +offline +20\S+ +20\S+ +x$", listed, re.MULTILINE)
    assert made.stdout.strip() not in (folder / "s" / "keys.json").read_text()


def test_keys_are_listed_in_columns(folder: Path) -> None:
    for tenant, scenario, note in (
        ("a", "online", ""),
        ("a-long-name", "realtime", "of the robots"),
        ("b", "offline", ""),
    ):
        invoke("key", "add", tenant, "--scenario", scenario, "--note", note, "--ledger-path", "s")
    lines = invoke("key", "list", "--ledger-path", "s").output.splitlines()
    assert len({line.index("20") for line in lines[1:]}) == 1
    assert lines[0].index("note") == lines[2].index("of the robots")
    assert "revoked" not in lines[0]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["key", "add", "a\nb", "--ledger-path", "s"], "printable"),
        (["key", "add", "a", "--ledger-path", "off"], "--ledger-path"),
        (["key", "add", "a", "--scenario", "never", "--ledger-path", "s"], "realtime"),
        (["key", "revoke", "nobody", "--ledger-path", "s"], "key list"),
    ],
)
def test_a_key_that_cannot_be_says_why(arguments: list[str], part: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert part in result.output


def test_no_keys_are_told(folder: Path) -> None:
    assert "tokenworks key add" in invoke("key", "list", "--ledger-path", "s").output
    assert not (folder / "s").exists()


@pytest.mark.parametrize("command", [["serve"], ["gateway", "--worker-address", "tcp://127.0.0.1:7999"]])
def test_a_public_gateway_without_a_place_for_keys_does_not_start(command: list[str]) -> None:
    result = invoke(*command, "--host", "0.0.0.0", "--port", "0", "--ledger-path", "off")
    assert result.exit_code == 2, result.output
    assert "--auth off" in result.output
