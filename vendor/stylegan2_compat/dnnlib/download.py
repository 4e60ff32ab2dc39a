"""Open local files and URLs alike, with a cache of downloads.

The cached file of a URL is `<cache>/downloads/<md5 of the URL>_<name>`.
"""

import glob
import hashlib
import io
import os
import re
import tempfile
import time
import urllib.parse
import urllib.request
import uuid
from typing import Any

_RETRY_DELAY_S = 1.0
_TIMEOUT_S = 60
_cache_dir: str | None = None


def set_cache_dir(path: str | None) -> None:
    """Set the cache root for this process; None = from the environment."""
    global _cache_dir
    _cache_dir = path


def make_cache_dir_path(*paths: str) -> str:
    """Join path parts to the cache root, without creating anything.

    The root is the first of: the `set_cache_dir` value, DNNLIB_CACHE_DIR, and `.cache/dnnlib` in HOME, in USERPROFILE
    or in the directory for temporary files.
    """
    root = _cache_dir or os.environ.get("DNNLIB_CACHE_DIR")
    if not root:
        home = os.environ.get("HOME") or os.environ.get("USERPROFILE") or tempfile.gettempdir()
        root = os.path.join(home, ".cache", "dnnlib")
    return os.path.join(root, *paths)


def is_url(obj: Any, allow_file_urls: bool = False) -> bool:
    """Tell whether obj is text with a scheme and a host, or a `file://` URL where these are allowed."""
    if not isinstance(obj, str) or "://" not in obj:
        return False
    if obj.startswith("file://"):
        return allow_file_urls
    parts = urllib.parse.urlparse(obj)
    return bool(parts.scheme and parts.netloc)


def _fetch(url: str, num_attempts: int, verbose: bool) -> tuple[str, bytes]:
    """Download a URL; returns a name for it and its bytes. The last error is raised if no attempt works."""
    import requests

    for attempt in range(1, num_attempts + 1):
        if verbose:
            print(f"Downloading {url} (attempt {attempt} of {num_attempts})", flush=True)
        try:
            with requests.get(url, timeout=_TIMEOUT_S) as response:
                response.raise_for_status()
                header = re.search(r'filename="([^"]*)"', response.headers.get("Content-Disposition", ""))
                name = header.group(1) if header else os.path.basename(urllib.parse.urlparse(url).path)
                if not response.content:
                    raise requests.exceptions.ContentDecodingError(f"Empty response from {url}", response=response)
                return name, response.content
        except requests.exceptions.RequestException as error:
            # 4xx answers are final: the same request will not work a second later.
            code = error.response.status_code if error.response is not None else 0
            if attempt == num_attempts or 400 <= code < 500:
                raise
            time.sleep(_RETRY_DELAY_S)
    raise ValueError(f"Expected argument `num_attempts` to be at least 1, but got {num_attempts}")


def _store(cache_file: str, content: bytes) -> None:
    """Write a file under a temporary name and move it into place, so that no reader sees half of it."""
    folder, name = os.path.split(cache_file)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"tmp_{uuid.uuid4().hex}_{name}")
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, cache_file)


def open_url(
    url: str,
    cache_dir: str | None = None,  # Directory of the cached downloads, None = `<cache root>/downloads`
    num_attempts: int = 10,
    verbose: bool = True,
    return_filename: bool = False,  # Return the path of the (cached) file instead of a file object?
    cache: bool = True,
) -> Any:
    """Open a local path, a `file://` URL or an http(s) URL for binary reading.

    Returns:
        Binary file object, or with return_filename the path of the file.

    Raises:
        ValueError: If num_attempts < 1, or return_filename is asked for without a cache.
        OSError: If the file cannot be read or the download fails (requests' errors are OSErrors).
    """
    if num_attempts < 1:
        raise ValueError(f"Expected argument `num_attempts` to be at least 1, but got {num_attempts}")
    if return_filename and not cache:
        raise ValueError("Expected argument `cache` to be True when return_filename is set, but got False")

    # Local files are used where they are.
    if not re.match(r"^[A-Za-z][A-Za-z0-9+.-]*://", url):
        return url if return_filename else open(url, "rb")
    if url.startswith("file://"):
        path = urllib.request.url2pathname(urllib.parse.urlparse(url).path)
        return path if return_filename else open(path, "rb")

    folder = cache_dir if cache_dir is not None else make_cache_dir_path("downloads")
    digest = hashlib.md5(url.encode("utf-8")).hexdigest()
    known = sorted(glob.glob(os.path.join(glob.escape(folder), digest + "_*"))) if cache else []
    if known:
        return known[0] if return_filename else open(known[0], "rb")

    name, content = _fetch(url, num_attempts, verbose)
    if not cache:
        return io.BytesIO(content)
    cache_file = os.path.join(folder, digest + "_" + re.sub(r"[^0-9A-Za-z._-]", "_", name))
    _store(cache_file, content)
    return cache_file if return_filename else io.BytesIO(content)
