"""One signed request to a store, for what S3 itself has no words for (MinIO's administration).

Belongs here: signing and sending. Does not: what is asked (`stack/minio.py`).
"""

from __future__ import annotations

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from audit_platform.adapters.s3.client import Endpoint
from audit_platform.errors import StoreUnavailable


def request(
    endpoint: Endpoint, method: str, path: str, body: bytes = b"", *, seconds: float = 10.0
) -> tuple[int, bytes]:
    """Status and body of the answer. `path` has its query. Raises `StoreUnavailable`."""
    url = endpoint.url.rstrip("/") + path
    asked = AWSRequest(method=method, url=url, data=body)
    credentials = Credentials(endpoint.access_key, endpoint.secret_key)
    S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(asked)
    with urllib3.PoolManager(retries=False) as http:
        try:
            answer = http.request(
                method, url, body=body, headers=dict(asked.headers), timeout=seconds
            )
        except urllib3.exceptions.HTTPError as e:
            raise StoreUnavailable(
                f"{method} {path}: {endpoint.host}: {e}", remedy="try again"
            ) from e
    return answer.status, answer.data
