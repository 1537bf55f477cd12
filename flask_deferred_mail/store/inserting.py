"""Rows that are more than one INSERT: with attachments, or with a token of a limited transport."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from .. import crashpoints
from . import statements
from .limits import Purse


def insert_with_blobs(
    connection: Connection, row: dict[str, Any], pieces: dict[str, bytes]
) -> int | None:
    """The new row's number; ``None`` when its key is taken."""
    job_id = statements.insert_row(connection, row)
    if job_id is not None and pieces:
        statements.insert_blobs(connection, job_id, pieces)
    crashpoints.reached("before-insert-commit")
    return job_id


def insert_paced(
    connection: Connection, row: dict[str, Any], pieces: dict[str, bytes], purse: Purse
) -> int | None:
    """:func:`insert_with_blobs` of a leased row, which is not leased if there is no token for it:
    then it waits like any other."""
    if purse.open(connection, 1):
        purse.spend(connection, 1)
    else:
        row |= statements.NOT_LEASED
    return insert_with_blobs(connection, row, pieces)
