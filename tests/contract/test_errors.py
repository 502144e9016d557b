"""What an error carries beside its message."""

from __future__ import annotations

from tokenworks.contract.errors import PartNotStarted, StartupError


def test_who_hears_that_a_part_did_not_start_can_tell_which_and_why() -> None:
    error = PartNotStarted("w0 could not start; its last words are above", "w0", "exited with code 1: no memory")
    assert isinstance(error, StartupError)
    assert str(error) == "w0 could not start; its last words are above"
    assert (error.part, error.reason) == ("w0", "exited with code 1: no memory")
    assert error.code == "part_not_started"
