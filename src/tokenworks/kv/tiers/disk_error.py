"""What the operating system says of a disk, put so that a person can act on it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tokenworks.kv.tiers.tier import PutRefused, TierError

_FULL: Final = {
    errno.ENOSPC: "its file system is full: free space there, or lower kv.disk_bytes",
    errno.EDQUOT: "the quota of this user is used up: raise it, or lower kv.disk_bytes",
    errno.EFBIG: "files may not become that large: raise `ulimit -f`",
    errno.EROFS: "it is mounted read-only: remount it with `mount -o remount,rw`, or set kv.disk_path elsewhere",
}
_GONE: Final = {
    errno.EACCES: "this user may not use it: `chown` it, or set kv.disk_path elsewhere",
    errno.EPERM: "this user may not use it: `chown` it, or set kv.disk_path elsewhere",
    errno.EIO: "the device fails: look at `dmesg`, and set kv.disk_path to another device",
    errno.ENOENT: "the folder has been removed or unmounted: bring it back, or restart the store to make it again",
    errno.ENOTDIR: "there is a file where a folder should be: set kv.disk_path elsewhere",
    errno.EEXIST: "there is a file, or a link to nothing, where a folder should be: set kv.disk_path elsewhere",
    errno.EMFILE: "too many files are open: raise `ulimit -n`",
    errno.ESTALE: "the network file system has lost it: mount it again",
}


def tier_error(error: OSError, folder: Path) -> TierError:
    """The error to raise instead: PutRefused where what is there can still be read."""
    code = error.errno or 0
    what = _FULL.get(code) or _GONE.get(code) or (error.strerror or str(error))
    return (PutRefused if code in _FULL else TierError)(f"KV blocks in {folder}: {what}")


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Raises TierError instead of OSError."""
    try:
        yield
    except OSError as error:
        raise tier_error(error, folder) from error
