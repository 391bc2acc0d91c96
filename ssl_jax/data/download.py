"""Downloads files of data sets, and checks them."""

import hashlib
import pathlib
import urllib.request

from ssl_jax.runtime import files
from ssl_jax.runtime.errors import UserError


def fetch(url: str, md5: str, target: pathlib.Path) -> None:
    """Downloads a file; `target` is there only if it is whole.

    Args:
      url: of the file.
      md5: its checksum.
      target: where it is put; the folder is made if absent.

    Raises:
      OSError: there is no network, or no such address.
      UserError: the checksum differs.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(url, timeout=30) as stream:
        content = stream.read()
    if hashlib.md5(content).hexdigest() != md5:
        raise UserError(f"{url} does not have the checksum {md5}: try again later.")
    files.write(target, content)
