"""Downloads from a real server on this machine that breaks off, stalls and lies."""

import errno
import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cifar_lit.data.download import TRIES, fetch
from cifar_lit.utils.errors import RunError, UsageError

DATA = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(DATA).hexdigest()
DIFFERS = "MD5 differs: file altered or truncated"
Answer = Callable[[BaseHTTPRequestHandler], None]


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


def asked_from(request: BaseHTTPRequestHandler) -> int:
    return int(request.headers.get("Range", "bytes=0-")[6:-1])


def good(request: BaseHTTPRequestHandler, most: int | None = None) -> None:
    """Answer as a server should, but break off after `most` bytes."""
    start = asked_from(request)
    if start >= len(DATA):
        return reply(request, 416, b"")
    rest = DATA[start:]
    where = {"Content_Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"} if start else {}
    reply(request, 206 if start else 200, rest[:most], len(rest), **where)


def ignores_range(request: BaseHTTPRequestHandler) -> None:
    reply(request, 200, DATA)


def slow(request: BaseHTTPRequestHandler) -> None:
    threading.Event().wait(1)
    good(request)


def breaks(request: BaseHTTPRequestHandler) -> None:
    good(request, 100_000)


def breaks_and_ignores_range(request: BaseHTTPRequestHandler) -> None:
    reply(request, 200, DATA[:100_000], len(DATA))


def wrong_offset(request: BaseHTTPRequestHandler) -> None:
    if asked_from(request):
        reply(request, 206, DATA, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}")
    else:
        reply(request, 200, DATA)


def stalls(request: BaseHTTPRequestHandler) -> None:
    good(request, 50_000)
    request.wfile.flush()
    threading.Event().wait(2)


def silent(request: BaseHTTPRequestHandler) -> None:
    threading.Event().wait(2)


def wrong_bytes(request: BaseHTTPRequestHandler) -> None:
    reply(request, 200, DATA[::-1])


def html(request: BaseHTTPRequestHandler) -> None:
    reply(request, 200, b"<html>Please log in</html>", Content_Type="text/html")


def announces_less(request: BaseHTTPRequestHandler) -> None:
    reply(request, 200, DATA, len(DATA) - 1000)


def announces_more(request: BaseHTTPRequestHandler) -> None:
    reply(request, 200, DATA, len(DATA) + 1000)


def announces_nothing(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(DATA)


def not_found(request: BaseHTTPRequestHandler) -> None:
    reply(request, 404, b"nothing here")


class Site:
    """A server that gives its answers in turn, the last one again and again, and notes what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.ranges: list[str | None] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers[min(len(site.ranges), len(answers) - 1)]
                site.ranges.append(self.headers.get("Range"))
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
def site() -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def start(*answers: Answer) -> Site:
        sites.append(Site(*answers))
        return sites[-1]

    yield start
    for one in sites:
        one.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "set.tar.gz"


def get(path: Path, *sites: Site | str) -> None:
    fetch([s if isinstance(s, str) else s.url for s in sites], str(path), MD5, timeout=0.5)


def part_of(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    return part


@pytest.mark.parametrize("answer", [good, ignores_range, announces_nothing, announces_more])
def test_one_request_brings_the_file(site, path, answer) -> None:
    server = site(answer)
    get(path, server)
    assert path.read_bytes() == DATA
    assert server.ranges == [None]
    assert sorted(p.name for p in path.parent.iterdir() if p.suffix != ".lock") == [path.name]


def test_progress_is_shown_in_bytes(site, path, capsys) -> None:
    get(path, site(good))
    shown = capsys.readouterr().err
    assert "set.tar.gz: 100%" in shown and "300k/300k" in shown


def test_good_file_needs_no_request(site, path) -> None:
    server = site(not_found)
    path.parent.mkdir()
    path.write_bytes(DATA)
    get(path, server)
    assert server.ranges == []


def test_break_is_resumed(site, path) -> None:
    server = site(breaks)
    get(path, server)
    assert path.read_bytes() == DATA
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_part_of_an_earlier_run_is_resumed(site, path) -> None:
    server = site(good)
    part = part_of(path, DATA[:123_456])
    get(path, server)
    assert path.read_bytes() == DATA
    assert server.ranges == ["bytes=123456-"]
    assert not part.exists()


def test_whole_part_needs_no_more_bytes(site, path) -> None:
    server = site(good)
    part_of(path, DATA)
    get(path, server)
    assert path.read_bytes() == DATA
    assert server.ranges == ["bytes=300000-"]


@pytest.mark.parametrize("answer", [good, wrong_offset])
@pytest.mark.parametrize("part", [b"x" * 1000, b"x" * 400_000], ids=["short", "long"])
def test_bad_part_is_started_over(site, path, answer, part, capsys) -> None:
    server = site(answer)
    part_of(path, part)
    get(path, server)
    assert path.read_bytes() == DATA
    assert server.ranges == [f"bytes={len(part)}-", None]
    if answer is wrong_offset:  # nothing of the useless answer was read
        assert "301k" not in (shown := capsys.readouterr().err) and "700k" not in shown


def test_server_without_ranges_sends_the_whole_file_again(site, path) -> None:
    server = site(breaks, ignores_range)
    get(path, server)
    assert path.read_bytes() == DATA
    assert server.ranges == [None, "bytes=100000-"]


def test_server_that_never_comes_further_is_given_up(site, path) -> None:
    server = site(breaks_and_ignores_range)
    with pytest.raises(RunError, match="broke off at 100000 of 300000 bytes"):
        get(path, server)
    assert len(server.ranges) == 2


def test_tries_are_bounded(site, path) -> None:
    server = site(lambda request: good(request, 1000))
    with pytest.raises(RunError, match=f"broke off at {TRIES * 1000} of 300000 bytes"):
        get(path, server)
    assert len(server.ranges) == TRIES


def test_stall_ends_and_is_resumed(site, path) -> None:
    server = site(stalls, good)
    get(path, server)
    assert path.read_bytes() == DATA
    assert server.ranges == [None, "bytes=50000-"]


def test_mirrors_are_asked_first_and_continue_each_other(site, path) -> None:
    dead, broken, last, unasked = site(not_found), site(breaks, not_found), site(good), site(good)
    get(path, dead, broken, last, unasked)
    assert path.read_bytes() == DATA
    assert dead.ranges == [None]
    assert broken.ranges == [None, "bytes=100000-"]
    assert last.ranges == ["bytes=100000-"]
    assert unasked.ranges == []


@pytest.mark.parametrize("lie", [wrong_bytes, html, announces_less])
def test_lie_is_found_out_and_the_next_address_used(site, path, lie) -> None:
    liar, honest = site(lie), site(good)
    get(path, liar, honest)
    assert path.read_bytes() == DATA
    assert len(liar.ranges) == 1
    assert honest.ranges == [None]  # nothing of the lie is built upon


def test_lie_alone_leaves_nothing(site, path) -> None:
    with pytest.raises(RunError, match=DIFFERS):
        get(path, site(html))
    assert [p.suffix for p in path.parent.iterdir()] in ([".lock"], [])


def test_file_address(site, path, tmp_path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(DATA)
    part_of(path, DATA[:1000])
    get(path, copy.as_uri())
    assert path.read_bytes() == DATA


def test_failure_names_every_address_with_its_reason_and_the_remedies(site, path) -> None:
    sites = [site(not_found), site(wrong_bytes), site(breaks, not_found), site(silent)]
    gone = site(good)
    gone.close()
    with pytest.raises(RunError) as caught:
        get(path, *sites, gone, "http://no-such-host.invalid/a", "file:///no/such/file", "http://[bad")
    message = str(caught.value)
    assert f"{sites[0].url}: HTTP 404 Not Found\n" in message
    assert f"{sites[1].url}: {DIFFERS}\n" in message
    assert f"{sites[2].url}: HTTP 404 Not Found\n" in message
    assert f"{sites[3].url}: time-out: no data for 0.5 s\n" in message
    assert f"{gone.url}: Connection refused\n" in message
    assert "http://no-such-host.invalid/a: " in message
    assert "file:///no/such/file: No such file or directory\n" in message
    assert "http://[bad: " in message
    assert "data.mirrors" in message
    assert f"MD5 {MD5} at {path}" in message
    assert f"kept in {path}.part" in message
    assert "was not used" not in message


def test_truncated_file_with_dead_server_is_named_and_kept(site, path, capsys) -> None:
    path.parent.mkdir()
    path.write_bytes(DATA[:-1])
    with pytest.raises(RunError, match=f"The file at {path} is truncated or altered"):
        get(path, site(not_found))
    assert f"{path} is truncated or altered" in capsys.readouterr().err
    assert path.read_bytes() == DATA[:-1]


def test_altered_file_is_replaced(site, path) -> None:
    path.parent.mkdir()
    path.write_bytes(DATA[::-1])
    get(path, site(good))
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("mirror", ["ftp://host/file", "/a/path", "host/file", ""])
def test_other_schemes_are_refused(site, path, mirror) -> None:
    server = site(good)
    with pytest.raises(UsageError, match=r"data\.mirrors"):
        get(path, mirror, server)
    assert server.ranges == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_disk_surfaces_and_leaves_the_earlier_file(site, path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"earlier")
    path.with_name(path.name + ".part").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        get(path, site(good))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"earlier"


def test_processes_that_start_together_download_once(site, path) -> None:
    server = site(slow)
    code = f"from cifar_lit.data.download import fetch; fetch([{server.url!r}], {str(path)!r}, {MD5!r})"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert path.read_bytes() == DATA
    assert server.ranges == [None]


def test_killed_process_leaves_a_part_and_no_lock(site, path) -> None:
    server = site(stalls, good)
    code = f"from cifar_lit.data.download import fetch; fetch([{server.url!r}], {str(path)!r}, {MD5!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    part = path.with_name(path.name + ".part")
    while not (part.exists() and part.stat().st_size) and process.poll() is None:
        threading.Event().wait(0.01)
    process.kill()
    process.wait(60)
    size = part.stat().st_size
    assert not path.exists()
    get(path, server)
    assert path.read_bytes() == DATA
    assert server.ranges == [None, f"bytes={size}-"]
