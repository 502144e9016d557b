"""What speculation gains where a text repeats itself, and what it costs where it does not.

    python benchmarks/speculation.py [CHECKPOINT] [--rounds 3] [--tokens 192] [--batch 1 8]

Three texts are dictated: a copy of the prompt, the same with every twelfth token changed (an edit), and random tokens.
The steps are real, on the checkpoint's weights (the embedded model's, unless another is named); only what was sampled
is replaced by what the text says, so that any checkpoint will do, random ones included. A fourth text is the model's
own, by greedy sampling from a random prompt; there the tokens of both runs are compared. Speculation off and on take
turns, round by round; the table shows medians of decode tokens/s, and what the last round drafted and accepted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from tokenworks.worker.environment import prepare_environment

prepare_environment()  # before PyTorch is imported, which reads it once

from tokenworks.contract.config import EngineSettings  # noqa: E402
from tokenworks.contract.request import Request, Sampling  # noqa: E402
from tokenworks.engine.build import build_engine  # noqa: E402
from tokenworks.engine.engine import Engine  # noqa: E402
from tokenworks.engine.kernels.threads import set_threads  # noqa: E402
from tokenworks.engine.sampler import Sampled  # noqa: E402
from tokenworks.policy.step_plan import Chunk, StepPlan  # noqa: E402
from tokenworks.worker.measure import measure_card  # noqa: E402
from tokenworks.worker.process import choose_threads  # noqa: E402

EMBEDDED = Path(__file__).parent.parent / "src" / "tokenworks" / "embedded"
PROMPT_TOKENS = 256
OWN = "the model's own words"
MODES = ("off", "auto")


@dataclass(frozen=True)
class Result:
    """One run."""

    tokens_per_s: float
    tokens_per_step: float  # of one sequence
    drafted: int
    accepted: int
    token_ids: list[int]  # of all sequences


def prompt_of(seed: int, vocabulary: int) -> list[int]:
    """Random tokens, none of them special."""
    rng = random.Random(seed)
    return [rng.randrange(vocabulary // 4, vocabulary) for _ in range(PROMPT_TOKENS)]


def dictated(name: str, prompt: list[int], count: int) -> list[int]:
    """The text of that name after this prompt."""
    if name == "copy of the prompt":
        return [prompt[at % len(prompt)] for at in range(1, count + 1)]
    if name == "edit of the prompt":
        return [prompt[at % len(prompt)] if at % 12 else at % 1000 for at in range(1, count + 1)]
    return random.Random(prompt[0]).choices(sorted(set(prompt)), k=count)


class Dictation:
    """An engine whose sampled tokens are replaced by those of texts; without texts, they are left."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._whole: dict[str, list[int]] = {}  # prompt and text, and something behind it
        self._forward = engine._forward
        engine._forward = self._dictate  # type: ignore[method-assign]

    def _dictate(self, plan: StepPlan) -> Sampled:
        sampled = self._forward(plan)
        if not self._whole:
            return sampled
        return Sampled([self._said(chunk) for chunk in plan.sampled], sampled.logprobs)

    def _said(self, chunk: Chunk) -> list[int]:
        end = chunk.start + chunk.num_tokens + 1
        return self._whole[chunk.sequence.request.id][end - chunk.num_sampled : end]

    def run(self, name: str, batch: int, count: int) -> Result:
        """Decode `count` tokens of each of `batch` sequences; the prompts' own steps do not count."""
        prompts = [prompt_of(100 * batch + index, self.engine.model.config.vocab_size) for index in range(batch)]
        self._whole = {}
        for index, prompt in enumerate(prompts):
            if name != OWN:
                self._whole[str(index)] = prompt + dictated(name, prompt, count + 16)
            self.engine.add(Request(str(index), "", prompt, Sampling(count, temperature=0)))
        return self._timed(batch)

    def _timed(self, batch: int) -> Result:
        token_ids: dict[str, list[int]] = {str(index): [] for index in range(batch)}
        while not all(token_ids.values()):
            self._step(token_ids)
        first, num_first = self.engine.load, sum(map(len, token_ids.values()))
        start_s = time.perf_counter()
        while self.engine.has_work:
            self._step(token_ids)
        seconds, last = time.perf_counter() - start_s, self.engine.load
        self.engine.reset_cache()
        said = [token for tokens in token_ids.values() for token in tokens]
        count = len(said) - num_first
        return Result(
            count / seconds,
            count / batch / (last.steps - first.steps),
            last.draft_tokens - first.draft_tokens,
            last.accepted_tokens - first.accepted_tokens,
            said,
        )

    def _step(self, token_ids: dict[str, list[int]]) -> None:
        for output in self.engine.step():
            token_ids[output.request_id] += output.token_ids


def make(checkpoint: Path, mode: str) -> Dictation:
    """An engine as a worker has it when it says hello: its card measured, its kernels built."""
    settings = EngineSettings(speculation=mode, max_context_tokens=1024)  # type: ignore[arg-type]
    set_threads(choose_threads(settings))
    engine = build_engine(checkpoint, settings, 1, lambda done, total: None)
    measure_card(engine, settings, choose_threads(settings))
    return Dictation(engine)


def row(name: str, batch: int, results: dict[str, list[Result]]) -> str:
    """One line of the table."""
    plain, fast = (statistics.median(result.tokens_per_s for result in results[mode]) for mode in MODES)
    last = results["auto"][-1]
    accepted = f"{last.accepted} of {last.drafted}" + (f" ({last.accepted / last.drafted:.0%})" if last.drafted else "")
    same = last.token_ids == results["off"][-1].token_ids
    return (
        f"| {name} | {batch} | {plain:.0f} | {fast:.0f} | {fast / plain:.2f} | {last.tokens_per_step:.2f} | {accepted} "
        f"| {'yes' if same else 'no'} |"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=EMBEDDED)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    engines = {mode: make(options.checkpoint, mode) for mode in MODES}
    print("| text | batch | off, tokens/s | on | ratio | tokens a step | accepted | same tokens |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for name in ("copy of the prompt", "edit of the prompt", "random tokens", OWN):
        for batch in options.batch:
            results: dict[str, list[Result]] = {mode: [] for mode in MODES}
            for _ in range(options.rounds):
                for mode, engine in engines.items():
                    results[mode].append(engine.run(name, batch, options.tokens))
            print(row(name, batch, results), flush=True)


if __name__ == "__main__":
    main()
