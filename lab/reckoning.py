"""Which acknowledged orders does OpenHIM still know? Run on a host of the surviving site.

``python reckoning.py`` with ``{"url": …, "database": …, "prefix": …}`` as JSON on standard input
prints ``{number: status}`` of every transaction whose path starts with the prefix. A file of its
own, without imports from the lab, because it runs inside a host.
"""

import json
import sys

from pymongo import MongoClient, ReadPreference
from pymongo.read_concern import ReadConcern


def found(url: str, database: str, prefix: str) -> dict[str, str]:
    """The status of each transaction, by the order's number; majority-committed ones only."""
    with MongoClient(url, serverSelectionTimeoutMS=10000) as client:
        transactions = client.get_database(
            database, read_concern=ReadConcern("majority"), read_preference=ReadPreference.PRIMARY
        ).transactions
        query = {"request.path": {"$regex": f"^{prefix}"}}
        return {
            document["request"]["path"].removeprefix(prefix): document["status"]
            for document in transactions.find(query, {"request.path": 1, "status": 1})
        }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump(found(asked["url"], asked["database"], asked["prefix"]), sys.stdout)
