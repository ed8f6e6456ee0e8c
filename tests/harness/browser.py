"""A real browser, driven over its debugging protocol: Chromium without a window."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.harness import PATIENCE
from tests.harness.waiting import eventually


def chromium() -> str | None:
    """The browser's program, where there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page in one browser, from ``with`` to the end of the block. ``errors`` is what its console complained of."""

    def __init__(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self._size = (width, height)
        self._dark = dark
        self._last = 0
        self.errors: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> Browser:
        program = chromium()
        assert program is not None
        self._folder = Path(tempfile.mkdtemp(prefix="charon-browser-"))
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions"]
        flags += ["--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
        flags += [f"--user-data-dir={self._folder}", "--hide-scrollbars", "about:blank"]
        self._process = subprocess.Popen(
            [program, *flags], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            told = self._folder / "DevToolsActivePort"
            port, path = eventually(lambda: self._told(told))
            where = f"ws://127.0.0.1:{port}{path}"
            self._browser: ClientConnection = self._stack.enter_context(
                connect(where, max_size=None, ping_interval=None)
            )
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self.look(*self._size, dark=self._dark)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    @staticmethod
    def _told(file: Path) -> list[str]:
        lines = file.read_text().split() if file.exists() else []
        return lines if len(lines) == 2 else []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol to the page."""
        return self._call(method, session=self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        command = {"id": self._last, "method": method, "params": parameters}
        self._browser.send(json.dumps(command | ({"sessionId": session} if session else {})))
        while True:
            message = json.loads(self._browser.recv(timeout=PATIENCE))
            self._note(message)
            if message.get("id") == self._last:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result

    def _note(self, message: dict[str, Any]) -> None:
        given = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(given["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.errors.append(given["entry"]["text"])

    def look(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """See the page on a screen of this size, in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Go to a page."""
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, result

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self, selector: str) -> str:
        """What is shown in the first element that ``selector`` finds; empty when there is none, or it is hidden."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def wait_for(self, script: str, timeout: float = PATIENCE) -> Any:
        """The value of an expression in the page, once it is true."""
        return eventually(lambda: self.run(script), timeout)

    def type(self, selector: str, text: str) -> None:
        """Put the cursor into an element and type."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        """Press and release a key, such as Enter (13) or Tab (9)."""
        for kind in ("rawKeyDown", "char", "keyUp"):
            text = {"text": "\r"} if kind == "char" and key == "Enter" else {}
            if kind != "char" or text:
                self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """What is seen, or the whole page, as a PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
