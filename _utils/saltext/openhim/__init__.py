"""Describes an OpenHIM stack as desired state and recovers it from disaster."""

import logging

# At its level DEBUG, PyMongo logs how every command and reply begins: here those are patients'
# documents, and Salt writes that level to a file when it is told to. They belong in no log.
logging.getLogger("pymongo.command").setLevel(logging.INFO)
