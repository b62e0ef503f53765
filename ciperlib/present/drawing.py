"""PNG pictures of figures, drawn by a Chrome or Chromium that is started once, in the background, and kept."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
import warnings
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from plotly.graph_objects import Figure

SECONDS_TO_START, SECONDS_TO_DRAW = 60.0, 60.0  # more than an overloaded machine needs; then it is given up
TRIES = 2  # browsers that are started in a session: one that was killed, or hangs after a picture, is replaced, once
ADVICE = "to get PNG pictures of figures, install Chrome or Chromium (`kaleido_get_chrome` fetches one)"


class Painter:
    """A headless browser and the thread that talks to it.

    Not kaleido's own server: that one waits for ever for a browser that does not start, and an interrupted cell leaves
    its picture to the next figure.

    Args:
        seconds: that the browser may take to start.
    """

    def __init__(self, seconds: float = SECONDS_TO_START) -> None:
        import kaleido  # noqa: F401 (here, for two threads that import it at once get half of it)

        self._latest = time.monotonic() + seconds
        self._loop, self._browser, self.drew = asyncio.new_event_loop(), None, False
        threading.Thread(target=self._run, name="pictures", daemon=True).start()
        self._opened = self._submit(self._open())
        atexit.register(self.close)

    def draw(self, figure: Figure, scale: float) -> bytes:
        """The figure as PNG bytes, `scale` times its own size.

        Raises:
            Exception: whatever kept the browser from starting or drawing; TimeoutError where it took too long.
        """
        self._opened.result(max(0.0, self._latest - time.monotonic()))
        if self._browser.subprocess.poll() is not None:
            raise ConnectionError("the browser has ended")  # and would be waited for
        how = {"format": "png", "scale": scale}
        picture = self._submit(self._browser.calc_fig(figure.to_dict(), opts=how)).result(SECONDS_TO_DRAW)
        self.drew = True
        return picture

    def close(self) -> None:
        """Ends the browser, if it runs, and the thread."""
        atexit.unregister(self.close)
        with suppress(Exception):
            self._submit(self._end()).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _open(self) -> None:
        self._browser = _make_browser()
        await self._browser.open()

    async def _end(self) -> None:
        opened = self._opened.done() and not self._opened.cancelled() and self._opened.exception() is None
        try:
            if opened:
                await self._browser.close()
            elif process := getattr(self._browser, "subprocess", None):
                process.terminate()  # which is passed on to the browser
        finally:
            if left := asyncio.all_tasks() - {asyncio.current_task()}:
                for task in left:
                    task.cancel()
                await asyncio.wait(left, timeout=2)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Future:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def _make_browser() -> Any:
    """One that gives out a picture before it makes its page fresh for the next one, which takes as long."""
    import kaleido

    for name in ("kaleido", "choreographer", "browser_proc"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters becomes an error here

    class Browser(kaleido.Kaleido):
        async def _return_kaleido_tab(self, tab: Any) -> None:
            self._freshening = asyncio.create_task(super()._return_kaleido_tab(tab))

    return Browser(n=1, mathjax=False)  # whose letters would come from the network


@dataclass
class _Session:
    """What this process knows of its browser."""

    painter: Painter | None = None
    tries: int = 0
    said: bool = False


_session, _lock = _Session(), threading.Lock()


def begin(seconds: float = SECONDS_TO_START) -> Painter | None:
    """Starts the browser in the background, unless it runs or was given up (None); returns at once."""
    with _lock:
        if _session.painter is None and _session.tries < TRIES:
            _session.tries += 1
            _session.painter = Painter(seconds)
        return _session.painter


def to_png(figure: Figure, scale: float = 1.0) -> bytes | None:
    """The figure as PNG bytes, `scale` times its own size; None where no browser draws it, which is said once."""
    while (painter := begin()) is not None:
        from kaleido.errors import JavascriptError, KaleidoError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return painter.draw(figure, scale)
        except (JavascriptError, KaleidoError) as error:
            print(f"this figure has no PNG beside it: {error}")
            return None
        except Exception as error:
            _give_up(painter, error)
    return None


def _give_up(painter: Painter, error: Exception) -> None:
    """Forgets a browser that failed; where there is none, or it hangs from the beginning, no other is tried."""
    from kaleido.errors import ChromeNotFoundError

    missing = isinstance(error, ChromeNotFoundError)
    with _lock:
        if _session.painter is painter:
            _session.painter = None
            threading.Thread(target=painter.close, daemon=True).start()  # which may take seconds
        if missing or isinstance(error, TimeoutError) and not painter.drew:
            _session.tries = TRIES
        if _session.tries >= TRIES and _session.painter is None and not _session.said:
            _session.said = True
            found = "" if missing else f" (the browser that is here failed: {type(error).__name__})"
            print(f"figures have no PNG beside them{found}; {ADVICE}")
