"""Downloads from local servers that close connections, stall and send wrong files."""

import errno
import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torchvision.datasets.utils import check_integrity

from cifar_lit.data.download import MAX_TRANSFERS, download
from cifar_lit.utils.errors import RunError, UsageError

DATA = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(DATA).hexdigest()
ADVICE = "Use your own copy"
is_valid = partial(check_integrity, md5=MD5)
Request = BaseHTTPRequestHandler
Answer = Callable[[Request], None]


def reply(request: Request, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)
    request.wfile.flush()


def good(request: Request, limit: int | None = None) -> None:
    """Answer correctly, but close the connection after `limit` bytes."""
    start = int(request.headers.get("Range", "bytes=0-")[6:-1])
    if start >= len(DATA):
        return reply(request, 416, b"")
    content_range = {"Content_Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {}
    reply(request, 206 if start else 200, DATA[start:][:limit], len(DATA) - start, **content_range)


def closes(request: Request) -> None:
    good(request, 100_000)


def stalls(request: Request) -> None:
    good(request, 50_000)
    threading.Event().wait(2)


def silent(request: Request) -> None:
    threading.Event().wait(2)


def ignores_range(request: Request) -> None:
    reply(request, 200, DATA)


def closes_and_ignores_range(request: Request) -> None:
    reply(request, 200, DATA[:100_000], len(DATA))


def wrong_offset(request: Request) -> None:
    reply(request, 206 if request.headers.get("Range") else 200, DATA, Content_Range="bytes 0-299999/300000")


def wrong_bytes(request: Request) -> None:
    reply(request, 200, DATA[::-1])


def login_page(request: Request) -> None:
    reply(request, 200, b"<html>Please log in</html>", Content_Type="text/html")


def announces_less(request: Request) -> None:
    reply(request, 200, DATA, len(DATA) - 1000)


def announces_more(request: Request) -> None:
    reply(request, 200, DATA, len(DATA) + 1000)


def announces_nothing(request: Request) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(DATA)


def not_found(request: Request) -> None:
    reply(request, 404, b"")


class Server:
    """Gives its answers in turn, repeating the last one, and records the requested ranges."""

    def __init__(self, *answers: Answer) -> None:
        self.ranges: list[str | None] = []
        ranges = self.ranges

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers[min(len(ranges), len(answers) - 1)]
                ranges.append(self.headers.get("Range"))
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/set.tar.gz"
        threading.Thread(target=self.server.serve_forever, args=(0.02,)).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*answers: Answer) -> Server:
        servers.append(Server(*answers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "set.tar.gz"


def get(path: Path, *urls: Server | str) -> None:
    download([url if isinstance(url, str) else url.url for url in urls], str(path), is_valid, ADVICE, timeout_s=0.5)
    assert path.read_bytes() == DATA
    assert not part_of(path).exists()


def part_of(path: Path, content: bytes | None = None) -> Path:
    part = path.with_name(path.name + ".part")
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        part.write_bytes(content)
    return part


@pytest.mark.parametrize("answer", [good, ignores_range, announces_nothing, announces_more])
def test_single_request_downloads_the_file(serve, path, answer, capsys) -> None:
    server = serve(answer)
    get(path, server)
    assert server.ranges == [None]
    assert "set.tar.gz: " in (shown := capsys.readouterr().err) and "300k" in shown


def test_existing_file_is_not_downloaded(serve, path) -> None:
    server = serve(not_found)
    path.parent.mkdir()
    path.write_bytes(DATA)
    get(path, server)
    assert server.ranges == []


@pytest.mark.parametrize(
    ("answers", "ranges"),
    [
        ([closes], [None, "bytes=100000-", "bytes=200000-"]),
        ([stalls, good], [None, "bytes=50000-"]),
        ([closes, ignores_range], [None, "bytes=100000-"]),
    ],
    ids=["closed connection", "stalled", "server without ranges"],
)
def test_failed_transfer_is_resumed(serve, path, answers, ranges) -> None:
    server = serve(*answers)
    get(path, server)
    assert server.ranges == ranges


@pytest.mark.parametrize("size", [123_456, 300_000])
def test_part_of_an_earlier_run_is_resumed(serve, path, size) -> None:
    server = serve(good)
    part_of(path, DATA[:size])
    get(path, server)
    assert server.ranges == [f"bytes={size}-"]


@pytest.mark.parametrize("answer", [good, wrong_offset])
@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * 400_000], ids=["short", "long"])
def test_corrupt_part_is_downloaded_again(serve, path, answer, part) -> None:
    server = serve(answer)
    part_of(path, part)
    get(path, server)
    assert server.ranges == [f"bytes={len(part)}-", None]


def test_transfers_without_progress_end(serve, path) -> None:
    server = serve(closes_and_ignores_range)
    with pytest.raises(RunError, match="closed after 100000 of 300000 bytes"):
        get(path, server)
    assert len(server.ranges) == 2


def test_number_of_transfers_is_limited(serve, path) -> None:
    server = serve(lambda request: good(request, 1000))
    with pytest.raises(RunError, match=f"closed after {MAX_TRANSFERS * 1000} of 300000 bytes"):
        get(path, server)


def test_mirrors_are_tried_in_turn_and_resume_each_other(serve, path) -> None:
    missing, failing, last, unused = serve(not_found), serve(closes, not_found), serve(good), serve(good)
    get(path, missing, failing, last, unused)
    assert missing.ranges == [None]
    assert failing.ranges == [None, "bytes=100000-"]
    assert last.ranges == ["bytes=100000-"]
    assert unused.ranges == []


@pytest.mark.parametrize("answer", [wrong_bytes, login_page, announces_less])
def test_wrong_file_is_discarded(serve, path, answer) -> None:
    wrong, honest = serve(answer), serve(good)
    get(path, wrong, honest)
    assert wrong.ranges == honest.ranges == [None]
    path.unlink()
    with pytest.raises(RunError, match="its checksum differs"):
        get(path, wrong)
    assert list(path.parent.iterdir()) == []


def test_file_url(path, tmp_path) -> None:
    (tmp_path / "copy").write_bytes(DATA)
    part_of(path, DATA[:1000])
    get(path, (tmp_path / "copy").as_uri())


def test_error_lists_the_reason_for_each_url_and_remedies(serve, path) -> None:
    servers = [serve(not_found), serve(wrong_bytes), serve(closes, not_found), serve(silent), serve(good)]
    servers[4].close()
    with pytest.raises(RunError) as caught:
        get(path, *servers, "http://no-such-host.invalid/a", "file:///no/such/file", "http://[bad")
    message = str(caught.value)
    reasons = ("404", "its checksum differs", "404", "no data for 0.5 s", os.strerror(errno.ECONNREFUSED))
    for server, reason in zip(servers, reasons, strict=True):
        assert any(server.url in line and reason in line for line in message.splitlines())
    for text in (
        "no-such-host.invalid/a: ",
        os.strerror(errno.ENOENT),
        "http://[bad: ",
        ADVICE,
    ):
        assert text in message
    assert f"kept as {part_of(path)}" in message


def test_corrupt_file_is_named_and_replaced_only_by_a_correct_one(serve, path, capsys) -> None:
    path.parent.mkdir()
    path.write_bytes(DATA[:-1])
    with pytest.raises(RunError, match=f"{path} is truncated or corrupt"):
        get(path, serve(not_found))
    assert f"{path} is truncated or corrupt" in capsys.readouterr().err
    assert path.read_bytes() == DATA[:-1]
    get(path, serve(good))


@pytest.mark.parametrize("mirror", ["ftp://host/file", "/a/path", ""])
def test_other_schemes_are_refused(path, mirror) -> None:
    with pytest.raises(UsageError, match=r"data\.mirrors"):
        get(path, mirror)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk_keeps_the_earlier_file(serve, path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"earlier")
    part_of(path).symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        get(path, serve(good))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"earlier"


@pytest.mark.slow
def test_killed_download_is_resumed(serve, path) -> None:
    server = serve(stalls, good)
    code = f"from tests.data.test_download import *; download([{server.url!r}], {str(path)!r}, is_valid, ADVICE)"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (part_of(path).exists() and part_of(path).stat().st_size) and process.poll() is None:
        threading.Event().wait(0.01)
    process.kill()
    process.wait(60)
    size = part_of(path).stat().st_size
    assert not path.exists()
    get(path, server)
    assert server.ranges == [None, f"bytes={size}-"]
