"""What every client of the stories needs: asking again, expecting an error, asking without a client."""

import time
import urllib.error
import urllib.request

URL = "http://127.0.0.1:8500/v1/"


def until(what, state, seconds=40):
    """Asks again and again until the state is there."""
    end = time.monotonic() + seconds
    while True:
        found = state()
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)


def raises(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"{kind.__name__} was expected")


def http(method, path, body=None):
    """Status, headers and body, whatever the status."""
    request = urllib.request.Request(URL + path, data=body, method=method)
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers, answer.read()
