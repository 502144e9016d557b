"""Run both services: `python examples/rag`, or one of them: `python examples/rag documents`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import uvicorn

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def main() -> None:
    """Parse the command line and serve."""
    options = _options()
    if options.service == "documents":
        import documents

        app, port = documents.build(options.docs, options.gateway, options.origin_zone), options.origin_port
    else:
        import answers

        origin = f"http://127.0.0.1:{options.origin_port}"
        key = os.environ.get("OPENAI_API_KEY", "none")
        app, port = answers.build(options.docs, options.gateway, origin, options.zone, key), options.port
    print(f"{options.service} at http://127.0.0.1:{port}", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="examples/rag", description=__doc__)
    parser.add_argument("service", nargs="?", choices=["both", "answers", "documents"], default="both")
    parser.add_argument("--gateway", default="http://127.0.0.1:8000", help="where Tokenworks answers")
    parser.add_argument(
        "--docs", type=Path, default=DOCS, help="folder of Markdown files; this repository's by default"
    )
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--origin-port", type=int, default=8101)
    parser.add_argument("--zone", default="zone-a", help="where the answering service says that it runs")
    parser.add_argument("--origin-zone", default="zone-b", help="where the documents say that they are")
    return parser.parse_args()


def both() -> None:
    """The origin as a child, which ends with this process."""
    given = [argument for argument in sys.argv[1:] if argument != "both"]
    child = subprocess.Popen([sys.executable, str(Path(__file__).parent), "documents", *given])
    try:
        main()
    finally:
        child.terminate()
        child.wait()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # an orderly end: the last spans are sent
    both() if _options().service == "both" else main()
