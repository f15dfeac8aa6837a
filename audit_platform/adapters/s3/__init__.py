"""Objects in a store that speaks S3 and has object lock: MinIO, versitygw, Ceph, Amazon.

Belongs here: everything that knows S3's words, boto3 included. Does not: what keys mean
(`record/layout.py`), how the project starts such a store (`stack/`). Source: design section 5
(locks); `README.md` beside this file.
"""
