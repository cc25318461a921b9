"""The page of a run on this machine."""

import os
import socket
import tempfile
import threading
from pathlib import Path

from cifar_lit.utils.errors import UsageError, at_least
from cifar_lit.web.collect import collect
from cifar_lit.web.server import launch

HOST = "127.0.0.1"
MAX_ERRORS = 1000  # misclassified images


def serve(run: str, port: int) -> None:
    """Serve the page of a run on 127.0.0.1 until a signal ends the program.

    Args:
        run: Folder of a run, or a `.ckpt` file.
        port: 1 to 65535.

    Raises:
        UsageError: The run or the port cannot be used.
    """
    at_least("--port", port, 1)
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was in use until now is free
            probe.bind((HOST, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--port {port} cannot be used ({reason}); use another one") from None
    with tempfile.TemporaryDirectory(prefix="cifar_lit_demo_") as temporary:
        folder = Path(temporary, "content")
        folder.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(Path(temporary, "uploads"))  # deleted at the end
        try:
            classifier = collect(run, folder, MAX_ERRORS)
            page = launch(folder, classifier, server_name=HOST, server_port=port, quiet=True, prevent_thread_lock=True)
            try:
                print(f"serving {run} on http://{HOST}:{port} (press Ctrl-C to stop)", flush=True)
                threading.Event().wait()
            finally:
                page.close(verbose=False)
        finally:
            del os.environ["GRADIO_TEMP_DIR"]
