"""`python -m cifar_lit.demo`: its errors, and the page in a real browser."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import cifar_lit
from cifar_lit.demo import main
from cifar_lit.models.temperature import Temperature, store
from tests.conftest import copy_run

UPLOAD = """async size => {
    const form = new FormData();
    form.append("files", new Blob([new Uint8Array(size)]), "large.png");
    return (await fetch("gradio_api/upload", {method: "POST", body: form})).status;
}"""
TEXT_ENDS_BEFORE_ARROW = """(inputs => inputs.length > 0 && inputs.every(input => {
    const end = input.getBoundingClientRect().right - parseFloat(getComputedStyle(input).paddingRight);
    return end <= input.parentElement.querySelector(".icon-wrap").getBoundingClientRect().left;
}))([...document.querySelectorAll("input[role=combobox]")])"""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "nowhere: there is no such file"),
        (["nowhere", "--space", "new"], "nowhere: there is no such folder"),
        ([".", "--space", "used"], "--space used already exists and is not empty; use a new folder"),
        ([".", "--port", "70000"], "--port 70000 cannot be used"),
        ([".", "--port=-1"], "--port must be 1 or more, got -1"),
    ],
)
def test_invalid_arguments_are_refused(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        main(args)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_used_port_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(SystemExit, match="2"):
        main([".", "--port", str(server.getsockname()[1])])
    assert "cannot be used (Address already in use); use another one" in capsys.readouterr().err


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("cifar_lit.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit, match="2"):
        main(["."])
    assert "install it with pip install 'cifar_lit[demo]'" in capsys.readouterr().err


class Server:
    """The command, in a network namespace with nothing but loopback where this user may create one.

    Attributes:
        url: Of the page.
        enter: The command that runs another command in the same namespace.
    """

    def __init__(self, run: Path, folder: Path) -> None:
        alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        self.isolated = bool(shutil.which("unshare")) and not subprocess.run([*alone, "true"]).returncode
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        command = [*(alone if self.isolated else []), sys.executable, "-m", "cifar_lit.demo", str(run), "--port", port]
        self.output = folder / "output.txt"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with open(self.output, "w") as output:
            env = os.environ | {"TMPDIR": str(self.temporary)}
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        self.url = f"http://127.0.0.1:{port}/"
        self.enter = f"nsenter --target {self.process.pid} --net" if self.isolated else ""

    def wait(self) -> None:
        """Wait until the page is served."""
        while self.url[:-1] not in self.output.read_text():
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    run = copy_run(finished_run, tmp_path_factory.mktemp("run"))
    store(run / "checkpoints", cifar_lit.load(run, "cpu").fingerprint, Temperature(0.25, 0.2, 0.3, 200))
    server = Server(run, tmp_path_factory.mktemp("server"))
    try:
        server.wait()
        yield server
        uploads = list(server.temporary.rglob("mine.png"))
        assert uploads  # while the server runs
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait() == 130
        output = server.output.read_text()
        assert "Traceback" not in output and output.endswith("stopped by SIGINT\n")
        assert list(server.temporary.rglob("*.png")) == []
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def browser(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = tmp_path_factory.mktemp("browser") / "chromium"  # in the server's namespace
    program.write_text(f'#!/bin/sh\nexec {server.enter} {CHROMIUM} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")
@pytest.mark.parametrize("width_px", [400, 1600])
def test_page_in_a_browser(server: Server, browser: Any, width_px: int, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)  # ms; a machine may be slow
    page = browser.new_page(viewport={"width": width_px, "height": 900})
    page.set_default_timeout(60_000)
    requested, failed = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("pageerror", lambda error: failed.append(error))

    def fits() -> bool:
        return page.evaluate("document.documentElement.scrollWidth") <= width_px

    page.goto(server.url)
    explained, opened = page.locator("#explained"), page.locator("#opened")
    caption = explained.locator("figcaption b")
    expect(caption).to_contain_text("Evidence for")  # of the first example
    expect(explained.locator("li:visible")).to_have_count(5)
    assert fits()
    assert page.evaluate(TEXT_ENDS_BEFORE_ARROW)

    image = tmp_path / "mine.png"
    Image.fromarray(np.random.default_rng(width_px).integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(image)
    before = explained.locator(".result img").first.get_attribute("src")
    page.get_by_role("button", name="Remove Image").click()
    expect(explained).to_contain_text("Add an image")
    page.locator("input[type=file]").first.set_input_files(image)
    expect(caption).to_contain_text("Evidence for")
    assert explained.locator(".result img").first.get_attribute("src") != before

    heatmap = explained.locator(".heatmap")
    before = heatmap.get_attribute("src")
    explained.get_by_label("layer2").check()
    expect(heatmap).not_to_have_attribute("src", before)
    explained.get_by_label("Opacity").first.fill("0.2")
    expect(heatmap).to_have_css("opacity", "0.2")
    explained.get_by_label("Classes to list").first.fill("2")
    expect(explained.locator("li:visible")).to_have_count(2)

    explained.get_by_label("Class to explain").click()
    page.get_by_role("option", name="7", exact=True).click()
    expect(caption).to_contain_text("Evidence for 7")

    before, calibrated = caption.inner_text(), page.get_by_label("Calibrated probabilities")
    calibrated.check()
    expect(caption).not_to_have_text(before)
    expect(caption).to_contain_text("Evidence for 7")
    calibrated.uncheck()
    expect(caption).to_have_text(before)

    text = tmp_path / "text.png"
    text.write_text("hello")
    page.get_by_role("button", name="Remove Image").click()
    page.locator("input[type=file]").first.set_input_files(text)
    expect(explained).to_contain_text("text.png: not a PNG, JPEG or WebP image")

    assert [page.evaluate(UPLOAD, size_mb * 2**20) for size_mb in (1, 21)] == [200, 413]

    page.get_by_role("tab", name="Misclassified").click()
    expect(opened.locator("figcaption b")).to_have_count(2)
    for act in (page.locator(".grid-wrap button").nth(1).click, calibrated.check):
        before = opened.inner_html()
        act()
        page.wait_for_function("before => document.querySelector('#opened').innerHTML != before", arg=before)
    assert fits()

    page.get_by_role("tab", name="Model card").click()
    expect(page.get_by_text("What it misclassifies")).to_be_visible()
    assert fits()
    assert {urlsplit(url).netloc for url in requested if not url.startswith(("data:", "blob:"))} == {
        urlsplit(server.url).netloc
    }
    assert failed == []
    page.close()
