"""Files from addresses that clients send: of the open Internet only, of bounded size, in bounded time."""

import asyncio
import logging
import threading
import time
from contextlib import suppress

from .errors import ApiError

_AT_ONCE = 8
_SECONDS = 15.0


class Fetcher:
    """Fetches files from http(s) addresses, without redirects; private ones are refused after the name is resolved.

    Args:
        max_bytes (`int`): that a file may have.
        allow_loopback (`bool`): for tests.

    Raises:
        ImportError: without the library for it.
    """

    def __init__(self, max_bytes: int, allow_loopback: bool = False):
        try:
            from requests_hardened import Config, HTTPSession
        except ImportError as error:
            raise ImportError("Pictures are fetched with requests-hardened: pip install requests-hardened.") from error
        self._session, self._max_bytes = HTTPSession, max_bytes
        self._config = Config(
            ip_filter_enable=True,
            ip_filter_allow_loopback_ips=allow_loopback,
            never_redirect=True,
            default_timeout=(5.0, 5.0),
            user_agent_override="viscpm_hf",
        )
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        # it warns of each address that it refuses, which clients could fill a log with
        logging.getLogger("requests_hardened").setLevel(logging.ERROR)

    async def fetch(self, url: str, param: str | None = None) -> bytes:
        """The file at an address.

        Args:
            url (`str`): of http or https.
            param (`str`, *optional*): its field, for errors.

        Raises:
            ApiError: without a reason, which would tell of the network that the server stands in.
        """
        if not self._places.acquire(blocking=False):
            raise ApiError(429, "Too many pictures are being fetched.", "queue_full", headers={"Retry-After": "5"})
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def work():
            data = None
            try:
                data = self._get(url)
            except Exception:
                pass  # requests and urllib3 raise anything for a bad address
            finally:
                self._places.release()
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(lambda: future.done() or future.set_result(data))

        # no pool: a server that sends a byte now and then must not keep the process from ending
        threading.Thread(target=work, name="picture address", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                if (data := await future) is not None:
                    return data
        raise ApiError(400, "The picture could not be fetched: send a data URL with it.", "image_fetch_failed", param)

    def _get(self, url):
        deadline, data = time.monotonic() + _SECONDS, bytearray()
        with self._session(self._config) as session:
            session.trust_env = False  # proxies resolve names themselves, and .netrc holds passwords
            headers = {"Accept": "image/*", "Accept-Encoding": "identity"}
            with session.get(url, headers=headers, stream=True) as response:
                if response.status_code != 200:
                    raise ValueError(f"Got status {response.status_code}.")
                while part := response.raw.read1(2**16, decode_content=False):
                    data += part
                    if len(data) > self._max_bytes or time.monotonic() > deadline:
                        raise ValueError("The file is too large, or comes too slowly.")
        return bytes(data)
