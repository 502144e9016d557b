"""Measures this engine and every installed peer on one checkpoint in one run, beside the machine's own ceilings.

    python -m benchmarks.engine            from the repository's root; `--help` says the rest
    python -m benchmarks.engine install    makes the peers' environments

Parts, in the order in which a run meets them: `cli` reads the command line; `checkpoints` and `convert` make what the
engines load; `rounds` takes turns; each turn is a process of its own that runs `ours` or a module of `peers` through
`runner`; `ceilings` measures the machine; `physics` turns seconds into shares of the ceilings; `report` writes it down.

`cells`, `runner` and `peers` run inside the peers' environments too: they import the standard library, the peer, and
nothing else of this project.
"""
