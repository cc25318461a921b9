"""Download of one file with a known checksum: resumed after a failure, from several mirrors in turn."""

import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

from tqdm import tqdm

from cifar_lit.utils.errors import DISK, RunError, UsageError

MAX_TRANSFERS = 10  # from one URL, as long as each transfer adds to the file
BLOCK_BYTES = 1 << 18


def download(
    urls: Sequence[str], path: str, is_valid: Callable[[str], bool], advice: str, timeout_s: float = 30
) -> None:
    """Download a file to `path` unless a valid one exists there.

    An incomplete download is kept as `<path>.part` and resumed by the next transfer, also from another URL or by a
    later run. `path` is only replaced by a valid file. Only one process may call this at a time.

    Args:
        urls: http, https or file URLs, tried in this order.
        path: The file.
        is_valid: Returns whether a file exists and has the correct checksum.
        advice: What the user can do if the download fails.
        timeout_s: Seconds without data after which a transfer fails.

    Raises:
        UsageError: A URL has another scheme.
        RunError: The download failed; the message lists the reason for each URL.
        OSError: The file cannot be written, for example because the disk is full.
    """
    for url in urls:
        if not url.lower().startswith(("http://", "https://", "file://")):
            raise UsageError(f"data.mirrors: {url!r} is not an http://, https:// or file:// URL")
    if is_valid(path):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = f"{path}.part"
    errors = []
    if os.path.exists(path):
        errors.append(f"  {path} is truncated or corrupt (its checksum differs)")
        print(f"{errors[0].strip()}: downloading it again", file=sys.stderr)
    for url in urls:
        error = _download_from(url, part, is_valid, timeout_s)
        if error is None:
            os.replace(part, path)
            return
        errors.append(f"  {url}: {error}")
    if _size(part):
        errors.append(f"The incomplete download is kept as {part}; the next run resumes it.")
    raise RunError("\n".join([f"{os.path.basename(path)} could not be downloaded:", *errors, advice]))


def _download_from(url: str, part: str, is_valid: Callable[[str], bool], timeout_s: float) -> str | None:
    """Complete `part` from one URL; return the reason if that failed."""
    reason = ""
    for _ in range(MAX_TRANSFERS):
        start = _size(part)
        completed = False
        try:
            _transfer(url, part, timeout_s)
            completed = True
            reason = "its checksum differs, the file is truncated or corrupt"
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise  # writing failed, not the network
            cause = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
            reason = f"no data for {timeout_s:g} s" if isinstance(cause, TimeoutError) else str(cause) or repr(cause)
        if is_valid(part):  # even after a failure: the announced length may be too large
            return None
        if completed:
            os.remove(part)
            if start == 0:  # otherwise the error may be in the earlier part
                break
        elif _size(part) <= start:
            break
    return reason


def _transfer(url: str, part: str, timeout_s: float) -> None:
    """Append the missing bytes to `part`."""
    start = _size(part)
    headers = {"User-Agent": "cifar-lit"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # no bytes after `start`: the checksum shows whether the part is complete
            return
        raise
    with response:
        if response.status != 206:  # the server sends the complete file
            start = 0
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(desc=os.path.basename(url), total=total, initial=start, unit="B", unit_scale=True) as bar,
        ):
            while block := response.read1(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
            if total is not None and bar.n < total:
                raise OSError(f"connection closed after {bar.n} of {total} bytes")


def _size(path: str) -> int:
    """Return the size of a file in bytes, 0 if it does not exist."""
    return os.path.getsize(path) if os.path.exists(path) else 0
