"""Fetch one file whose MD5 is known: resumed after a break, from several addresses, once among processes."""

import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from cifar_lit.utils.errors import RunError, UsageError

TRIES = 10  # transfers from one address, as long as each of them brings the file forward
BLOCK = 1 << 18  # bytes


class _TransferError(Exception):
    """An address did not deliver; the text is the reason in short form."""


def fetch(urls: Sequence[str], path: str, md5: str, timeout: float = 30) -> None:
    """Put the file with this MD5 at `path`, unless it lies there already.

    A broken transfer stays beside it as `<path>.part`, and the next one, of this run or a later one,
    continues it. Whatever lies at `path` is replaced only by the whole and right file.

    Args:
        urls: Addresses (http, https or file), tried in this order.
        path: Where the file is wanted; its folder is made if need be.
        md5: Its MD5 in lower-case hexadecimal digits.
        timeout: Seconds without any data after which a transfer counts as broken.

    Raises:
        UsageError: An address is of another scheme.
        RunError: No address delivered the file; the message gives the reason for each.
        OSError: The file cannot be written, for example on a full disk.
    """
    for url in urls:
        if not url.lower().startswith(("http://", "https://", "file://")):
            raise UsageError(f"data.mirrors: {url!r} is no address; give http://, https:// or file:// ones")
    if _has_md5(path, md5):  # asked before the lock, so that a read-only folder with a good file will do
        return
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with FileLock(f"{path}.lock"):
        if _has_md5(path, md5):  # another process was faster
            return
        spoilt = os.path.exists(path)
        if spoilt:
            print(f"{path} is truncated or altered (its MD5 differs): downloading it anew", file=sys.stderr)
        reasons = []
        for url in urls:
            try:
                _fetch_from(url, f"{path}.part", md5, timeout)
            except _TransferError as error:
                reasons.append(f"  {url}: {error}")
            else:
                os.replace(f"{path}.part", path)
                return
    lines = [f"{os.path.basename(path)} could not be downloaded:", *reasons]
    if spoilt:
        lines.append(f"The file at {path} is truncated or altered (its MD5 differs) and was not used.")
    if _size(f"{path}.part"):
        lines.append(f"What has arrived is kept in {path}.part, and the next run continues it.")
    lines.append(
        f"Give other addresses with --data.mirrors='[https://ADDRESS]', or put the file with MD5 {md5} at {path} "
        "yourself; --data.source folder takes images that you have, --config configs/demo.yaml needs none."
    )
    raise RunError("\n".join(lines))


def _fetch_from(url: str, part: str, md5: str, timeout: float) -> None:
    """Bring `part` to the file with this MD5, or raise _TransferError if the address does not deliver it."""
    started_over = False
    for _ in range(TRIES):
        start = _size(part)
        try:
            _transfer(url, part, timeout)
            broken, reason = False, _TransferError("MD5 differs: file altered or truncated")
        except _TransferError as error:
            broken, reason = True, error
        if _has_md5(part, md5):  # asked even after a break: a server may announce more than there is
            return
        if broken:
            if _size(part) <= start:
                break
        else:
            os.remove(part)
            if start == 0 or started_over:  # else the fault may lie in the earlier part
                break
            started_over = True
    raise reason


def _transfer(url: str, part: str, timeout: float) -> None:
    """Append to `part` what is missing, until the address has no more to give."""
    start = _size(part)
    headers = {"User-Agent": "cifar-lit"} | ({"Range": f"bytes={start}-"} if start else {})
    with _short_reasons(timeout):
        try:
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
        except urllib.error.HTTPError as error:
            if error.code == 416 and start:  # nothing lies beyond the part: its MD5 tells if it is whole
                error.close()
                return
            raise
    with response:
        if response.status == 206:
            offered = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if not offered or int(offered[1]) != start:  # no use for it; the MD5 check makes it start over
                return
        else:
            start = 0  # the whole file, whether asked for or not
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(desc=os.path.basename(url), total=total, initial=start, unit="B", unit_scale=True) as bar,
        ):
            for block in _blocks(response, timeout):
                file.write(block)
                bar.update(len(block))
            if total is not None and bar.n < total:
                raise _TransferError(f"broke off at {bar.n} of {total} bytes")


def _blocks(response: Any, timeout: float) -> Iterator[bytes]:
    """Yield what arrives, as it arrives; only failures of the network, not of the disk, are renamed."""
    while True:
        with _short_reasons(timeout):
            block = response.read1(BLOCK)
        if not block:
            return
        yield block


@contextmanager
def _short_reasons(timeout: float) -> Iterator[None]:
    """Turn the network's many errors into _TransferError."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise _TransferError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            raise _TransferError(f"time-out: no data for {timeout:g} s") from error
        raise _TransferError(getattr(cause, "strerror", None) or str(cause) or repr(cause)) from error


def _size(path: str) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def _has_md5(path: str, md5: str) -> bool:
    """Tell whether a file is there and has this MD5."""
    if not os.path.isfile(path):
        return False
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == md5
