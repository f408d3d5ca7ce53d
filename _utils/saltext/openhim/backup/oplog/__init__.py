"""The oplog archive: slices of a replica set's oplog, their chain, and their replay to a time."""
