"""A certificate that a client does not believe, told apart from a server that is away.

Waiting does not help against the first. Belongs here: finding that among a client's words. Does
not: any client. Source: the words of OpenSSL and urllib3.
"""

from __future__ import annotations

import re
from typing import Final

#: What is wanted of a server, for the error that refuses it.
WANTED: Final = "a server with TLS whose certificate is of AUDIT_CA_FILE and names this address"

#: OpenSSL's reason stands behind these words, up to the place in its source.
_NOT_BELIEVED: Final = re.compile(r"certificate verify failed(?:: ([^(\]]+))?", re.IGNORECASE)

#: And urllib3's where a client has it compare the names.
_OTHER_NAME: Final = re.compile(r"hostname '[^']*' doesn't match .{1,100}")

#: OpenSSL's words for a server that speaks something else than TLS.
_NO_TLS: Final = re.compile(r"wrong[ _]version[ _]number|record layer failure", re.IGNORECASE)

#: No client wraps an error more often.
_DEPTH: Final = 8


def disbelief(error: BaseException) -> str:
    """Why the server is not believed to be itself; "" when that is not what is wrong.

    Looks through what caused the error, too: clients wrap it.
    """
    seen: BaseException | None = error
    for _ in range(_DEPTH):
        if seen is None:
            break
        found = _NOT_BELIEVED.search(str(seen))
        if found is not None:
            return f"certificate verify failed: {(found[1] or 'it is not good').strip()}"
        other = _OTHER_NAME.search(str(seen))
        if other is not None:
            return f"certificate verify failed: {other[0]}"
        if _NO_TLS.search(str(seen)):
            return "it speaks no TLS"
        seen = seen.__cause__ or seen.__context__
    return ""
