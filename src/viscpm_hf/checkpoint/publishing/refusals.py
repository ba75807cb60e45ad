"""What the Hub says when it does not do what it was asked, in words, and what to do about it."""

from collections.abc import Iterator

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from ..files.hub import said, without_token

NO_TOKEN = "there is no access token", "run `hf auth login`, or put one with write permission into HF_TOKEN"
_STATUSES = {
    401: ("the Hub does not accept the access token", "run `hf auth login` with one that is valid and may write"),
    402: ("the Hub wants payment, as for private storage", "look at https://huggingface.co/settings/billing"),
    403: ("the access token may not write there", "take one with write permission for {owner}, or another name"),
    404: ("the Hub knows no such owner or repository, or not for this access token", "look at the name"),
    409: ("something else is changing it at the same time", "wait until that is done"),
    412: ("something else has changed it meanwhile", "look at what has changed there"),
    413: ("the Hub finds it too large", "convert with a smaller --max-shard-size"),
    429: ("the Hub has been asked too often", "wait some minutes"),
}


def reason(error: Exception, repo_id: str) -> tuple[str, str]:
    """Why an upload failed, and what to do.

    Args:
        error: of huggingface_hub, or of the HTTP library under it.
        repo_id: that was to be uploaded to.
    """
    for each in _chain(error):
        if isinstance(each, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set", "unset it"
        if isinstance(each, LocalTokenNotFoundError):
            return NO_TOKEN
        if isinstance(each, HfHubHTTPError):
            return _answer(each, repo_id)
        if any(kind.__name__ == "TransportError" for kind in type(each).__mro__):  # of httpx, whichever is in use
            return (
                f"{constants.ENDPOINT} cannot be reached: {said(each)}",
                "look at the network and at HF_ENDPOINT",
            )
    if (get_token() or "").encode("ascii", "ignore").decode().split() != [get_token()]:
        return "the access token has characters that no token has", "run `hf auth login` again, or set HF_TOKEN anew"
    return said(error), "see to that"


def _answer(error: HfHubHTTPError, repo_id: str) -> tuple[str, str]:
    status = error.response.status_code
    message = without_token(" ".join((error.server_message or "").split()))[:300]
    answer = f"{status}: {message}" if message else str(status)
    if status >= 500:
        return f"the Hub has trouble ({answer})", "wait some minutes"
    if status in _STATUSES:
        why, advice = _STATUSES[status]
        return f"{why} ({answer})", advice.format(owner=repo_id.partition("/")[0])
    return f"the Hub refuses ({answer})", "see to what it names"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was made of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
